//! VPCs and firewall groups (docs/reference/vpsie-api.md#networks).

use axum::Router;
use axum::routing::{delete, get, post};
use serde_json::{Value, json};

use super::vm_fields::USER;
use super::{Call, authenticated};
use crate::simulator::account::{FirewallGroup, Vpc};
use crate::simulator::operations::ApiError;
use crate::simulator::state::{Context, State};
use crate::simulator::vm::Vm;
use crate::simulator::wire::{Content, TimeStyle};

pub(super) fn router() -> Router {
    Router::new()
        .route("/vpc", get(authenticated(vpcs)))
        .route("/vpc/add", post(authenticated(add_vpc)))
        .route("/vpc/{vpc}", get(authenticated(vpc)).delete(authenticated(delete_vpc)))
        .route("/vpc/vms/{vpc}", get(authenticated(vpc_vms)))
        .route("/vm/add/vpc", post(authenticated(assign)))
        .route("/vm/vpc/move", post(authenticated(move_vm)))
        .route("/vm/vpc", delete(authenticated(release)))
        .route("/firewall/groups", get(authenticated(groups)))
        .route("/firewall/group/{group}", get(authenticated(group)))
        .route("/firewall/create/group", post(authenticated(create_group)))
        .route("/firewall/delete/group", delete(authenticated(delete_group)))
        .route("/firewall/attach/group", post(authenticated(attach)))
        .route("/firewall/detach/group", post(authenticated(detach)).delete(authenticated(detach)))
}

fn vpcs(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    Ok(Content::list(state.account.vpcs.iter().map(|(id, vpc)| vpc_row(cx, *id, vpc))))
}

fn vpc(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let id = call.param_number("vpc")?;
    let vpc = state.account.vpcs.get(&id).ok_or_else(ApiError::not_found)?;
    let rows: Vec<Value> = vpc_rows(state, cx, id);
    Ok(Content::Whole(json!({
        "error": cx.config.shapes.error_field(None),
        "data": vpc_row(cx, id, vpc),
        "vpcDetails": { "count": rows.len(), "rows": rows },
    })))
}

fn vpc_row(cx: &Context<'_>, id: u64, vpc: &Vpc) -> Value {
    let shapes = &cx.config.shapes;
    let datacenter = cx.config.datacenter(&vpc.datacenter);
    let created_on = shapes.time(TimeStyle::Rfc3339, vpc.created_at);
    json!({
        "id": shapes.id(id),
        "user_id": shapes.id(USER),
        "owner_id": shapes.id(USER),
        "datacenter_id": shapes.id(datacenter.map_or(0, |(number, _)| number)),
        "name": vpc.name,
        "description": vpc.description,
        "interface_number": 1,
        "network_tag_number": shapes.id(id),
        "network_range": vpc.network_range,
        "network_size": vpc.network_size,
        "is_default": shapes.flag(false),
        "created_by": shapes.id(USER),
        "updated_by": shapes.id(USER),
        "created_on": created_on,
        "last_updated": created_on,
        "low_ip_num": 0,
        "hight_ip_num": 0,
        "is_upc_network": shapes.flag(false),
        "state": datacenter.map(|(_, d)| d.state.clone()).unwrap_or_default(),
        "dc_name": datacenter.map(|(_, d)| d.name.clone()).unwrap_or_default(),
        "dc_identifier": vpc.datacenter,
    })
}

/// `GET /vpc/vms/{vpc}`: the addresses of VMs in a VPC.
fn vpc_vms(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let id = call.param_number("vpc")?;
    state.account.vpcs.get(&id).ok_or_else(ApiError::not_found)?;
    Ok(Content::list(vpc_rows(state, cx, id)))
}

