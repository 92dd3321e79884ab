//! Audit entries of a change. Pure.

use rust_decimal::Decimal;

use crate::catalog::{CapacityType, DatacenterId, SizeId};
use crate::fleet::{
    BreakerState, Cause, Change, DatacenterHistory, DatacenterState, DeletionReason, Failure, Fleet,
    Hostname, Machine, MachineId, OutageCause, Phase, PoolId, RequestOutcome, SpotHistory, UnmanagedKind,
    UnmanagedNode, Vm, VmId,
};

macro_rules! kinds {
    ($($kind:ident $name:literal $meaning:literal,)*) => {
        /// The action.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::control) enum AuditAction {
            $(#[doc = $meaning] $kind,)*
        }

        impl AuditAction {
            /// All actions, in the order of a machine's life.
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The name in the audit log.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// The meaning, as in the documentation.
            pub(super) fn meaning(self) -> &'static str {
                match self {
                    $(Self::$kind => $meaning,)*
                }
            }
        }
    };
}

kinds! {
    Recorded "recorded" "Cluster Autoscaler added a machine to the target size of its pool; the machine is \
        recorded",
    Requested "requested" "a request for its VM is recorded and about to be sent to VPSie",
    Accepted "accepted" "VPSie accepted the request",
    Unclear "unclear" "VPSie's reply was lost; there may be a VM",
    NotCreated "not_created" "VPSie created no VM; the request is repeated if the machine still waits",
    Lost "lost" "no VM appeared in time for the request; a VM that appears later is recognized",
    Bound "bound" "VPSie lists a VM that was matched to the request",
    Running "running" "its Node registered; without Kubernetes: VPSie lists its VM as running",
    Failed "failed" "the machine failed and is not retried; see `reason` and `message`",
    Cancelled "cancelled" "the machine was removed; it has no VM and no open request",
    MarkedForDeletion "marked_for_deletion" "the machine will be deleted, with its VM or with a VM that still \
        appears",
    DeletionAccepted "deletion_accepted" "VPSie accepted the deletion of its VM, or replied that it does not \
        exist",
    DeletionIgnored "deletion_ignored" "VPSie accepted the deletion minutes ago and still lists the VM; the \
        deletion is requested again",
    Ended "ended" "VPSie no longer lists the deleted VM, or no request of a deleted machine can still make a VM",
    Vanished "vanished" "VPSie no longer lists the VM, and vpsie-autoscaler did not delete it",
    Returned "returned" "VPSie lists a VM again that had vanished or was deleted; it is bound again, or deleted \
        again if its machine was Deleting",
    OrphanFound "orphan_found" "VPSie lists a VM that was requested by vpsie-autoscaler and that no machine waits \
        for",
    OrphanAdopted "orphan_adopted" "an orphan became the VM of a machine that waited for one",
    WorkerAdopted "worker_adopted" "an existing worker became a machine of a NodeGroup with `adoptExistingWorkers`",
    ForeignFound "foreign_found" "VPSie lists a node that was not requested by vpsie-autoscaler; it is never \
        touched",
    UnexpectedFound "unexpected_found" "a node appeared while requests were open or lost, and matches none of \
        them; it counts as paid for, and is never touched",
    Interrupted "interrupted" "VPSie no longer lists the VM of a spot machine, and vpsie-autoscaler did not delete it",
    NoticeReceived "notice_received" "VPSie gave notice that it will interrupt the VM; a replacement is requested, and \
        the Node is drained before the deadline",
    NoticeWithdrawn "notice_withdrawn" "the notice was withdrawn; the machine stays",
    ReplacementRecorded "replacement_recorded" "the replacement of a machine with a notice is recorded",
    ReplacementTakenOver "replacement_taken_over" "Cluster Autoscaler requested a machine of the pool while the \
        replacement was on its way; the replacement is that machine, and the target size stays",
    SpotBreakerOpened "spot_breaker_opened" "the circuit breaker of the spot pool opened: VPSie refused, did not deliver or \
        interrupted machines of its class; the pool does not grow until the next attempt",
    SpotBreakerHalfOpen "spot_breaker_half_open" "the circuit breaker of the spot pool is half-open: all pools of its class \
        together can add one machine",
    SpotBreakerClosed "spot_breaker_closed" "the circuit breaker of the spot pool closed: a machine of its class has run for 15 \
        minutes, and the pool can grow",
    DatacenterBreakerOpened "datacenter_breaker_opened" "the circuit breaker of the datacenter opened: `reason` has the \
        evidence; pools of the datacenter do not grow, and its VMs and Nodes are kept",
    DatacenterBreakerHalfOpen "datacenter_breaker_half_open" "the circuit breaker of the datacenter is half-open: all pools \
        of the datacenter together can add one machine",
    DatacenterBreakerClosed "datacenter_breaker_closed" "the circuit breaker of the datacenter closed: the Node of a tried \
        machine is Ready, the evidence has ended, or the failures were not those of the datacenter; its pools can grow",
    GrowthHalted "growth_halted" "the runaway guard halts growth; `halt` has the reason, `message` the remedy",
    GrowthResumed "growth_resumed" "the runaway guard allows growth again",
}

