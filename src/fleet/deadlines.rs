//! Effects of time limits.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::age::age;
use super::command::Names;
use super::group::DeletionPolicy;
use super::ids::MachineId;
use super::listing::PendingVms;
use super::machine::{
    DeletionReason, DrainState, Failure, FailureReason, MAX_REQUESTS, Machine, Phase, RequestOutcome,
};
use super::policy::{Binding, Policy};
use super::record::{Change, UnmanagedKind, UnmanagedNode};
use super::state::Fleet;
use crate::catalog::SizeId;

/// Number of listings after a request before it can count as lost.
const LISTINGS_TO_EXPIRE: u32 = 2;
/// Number of listings after a request before it is abandoned: a quarter of an hour at the usual interval,
/// even if the clock jumps.
const LISTINGS_TO_ABANDON: u32 = 30;

impl Fleet {
    /// Applies all time limits: lost requests, failed machines that Cluster Autoscaler did not delete,
    /// orphans that no machine adopted, and expired records.
    pub fn apply_deadlines(&mut self, now: Timestamp, policy: &Policy, names: Names<'_>) -> Vec<Change> {
        let mut changes = Vec::new();
        let unwritten = self.remove_used_requests(&mut changes);
        self.correct_times(&mut changes, now);
        changes.extend(self.close_groups(now));
        self.advance_spot_classes(&mut changes, now);
        self.expire_notices(&mut changes, now);
        self.note_turns(now);
        for id in self.machines.keys().cloned().collect::<Vec<_>>() {
            self.expire_requests(&mut changes, &id, now, policy);
            self.expire_machine(&mut changes, &id, now, policy);
        }
        for unmanaged in self.unmanaged.values().cloned().collect::<Vec<_>>() {
            // An interrupted write may have left the record of a machine's VM.
            let is_orphan = matches!(unmanaged.kind, UnmanagedKind::Orphan { .. });
            let bound = unmanaged.id.as_ref().and_then(|id| self.machine_by_vm(id));
            if is_orphan && bound.is_some() || self.machine_by_hostname(&unmanaged.hostname).is_some() {
                self.drop_unmanaged(&mut changes, &unmanaged.hostname);
                continue;
            }
            match &unmanaged.kind {
                // A listing comes first: its addresses may identify the Node.
                UnmanagedKind::Orphan { .. }
                    if (self.transient.listed || policy.running_when_listed)
                        && !self.may_join_as_duplicate(&unmanaged)
                        && age(unmanaged.first_seen, now) >= self.orphan_grace(&unmanaged, policy) =>
                {
                    self.remove_orphan(&mut changes, unmanaged, now, names);
                }
                // Its record names its request, as long as the record of the machine still has that request.
                // The VM may be among the nodes that an incomplete listing lacks.
                UnmanagedKind::Gone { .. }
                    if self.transient.listed_completely
                        && age(unmanaged.first_seen, now) >= policy.gone_kept
                        && unmanaged.request.is_none_or(|request| !unwritten.contains(&request)) =>
                {
                    self.push_change(&mut changes, Change::DropUnmanaged(unmanaged.hostname));
                }
                _ => {}
            }
        }
        self.advance_datacenters(&mut changes, now);
        if policy.running_when_listed {
            self.skip_drains(&mut changes);
        }
        // The request history is last: if its record is refused, the records of machines before it wait.
        self.expire_abandoned(&mut changes, &unwritten, now, policy);
        let machines = &self.machines;
        self.transient
            .listings_since_request
            .retain(|id, _| machines.get(id).is_some_and(|m| !m.requests.is_empty()));
        changes
    }

    /// Deletes the machines of NodeGroups that are being deleted: all of them, or only those without a VM, by
    /// policy.
    pub fn close_groups(&mut self, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        let closed: BTreeMap<_, _> =
            self.groups.values().filter_map(|g| Some((g.name.clone(), g.deletion?))).collect();
        if closed.is_empty() {
            return changes;
        }
        for machine in self.machines.values().cloned().collect::<Vec<_>>() {
            let Some(policy) = closed.get(&machine.pool.node_group) else { continue };
            let has_no_vm = matches!(machine.phase, Phase::Pending | Phase::Failed { .. });
            if has_no_vm || *policy == DeletionPolicy::Drain {
                changes.extend(self.retire(&machine.id, DeletionReason::NodeGroupDeleted, now));
            }
        }
        changes
    }

