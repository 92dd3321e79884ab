//! What a change means for money: the acts of the audit log. Pure.

use rust_decimal::Decimal;

use crate::catalog::SizeId;
use crate::fleet::{
    Cause, Change, DeletionReason, Failure, Fleet, Hostname, Machine, MachineId, Phase, PoolId,
    RequestOutcome, UnmanagedKind, UnmanagedNode, Vm, VmId,
};

macro_rules! kinds {
    ($($kind:ident $name:literal $meaning:literal,)*) => {
        /// What was done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum ActKind {
            $(#[doc = $meaning] $kind,)*
        }

        impl ActKind {
            /// All of them, in the order of a machine's life.
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The word for it in the audit log.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// What it says.
            pub(super) fn meaning(self) -> &'static str {
                match self {
                    $(Self::$kind => $meaning,)*
                }
            }
        }
    };
}

kinds! {
    Requested "requested" "Cluster Autoscaler asked for a machine; it is recorded",
    Asked "asked" "VPSie is about to be asked for its VM",
    Accepted "accepted" "VPSie accepted the request",
    Unclear "unclear" "VPSie's reply was lost: there may be a VM",
    NotMade "not_made" "VPSie made nothing of the request now; it is asked again if the machine still waits",
    Lost "lost" "no VM came of the request in time; one that comes later is known as ours",
    Bound "bound" "a VM is listed that the request is taken to have made",
    Running "running" "its VM is up: its Node registered, or without Kubernetes VPSie says so",
    Failed "failed" "the machine failed for good; `reason` and `message` say why",
    Cancelled "cancelled" "the machine is not wanted any more, and VPSie has nothing of it",
    GivenUp "given_up" "the machine is not wanted any more: its VM, or one that still comes, is to be deleted",
    DeletionAccepted "deletion_accepted" "VPSie accepted the deletion of its VM, or says that there is none",
    DeletionIgnored "deletion_ignored" "VPSie accepted the deletion long ago and still lists the VM: asked again",
    Gone "gone" "VPSie lists the deleted VM no more, or no request of a machine given up can have a VM",
    Vanished "vanished" "VPSie lists the VM no more, and nobody here had deleted it",
    Returned "returned" "a VM that was gone is listed again: taken back, or deleted again if it had been deleted",
    OrphanFound "orphan_found" "a VM of ours is listed that no machine waits for",
    OrphanAdopted "orphan_adopted" "a machine that waited for a VM got an orphan",
    TakenIn "taken_in" "a worker that was there before is a machine now, as its NodeGroup says (`adoptExistingWorkers`)",
    ForeignFound "foreign_found" "a node is listed that is not ours: never touched",
    UnexpectedFound "unexpected_found" "a node appeared while requests waited or were lost, and fits none: it counts as paid for, and is never touched",
    GrowthHalted "growth_halted" "the runaway guard stops creations; `halt` says which bound was reached, `message` what to do",
    GrowthResumed "growth_resumed" "the runaway guard allows creations again",
}

/// One act that spends or frees money, or explains one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Act {
    /// What was done.
    pub(super) kind: ActKind,
    /// The machine.
    pub(super) machine: Option<MachineId>,
    /// Its pool, or that which an orphan was asked for.
    pub(super) pool: Option<PoolId>,
    /// Its size.
    pub(super) size: Option<SizeId>,
    /// The VM's hostname.
    pub(super) vm: Option<Hostname>,
    /// The VM's UUID.
    pub(super) vm_id: Option<VmId>,
    /// The cause: that of the change, or for a machine that is being deleted, its deletion reason.
    pub(super) by: Cause,
    /// Why the runaway guard stops creations: the reason of a [`Halt`](crate::fleet::Halt).
    pub(super) halt: Option<&'static str>,
    /// Why it failed.
    pub(super) failure: Option<Failure>,
    /// List price of the machine, where known.
    pub(super) usd_per_hour: Option<Decimal>,
}

impl Act {
    /// An act that is about no machine.
    pub(super) fn of_cluster(kind: ActKind, by: Cause) -> Self {
        Self {
            kind,
            machine: None,
            pool: None,
            size: None,
            vm: None,
            vm_id: None,
            by,
            halt: None,
            failure: None,
            usd_per_hour: None,
        }
    }
}

