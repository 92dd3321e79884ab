//! Effects of a listing of the cluster's nodes.

use std::collections::HashSet;

use jiff::Timestamp;

use super::age::age;
use super::ids::{Hostname, MachineId};
use super::listing::{ListedNode, NodeListing, NodeRole, PendingVms, ShownAttributes, VmState};
use super::machine::{DeletionReason, DrainState, Failure, FailureReason, Machine, Phase, Vm};
use super::policy::{Binding, Policy};
use super::record::{Change, UnmanagedKind, UnmanagedNode};
use super::spot::ReportedInterruption;
use super::state::Fleet;
use crate::catalog::{CapacityType, MachineClass};

/// Number of listings without a VM that confirm its accepted deletion.
const LISTINGS_TO_CONFIRM: u32 = 2;
/// Number of listings without a VM after which the VM counts as vanished, unless its deletion was accepted.
const LISTINGS_TO_VANISH: u32 = 3;

/// The reason why a VM is no longer listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VmEnd {
    /// VPSie had accepted its deletion.
    Deleted,
    /// It vanished, and its machine was Deleting or failed with it.
    Unwanted,
    /// It vanished, and its machine was Running.
    Vanished,
}

impl Fleet {
    /// Applies a listing: updates machines and unmanaged nodes, binds new VMs to the machines that requested
    /// them, and processes VMs that the listing lacks. Never binds by guess (invariant 6).
    pub fn observe(&mut self, listing: &NodeListing, now: Timestamp, policy: &Policy) -> Vec<Change> {
        let nodes = &listing.nodes;
        let mut changes = Vec::new();
        self.remove_used_requests(&mut changes);
        self.correct_times(&mut changes, now);
        // Before the first request, a node that a listing lacks would count as new in the next one.
        self.transient.listed |= listing.complete || self.request_history.known_before.is_some();
        if let Some(shown) = ShownAttributes::of_listing(nodes) {
            self.transient.shown = shown;
        }
        let mut new_nodes = Vec::new();
        for node in nodes {
            if let Some((id, hostname)) =
                self.machine_of_listed(node).map(|m| (m.id.clone(), m.vm().map(|vm| vm.hostname.clone())))
            {
                // A second VM of its request may have the hostname in the listing.
                self.transient.missing.remove(hostname.as_ref().unwrap_or(&node.hostname));
                self.update_machine(&mut changes, &id, node, now, policy);
                self.drop_unmanaged(&mut changes, &node.hostname);
            } else if self.is_of_another_program(node) {
                // Its hostname is that of an earlier VM.
            } else if let Some(unmanaged) = self.unmanaged.get(&node.hostname).cloned() {
                self.transient.missing.remove(&node.hostname);
                if !node.can_have_id(unmanaged.id.as_ref()) {
                    // The same name with another UUID is another VM.
                    self.push_change(&mut changes, Change::DropUnmanaged(node.hostname.clone()));
                    new_nodes.push(node);
                } else if node.size.is_some()
                    && matches!(unmanaged.kind, UnmanagedKind::Orphan { size: None, .. })
                {
                    // Its size is known now, and it has matched no request so far.
                    new_nodes.push(node);
                } else if unmanaged.awaited_by.is_some() && node.role != NodeRole::Unknown {
                    new_nodes.push(node);
                } else {
                    self.update_unmanaged(&mut changes, unmanaged, node, now);
                }
            } else {
                new_nodes.push(node);
            }
        }
        self.note_control_plane(listing);
        self.note_first_listed(&new_nodes, now);
        self.bind_new_nodes(&mut changes, new_nodes, now, policy);
        let addresses = nodes
            .iter()
            .filter_map(|node| Some((self.unmanaged_name(node)?, node.addresses.clone())))
            .collect();
        if self.transient.addresses != addresses {
            self.transient.addresses = addresses;
        }
        self.process_missing(&mut changes, listing, now, policy);
        self.adopt(&mut changes, nodes, now);
        if policy.running_when_listed {
            self.skip_drains(&mut changes);
        }
        if listing.shows_requests() {
            for count in self.transient.listings_since_request.values_mut() {
                *count = count.saturating_add(1);
            }
        }
        self.transient.listed_completely = listing.complete;
        self.transient.pending = listing.pending;
        changes
    }

