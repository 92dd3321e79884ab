//! Fields of a VM that several endpoints return.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::simulator::state::Context;
use crate::simulator::vm::{Phase, Vm};

/// The owner of all objects.
pub(super) const USER: u64 = 4711;

/// A VM's state as text (docs/reference/vpsie-api.md#vm-states).
pub(super) fn status(vm: &Vm, now: Timestamp) -> &'static str {
    match vm.phase(now) {
        Phase::Pending => "pending",
        Phase::Provisioning => "provisioning",
        Phase::Running => "running",
        Phase::Stopped => "stopped",
        Phase::Suspended => "suspended",
        Phase::Deleting | Phase::Gone => "deleting",
    }
}

/// A VM's state as flags (docs/reference/vpsie-api.md#vm-states).
pub(super) fn insert_flags(row: &mut Map<String, Value>, cx: &Context<'_>, vm: &Vm) {
    let phase = vm.phase(cx.now);
    for (name, on) in [
        ("is_active", !matches!(phase, Phase::Pending | Phase::Provisioning)),
        ("is_deleted", false),
        ("power", phase == Phase::Running),
        ("is_locked", vm.plain.as_ref().is_some_and(|plain| plain.locked)),
        ("is_suspended", phase == Phase::Suspended),
        ("boxes_suspended", phase == Phase::Suspended),
        ("is_terminated", phase == Phase::Deleting),
    ] {
        row.insert(name.to_owned(), cx.config.shapes.flag(on));
    }
}

/// The notice of an interruption, if the VM has one.
pub(super) fn insert_interruption(row: &mut Map<String, Value>, cx: &Context<'_>, vm: &Vm) {
    if let Some(deadline) = vm.interruption_at(cx.now) {
        row.insert("interruption_at".to_owned(), deadline.to_string().into());
    }
}
