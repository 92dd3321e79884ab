//! Binding by identity: the reply to a creation identifies the VM, or the VM has the name of its machine.

use jiff::Timestamp;

use super::open_requests::OpenRequests;
use crate::fleet::ids::MachineId;
use crate::fleet::listing::{ListedNode, NodeRole};
use crate::fleet::machine::{Machine, Vm};
use crate::fleet::policy::Policy;
use crate::fleet::record::Change;
use crate::fleet::state::Fleet;

impl Fleet {
    /// Binds each new node to the machine of its name. Other nodes are foreign.
    pub(super) fn bind_by_name(
        &mut self,
        changes: &mut Vec<Change>,
        new_nodes: &[&ListedNode],
        now: Timestamp,
        policy: &Policy,
    ) {
        for node in new_nodes {
            let id = MachineId::new(node.hostname.as_str());
            let named = self.machine(&id).filter(|machine| machine.vm().is_none()).cloned();
            match named.filter(|machine| node.role == NodeRole::Worker && node.can_be(&machine.class())) {
                Some(mut machine) => {
                    // Its requests cannot create another VM.
                    machine.requests.clear();
                    self.bind_node(changes, machine, node, None, now, policy);
                }
                None => self.note_foreign(changes, node, now, &OpenRequests::new()),
            }
        }
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
