//! Kubernetes events of audit entries: type, reason, object and message. Pure.

use super::entry::{AuditAction, AuditEntry};
use crate::fleet::{Cause, Hostname, Refusal, names};
use crate::kubernetes::{EventType, Object, ObjectEvent};

/// Type and reason of an action's events, and whether they are published on the NodeGroup as well. None for
/// an action without events.
///
/// A NodeGroup has thousands of machines, so it gets only events to which an administrator may have to react.
pub(super) fn event_type(kind: AuditAction) -> Option<(EventType, &'static str, bool)> {
    use EventType::{Normal, Warning};
    match kind {
        AuditAction::Requested => Some((Normal, "Requested", false)),
        AuditAction::Bound => Some((Normal, "Created", false)),
        AuditAction::Running => Some((Normal, "Running", false)),
        AuditAction::Failed => Some((Warning, "Failed", true)),
        AuditAction::MarkedForDeletion => Some((Normal, "Deleting", true)),
        AuditAction::DeletionIgnored => Some((Warning, "DeletionIgnored", true)),
        AuditAction::Ended => Some((Normal, "Deleted", false)),
        AuditAction::Vanished => Some((Warning, "VMVanished", true)),
        AuditAction::NoticeReceived => Some((Warning, "InterruptionNotice", true)),
        AuditAction::NoticeWithdrawn => Some((Normal, "InterruptionNoticeWithdrawn", true)),
        AuditAction::ReplacementRecorded => Some((Normal, "ReplacementRecorded", true)),
        AuditAction::Interrupted => Some((Warning, "Interrupted", true)),
        AuditAction::SpotBreakerOpened => Some((Warning, "SpotBreakerOpened", true)),
        AuditAction::SpotBreakerClosed => Some((Normal, "SpotBreakerClosed", true)),
        AuditAction::DatacenterBreakerOpened => Some((Warning, "DatacenterBreakerOpened", true)),
        AuditAction::DatacenterBreakerHalfOpen => Some((Normal, "DatacenterBreakerHalfOpen", true)),
        AuditAction::DatacenterBreakerClosed => Some((Normal, "DatacenterBreakerClosed", true)),
        AuditAction::Returned => Some((Warning, "VMReturned", true)),
        AuditAction::OrphanFound => Some((Warning, "OrphanFound", true)),
        AuditAction::UnexpectedFound => Some((Warning, "UnexpectedNode", true)),
        AuditAction::GrowthHalted => Some((Warning, "GrowthHalted", true)),
        AuditAction::GrowthResumed => Some((Normal, "GrowthResumed", true)),
        AuditAction::OrphanAdopted => Some((Normal, "OrphanAdopted", true)),
        AuditAction::WorkerAdopted => Some((Normal, "WorkerAdopted", true)),
        AuditAction::Recorded
        | AuditAction::ReplacementTakenOver
        | AuditAction::SpotBreakerHalfOpen
        | AuditAction::Accepted
        | AuditAction::Unclear
        | AuditAction::NotCreated
        | AuditAction::Lost
        | AuditAction::Cancelled
        | AuditAction::DeletionAccepted
        | AuditAction::ForeignFound => None,
    }
}

/// The events of an entry, on its machine's VPSieNode and on its NodeGroup.
pub(super) fn entry_events(entry: &AuditEntry) -> Vec<ObjectEvent> {
    let Some((kind, reason, group_too)) = event_type(entry.kind) else { return Vec::new() };
    let orphan = entry.kind == AuditAction::MarkedForDeletion && entry.by == Cause::Orphan;
    let reason = if orphan { "OrphanDeleted" } else { reason };
    // Cluster Autoscaler publishes its own events about its deletions.
    let routine = entry.kind == AuditAction::MarkedForDeletion && entry.by == Cause::ClusterAutoscaler;
    let message = message(entry);
    let machine = entry.machine.as_ref().map(|machine| Object::VPSieNode(machine.to_string()));
    let group = entry.pool.as_ref().filter(|_| group_too && !routine);
    let mut events = Vec::new();
    if let Some(pool) = group {
        let on = Object::NodeGroup(pool.node_group.to_string());
        let node = |vm: &Hostname| Object::Node { name: vm.to_string(), uid: String::new() };
        let subject = match &entry.datacenter {
            Some(datacenter) => format!("datacenter {datacenter}"),
            None => format!("pool {pool}"),
        };
        let event = ObjectEvent::new(on, kind, reason, format!("{subject}: {message}"));
        let related = machine.clone().or_else(|| entry.vm.as_ref().map(node));
        events.push(ObjectEvent { related, ..event });
    }
    if let Some(machine) = machine {
        events.push(ObjectEvent::new(machine, kind, reason, message));
    }
    events
}