/// The acts that a change tells of, to the fleet as it is before it.
pub(super) fn acts(fleet: &Fleet, change: &Change, cause: Cause) -> Vec<Act> {
    let mut acts = match change {
        Change::SaveMachine(machine) => match fleet.machine(&machine.id) {
            Some(old) => changed(fleet, old, machine, cause),
            None => vec![of(machine, begun(fleet, machine), cause)],
        },
        Change::DropMachine(id) => {
            fleet.machine(id).and_then(|machine| dropped(fleet, machine, cause)).into_iter().collect()
        }
        Change::SaveUnmanaged(unmanaged) => listed(fleet, unmanaged, cause).into_iter().collect(),
        Change::DropUnmanaged(_)
        | Change::SaveLearned(..)
        | Change::SaveLedger(_)
        | Change::SaveCatalog(_) => Vec::new(),
    };
    for act in &mut acts {
        let pool = act.pool.as_ref().and_then(|pool| fleet.pool(&pool.to_string()));
        act.usd_per_hour = pool.and_then(|pool| pool.price).map(|price| price.0.round_dp(5).normalize());
    }
    acts
}

/// An act of a machine as it is.
fn of(machine: &Machine, kind: ActKind, cause: Cause) -> Act {
    let by = match &machine.phase {
        Phase::Deleting { reason, .. } => (*reason).into(),
        _ => cause,
    };
    let failure = match &machine.phase {
        Phase::Failed { failure, .. } if kind == ActKind::Failed => Some(failure.clone()),
        _ => None,
    };
    let vm = machine.vm();
    Act {
        machine: Some(machine.id.clone()),
        pool: Some(machine.pool.clone()),
        size: machine.size.known(),
        vm: vm.map(|vm| vm.hostname.clone()),
        vm_id: vm.and_then(|vm| vm.id.clone()),
        failure,
        ..Act::of_cluster(kind, by)
    }
}

fn begun(fleet: &Fleet, machine: &Machine) -> ActKind {
    match (&machine.phase, machine.vm()) {
        (Phase::Deleting { reason: DeletionReason::Orphan, .. }, _) => ActKind::GivenUp,
        (_, Some(vm)) => bound(fleet, machine, vm),
        (_, None) => ActKind::Requested,
    }
}

/// How a machine came by a VM: what the VM was before tells.
fn bound(fleet: &Fleet, machine: &Machine, vm: &Vm) -> ActKind {
    match fleet.unmanaged_node(&vm.hostname).map(|unmanaged| &unmanaged.kind) {
        Some(UnmanagedKind::Gone { machine: was, .. }) if *was == machine.id => ActKind::Returned,
        Some(UnmanagedKind::Orphan { .. }) => ActKind::OrphanAdopted,
        Some(UnmanagedKind::Foreign) => ActKind::TakenIn,
        _ => ActKind::Bound,
    }
}

fn changed(fleet: &Fleet, old: &Machine, new: &Machine, cause: Cause) -> Vec<Act> {
    let mut kinds = asked(old, new);
    match (old.vm(), new.vm()) {
        (None, Some(vm)) => kinds.push(bound(fleet, new, vm)),
        (Some(was), Some(vm)) if was.hostname != vm.hostname => kinds.push(bound(fleet, new, vm)),
        _ => {}
    }
    let same = old.phase.name() == new.phase.name();
    match (&old.phase, &new.phase) {
        (_, Phase::Running { .. }) if !same => kinds.push(ActKind::Running),
        (_, Phase::Failed { .. }) if !same => kinds.push(ActKind::Failed),
        // The others are told when the VM goes, or comes back.
        (_, Phase::Deleting { reason, .. }) if !same && !told_by_vm(*reason) => kinds.push(ActKind::GivenUp),
        (Phase::Deleting { accepted_at: None, .. }, Phase::Deleting { accepted_at: Some(_), .. }) => {
            kinds.push(ActKind::DeletionAccepted);
        }
        (
            Phase::Deleting { accepted_at: Some(_), .. },
            Phase::Deleting { accepted_at: None, vm: Some(_), .. },
        ) => kinds.push(ActKind::DeletionIgnored),
        _ => {}
    }
    kinds.into_iter().map(|kind| of(new, kind, cause)).collect()
}

