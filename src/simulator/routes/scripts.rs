//! Scripts and SSH keys (docs/reference/vpsie-api.md#scripts).

use axum::Router;
use axum::routing::{delete, get, post, put};
use serde_json::{Value, json};

use super::vm_fields::USER;
use super::{Call, authenticated};
use crate::simulator::account::{Script, SshKey};
use crate::simulator::operations::ApiError;
use crate::simulator::state::{Context, State};
use crate::simulator::wire::{Content, TimeStyle};

pub(super) fn router() -> Router {
    Router::new()
        .route("/scripts", get(authenticated(list)))
        .route("/script", delete(authenticated(remove)))
        .route("/script/add", post(authenticated(add)))
        .route("/script/edit", put(authenticated(edit)))
        .route("/script/{script}", get(authenticated(get_one)))
        .route("/sshkeys", get(authenticated(list_keys)))
        .route("/sshkey", delete(authenticated(remove_key)))
        .route("/sshkey/add", post(authenticated(add_key)))
        .route("/sshkey/{key}", get(authenticated(get_key)))
}

/// All scripts with their contents.
fn list(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    Ok(Content::list(state.account.scripts.iter().map(|(id, script)| row(cx, *id, script))))
}

fn get_one(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let (id, script) = state.account.script(call.param("script")).ok_or_else(ApiError::not_found)?;
    let mut row = row(cx, id, script);
    row["name"] = json!(script.name);
    Ok(Content::Object(row))
}

fn row(cx: &Context<'_>, id: u64, script: &Script) -> Value {
    let shapes = &cx.config.shapes;
    json!({
        "id": shapes.id(id),
        "user_id": shapes.id(USER),
        "box_id": shapes.id(0),
        "box_identifier": "",
        "script_name": script.name,
        "script": script.content.reveal(),
        "type": script.kind,
        "created_on": shapes.time(TimeStyle::Rfc3339, script.created_at),
        "identifier": script.identifier,
        "created_by": "simulator",
    })
}

/// `POST /script/add`: the reply has no id.
fn add(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let kind = call.optional("scriptType").unwrap_or_else(|| "bash".to_owned());
    state.add_script(cx, &call.text("name")?, call.text("scriptContent")?, kind);
    Ok(Content::Accepted)
}

fn edit(state: &mut State, _: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let content = call.optional("scriptContent");
    state.edit_script(&call.text("scriptIdentifier")?, call.optional("name"), content)?;
    Ok(Content::Accepted)
}

fn remove(state: &mut State, _: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.delete_script(&call.text("scriptIdentifier")?)?;
    Ok(Content::Accepted)
}

fn list_keys(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    Ok(Content::list(state.account.ssh_keys.iter().map(|(id, key)| key_row(cx, *id, key))))
}

fn get_key(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let (id, key) = state.account.ssh_key(call.param("key")).ok_or_else(ApiError::not_found)?;
    Ok(Content::Object(key_row(cx, id, key)))
}

fn key_row(cx: &Context<'_>, id: u64, key: &SshKey) -> Value {
    let shapes = &cx.config.shapes;
    json!({
        "id": shapes.id(id),
        "user_id": shapes.id(USER),
        "name": key.name,
        "private_key": key.key,
        "created_on": shapes.time(TimeStyle::Plain, key.created_at),
        "identifier": key.identifier,
        "created_by": "simulator",
    })
}

fn add_key(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.add_ssh_key(cx, call.text("name")?, call.text("privateKey")?);
    Ok(Content::Accepted)
}

fn remove_key(state: &mut State, _: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.delete_ssh_key(&call.text("identifier")?)?;
    Ok(Content::Accepted)
}