/// An entry of the audit log: one action that spends or frees money, or explains one.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) struct AuditEntry {
    /// The action.
    pub(in crate::control) kind: AuditAction,
    /// The machine.
    pub(in crate::control) machine: Option<MachineId>,
    /// Its pool; for an orphan, the pool that it was requested for.
    pub(in crate::control) pool: Option<PoolId>,
    /// The datacenter whose circuit breaker changed.
    pub(in crate::control) datacenter: Option<DatacenterId>,
    /// The outage that opened it.
    pub(in crate::control) outage: Option<OutageCause>,
    /// Its size.
    pub(in crate::control) size: Option<SizeId>,
    /// The VM's hostname.
    pub(in crate::control) vm: Option<Hostname>,
    /// The VM's UUID.
    pub(in crate::control) vm_id: Option<VmId>,
    /// The cause of the change. For a machine that is being deleted, its deletion reason.
    pub(in crate::control) by: Cause,
    /// Reason why the runaway guard halts growth: the reason of a [`Halt`](crate::fleet::Halt).
    pub(in crate::control) halt: Option<&'static str>,
    /// The failure.
    pub(in crate::control) failure: Option<Failure>,
    /// List price of the machine, where known.
    pub(in crate::control) usd_per_hour: Option<Decimal>,
}

