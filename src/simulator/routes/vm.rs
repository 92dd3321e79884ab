//! VMs, and the list with the UUIDs of Kubernetes nodes (docs/reference/vpsie-api.md#vms).

use serde_json::{Value, json};

use super::Call;
use super::catalog::{mapping_identifier, offers_at};
use super::vm_fields::{USER, insert_flags, insert_interruption, status};
use crate::simulator::account::DEFAULT_PROJECT;
use crate::simulator::config::DatacenterConfig;
use crate::simulator::datacenter_faults::Held;
use crate::simulator::operations::ApiError;
use crate::simulator::plain::{Hidden, VmOptions, VmRequest};
use crate::simulator::shapes::{CreateVm, VmGet, VmProject, VmStateShape};
use crate::simulator::state::{Context, State};
use crate::simulator::vm::{Phase, Vm, VmKind};
use crate::simulator::wire::{Content, TimeStyle};

/// Returns true iff lists show the VM.
fn is_shown(cx: &Context<'_>, vm: &Vm) -> bool {
    vm.is_listed(cx.now) && !cx.config.faults_at(&vm.datacenter).hides_row(vm.id)
}

/// `GET /storages/vms`: all VMs, including Kubernetes nodes.
pub(super) fn storage_list(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let shapes = &cx.config.shapes;
    let is_listed = |vm: &&Vm| is_shown(cx, vm) && vm.uuid_listed_at.is_none_or(|at| at <= cx.now);
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

/// `GET /vm`: all VMs except Kubernetes nodes (docs/reference/vpsie-api.md#node-uuids), or those of a project.
pub(super) fn list(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let project = match call.query.get("projectId") {
        Some(reference) => Some(state.account.project(reference).ok_or_else(ApiError::not_found)?.0),
        None => None,
    };
    let vms = state.vms.values().filter(|vm| {
        let is_wanted = project.is_none_or(|project| project_of(vm) == project);
        vm.kind == VmKind::Plain && is_wanted && is_shown(cx, vm)
    });
    Ok(Content::list(vms.map(|vm| row(cx, vm))))
}

/// `GET /vm/{uuid}`: any VM, including Kubernetes nodes.
pub(super) fn get(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let vm = state.vm(call.param("vm")).filter(|vm| vm.is_listed(cx.now)).ok_or_else(ApiError::not_found)?;
    let row = row(cx, vm);
    let shapes = &cx.config.shapes;
    let plain = vm.plain.as_ref();
    let tags = plain.iter().flat_map(|plain| &plain.request.tags);
    let addresses = plain.iter().flat_map(|plain| &plain.private_ips);
    let addresses = addresses.filter(|address| address.shown_at <= cx.now);
    Ok(match shapes.vm_get {
        VmGet::VmData => Content::Object(json!({
            "vmData": row,
            "imageCategories": [],
            "vmTags": tags.map(|tag| json!({ "tag": tag })).collect::<Vec<_>>(),
            "privateIpData": addresses
                .map(|address| json!({
                    "id": shapes.id(address.id),
                    "vpc_id": shapes.id(address.vpc),
                    "private_ip": address.address,
                }))
                .collect::<Vec<_>>(),
            "floatingIpData": [],
        })),
        VmGet::Data => Content::Object(row),
        VmGet::Bare => Content::Whole(row),
    })
}

/// `POST /vm`: in most shapes the reply has no id (docs/reference/vpsie-api.md#creating-a-vm).
pub(super) fn create(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let (_, datacenter) = datacenter(cx, call)?;
    let os = call.text("osIdentifier")?;
    if datacenter.images.as_ref().is_some_and(|images| !images.contains(&os)) {
        return Err(wrong_package());
    }
    create_with(state, cx, call, VmRequest { os, ..VmRequest::default() })
}

/// `POST /custom/vm`: from a custom image of the same datacenter.
pub(super) fn create_from_image(
    state: &mut State,
    cx: &mut Context<'_>,
    call: &Call,
) -> Result<Content, ApiError> {
    let (_, datacenter) = datacenter(cx, call)?;
    let os = call.text("osIdentifier")?;
    let image = state.account.image(&os).filter(|(_, image)| image.datacenter == datacenter.identifier);
    image.ok_or_else(|| ApiError::new(400, "Image not found in this datacenter"))?;
    create_with(state, cx, call, VmRequest { os, from_image: true, ..VmRequest::default() })
}

fn wrong_package() -> ApiError {
    ApiError::new(400, "Please select the right package for this OS")
}

fn datacenter<'a>(cx: &Context<'a>, call: &Call) -> Result<(u64, &'a DatacenterConfig), ApiError> {
    cx.config.datacenter(&call.text("dcIdentifier")?).ok_or_else(ApiError::not_found)
}