fn told_by_vm(reason: DeletionReason) -> bool {
    matches!(reason, DeletionReason::VMGone | DeletionReason::VMReturned)
}

/// What became of a machine's requests.
fn asked(old: &Machine, new: &Machine) -> Vec<ActKind> {
    let in_flight = |machine: &Machine| {
        machine.requests.iter().filter(|request| request.outcome == RequestOutcome::InFlight).count()
    };
    if new.requests.len() < old.requests.len() {
        // One that a VM was matched with, or that is forgotten, is told of elsewhere or not at all.
        let waits = new.vm().is_none() && !matches!(new.phase, Phase::Failed { .. } | Phase::Running { .. });
        let answered = waits && in_flight(new) < in_flight(old);
        return if answered { vec![ActKind::NotMade] } else { Vec::new() };
    }
    let told = old.requests.iter().zip(&new.requests).filter(|(was, is)| was.outcome != is.outcome);
    let told = told.filter_map(|(_, is)| match is.outcome {
        RequestOutcome::InFlight => None,
        RequestOutcome::Accepted => Some(ActKind::Accepted),
        RequestOutcome::Unclear => Some(ActKind::Unclear),
        RequestOutcome::Lost => Some(ActKind::Lost),
    });
    let more = new.requests.len() - old.requests.len();
    told.chain(std::iter::repeat_n(ActKind::Asked, more)).collect()
}

fn dropped(fleet: &Fleet, machine: &Machine, cause: Cause) -> Option<Act> {
    // When time passes, all machines of a deleted NodeGroup that have no VM are removed before expired failures are.
    let group = fleet.pool(&machine.pool.to_string()).and_then(|pool| fleet.group(pool));
    let is_closing = group.is_some_and(|group| group.deletion.is_some());
    let cause = match cause {
        Cause::Expiry if is_closing => Cause::NodeGroupDeleted,
        Cause::Expiry => Cause::FailedExpired,
        other => other,
    };
    match machine.phase {
        // Told when its VM went.
        _ if machine.vm().is_some() => None,
        Phase::Deleting { .. } => Some(of(machine, ActKind::Gone, cause)),
        _ => Some(of(machine, ActKind::Cancelled, cause)),
    }
}

fn listed(fleet: &Fleet, unmanaged: &UnmanagedNode, cause: Cause) -> Option<Act> {
    let was = fleet.unmanaged_node(&unmanaged.hostname).map(|was| &was.kind);
    let act = |kind, pool: Option<&PoolId>, size: Option<SizeId>| Act {
        pool: pool.cloned(),
        size: size.and_then(SizeId::known),
        vm: Some(unmanaged.hostname.clone()),
        vm_id: unmanaged.id.clone(),
        ..Act::of_cluster(kind, cause)
    };
    match &unmanaged.kind {
        UnmanagedKind::Foreign if was.is_none() => match &unmanaged.awaited_by {
            Some(pool) => Some(act(ActKind::UnexpectedFound, Some(pool), None)),
            None => Some(act(ActKind::ForeignFound, None, None)),
        },
        UnmanagedKind::Orphan { pool, size } if !matches!(was, Some(UnmanagedKind::Orphan { .. })) => {
            Some(act(ActKind::OrphanFound, Some(pool), *size))
        }
        UnmanagedKind::Gone { machine, pool, size, deleted }
            if !matches!(was, Some(UnmanagedKind::Gone { .. })) =>
        {
            let (told, by) = match fleet.machine(machine).map(|machine| &machine.phase) {
                Some(Phase::Deleting { accepted_at, reason, .. }) => {
                    (accepted_at.is_some(), (*reason).into())
                }
                Some(_) => (false, cause),
                None => (*deleted, cause),
            };
            let kind = if told { ActKind::Gone } else { ActKind::Vanished };
            Some(Act { machine: Some(machine.clone()), by, ..act(kind, Some(pool), Some(*size)) })
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests;