impl AuditEntry {
    /// An entry about no machine.
    pub(in crate::control) fn for_cluster(kind: AuditAction, by: Cause) -> Self {
        Self {
            kind,
            machine: None,
            pool: None,
            datacenter: None,
            outage: None,
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

/// The entries of a change. `fleet` is the fleet before the change.
pub(super) fn audit_entries(fleet: &Fleet, change: &Change, cause: Cause) -> Vec<AuditEntry> {
    let mut entries = match change {
        Change::SaveMachine(machine) => match fleet.machine(&machine.id) {
            Some(old) => changed(fleet, old, machine, cause),
            None => vec![machine_entry(machine, begun(fleet, machine), cause)],
        },
        Change::DropMachine(id) => {
            fleet.machine(id).and_then(|machine| dropped(fleet, machine, cause)).into_iter().collect()
        }
        Change::SaveUnmanaged(unmanaged) => listed(fleet, unmanaged, cause).into_iter().collect(),
        Change::DropUnmanaged(_)
        | Change::SaveProfile(..)
        | Change::SaveRequestHistory(_)
        | Change::SaveCatalog(_) => Vec::new(),
        Change::SaveSpotHistory(history) => breaker_entries(fleet, history, cause),
        Change::SaveDatacenterHistory(history) => datacenter_entries(fleet, history, cause),
    };
    for entry in &mut entries {
        let pool = entry.pool.as_ref().and_then(|pool| fleet.pool(&pool.to_string()));
        entry.usd_per_hour = pool.and_then(|pool| pool.price).map(|price| price.0.round_dp(5).normalize());
    }
    entries
}

/// An entry for each growable spot pool whose circuit breaker changes its state.
fn breaker_entries(fleet: &Fleet, new: &SpotHistory, cause: Cause) -> Vec<AuditEntry> {
    let mut entries = Vec::new();
    for pool in fleet.pools().filter(|pool| pool.growable) {
        let Some(old) = fleet.breaker_state(pool) else { continue };
        let new = new.breaker_state(&pool.id.class(pool.offer.size));
        if old.name() == new.name() {
            continue;
        }
        let kind = match new {
            BreakerState::Open { .. } => AuditAction::SpotBreakerOpened,
            BreakerState::HalfOpen { .. } => AuditAction::SpotBreakerHalfOpen,
            BreakerState::Closed => AuditAction::SpotBreakerClosed,
        };
        entries.push(AuditEntry {
            pool: Some(pool.id.clone()),
            size: pool.offer.size.known(),
            ..AuditEntry::for_cluster(kind, cause)
        });
    }
    entries
}

/// An entry for each NodeGroup that uses a datacenter whose circuit breaker changes its state.
fn datacenter_entries(fleet: &Fleet, new: &DatacenterHistory, cause: Cause) -> Vec<AuditEntry> {
    let mut entries = Vec::new();
    for datacenter in fleet.watched_datacenters() {
        let breaker = new.breaker(datacenter);
        let kind = match breaker.state {
            state if state.name() == fleet.datacenter_history().state(datacenter).name() => continue,
            DatacenterState::Open { .. } => AuditAction::DatacenterBreakerOpened,
            DatacenterState::HalfOpen { .. } => AuditAction::DatacenterBreakerHalfOpen,
            DatacenterState::Closed { .. } => AuditAction::DatacenterBreakerClosed,
        };
        let outage =
            breaker.last.map(|last| last.cause).filter(|_| kind != AuditAction::DatacenterBreakerClosed);
        for pool in fleet.first_pools_in(datacenter) {
            entries.push(AuditEntry {
                pool: Some(pool.clone()),
                datacenter: Some(datacenter.clone()),
                outage,
                ..AuditEntry::for_cluster(kind, cause)
            });
        }
    }
    entries
}

/// An entry about a machine.
fn machine_entry(machine: &Machine, kind: AuditAction, cause: Cause) -> AuditEntry {
    let by = match &machine.phase {
        Phase::Deleting { reason, .. } => (*reason).into(),
        _ => cause,
    };
    let failure = match &machine.phase {
        Phase::Failed { failure, .. } if kind == AuditAction::Failed => Some(failure.clone()),
        _ => None,
    };
    let vm = machine.vm();
    AuditEntry {
        machine: Some(machine.id.clone()),
        pool: Some(machine.pool.clone()),
        size: machine.size.known(),
        vm: vm.map(|vm| vm.hostname.clone()),
        vm_id: vm.and_then(|vm| vm.id.clone()),
        failure,
        ..AuditEntry::for_cluster(kind, by)
    }
}

fn begun(fleet: &Fleet, machine: &Machine) -> AuditAction {
    match (&machine.phase, machine.vm()) {
        (Phase::Deleting { reason: DeletionReason::Orphan, .. }, _) => AuditAction::MarkedForDeletion,
        (_, Some(vm)) => bound(fleet, machine, vm),
        (_, None) if machine.replaces.is_some() => AuditAction::ReplacementRecorded,
        (_, None) => AuditAction::Recorded,
    }
}

/// The action by which a machine got its VM. It follows from the earlier record of the VM.
fn bound(fleet: &Fleet, machine: &Machine, vm: &Vm) -> AuditAction {
    match fleet.unmanaged_node(&vm.hostname).map(|unmanaged| &unmanaged.kind) {
        Some(UnmanagedKind::Gone { machine: was, .. }) if *was == machine.id => AuditAction::Returned,
        Some(UnmanagedKind::Orphan { .. }) => AuditAction::OrphanAdopted,
        Some(UnmanagedKind::Foreign) => AuditAction::WorkerAdopted,
        _ => AuditAction::Bound,
    }
}

fn changed(fleet: &Fleet, old: &Machine, new: &Machine, cause: Cause) -> Vec<AuditEntry> {
    let mut kinds = request_actions(old, new);
    match (old.vm(), new.vm()) {
        (None, Some(vm)) => kinds.push(bound(fleet, new, vm)),
        (Some(was), Some(vm)) if was.hostname != vm.hostname => kinds.push(bound(fleet, new, vm)),
        _ => {}
    }
    match (&old.notice, &new.notice) {
        (None, Some(_)) => kinds.push(AuditAction::NoticeReceived),
        (Some(_), None) if new.counts() => kinds.push(AuditAction::NoticeWithdrawn),
        _ => {}
    }
    if cause == Cause::ClusterAutoscaler && old.replaces.is_some() && new.replaces.is_none() {
        kinds.push(AuditAction::ReplacementTakenOver);
    }
    let same = old.phase.name() == new.phase.name();
    match (&old.phase, &new.phase) {
        (_, Phase::Running { .. }) if !same => kinds.push(AuditAction::Running),
        (_, Phase::Failed { .. }) if !same => kinds.push(AuditAction::Failed),
        // The other deletions are reported when their VM vanishes or returns.
        (_, Phase::Deleting { reason, .. }) if !same && !is_reported_with_vm(*reason) => {
            kinds.push(AuditAction::MarkedForDeletion);
        }
        (Phase::Deleting { accepted_at: None, .. }, Phase::Deleting { accepted_at: Some(_), .. }) => {
            kinds.push(AuditAction::DeletionAccepted);
        }
        (
            Phase::Deleting { accepted_at: Some(_), .. },
            Phase::Deleting { accepted_at: None, vm: Some(_), .. },
        ) => kinds.push(AuditAction::DeletionIgnored),
        _ => {}
    }
    kinds.into_iter().map(|kind| machine_entry(new, kind, cause)).collect()
}

fn is_reported_with_vm(reason: DeletionReason) -> bool {
    matches!(reason, DeletionReason::VMGone | DeletionReason::VMReturned)
}

/// Actions about a machine's requests.
fn request_actions(old: &Machine, new: &Machine) -> Vec<AuditAction> {
    let in_flight = |machine: &Machine| {
        machine.requests.iter().filter(|request| request.outcome == RequestOutcome::InFlight).count()
    };
    if new.requests.len() < old.requests.len() {
        // A request that was matched is reported with its VM. An abandoned request is not reported.
        let waits = new.vm().is_none() && !matches!(new.phase, Phase::Failed { .. } | Phase::Running { .. });
        let has_ended = waits && in_flight(new) < in_flight(old);
        return if has_ended { vec![AuditAction::NotCreated] } else { Vec::new() };
    }
    let changed = old.requests.iter().zip(&new.requests).filter(|(was, is)| was.outcome != is.outcome);
    let changed = changed.filter_map(|(_, is)| match is.outcome {
        RequestOutcome::InFlight => None,
        RequestOutcome::Accepted => Some(AuditAction::Accepted),
        RequestOutcome::Unclear => Some(AuditAction::Unclear),
        RequestOutcome::Lost => Some(AuditAction::Lost),
    });
    let more = new.requests.len() - old.requests.len();
    changed.chain(std::iter::repeat_n(AuditAction::Requested, more)).collect()
}

fn dropped(fleet: &Fleet, machine: &Machine, cause: Cause) -> Option<AuditEntry> {
    // Machines without a VM of a deleted NodeGroup are removed before expired failures.
    let group = fleet.pool(&machine.pool.to_string()).and_then(|pool| fleet.group(pool));
    let is_closing = group.is_some_and(|group| group.deletion.is_some());
    let cause = match cause {
        Cause::Expiry if is_closing => Cause::NodeGroupDeleted,
        Cause::Expiry => Cause::FailedExpired,
        other => other,
    };
    match machine.phase {
        // Reported when its VM vanished.
        _ if machine.vm().is_some() => None,
        Phase::Deleting { .. } => Some(machine_entry(machine, AuditAction::Ended, cause)),
        _ => Some(machine_entry(machine, AuditAction::Cancelled, cause)),
    }
}

fn listed(fleet: &Fleet, unmanaged: &UnmanagedNode, cause: Cause) -> Option<AuditEntry> {
    let was = fleet.unmanaged_node(&unmanaged.hostname).map(|was| &was.kind);
    let entry = |kind, pool: Option<&PoolId>, size: Option<SizeId>| AuditEntry {
        pool: pool.cloned(),
        size: size.and_then(SizeId::known),
        vm: Some(unmanaged.hostname.clone()),
        vm_id: unmanaged.id.clone(),
        ..AuditEntry::for_cluster(kind, cause)
    };
    match &unmanaged.kind {
        UnmanagedKind::Foreign if was.is_none() => match &unmanaged.awaited_by {
            Some(pool) => Some(entry(AuditAction::UnexpectedFound, Some(pool), None)),
            None => Some(entry(AuditAction::ForeignFound, None, None)),
        },
        UnmanagedKind::Orphan { pool, size } if !matches!(was, Some(UnmanagedKind::Orphan { .. })) => {
            Some(entry(AuditAction::OrphanFound, Some(pool), *size))
        }
        UnmanagedKind::Gone { machine, pool, size, deleted, .. }
            if !matches!(was, Some(UnmanagedKind::Gone { .. })) =>
        {
            let (is_deleted, by) = match fleet.machine(machine).map(|machine| &machine.phase) {
                Some(Phase::Deleting { accepted_at, reason, .. }) => {
                    (accepted_at.is_some(), (*reason).into())
                }
                Some(_) => (false, cause),
                None => (*deleted, cause),
            };
            let kind = match pool.capacity_type {
                _ if is_deleted => AuditAction::Ended,
                CapacityType::Spot if !*deleted => AuditAction::Interrupted,
                _ => AuditAction::Vanished,
            };
            Some(AuditEntry { machine: Some(machine.clone()), by, ..entry(kind, Some(pool), Some(*size)) })
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests;
