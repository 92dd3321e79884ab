//! Actions on VMs outside managed clusters (docs/reference/vpsie-api.md#vm-actions).

use axum::Router;
use axum::routing::{get, post};
use serde_json::json;

use super::{Call, authenticated};
use crate::simulator::operations::ApiError;
use crate::simulator::plain::Hidden;
use crate::simulator::state::{Context, State};
use crate::simulator::vm::Phase;
use crate::simulator::vm_operations::Action;
use crate::simulator::wire::Content;

pub(super) fn router() -> Router {
    Router::new()
        .route("/vm/start", post(authenticated(start)))
        .route("/vm/stop", post(authenticated(stop)))
        .route("/vm/restart", post(authenticated(restart)))
        .route("/vm/lock", post(authenticated(lock)))
        .route("/vm/unlock", post(authenticated(unlock)))
        .route("/vm/actions", post(authenticated(many)))
        .route("/vm/changepass", post(authenticated(change_password)))
        .route("/vm/changehostname", post(authenticated(rename)))
        .route("/vm/resize", post(authenticated(resize)))
        .route("/vm/sshkey", post(authenticated(set_ssh_key)))
        .route("/vm/script", post(authenticated(set_script)))
        .route("/vm/addtags", post(authenticated(add_tags)))
        .route("/vm/tags/edit", post(authenticated(edit_tags)))
        .route("/vm/status/{vm}", get(authenticated(status)))
        .route("/vm/live/agent/status/{vm}", get(authenticated(agent_status)))
}

fn act(state: &mut State, cx: &mut Context<'_>, call: &Call, action: Action) -> Result<Content, ApiError> {
    state.act(cx, &call.text("vmIdentifier")?, action)?;
    Ok(Content::Accepted)
}

fn start(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    act(state, cx, call, Action::Start)
}

fn stop(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    act(state, cx, call, Action::Stop)
}

fn restart(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    act(state, cx, call, Action::Restart)
}

fn lock(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    act(state, cx, call, Action::Lock)
}

fn unlock(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    act(state, cx, call, Action::Unlock)
}

/// `POST /vm/actions`: one action on several VMs.
fn many(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let action = match call.text("actionType")?.as_str() {
        "start" => Action::Start,
        "stop" => Action::Stop,
        "restart" => Action::Restart,
        "lock" => Action::Lock,
        "unlock" => Action::Unlock,
        _ => return Err(ApiError::new(400, "actionType is invalid")),
    };
    for vm in call.texts("vmsIdentifiers") {
        state.act(cx, &vm, action)?;
    }
    Ok(Content::Accepted)
}

fn change_password(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let password = call.text("newpassword")?;
    state.change_plain(cx, &call.text("vmIdentifier")?, |plain| {
        plain.request.password = Hidden::from(password);
        plain.request.password_is_generated = false;
        Ok(())
    })?;
    Ok(Content::Accepted)
}

fn rename(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.rename_vm(cx, &call.text("vmIdentifier")?, &call.text("hostname")?)?;
    Ok(Content::Accepted)
}

/// `POST /vm/resize`: Go's client spells the cores `cup`.
fn resize(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let vm = call.text("vmIdentifier")?;
    if let Ok(disk) = call.number("ssd") {
        state.change_plain(cx, &vm, |plain| {
            plain.request.disk = Some(disk);
            Ok(())
        })?;
        return Ok(Content::Accepted);
    }
    let cpu = call.number("cup").or_else(|_| call.number("cpu"))?;
    state.resize_vm(cx, &vm, cpu, call.number("ram")?)?;
    Ok(Content::Accepted)
}

fn set_ssh_key(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let key = call.text("sshKeyIdentifier")?;
    state.account.ssh_key(&key).ok_or_else(ApiError::not_found)?;
    state.change_plain(cx, &call.text("vmIdentifier")?, |plain| {
        plain.request.ssh_key = Some(key);
        Ok(())
    })?;
    Ok(Content::Accepted)
}

fn set_script(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let script = call.text("scriptIdentifier")?;
    state.account.script(&script).ok_or_else(ApiError::not_found)?;
    state.change_plain(cx, &call.text("vmIdentifier")?, |plain| {
        plain.request.script = Some(script);
        Ok(())
    })?;
    Ok(Content::Accepted)
}

fn add_tags(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let tags = call.texts("tags");
    state.change_plain(cx, &call.text("vmIdentifier")?, |plain| {
        plain.request.tags.extend(tags);
        Ok(())
    })?;
    Ok(Content::Accepted)
}

fn edit_tags(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let tags = call.texts("tags");
    state.change_plain(cx, &call.text("vmIdentifier")?, |plain| {
        plain.request.tags = tags;
        Ok(())
    })?;
    Ok(Content::Accepted)
}

/// `GET /vm/status/{vm}`: the state of the hypervisor's process.
fn status(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let vm = state.vm(call.param("vm")).filter(|vm| vm.is_listed(cx.now)).ok_or_else(ApiError::not_found)?;
    let is_running = vm.phase(cx.now) == Phase::Running;
    let uptime = vm.up_at.filter(|_| is_running).map_or(0, |up| up.duration_until(cx.now).as_secs());
    let offer = cx.config.offer(vm.size);
    Ok(Content::Object(json!({
        "cpu": offer.map(|offer| offer.cpu),
        "ballon": offer.map(|offer| offer.ram),
        "uptime": uptime,
        "pid": vm.id.to_string(),
        "disk": offer.map(|offer| offer.disk),
        "running-machine": "pc-i440fx-9.0",
        "running-qemu": "9.0.2",
        "status": if is_running { "running" } else { "stopped" },
        "diskread": "0",
        "diskwrite": "0",
        "fullname": "Ubuntu 24.04",
    })))
}

fn agent_status(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let vm = state.vm(call.param("vm")).filter(|vm| vm.is_listed(cx.now)).ok_or_else(ApiError::not_found)?;
    Ok(Content::Object(json!(vm.phase(cx.now) == Phase::Running)))
}