fn message(entry: &AuditEntry) -> String {
    let vm = match (&entry.vm, &entry.vm_id) {
        (Some(vm), Some(id)) => format!("VM {vm} ({id})"),
        (Some(vm), None) => format!("VM {vm}"),
        (None, _) => "its VM".to_owned(),
    };
    let by = entry.by.name();
    match entry.kind {
        AuditAction::Requested => "vpsie-autoscaler requests a VM from VPSie".to_owned(),
        AuditAction::Bound => format!("VPSie created {vm}"),
        AuditAction::Running => format!("{vm} is running"),
        AuditAction::Failed => entry
            .failure
            .as_ref()
            .map_or_else(String::new, |failure| format!("{}: {}", failure.reason, failure.message)),
        AuditAction::MarkedForDeletion => format!("{vm} will be deleted; cause: {by}"),
        AuditAction::DeletionIgnored => {
            format!("VPSie accepted the deletion of {vm} and still lists it; the deletion is requested again")
        }
        AuditAction::Ended if entry.vm.is_some() => format!("{vm} is deleted; cause: {by}"),
        AuditAction::Ended => {
            format!("the machine has no VM, and no open request can create one; cause: {by}")
        }
        AuditAction::Vanished => {
            format!("{vm} vanished: VPSie no longer lists it, and vpsie-autoscaler did not delete it")
        }
        AuditAction::Interrupted => {
            format!(
                "the spot {vm} was interrupted: VPSie no longer lists it, and vpsie-autoscaler did not delete it"
            )
        }
        AuditAction::Returned => format!("VPSie lists {vm} again after it vanished or was deleted"),
        AuditAction::OrphanFound => {
            format!(
                "{vm} was requested by vpsie-autoscaler and no machine waits for it; it is adopted, or deleted after \
                 the grace period"
            )
        }
        AuditAction::UnexpectedFound => format!(
            "{vm} appeared and matches no open request; it counts as paid for and is not touched; delete it at \
             VPSie, or annotate its Node with {}=true if a user added it",
            names::ADDED_BY_HAND
        ),
        AuditAction::OrphanAdopted => format!("adopted the orphan {vm} as the VM of this machine"),
        AuditAction::WorkerAdopted => format!("adopted {vm}, which existed before"),
        AuditAction::DatacenterBreakerOpened => {
            let why = entry.outage.map_or_else(String::new, |outage| format!(": {outage}"));
            format!("its circuit breaker opened{why}; its pools do not grow, and its VMs and Nodes are kept")
        }
        AuditAction::DatacenterBreakerHalfOpen => {
            "its circuit breaker is half-open: its pools together can add one machine".to_owned()
        }
        AuditAction::DatacenterBreakerClosed => "its circuit breaker closed: its pools can grow".to_owned(),
        kind => kind.meaning().to_owned(),
    }
}

/// The event of a refused command, if an administrator can react to it.
pub(super) fn refusal_event(refusal: &Refusal) -> Option<ObjectEvent> {
    let on = Object::NodeGroup(refusal.pool()?.node_group.to_string());
    Some(ObjectEvent::new(on, EventType::Warning, refusal.reason(), refusal.to_string()))
}