    /// The name of a node's unmanaged record: a second VM of a request has a name of its own.
    fn unmanaged_name(&self, node: &ListedNode) -> Option<Hostname> {
        let own = node.id.as_ref().map(|id| node.hostname.duplicate(id));
        let names = [Some(node.hostname.clone()), own].into_iter().flatten();
        names.into_iter().find(|name| {
            self.unmanaged.get(name).is_some_and(|unmanaged| node.can_have_id(unmanaged.id.as_ref()))
        })
    }

    /// Remembers the time of the first listing of nodes without a record: while a record is refused, they are
    /// new in each listing.
    fn note_first_listed(&mut self, new_nodes: &[&ListedNode], now: Timestamp) {
        let known = std::mem::take(&mut self.transient.first_listed);
        let first_listed = |node: &&ListedNode| known.get(&node.hostname).copied().unwrap_or(now);
        self.transient.first_listed =
            new_nodes.iter().map(|node| (node.hostname.clone(), first_listed(node))).collect();
    }

    /// Remembers the nodes of the control plane. A node that an incomplete listing lacks stays one of them.
    fn note_control_plane(&mut self, listing: &NodeListing) {
        let known = &mut self.transient.control_plane;
        if listing.complete {
            known.clear();
        }
        for node in &listing.nodes {
            if node.role == NodeRole::ControlPlane {
                known.insert(node.hostname.clone());
            } else {
                known.remove(&node.hostname);
            }
        }
    }

    /// The machine of a listed node.
    fn machine_of_listed(&self, node: &ListedNode) -> Option<&Machine> {
        if let Some(machine) = node.id.as_ref().and_then(|id| self.machine_by_vm(id)) {
            return Some(machine);
        }
        let machine = self.machine_by_hostname(&node.hostname)?;
        // Another program's VM has the hostname.
        if self.settings.binding == Binding::ByName && node.role == NodeRole::Unknown {
            return None;
        }
        // The same name with another UUID is another VM.
        node.can_have_id(machine.vm().and_then(|vm| vm.id.as_ref())).then_some(machine)
    }

    /// Whether another program's VM has the hostname of a VM that is gone or an orphan.
    fn is_of_another_program(&self, node: &ListedNode) -> bool {
        let Some(unmanaged) = self.unmanaged.get(&node.hostname) else { return false };
        let is_ours = match unmanaged.kind {
            UnmanagedKind::Gone { .. } | UnmanagedKind::Orphan { .. } => true,
            UnmanagedKind::Foreign => false,
        };
        is_ours && self.settings.binding == Binding::ByName && node.role == NodeRole::Unknown
    }

    /// Removes the unmanaged record of a VM that belongs to a machine. An interrupted write may have left
    /// both.
    pub(super) fn drop_unmanaged(&mut self, changes: &mut Vec<Change>, hostname: &Hostname) {
        if self.unmanaged.contains_key(hostname) {
            self.push_change(changes, Change::DropUnmanaged(hostname.clone()));
        }
    }

