//! Which acts are told as Kubernetes events, about what, and in which words. Pure.

use super::acts::{Act, ActKind};
use crate::fleet::{Cause, Hostname, Refusal, names};
use crate::kubernetes::{EventType, Object, ObjectEvent};

/// Type and reason of an act's events, and whether its NodeGroup is told too. None for an act without events.
///
/// A NodeGroup has thousands of machines, so it is told only what somebody may have to do something about.
pub(super) fn event(kind: ActKind) -> Option<(EventType, &'static str, bool)> {
    use EventType::{Normal, Warning};
    match kind {
        ActKind::Asked => Some((Normal, "Requested", false)),
        ActKind::Bound => Some((Normal, "Created", false)),
        ActKind::Running => Some((Normal, "Running", false)),
        ActKind::Failed => Some((Warning, "Failed", true)),
        ActKind::GivenUp => Some((Normal, "Deleting", true)),
        ActKind::DeletionIgnored => Some((Warning, "DeletionIgnored", true)),
        ActKind::Gone => Some((Normal, "Deleted", false)),
        ActKind::Vanished => Some((Warning, "VMVanished", true)),
        ActKind::Returned => Some((Warning, "VMReturned", true)),
        ActKind::OrphanFound => Some((Warning, "OrphanFound", true)),
        ActKind::UnexpectedFound => Some((Warning, "UnexpectedNode", true)),
        ActKind::GrowthHalted => Some((Warning, "GrowthHalted", true)),
        ActKind::GrowthResumed => Some((Normal, "GrowthResumed", true)),
        ActKind::OrphanAdopted => Some((Normal, "OrphanAdopted", true)),
        ActKind::TakenIn => Some((Normal, "TakenIn", true)),
        ActKind::Requested
        | ActKind::Accepted
        | ActKind::Unclear
        | ActKind::NotMade
        | ActKind::Lost
        | ActKind::Cancelled
        | ActKind::DeletionAccepted
        | ActKind::ForeignFound => None,
    }
}

/// The events of an act, on its machine's VPSieNode and on its NodeGroup.
pub(super) fn happenings(act: &Act) -> Vec<ObjectEvent> {
    let Some((kind, reason, group_too)) = event(act.kind) else { return Vec::new() };
    let orphan = act.kind == ActKind::GivenUp && act.by == Cause::Orphan;
    let reason = if orphan { "OrphanDeleted" } else { reason };
    // Of what Cluster Autoscaler deletes it tells itself.
    let routine = act.kind == ActKind::GivenUp && act.by == Cause::ClusterAutoscaler;
    let message = message(act);
    let machine = act.machine.as_ref().map(|machine| Object::VPSieNode(machine.to_string()));
    let group = act.pool.as_ref().filter(|_| group_too && !routine);
    let mut happenings = Vec::new();
    if let Some(pool) = group {
        let on = Object::NodeGroup(pool.node_group.to_string());
        let node = |vm: &Hostname| Object::Node { name: vm.to_string(), uid: String::new() };
        let told = ObjectEvent::new(on, kind, reason, format!("pool {pool}: {message}"));
        let related = machine.clone().or_else(|| act.vm.as_ref().map(node));
        happenings.push(ObjectEvent { related, ..told });
    }
    if let Some(machine) = machine {
        happenings.push(ObjectEvent::new(machine, kind, reason, message));
    }
    happenings
}

fn message(act: &Act) -> String {
    let vm = match (&act.vm, &act.vm_id) {
        (Some(vm), Some(id)) => format!("VM {vm} ({id})"),
        (Some(vm), None) => format!("VM {vm}"),
        (None, _) => "its VM".to_owned(),
    };
    let by = act.by.name();
    match act.kind {
        ActKind::Asked => "VPSie is asked for a VM".to_owned(),
        ActKind::Bound => format!("VPSie lists {vm}"),
        ActKind::Running => format!("{vm} runs"),
        ActKind::Failed => act
            .failure
            .as_ref()
            .map_or_else(String::new, |failure| format!("{}: {}", failure.reason, failure.message)),
        ActKind::GivenUp => format!("{vm} is to be deleted ({by})"),
        ActKind::DeletionIgnored => {
            format!("{vm}: VPSie accepted its deletion and still lists it; asking again")
        }
        ActKind::Gone if act.vm.is_some() => format!("{vm} is deleted ({by})"),
        ActKind::Gone => format!("no VM of it is left ({by})"),
        ActKind::Vanished => format!("{vm} vanished from VPSie's listings; it was not deleted from here"),
        ActKind::Returned => format!("{vm} was gone and is listed again"),
        ActKind::OrphanFound => {
            format!("{vm} is ours and no machine waits for it: adopted, or deleted after the grace")
        }
        ActKind::UnexpectedFound => format!(
            "{vm} appeared and fits no request that waits: it counts as paid for and is not touched; delete it at VPSie, \
             or annotate its Node with {}=true if a person added it",
            names::ADDED_BY_HAND
        ),
        ActKind::OrphanAdopted => format!("{vm} was an orphan and is this machine's now"),
        ActKind::TakenIn => format!("{vm} was there before and is taken in"),
        kind => kind.meaning().to_owned(),
    }
}

/// The events of a command that was refused: limits that somebody may want to raise.
pub(super) fn refused(refusal: &Refusal) -> Option<ObjectEvent> {
    let (pool, reason) = match refusal {
        Refusal::AboveMax { pool, .. } | Refusal::AboveClusterMax { pool, .. } => (pool, "MaximumReached"),
        Refusal::Halted { pool, .. } => (pool, "GrowthHalted"),
        Refusal::AboveVmBound { pool, .. } => (pool, "VMBoundReached"),
        Refusal::VmsStillPaid { pool, .. } => (pool, "VMsStillPaid"),
        Refusal::AboveCostLimit(reached) => (&reached.pool, "CostLimitReached"),
        Refusal::PriceUnknown { pool, .. } => (pool, "PriceUnknown"),
        Refusal::BelowMin { pool, .. } => (pool, "MinimumReached"),
        Refusal::NotGrowable { pool, .. } => (pool, "NotGrowable"),
        Refusal::LimitsUnknown { pool, .. } => (pool, "LimitsUnknown"),
        Refusal::UnknownPool(_) | Refusal::Delta { .. } | Refusal::ForeignNode { .. } => return None,
    };
    let on = Object::NodeGroup(pool.node_group.to_string());
    Some(ObjectEvent::new(on, EventType::Warning, reason, refusal.to_string()))
}
