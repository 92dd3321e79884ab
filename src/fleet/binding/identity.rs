//! Binding by identity: the reply to a creation identifies the VM, or the VM has the hostname of its request.

use jiff::Timestamp;

use super::open_requests::OpenRequests;
use crate::catalog::{DatacenterId, MachineClass};
use crate::fleet::ids::{Hostname, MachineId};
use crate::fleet::listing::{ListedNode, NodeRole};
use crate::fleet::machine::{Failure, Machine, Phase, RequestOutcome, Vm};
use crate::fleet::policy::Policy;
use crate::fleet::record::{Change, UnmanagedKind, UnmanagedNode};
use crate::fleet::state::Fleet;

impl Fleet {
    /// Binds each new node to the open request with its hostname. A node with the owner marker and no open request is an
    /// orphan: its request was given up, so its VM cannot join. A node without the marker is foreign, or pending: VPSie
    /// shows neither marker nor UUID of a pending VM.
    pub(super) fn bind_by_name(
        &mut self,
        changes: &mut Vec<Change>,
        new_nodes: &[&ListedNode],
        now: Timestamp,
        policy: &Policy,
    ) {
        for node in new_nodes {
            if self.machine_by_hostname(&node.hostname).is_some() {
                self.note_duplicate(changes, node, now);
                continue;
            }
            match self.find_request(node) {
                Some((mut machine, at)) => {
                    let request = machine.requests.remove(at);
                    let request = machine.request_ref(&request);
                    self.bind_node(changes, machine, node, Some(request), now, policy);
                }
                None => match &node.pool {
                    Some(pool) => {
                        let size = self.pool(&pool.to_string()).map(|pool| pool.offer.size);
                        let kind = UnmanagedKind::Orphan { pool: pool.clone(), size: size.or(node.size) };
                        self.save_unmanaged(changes, node, now, kind);
                    }
                    None if is_pending(node) => {}
                    None => self.note_foreign(changes, node, now, &OpenRequests::new()),
                },
            }
        }
    }

    /// The open request of a machine without a VM that the node is the result of.
    fn find_request(&self, node: &ListedNode) -> Option<(Machine, usize)> {
        if node.role != NodeRole::Worker {
            return None;
        }
        let (machine, _) = node.hostname.as_str().rsplit_once('-')?;
        let machine = self.machines.get(machine).filter(|machine| machine.vm().is_none())?;
        let is_its = match &node.pool {
            // VPSie may write the parts of the class in another form than the NodeGroup.
            Some(pool) => *pool == machine.pool,
            None => can_be(node, &machine.class()),
        };
        let at = machine.requests.iter().position(|request| {
            request.hostname.as_ref() == Some(&node.hostname) && request.outcome != RequestOutcome::Lost
        })?;
        is_its.then(|| (machine.clone(), at))
    }

    /// Hostnames of the requests whose VM may still join, with the VMs whose Node has not registered.
    pub fn joining_hostnames(&self) -> impl Iterator<Item = (&Machine, &Hostname)> {
        self.machines.values().filter(|machine| machine.counts()).flat_map(|machine| {
            let open = machine.requests.iter().filter(|request| request.outcome != RequestOutcome::Lost);
            let requested = open.filter_map(|request| request.hostname.as_ref());
            let created = machine.joining_vm().map(|vm| &vm.hostname);
            requested.chain(created).map(move |hostname| (machine, hostname))
        })
    }

    /// Fails a machine whose Node has not registered in time. Its VM becomes an orphan, which is drained and deleted: its
    /// Node may register after all.
    pub fn fail_join(
        &mut self,
        id: &MachineId,
        hostname: &Hostname,
        failure: Failure,
        now: Timestamp,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(machine) = self.machines.get(id).cloned() else { return changes };
        let Some(vm) = machine.joining_vm().filter(|vm| vm.hostname == *hostname).cloned() else {
            return changes;
        };
        let kind = UnmanagedKind::Orphan { pool: machine.pool.clone(), size: Some(machine.size) };
        let orphan =
            UnmanagedNode { request: vm.request, ..UnmanagedNode::new(vm.hostname, vm.id, now, kind) };
        self.push_change(&mut changes, Change::SaveUnmanaged(orphan));
        let phase = Phase::Failed { failure, at: now };
        self.push_change(&mut changes, Change::SaveMachine(Machine { phase, ..machine }));
        self.advance_datacenters(&mut changes, now);
        changes
    }

    /// Binds the VM that VPSie's reply to a request identifies. A listing may have shown it before the reply.
    pub(in crate::fleet) fn bind_created(
        &mut self,
        changes: &mut Vec<Change>,
        machine: Machine,
        vm: Vm,
        now: Timestamp,
    ) {
        if machine.vm().is_some_and(|known| known.hostname == vm.hostname) {
            return self.push_change(changes, Change::SaveMachine(machine));
        }
        self.drop_unmanaged(changes, &vm.hostname);
        self.bind_vm(changes, machine, vm, false, now);
    }
}

/// Whether a pending VM can be of this class. VPSie may write the datacenter in another case.
fn can_be(node: &ListedNode, class: &MachineClass) -> bool {
    let is_same = |shown: &DatacenterId| shown.as_str().eq_ignore_ascii_case(class.datacenter.as_str());
    let shown = node.datacenter.as_ref();
    let datacenter = shown.map(|shown| if is_same(shown) { class.datacenter.clone() } else { shown.clone() });
    ListedNode { datacenter, ..node.clone() }.can_be(class)
}

/// Whether VPSie shows the VM as pending only: without a UUID.
fn is_pending(node: &ListedNode) -> bool {
    node.role == NodeRole::Worker && node.id.is_none()
}