    /// Marks overdue requests as lost, and abandons requests that are too old for a result.
    fn expire_requests(
        &mut self,
        changes: &mut Vec<Change>,
        id: &MachineId,
        now: Timestamp,
        policy: &Policy,
    ) {
        let Some(old) = self.machines.get(id).filter(|m| !m.requests.is_empty()) else { return };
        if self.transient.in_flight.contains(id) {
            return;
        }
        let listings = *self.transient.listings_since_request.entry(id.clone()).or_insert(0);
        let mut machine = old.clone();
        for request in &mut machine.requests {
            let timeout = match request.outcome {
                // Its VM may be pending without being listed.
                RequestOutcome::InFlight | RequestOutcome::Unclear
                    if self.transient.pending == PendingVms::Unsupported =>
                {
                    policy.unclear_timeout.max(self.create_timeout(policy))
                }
                RequestOutcome::InFlight | RequestOutcome::Unclear => policy.unclear_timeout,
                RequestOutcome::Accepted => self.create_timeout(policy),
                RequestOutcome::Lost => continue,
            };
            if listings >= LISTINGS_TO_EXPIRE && age(request.at, now) >= timeout {
                request.outcome = RequestOutcome::Lost;
            }
        }
        let abandon = listings >= LISTINGS_TO_ABANDON;
        let mut abandoned = Vec::new();
        machine.requests.retain(|request| {
            let old = abandon && age(request.at, now) >= policy.binding_window;
            abandoned.extend(old.then_some(request.at));
            !old
        });
        if machine.requests.is_empty() {
            self.transient.listings_since_request.remove(id);
        }
        if machine != *old {
            // The request history is written before the machine, so that an interrupted write loses nothing.
            // A late VM with an owner marker is recognized without this history.
            if self.settings.binding == Binding::ByDifference {
                self.remember_abandoned(changes, &machine, &abandoned, now);
            }
            self.push_change(changes, Change::SaveMachine(machine));
        }
    }

    /// Applies the time limits of a machine's phase.
    fn expire_machine(&mut self, changes: &mut Vec<Change>, id: &MachineId, now: Timestamp, policy: &Policy) {
        let Some(machine) = self.machines.get(id) else { return };
        let minutes = self.create_timeout(policy).as_secs() / 60;
        let lost = !machine.requests.is_empty()
            && machine.requests.iter().all(|a| a.outcome == RequestOutcome::Lost);
        let failure = match &machine.phase {
            Phase::Pending if age(self.waits_since(machine), now) >= self.create_timeout(policy) => Failure {
                reason: FailureReason::ApiUnavailable,
                message: format!(
                    "VPSie accepted no request within {minutes} minutes: its API or the store of the records was \
                     unavailable"
                ),
            },
            Phase::Creating { vm: None, since } if lost || machine.requests.is_empty() => {
                let late = age(*since, now) >= self.create_timeout(policy);
                if !late && machine.requests.len() < MAX_REQUESTS && !machine.requests.is_empty() {
                    return;
                }
                Failure {
                    reason: FailureReason::CreateTimeout,
                    message: "the VM was requested from VPSie, but was not listed in time".to_owned(),
                }
            }
            Phase::Failed { at, .. } if age(*at, now) >= policy.failed_ttl => {
                return self.mark_for_deletion(
                    changes,
                    &id.clone(),
                    DeletionReason::FailedExpired,
                    DrainState::Pending,
                    now,
                );
            }
            Phase::Deleting { vm: None, .. } if machine.requests.is_empty() => {
                return self.push_change(changes, Change::DropMachine(id.clone()));
            }
            _ => return,
        };
        let phase = Phase::Failed { failure, at: now };
        let machine = Machine { phase, ..machine.clone() };
        self.push_change(changes, Change::SaveMachine(machine));
    }

    /// Time for which an orphan waits for its adoption. Zero if VMs are bound by hostname: no machine can adopt it. An orphan of a
    /// machine that the records never had may be in use: the records may be lost.
    fn orphan_grace(&self, orphan: &UnmanagedNode, policy: &Policy) -> Duration {
        match self.settings.binding {
            Binding::ByName if self.had_machine_of(orphan) => Duration::ZERO,
            Binding::ByName | Binding::ByDifference => policy.orphan_grace,
        }
    }

    /// Whether the records have or had the machine that an orphan was requested for, by its hostname.
    fn had_machine_of(&self, orphan: &UnmanagedNode) -> bool {
        let hostname = orphan.hostname.without_duplicate();
        let Some((machine, _)) = hostname.as_str().rsplit_once('-') else { return false };
        let is_gone = |of: &UnmanagedNode| match &of.kind {
            UnmanagedKind::Gone { machine: gone, .. } => gone.as_str() == machine,
            UnmanagedKind::Orphan { .. } | UnmanagedKind::Foreign => false,
        };
        self.machines.contains_key(machine)
            || self.unmanaged.values().any(is_gone)
            || self.used_requests().any(|request| request.machine.as_str() == machine)
    }

    /// Makes an orphan that no machine adopted a Deleting machine, so that it is drained and deleted.
    fn remove_orphan(
        &mut self,
        changes: &mut Vec<Change>,
        orphan: UnmanagedNode,
        now: Timestamp,
        names: Names<'_>,
    ) {
        let vm = self.orphan_vm(&orphan);
        let UnmanagedKind::Orphan { pool, size } = orphan.kind else { return };
        // A deletion needs only the VM, so an unknown size does not matter.
        let size = size
            .or_else(|| self.pool(&pool.to_string()).map(|pool| pool.offer.size))
            .unwrap_or(SizeId::UNKNOWN);
        let machine = Machine {
            id: self.unused_name(&pool.node_group, names),
            pool,
            size,
            created_at: now,
            phase: Phase::Deleting {
                vm: Some(vm),
                since: now,
                reason: DeletionReason::Orphan,
                drain: DrainState::Pending,
                accepted_at: None,
            },
            requests: Vec::new(),
            notice: None,
            replaces: None,
        };
        self.push_change(changes, Change::SaveMachine(machine));
        self.push_change(changes, Change::DropUnmanaged(orphan.hostname));
    }
}