fn create_with(
    state: &mut State,
    cx: &mut Context<'_>,
    call: &Call,
    base: VmRequest,
) -> Result<Content, ApiError> {
    let (number, datacenter) = datacenter(cx, call)?;
    let wanted = call.text("resourceIdentifier")?;
    let hostname = call.text("hostname")?;
    let mut offers = offers_at(cx.config, datacenter);
    let size = offers.find(|offer| mapping_identifier(number, offer) == wanted).ok_or_else(wrong_package)?.id;
    let request = VmRequest {
        project: project(state, cx, call)?,
        notes: call.optional("notes"),
        tags: call.texts("tags"),
        script: call.optional("scriptIdentifier"),
        user_data: call.optional("userData").map(Into::into),
        ssh_key: call.optional("sshKeyIdentifier"),
        disk: call.number("ssd").ok(),
        password: call.optional("vmPassword").unwrap_or_default().into(),
        password_is_generated: call.flag("isGeneratedPassword"),
        process: call.optional("processId"),
        options: VmOptions {
            public_ipv4: call.flag("addPublicIpV4"),
            public_ipv6: call.flag("addPublicIpV6"),
            private_ip: call.flag("addPrivateIp"),
            backup: call.flag("backupEnabled"),
            weekly_backup: call.flag("weeklyBackupEnabled"),
            monthly_backup: call.flag("monthlyBackupEnabled"),
        },
        ..base
    };
    let created = state.create_vm(cx, &datacenter.identifier, size, &hostname, request)?;
    let vm = created.and_then(|id| state.vms.get(&id));
    Ok(match (cx.config.shapes.create_vm, vm) {
        (CreateVm::True, _) | (CreateVm::Identified, None) => Content::Accepted,
        (CreateVm::Object, _) => Content::Object(json!({ "hostname": hostname, "status": "pending" })),
        (CreateVm::Identified, Some(vm)) => {
            Content::Object(json!({ "hostname": hostname, "status": "pending", "identifier": vm.uuid }))
        }
    })
}

/// The project of a request, by the shape `vm-project`.
fn project(state: &State, cx: &Context<'_>, call: &Call) -> Result<u64, ApiError> {
    let Some(reference) = call.optional("projectId") else { return Ok(DEFAULT_PROJECT) };
    let is_number = reference.parse::<u64>().is_ok();
    match (cx.config.shapes.vm_project, is_number) {
        (VmProject::Uuid, true) | (VmProject::Number, false) => Ok(DEFAULT_PROJECT),
        (VmProject::Any, _) | (VmProject::Uuid, false) | (VmProject::Number, true) => {
            let found = state.account.project(&reference);
            Ok(found.ok_or_else(|| ApiError::new(400, "Project not found"))?.0)
        }
    }
}

fn project_of(vm: &Vm) -> u64 {
    vm.plain.as_ref().map_or(DEFAULT_PROJECT, |plain| plain.request.project)
}

pub(super) fn delete(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    call.check_reason(&cx.config.shapes)?;
    let password = call.optional("password");
    state.delete_vm(cx, &call.text("vmIdentifier")?, password.as_deref())?;
    Ok(Content::Accepted)
}

