//! VMs, and the list with the UUIDs of Kubernetes nodes (docs/reference/vpsie-api.md#vms).

use serde_json::{Value, json};

use super::Call;
use super::catalog::mapping_identifier;
use super::vm_fields::{PROJECT, USER, insert_flags, insert_interruption, status};
use crate::simulator::operations::ApiError;
use crate::simulator::shapes::{VmGet, VmStateShape};
use crate::simulator::state::{Context, Phase, State, Vm, VmKind};
use crate::simulator::wire::{Content, TimeStyle};

/// `GET /storages/vms`: all VMs, including Kubernetes nodes.
pub(super) fn storage_list(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let shapes = &cx.config.shapes;
    let is_listed = |vm: &&Vm| vm.is_listed(cx.now) && vm.uuid_listed_at.is_none_or(|at| at <= cx.now);
    Ok(Content::list(state.vms.values().filter(is_listed).map(|vm| {
        let datacenter = cx.config.datacenter(&vm.datacenter);
        json!({
            "hostname": shapes.hostname(&vm.hostname, true),
            "identifier": vm.uuid,
            "datacenter_id": shapes.id(datacenter.map_or(0, |(number, _)| number)),
            "default_ip": vm.address(),
            "default_ipv6": "",
            "private_ip": vm.private_address(),
            shapes.disk_key("ssd"): cx.config.offer(vm.size).map(|offer| offer.disk),
            "state": datacenter.map(|(_, d)| d.state.clone()).unwrap_or_default(),
            "is_fip_available": shapes.flag(true),
            "is_bucket_available": shapes.flag(true),
            "dcIdentifier": vm.datacenter,
            "fullname": "Ubuntu 24.04",
            "category": "Linux",
            "type": if vm.kind == VmKind::Plain { "vm" } else { "k8s" },
        })
    })))
}

/// `GET /vm`: all VMs except Kubernetes nodes (docs/reference/vpsie-api.md#node-uuids).
pub(super) fn list(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let vms = state.vms.values().filter(|vm| vm.kind == VmKind::Plain && vm.is_listed(cx.now));
    Ok(Content::list(vms.map(|vm| row(cx, vm))))
}

pub(super) fn get(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let vm = state.vm(call.param("vm")).filter(|vm| vm.kind == VmKind::Plain && vm.is_listed(cx.now));
    let row = row(cx, vm.ok_or_else(ApiError::not_found)?);
    Ok(match cx.config.shapes.vm_get {
        VmGet::VmData => Content::Object(json!({
            "vmData": row,
            "imageCategories": [],
            "vmTags": [],
            "privateIpData": [],
            "floatingIpData": [],
        })),
        VmGet::Data => Content::Object(row),
        VmGet::Bare => Content::Whole(row),
    })
}

/// `POST /vm`: the reply has no id (docs/reference/vpsie-api.md#creating-a-vm).
pub(super) fn create(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let datacenter = call.text("dcIdentifier")?;
    let (number, datacenter) = cx.config.datacenter(&datacenter).ok_or_else(ApiError::not_found)?;
    let wanted = call.text("resourceIdentifier")?;
    call.text("osIdentifier")?;
    let hostname = call.text("hostname")?;
    let offer = cx.config.offers.iter().find(|offer| mapping_identifier(number, offer) == wanted);
    let offer = offer.ok_or_else(|| ApiError::new(400, "Please select the right package for this OS"))?;
    state.create_vm(cx, &datacenter.identifier, offer.id, &hostname)?;
    Ok(Content::Accepted)
}

pub(super) fn delete(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    call.check_reason(&cx.config.shapes)?;
    state.delete_vm(cx, &call.text("vmIdentifier")?)?;
    Ok(Content::Accepted)
}

/// `GET /vm/pending`: VMs that are requested, but not listed yet. Kubernetes nodes are omitted: it is unknown
/// whether VPSie lists them here (docs/reference/vpsie-api.md#pending-vms).
pub(super) fn pending(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let is_pending = |vm: &&Vm| vm.kind == VmKind::Plain && vm.phase(cx.now) == Phase::Pending;
    Ok(Content::list(state.vms.values().filter(is_pending).map(|vm| {
        let offer = cx.config.offer(vm.size);
        let number = cx.config.datacenter(&vm.datacenter).map_or(0, |(number, _)| number);
        json!({
            "id": vm.id.to_string(),
            "user": {},
            "user_id": USER,
            "data": {
                "resourceIdentifier": offer.map(|offer| mapping_identifier(number, offer)),
                "dcIdentifier": vm.datacenter,
                "hostname": vm.hostname,
                "addPublicIpV4": true,
                "tags": [],
                "projectId": PROJECT,
                "isGeneratedPassword": true,
            },
            "resourceData": {},
            "datacenter": [],
            "osData": {},
            "running": 1,
            "type": "vm",
        })
    })))
}

fn row(cx: &Context<'_>, vm: &Vm) -> Value {
    let shapes = &cx.config.shapes;
    let offer = cx.config.offer(vm.size);
    let datacenter = cx.config.datacenter(&vm.datacenter);
    let mut row = json!({
        "id": shapes.id(vm.id),
        "user_id": shapes.id(USER),
        "boxsize_id": shapes.id(vm.size),
        "boximage_id": shapes.id(1),
        "datacenter_id": shapes.id(datacenter.map_or(0, |(number, _)| number)),
        "node_id": shapes.id(vm.id % 7 + 1),
        "hostname": shapes.hostname(&vm.hostname, false),
        "default_ip": vm.address(),
        "default_ipv6": "",
        "private_ip": vm.private_address(),
        "ram": offer.map(|offer| offer.ram),
        "cpu": offer.map(|offer| offer.cpu),
        shapes.disk_key("ssd"): offer.map(|offer| offer.disk),
        shapes.traffic_key(): offer.map(|offer| offer.traffic),
        "notes": null,
        "created_on": shapes.time(TimeStyle::Plain, vm.created_at),
        "last_updated": shapes.time(TimeStyle::Plain, vm.created_at),
        "dropped_on": null,
        "identifier": vm.uuid,
        shapes.project_key(): shapes.id(PROJECT),
        "is_custom": shapes.flag(false),
        "custom_price": null,
        "state": datacenter.map(|(_, d)| d.state.clone()).unwrap_or_default(),
        "dcIdentifier": vm.datacenter,
        "category": "Linux",
        "fullname": "Ubuntu 24.04",
    });
    if let Some(row) = row.as_object_mut() {
        if shapes.vm_state != VmStateShape::Status {
            insert_flags(row, cx, vm);
        }
        if shapes.vm_state != VmStateShape::Flags {
            row.insert("status".to_owned(), json!(status(vm, cx.now)));
        }
        insert_interruption(row, cx, vm);
    }
    row
}
