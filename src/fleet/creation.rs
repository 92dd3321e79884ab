//! Requests to VPSie for VMs, and the effects of VPSie's replies.
//!
//! A creation returns no id and is not idempotent (invariant 6). So each request is a durable [`VmRequest`]
//! before the call. A new node in a listing matches one request. Requests without a match are remembered.

use jiff::Timestamp;

use super::age::age;
use super::ids::MachineId;
use super::machine::{Failure, FailureReason, Machine, Phase, RequestOutcome, Vm, VmRequest};
use super::policy::{Binding, Policy};
use super::record::Change;
use super::state::Fleet;
use crate::catalog::MachineClass;

/// The result of a request to VPSie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreationOutcome {
    /// Accepted. A VM will appear.
    Accepted,
    /// Accepted, and the reply identifies the VM.
    Created(Vm),
    /// The reply was lost. A VM may appear.
    Unclear,
    /// Refused for a lasting reason.
    Refused(Failure),
    /// VPSie created nothing. A later request may succeed.
    Unavailable(Failure),
    /// The request was not sent, though it may be recorded.
    NotSent,
}

impl Fleet {
    /// Sets the machines whose requests are being sent. These requests cannot count as lost.
    pub fn set_in_flight(&mut self, machines: impl IntoIterator<Item = MachineId>) {
        self.transient.in_flight = machines.into_iter().collect();
    }

    /// Records a request for each of these machines before it is sent. Machines that need no request any more
    /// are skipped; the changes name the others.
    pub fn record_requests(&mut self, machines: &[MachineId], now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        // Before the first listing, a new VM cannot be distinguished from an existing one.
        let machines = if self.transient.listed { machines } else { &[] };
        for id in machines {
            let Some(machine) = self.machines.get(id).filter(|m| m.needs_request()) else { continue };
            let mut machine = machine.clone();
            let at = self.request_time(&machine, None, now);
            let hostname = (self.settings.binding == Binding::ByName).then(|| machine.next_hostname());
            machine.requests.push(VmRequest { at, outcome: RequestOutcome::InFlight, hostname });
            if machine.phase == Phase::Pending {
                machine.phase = Phase::Creating { vm: None, since: now };
            }
            self.transient.in_flight.insert(id.clone());
            self.transient.listings_since_request.insert(id.clone(), 0);
            self.push_change(&mut changes, Change::SaveMachine(machine));
        }
        changes
    }

    /// Applies VPSie's reply to a request. The VM may have been listed, or the machine deleted, before the
    /// reply. A shortage also fails the waiting machines of that class.
    pub fn record_outcome(
        &mut self,
        id: &MachineId,
        outcome: CreationOutcome,
        now: Timestamp,
        policy: &Policy,
    ) -> Vec<Change> {
        self.apply_outcome(id, outcome, now, policy, true)
    }

    /// Applies an outcome again after its record was refused. An old shortage does not fail machines that
    /// wait now.
    pub fn record_delayed_outcome(
        &mut self,
        id: &MachineId,
        outcome: CreationOutcome,
        now: Timestamp,
        policy: &Policy,
    ) -> Vec<Change> {
        self.apply_outcome(id, outcome, now, policy, false)
    }

