//! Conditions of a VPSieNode.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::status::Condition;
use crate::fleet::{Cause, Machine, Phase};

/// Conditions `VPSReady`, `NodeJoined` and `Error`, with the times of the machine.
pub(super) fn conditions(machine: &Machine) -> Vec<Condition> {
    let made = machine.created_at;
    let not_failed = || condition("Error", false, made, "NoError", "");
    let phase = machine.phase.name();
    let since = since(machine);
    match &machine.phase {
        Phase::Running { .. } => vec![
            condition("VPSReady", true, since, phase, "the Node of the VM is registered"),
            condition("NodeJoined", true, since, phase, ""),
            not_failed(),
        ],
        Phase::Failed { failure, .. } => vec![
            condition("VPSReady", false, since, phase, "the creation failed; see the condition Error"),
            condition("NodeJoined", false, made, phase, ""),
            condition("Error", true, since, failure.reason.code(), &failure.message),
        ],
        Phase::Pending => vec![
            condition("VPSReady", false, since, phase, "no request for the VM is open; it is requested next"),
            condition("NodeJoined", false, made, phase, ""),
            not_failed(),
        ],
        Phase::Creating { vm, .. } => {
            let message = if vm.is_some() {
                "VPSie lists the VM; its Node is not registered yet"
            } else {
                "the VM was requested from VPSie, which does not list it yet"
            };
            vec![
                condition("VPSReady", false, since, phase, message),
                condition("NodeJoined", false, made, phase, ""),
                not_failed(),
            ]
        }
        Phase::Deleting { reason, .. } => vec![
            condition(
                "VPSReady",
                false,
                since,
                phase,
                &format!("the machine is being deleted: {}", Cause::from(*reason).meaning()),
            ),
            condition("NodeJoined", false, since, phase, ""),
            not_failed(),
        ],
    }
}

fn since(machine: &Machine) -> Timestamp {
    match &machine.phase {
        Phase::Pending => machine.created_at,
        Phase::Creating { since, .. } | Phase::Running { since, .. } | Phase::Deleting { since, .. } => {
            *since
        }
        Phase::Failed { at, .. } => *at,
    }
}

fn condition(type_: &str, holds: bool, since: Timestamp, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        last_transition_time: Some(Time(since)),
        last_update_time: None,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}