    fn update_machine(
        &mut self,
        changes: &mut Vec<Change>,
        id: &MachineId,
        node: &ListedNode,
        now: Timestamp,
        policy: &Policy,
    ) {
        let Some(old) = self.machines.get(id) else { return };
        let mut machine = old.clone();
        let up = policy.running_when_listed && node.state == VmState::Running;
        match &mut machine.phase {
            Phase::Creating { vm: Some(vm), .. } => {
                vm.update_from_listing(node);
                if up {
                    machine.phase = Phase::Running { vm: vm.clone(), since: now };
                }
            }
            Phase::Running { vm, .. } => vm.update_from_listing(node),
            Phase::Deleting { vm: Some(vm), accepted_at, .. } => {
                vm.update_from_listing(node);
                // VPSie accepted the deletion and still lists the VM: the deletion is requested again.
                let stands = accepted_at.is_some_and(|at| age(at, now) >= policy.vanish_after);
                if stands && node.state != VmState::Terminating {
                    *accepted_at = None;
                }
            }
            _ => {}
        }
        if machine != *old {
            self.push_change(changes, Change::SaveMachine(machine));
        }
        self.note_listed_interruption(changes, id, self.listed_interruption(id, node), now);
    }

    /// The interruption that a listing announces: by the field of the row, or because VPSie deletes a spot VM that
    /// vpsie-autoscaler keeps.
    fn listed_interruption(&self, id: &MachineId, node: &ListedNode) -> Option<ReportedInterruption> {
        let is_ending = || {
            let machine = self.machines.get(id)?;
            let is_spot = machine.pool.capacity_type == CapacityType::Spot;
            (is_spot && machine.counts() && node.state == VmState::Terminating)
                .then_some(ReportedInterruption { deadline: None })
        };
        node.interruption.or_else(is_ending)
    }

    fn update_unmanaged(
        &mut self,
        changes: &mut Vec<Change>,
        mut unmanaged: UnmanagedNode,
        node: &ListedNode,
        now: Timestamp,
    ) {
        match &unmanaged.kind {
            UnmanagedKind::Gone { machine, pool, size, deleted, .. } => {
                let was = self.machines.get(machine);
                if was.is_some_and(|m| m.vm().is_some()) {
                    unmanaged.kind = UnmanagedKind::Orphan { pool: pool.clone(), size: Some(*size) };
                    unmanaged.first_seen = now;
                    return self.push_change(changes, Change::SaveUnmanaged(unmanaged));
                }
                let vm = Vm {
                    id: node.id.clone().or(unmanaged.id),
                    request: unmanaged.request,
                    ..Vm::listed(node)
                };
                let phase = if *deleted {
                    Phase::Deleting {
                        vm: Some(vm),
                        since: now,
                        reason: DeletionReason::VMReturned,
                        drain: DrainState::Pending,
                        accepted_at: None,
                    }
                } else {
                    Phase::Creating { vm: Some(vm), since: now }
                };
                let returned = Machine {
                    id: machine.clone(),
                    pool: pool.clone(),
                    size: *size,
                    created_at: now,
                    phase,
                    requests: was.map(|m| m.requests.clone()).unwrap_or_default(),
                    notice: None,
                    replaces: None,
                };
                self.push_change(changes, Change::SaveMachine(returned));
                self.push_change(changes, Change::DropUnmanaged(node.hostname.clone()));
            }
            _ if unmanaged.id.is_none() && node.id.is_some() => {
                unmanaged.id.clone_from(&node.id);
                self.push_change(changes, Change::SaveUnmanaged(unmanaged));
            }
            _ => {}
        }
    }

    pub(super) fn save_unmanaged(
        &mut self,
        changes: &mut Vec<Change>,
        node: &ListedNode,
        now: Timestamp,
        kind: UnmanagedKind,
    ) {
        let known = self.unmanaged.get(&node.hostname).filter(|known| node.can_have_id(known.id.as_ref()));
        let id = node.id.clone().or_else(|| known?.id.clone());
        let unmanaged = UnmanagedNode {
            // An orphan that was recorded before keeps its request.
            request: known.and_then(|known| known.request.clone()),
            ..UnmanagedNode::new(node.hostname.clone(), id, now, kind)
        };
        self.push_change(changes, Change::SaveUnmanaged(unmanaged));
    }

