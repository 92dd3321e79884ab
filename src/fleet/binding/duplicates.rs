//! Two VMs of one request: VPSie accepted it twice. The machine keeps the VM that joined, else the older one.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::fleet::ids::{Hostname, MachineId};
use crate::fleet::listing::ListedNode;
use crate::fleet::machine::{Machine, Phase, Vm};
use crate::fleet::record::{Change, UnmanagedKind, UnmanagedNode};
use crate::fleet::state::Fleet;

impl Fleet {
    /// Records a VM of the cluster as an orphan under a name of its own: the machine of its hostname has another
    /// VM, and keeps the Node of that name.
    pub(super) fn note_duplicate(&mut self, changes: &mut Vec<Change>, node: &ListedNode, now: Timestamp) {
        let (Some(pool), Some(id)) = (&node.pool, &node.id) else { return };
        let hostname = node.hostname.duplicate(id);
        let known = self.unmanaged.get(&hostname);
        if known.is_some_and(|known| matches!(known.kind, UnmanagedKind::Orphan { .. })) {
            return;
        }
        let size = self.pool(&pool.to_string()).map(|pool| pool.offer.size);
        let kind = UnmanagedKind::Orphan { pool: pool.clone(), size: size.or(node.size) };
        self.save_unmanaged(changes, &ListedNode { hostname, ..(*node).clone() }, now, kind);
    }

    /// Whether the orphan is a second VM of a request, and the Node has not shown yet which of both joins.
    pub(in crate::fleet) fn may_join_as_duplicate(&self, orphan: &UnmanagedNode) -> bool {
        let hostname = orphan.hostname.without_duplicate();
        hostname != orphan.hostname
            && self.machine_by_hostname(&hostname).is_some_and(|machine| machine.joining_vm().is_some())
    }

    /// The second VM of the machine's request, if the Node has an address of it, and none of the machine's VM. Returns its name.
    pub fn joined_duplicate(&self, machine: &Machine, addresses: &[IpAddr]) -> Option<&Hostname> {
        let vm = machine.joining_vm()?;
        let is_of = |shown: &[IpAddr]| addresses.iter().any(|address| shown.contains(address));
        // Without an address of both, the Node shows nothing.
        if vm.addresses.is_empty() || is_of(&vm.addresses) {
            return None;
        }
        let mut found = self.unmanaged.values().map(|unmanaged| &unmanaged.hostname).filter(|hostname| {
            self.duplicate_of(hostname).is_some_and(|of| of.id == machine.id)
                && self.transient.addresses.get(*hostname).is_some_and(|shown| is_of(shown))
        });
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// The joining machine whose request created the orphan, too.
    fn duplicate_of(&self, hostname: &Hostname) -> Option<&Machine> {
        let orphan = self.unmanaged.get(hostname)?;
        let is_orphan = match orphan.kind {
            UnmanagedKind::Orphan { .. } => self.may_join_as_duplicate(orphan),
            UnmanagedKind::Foreign | UnmanagedKind::Gone { .. } => false,
        };
        self.machine_by_hostname(&hostname.without_duplicate()).filter(|_| is_orphan)
    }

    /// Makes the second VM of the machine's request the machine's VM. The first VM becomes an orphan.
    pub fn keep_joined(&mut self, id: &MachineId, duplicate: &Hostname, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(mut machine) = self.duplicate_of(duplicate).filter(|machine| machine.id == *id).cloned()
        else {
            return changes;
        };
        let Some(second) = self.unmanaged.get(duplicate).cloned() else { return changes };
        let Phase::Creating { vm: Some(vm), .. } = &mut machine.phase else { return changes };
        let addresses = self.transient.addresses.get(duplicate).cloned().unwrap_or_default();
        let kept = Vm { id: second.id, addresses, provider_id: None, attached: None, ..vm.clone() };
        let first = std::mem::replace(vm, kept);
        let Some(first_id) = first.id else { return changes };
        let kind = UnmanagedKind::Orphan { pool: machine.pool.clone(), size: Some(machine.size) };
        let name = first.hostname.duplicate(&first_id);
        let orphan = UnmanagedNode::new(name, Some(first_id), now, kind);
        self.push_change(&mut changes, Change::SaveUnmanaged(orphan));
        self.push_change(&mut changes, Change::SaveMachine(machine));
        self.push_change(&mut changes, Change::DropUnmanaged(duplicate.clone()));
        changes
    }
}