fn vpc_rows(state: &State, cx: &Context<'_>, vpc: u64) -> Vec<Value> {
    let shapes = &cx.config.shapes;
    let shown =
        state.vpc_addresses(vpc).filter(|(vm, address)| address.shown_at <= cx.now && vm.is_listed(cx.now));
    shown
        .map(|(vm, address)| {
            json!({
                "vmId": shapes.id(vm.id),
                "identifier": vm.uuid,
                "vpc_ip": address.address,
                "hostname": shapes.hostname(&vm.hostname, false),
                "fullname": "Ubuntu 24.04",
                "category": "Linux",
                "entity_type": "vm",
                "is_disconnected": shapes.flag(false),
                "private_ip_id": shapes.id(address.id),
            })
        })
        .collect()
}

fn add_vpc(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let vpc = Vpc {
        name: call.text("name")?,
        description: call.optional("description").unwrap_or_default(),
        datacenter: call.text("dcIdentifier")?,
        network_range: call.optional("networkRange").unwrap_or_default(),
        network_size: call.number("networkSize").unwrap_or(24),
        created_at: cx.now,
        addresses: 0,
    };
    state.add_vpc(cx, vpc)?;
    Ok(Content::Accepted)
}

fn delete_vpc(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    call.check_reason(&cx.config.shapes)?;
    state.delete_vpc(call.param_number("vpc")?)?;
    Ok(Content::Accepted)
}

fn assign(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.assign_vpc(cx, &call.text("vmIdentifier")?, call.number("vpcId")?)?;
    Ok(Content::Accepted)
}

fn move_vm(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.move_vpc(cx, &call.text("vmIdentifier")?, call.number("vpcId")?)?;
    Ok(Content::Accepted)
}

fn release(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.release_address(cx, &call.text("vmIdentifier")?, call.number("privateIpId")?)?;
    Ok(Content::Accepted)
}

fn groups(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let groups = state.account.firewall_groups.iter();
    Ok(Content::list(groups.map(|(id, group)| group_row(state, cx, *id, group))))
}

fn group(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let found = state.account.firewall_group(call.param("group"));
    let (id, group) = found.ok_or_else(ApiError::not_found)?;
    let vms: Vec<Value> = group_vms(state, cx, group)
        .map(|vm| {
            json!({
                "hostname": cx.config.shapes.hostname(&vm.hostname, false),
                "identifier": vm.uuid,
                "fullname": "Ubuntu 24.04",
                "category": "Linux",
            })
        })
        .collect();
    Ok(Content::Object(json!({
        "group": group_row(state, cx, id, group),
        "rules": [],
        "count": vms.len(),
        "vms": vms,
    })))
}

fn group_row(state: &State, cx: &Context<'_>, id: u64, group: &FirewallGroup) -> Value {
    let shapes = &cx.config.shapes;
    let created_on = shapes.time(TimeStyle::Plain, group.created_at);
    json!({
        "user_name": "simulator",
        "id": shapes.id(id),
        "group_name": group.name,
        "identifier": group.identifier,
        "created_on": created_on,
        "updated_on": created_on,
        "inbound_count": 0,
        "outbound_count": 0,
        "vms": group_vms(state, cx, group).count(),
        "created_by": shapes.id(USER),
    })
}

fn group_vms<'a>(
    state: &'a State,
    cx: &Context<'_>,
    group: &'a FirewallGroup,
) -> impl Iterator<Item = &'a Vm> {
    let now = cx.now;
    state.vms.values().filter(move |vm| {
        let own = vm.plain.iter().flat_map(|plain| &plain.firewall_groups);
        vm.is_listed(now) && own.into_iter().any(|own| *own == group.identifier)
    })
}

fn create_group(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.add_firewall_group(cx, call.text("groupName")?);
    Ok(Content::Accepted)
}

fn delete_group(state: &mut State, _: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.delete_firewall_group(&call.text("groupId")?)?;
    Ok(Content::Accepted)
}

fn attach(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.attach_firewall_group(cx, &call.text("vmId")?, &call.text("groupId")?)?;
    Ok(Content::Accepted)
}

fn detach(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.detach_firewall_group(cx, &call.text("vmId")?, &call.text("groupId")?)?;
    Ok(Content::Accepted)
}