    /// Processes VMs that the listing lacks. A listing without rows, or an incomplete one, proves only the end
    /// of VMs whose deletion was accepted.
    fn process_missing(
        &mut self,
        changes: &mut Vec<Change>,
        listing: &NodeListing,
        now: Timestamp,
        policy: &Policy,
    ) {
        let nodes = &listing.nodes;
        let is_proof = listing.complete && listing.has_rows;
        let seen: HashSet<&MachineId> =
            nodes.iter().filter_map(|node| self.machine_of_listed(node)).map(|m| &m.id).collect();
        // A VM without a UUID may not be created yet.
        let is_shown = |vm: &Vm| vm.id.is_some() || listing.pending == PendingVms::Listed;
        let is_accepted = |m: &Machine| matches!(m.phase, Phase::Deleting { accepted_at: Some(_), .. });
        let bound = self.machines.values().filter(|m| m.vm().is_some_and(is_shown) || is_accepted(m));
        let missing: Vec<Machine> = bound.filter(|m| !seen.contains(&m.id)).cloned().collect();
        let names: HashSet<&Hostname> = nodes.iter().map(|node| &node.hostname).collect();
        if is_proof {
            self.note_missing_rows(changes, &missing, now);
        }
        for machine in missing {
            let Some(vm) = machine.vm().cloned() else { continue };
            let is_deleted = matches!(machine.phase, Phase::Deleting { accepted_at: Some(_), .. });
            if !is_proof && !is_deleted {
                continue;
            }
            if !is_deleted && self.keeps_missing_vms(&machine.pool.datacenter) {
                self.transient.missing.remove(&vm.hostname);
                continue;
            }
            let (count, since) = self.count_missing(&vm.hostname, now);
            let vanished = is_proof && count >= LISTINGS_TO_VANISH && age(since, now) >= policy.vanish_after;
            match machine.phase {
                Phase::Deleting { accepted_at: Some(_), .. } if count >= LISTINGS_TO_CONFIRM => {
                    self.end_vm(changes, machine, vm, VmEnd::Deleted, None, now);
                }
                // Before the drain, the deletion was not requested, so the VM must be missing for longer.
                Phase::Deleting { drain: DrainState::Pending, .. } if vanished => {
                    self.end_vm(changes, machine, vm, VmEnd::Unwanted, None, now);
                }
                Phase::Running { .. } if vanished => {
                    self.end_vm(changes, machine, vm, VmEnd::Vanished, None, now);
                }
                Phase::Creating { .. } if vanished => {
                    let failure = Failure {
                        reason: FailureReason::CreateTimeout,
                        message: "the VM vanished before its Node registered: VPSie no longer lists it"
                            .to_owned(),
                    };
                    self.end_vm(changes, machine, vm, VmEnd::Unwanted, Some(failure), now);
                }
                _ => {}
            }
        }
        if !is_proof {
            return;
        }
        // A foreign node that returns must not count as new, so its record is kept for long. Orphans end
        // after their grace period.
        let absent: Vec<Hostname> = self
            .unmanaged
            .values()
            .filter(|s| s.kind == UnmanagedKind::Foreign && !names.contains(&s.hostname))
            .map(|s| s.hostname.clone())
            .collect();
        for hostname in absent {
            let (count, since) = self.count_missing(&hostname, now);
            let missed = count >= LISTINGS_TO_VANISH;
            if missed && age(since, now) >= policy.gone_kept {
                self.transient.missing.remove(&hostname);
                self.push_change(changes, Change::DropUnmanaged(hostname));
            } else if missed && age(since, now) >= policy.vanish_after {
                self.stop_awaiting(changes, &hostname);
            }
        }
    }

    fn count_missing(&mut self, hostname: &Hostname, now: Timestamp) -> (u32, Timestamp) {
        let entry = self.transient.missing.entry(hostname.clone()).or_insert((0, now));
        entry.0 += 1;
        *entry
    }