    fn apply_outcome(
        &mut self,
        id: &MachineId,
        outcome: CreationOutcome,
        now: Timestamp,
        policy: &Policy,
        is_news: bool,
    ) -> Vec<Change> {
        self.transient.in_flight.remove(id);
        self.transient.listings_since_request.insert(id.clone(), 0);
        let mut changes = Vec::new();
        self.remove_used_requests(&mut changes);
        let Some(machine) = self.machines.get(id) else { return changes };
        let Some(at) =
            machine.requests.iter().position(|request| request.outcome == RequestOutcome::InFlight)
        else {
            return changes;
        };
        let mut machine = machine.clone();
        let outcome_at = self.request_time(&machine, Some(at), now);
        match outcome {
            CreationOutcome::Accepted => {
                machine.requests[at].set_outcome(RequestOutcome::Accepted, outcome_at);
            }
            CreationOutcome::Created(vm) => {
                let request = machine.requests.remove(at);
                let request = Some(machine.request_ref(&request));
                self.bind_created(&mut changes, machine, Vm { request, ..vm }, now);
                return changes;
            }
            CreationOutcome::Unclear => {
                machine.requests[at].set_outcome(RequestOutcome::Unclear, outcome_at);
            }
            CreationOutcome::Refused(failure) => {
                machine.requests.remove(at);
                let class = machine.class();
                let reason = failure.reason;
                self.end_attempt(&mut changes, machine, Phase::Failed { failure: failure.clone(), at: now });
                if is_news && matches!(reason, FailureReason::Stockout | FailureReason::QuotaExceeded) {
                    self.fail_pending(&mut changes, &class, &failure, now);
                }
                self.advance_datacenters(&mut changes, now);
                return changes;
            }
            CreationOutcome::Unavailable(failure) => {
                machine.requests.remove(at);
                let is_overdue = age(self.waits_since(&machine), now) >= self.create_timeout(policy);
                let phase = match &machine.phase {
                    _ if is_overdue => Phase::Failed { failure, at: now },
                    phase if !machine.requests.is_empty() => phase.clone(),
                    _ => Phase::Pending,
                };
                self.end_attempt(&mut changes, machine, phase);
                return changes;
            }
            CreationOutcome::NotSent => {
                machine.requests.remove(at);
                let phase = if machine.requests.is_empty() { Phase::Pending } else { machine.phase.clone() };
                self.end_attempt(&mut changes, machine, phase);
                return changes;
            }
        }
        self.push_change(&mut changes, Change::SaveMachine(machine));
        changes
    }

    /// Ends a request that created nothing. A machine that still waits for a VM continues in `phase`.
    fn end_attempt(&mut self, changes: &mut Vec<Change>, mut machine: Machine, phase: Phase) {
        match machine.phase {
            Phase::Creating { vm: None, .. } => machine.phase = phase,
            Phase::Deleting { vm: None, .. } if machine.requests.is_empty() => {
                return self.push_change(changes, Change::DropMachine(machine.id));
            }
            _ => {}
        }
        self.push_change(changes, Change::SaveMachine(machine));
    }

    /// Fails the Pending machines of a class. VPSie has no capacity for them either, and Cluster Autoscaler
    /// can use another pool at once.
    fn fail_pending(
        &mut self,
        changes: &mut Vec<Change>,
        class: &MachineClass,
        failure: &Failure,
        now: Timestamp,
    ) {
        let same = |m: &&Machine| m.phase == Phase::Pending && m.class() == *class;
        for machine in self.machines.values().filter(same).cloned().collect::<Vec<_>>() {
            let phase = Phase::Failed { failure: failure.clone(), at: now };
            self.push_change(changes, Change::SaveMachine(Machine { phase, ..machine }));
        }
    }

    /// Records that VPSie accepted the deletion of the machine's VM, or replied that it does not exist.
    pub fn deletion_accepted(&mut self, id: &MachineId, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(mut machine) = self.machines.get(id).cloned() else { return changes };
        if let Phase::Deleting { vm: Some(vm), accepted_at: accepted @ None, .. } = &mut machine.phase {
            self.transient.missing.remove(&vm.hostname);
            *accepted = Some(now);
            self.push_change(&mut changes, Change::SaveMachine(machine));
        }
        changes
    }

    /// Whether the last listing showed the VM of the machine as control plane. It was bound before a listing
    /// showed its role.
    pub fn is_control_plane(&self, machine: &Machine) -> bool {
        machine.vm().is_some_and(|vm| self.transient.control_plane.contains(&vm.hostname))
    }

    /// Machines whose VM must be deleted at VPSie, the longest Deleting first. Excludes VMs that VPSie lists
    /// as control plane.
    pub fn machines_to_delete(&self) -> Vec<&Machine> {
        let deletable = |m: &&Machine| m.needs_vm_deletion() && !self.is_control_plane(m);
        let mut unwanted: Vec<_> = self.machines.values().filter(deletable).collect();
        unwanted.sort_by_key(|m| match m.phase {
            Phase::Deleting { since, .. } => since,
            _ => m.created_at,
        });
        unwanted
    }
}