/// `GET /vm/pending`: VMs that are requested, but not listed yet. Kubernetes nodes are omitted: it is unknown
/// whether VPSie lists them here (docs/reference/vpsie-api.md#pending-vms).
pub(super) fn pending(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let is_pending = |vm: &&Vm| {
        let until = vm.plain.as_ref().and_then(|plain| plain.pending_until);
        vm.kind == VmKind::Plain
            && vm.phase(cx.now) == Phase::Pending
            && vm.held != Some(Held::Hidden)
            && (vm.held.is_some() || until.is_none_or(|until| until > cx.now))
            && !cx.config.faults_at(&vm.datacenter).hides_row(vm.id)
    };
    Ok(Content::list(state.vms.values().filter(is_pending).map(|vm| pending_row(cx, vm))))
}

fn pending_row(cx: &Context<'_>, vm: &Vm) -> Value {
    let number = cx.config.datacenter(&vm.datacenter).map_or(0, |(number, _)| number);
    let request = vm.plain.as_ref().map(|plain| plain.request.clone()).unwrap_or_default();
    let VmRequest { options, .. } = request;
    json!({
        "id": vm.id.to_string(),
        "user": {},
        "user_id": USER,
        "data": {
            "resourceIdentifier": cx.config.offer(vm.size).map(|offer| mapping_identifier(number, offer)),
            "osIdentifier": request.os,
            "dcIdentifier": vm.datacenter,
            "hostname": vm.hostname,
            "notes": request.notes,
            "addPublicIpV4": options.public_ipv4,
            "addPublicIpV6": options.public_ipv6,
            "addPrivateIp": options.private_ip,
            "backupEnabled": options.backup,
            "weeklyBackupEnabled": options.weekly_backup,
            "monthlyBackupEnabled": options.monthly_backup,
            "tags": request.tags,
            "projectId": request.project,
            "vmPassword": request.password.reveal(),
            "isGeneratedPassword": request.password_is_generated,
            "processId": request.process.unwrap_or_default(),
            "sshKeyIdentifier": request.ssh_key.unwrap_or_default(),
            "scriptIdentifier": request.script.unwrap_or_default(),
            "userData": request.user_data.as_ref().map(Hidden::reveal),
            "ssd": request.disk,
            "requestIp": "192.0.2.1",
            "isCreateFromLibrary": request.from_image,
        },
        "resourceData": {},
        "datacenter": [],
        "osData": {},
        "running": 1,
        "type": "vm",
    })
}

fn row(cx: &Context<'_>, vm: &Vm) -> Value {
    let shapes = &cx.config.shapes;
    let offer = cx.config.offer(vm.size);
    let datacenter = cx.config.datacenter(&vm.datacenter);
    let request = vm.plain.as_ref().map(|plain| plain.request.clone()).unwrap_or_default();
    let disk = request.disk.or(offer.map(|offer| offer.disk));
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
        shapes.disk_key("ssd"): disk,
        shapes.traffic_key(): offer.map(|offer| offer.traffic),
        "initial_password": request.password.reveal(),
        "notes": request.notes,
        "script_id": request.script,
        "sshkey_id": request.ssh_key,
        "is_autobackup": shapes.flag(request.options.backup),
        "weekly_backup": shapes.flag(request.options.weekly_backup),
        "monthly_backup": shapes.flag(request.options.monthly_backup),
        "created_on": shapes.time(TimeStyle::Plain, vm.created_at),
        "last_updated": shapes.time(TimeStyle::Plain, vm.created_at),
        "dropped_on": null,
        "identifier": vm.uuid,
        shapes.vm_project_key(): shapes.id(project_of(vm)),
        "is_custom": shapes.flag(false),
        "custom_price": null,
        "state": datacenter.map(|(_, d)| d.state.clone()).unwrap_or_default(),
        "dcIdentifier": vm.datacenter,
        "category": "Linux",
        "fullname": "Ubuntu 24.04",
        "vmType": if vm.kind == VmKind::Plain { "vm" } else { "k8s" },
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