    /// Ends a machine whose VM is gone, and keeps a record of the VM in case it returns. A machine with
    /// further requests stays, Deleting.
    fn end_vm(
        &mut self,
        changes: &mut Vec<Change>,
        mut machine: Machine,
        vm: Vm,
        end: VmEnd,
        failure: Option<Failure>,
        now: Timestamp,
    ) {
        self.transient.missing.remove(&vm.hostname);
        if end == VmEnd::Vanished {
            self.record_interruption(changes, &machine, now);
        }
        let gone = UnmanagedKind::Gone {
            machine: machine.id.clone(),
            pool: machine.pool.clone(),
            size: machine.size,
            deleted: end != VmEnd::Vanished,
            deletion_accepted: end == VmEnd::Deleted,
        };
        let change = if let Some(failure) = failure {
            machine.phase = Phase::Failed { failure, at: now };
            Change::SaveMachine(machine)
        } else if machine.requests.is_empty() {
            Change::DropMachine(machine.id)
        } else {
            machine.phase = Phase::Deleting {
                vm: None,
                since: now,
                reason: DeletionReason::VMGone,
                drain: DrainState::Pending,
                accepted_at: None,
            };
            Change::SaveMachine(machine)
        };
        let unmanaged =
            UnmanagedNode { request: vm.request, ..UnmanagedNode::new(vm.hostname, vm.id, now, gone) };
        self.push_change(changes, Change::SaveUnmanaged(unmanaged));
        self.push_change(changes, change);
    }

    /// The VM of an orphan, with the addresses of the last listing: its Node may have another name.
    pub(super) fn orphan_vm(&self, orphan: &UnmanagedNode) -> Vm {
        let addresses = self.transient.addresses.get(&orphan.hostname).cloned().unwrap_or_default();
        Vm {
            hostname: orphan.hostname.clone(),
            id: orphan.id.clone(),
            addresses,
            provider_id: None,
            attached: None,
            request: orphan.request.clone(),
        }
    }

    /// Binds listed orphans to machines that wait for a VM of their class, the oldest orphan to the oldest
    /// machine.
    fn adopt(&mut self, changes: &mut Vec<Change>, nodes: &[ListedNode], now: Timestamp) {
        // The credential of an orphan is revoked, so it cannot join.
        if self.settings.binding == Binding::ByName {
            return;
        }
        let mut orphans: Vec<(UnmanagedNode, MachineClass)> = self
            .unmanaged
            .values()
            .filter_map(|s| match &s.kind {
                UnmanagedKind::Orphan { pool, size: Some(size) } => Some((s.clone(), pool.class(*size))),
                _ => None,
            })
            .collect();
        if orphans.is_empty() {
            return;
        }
        let names: HashSet<&Hostname> = nodes.iter().map(|node| &node.hostname).collect();
        orphans.retain(|(orphan, _)| names.contains(&orphan.hostname));
        orphans.sort_by(|(a, _), (b, _)| (a.first_seen, &a.hostname).cmp(&(b.first_seen, &b.hostname)));
        for (id, class) in self.machines_to_request() {
            let Some(at) = orphans.iter().position(|(_, of)| *of == class) else { continue };
            let Some(mut machine) = self.machines.get(&id).cloned() else { continue };
            let (orphan, _) = orphans.remove(at);
            let vm = self.orphan_vm(&orphan);
            machine.phase = Phase::Creating { vm: Some(vm), since: now };
            self.push_change(changes, Change::SaveMachine(machine));
            self.push_change(changes, Change::DropUnmanaged(orphan.hostname));
        }
    }

    /// Records that the Node of a machine registered: the machine is Running.
    pub fn note_registered(&mut self, hostname: &Hostname, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(machine) = self.machine_by_hostname(hostname).cloned() else { return changes };
        if let Phase::Creating { vm: Some(vm), .. } = &machine.phase {
            let phase = Phase::Running { vm: vm.clone(), since: now };
            self.push_change(&mut changes, Change::SaveMachine(Machine { phase, ..machine }));
        }
        changes
    }
}
