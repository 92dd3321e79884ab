//! Binds new nodes to the machines that they were requested for (docs/designs/machine-class.md).

mod difference;
mod duplicates;
mod identity;
mod open_requests;

use jiff::Timestamp;

use super::listing::{ListedNode, VmState};
use super::machine::{DrainState, Machine, Phase, RequestRef, Vm};
use super::policy::{Binding, Policy};
use super::record::{Change, UnmanagedKind, UnmanagedNode};
use super::state::Fleet;

impl Fleet {
    /// Binds the new nodes of a listing, in the order of their first listing, then of their creation.
    pub(super) fn bind_new_nodes(
        &mut self,
        changes: &mut Vec<Change>,
        mut new_nodes: Vec<&ListedNode>,
        now: Timestamp,
        policy: &Policy,
    ) {
        let first_listed = &self.transient.first_listed;
        new_nodes.sort_by_key(|node| (first_listed.get(&node.hostname), node.created_at, &node.hostname));
        match self.settings.binding {
            Binding::ByDifference => self.bind_by_difference(changes, &new_nodes, now, policy),
            Binding::ByName => self.bind_by_name(changes, &new_nodes, now, policy),
        }
    }

    /// Binds a listed node to a machine whose request it matches. The machine no longer has the request.
    fn bind_node(
        &mut self,
        changes: &mut Vec<Change>,
        machine: Machine,
        node: &ListedNode,
        request: Option<RequestRef>,
        now: Timestamp,
        policy: &Policy,
    ) {
        let is_up = policy.running_when_listed && node.state == VmState::Running;
        self.bind_vm(changes, machine, Vm { request, ..Vm::listed(node) }, is_up, now);
        if self.machine_by_hostname(&node.hostname).is_some() {
            self.drop_unmanaged(changes, &node.hostname);
        }
    }

    /// Binds a VM to a machine that has none. Otherwise the VM is an orphan.
    fn bind_vm(
        &mut self,
        changes: &mut Vec<Change>,
        mut machine: Machine,
        vm: Vm,
        is_up: bool,
        now: Timestamp,
    ) {
        match &mut machine.phase {
            Phase::Pending | Phase::Creating { vm: None, .. } if is_up => {
                machine.phase = Phase::Running { vm, since: now };
            }
            Phase::Pending => machine.phase = Phase::Creating { vm: Some(vm), since: now },
            Phase::Creating { vm: slot @ None, .. } => *slot = Some(vm),
            Phase::Deleting { vm: slot @ None, drain, .. } => {
                *slot = Some(vm);
                *drain = DrainState::Pending;
            }
            _ => {
                let kind = UnmanagedKind::Orphan { pool: machine.pool.clone(), size: Some(machine.size) };
                let orphan = UnmanagedNode {
                    request: vm.request,
                    ..UnmanagedNode::new(vm.hostname, vm.id, now, kind)
                };
                self.push_change(changes, Change::SaveUnmanaged(orphan));
            }
        }
        self.push_change(changes, Change::SaveMachine(machine));
    }
}
