//! Binding by difference: a new node matches an open request of its class, or it is foreign (invariant 6).

use std::collections::VecDeque;

use jiff::Timestamp;

use super::open_requests::{Demand, OpenRequest, OpenRequests};
use crate::catalog::MachineClass;
use crate::fleet::listing::{ListedNode, NodeRole};
use crate::fleet::machine::RequestOutcome;
use crate::fleet::policy::Policy;
use crate::fleet::record::{Change, UnmanagedKind};
use crate::fleet::state::Fleet;

impl Fleet {
    /// Binds each new node to the first open request of its class. A node that matches requests of several
    /// classes is an orphan; a node that matches none is foreign.
    pub(super) fn bind_by_difference(
        &mut self,
        changes: &mut Vec<Change>,
        new_nodes: &[&ListedNode],
        now: Timestamp,
        policy: &Policy,
    ) {
        let mut open_requests =
            if new_nodes.is_empty() { OpenRequests::new() } else { self.collect_open_requests() };
        for node in new_nodes {
            // Another VM has the hostname now. The earlier machine ends first.
            if self.machine_by_hostname(&node.hostname).is_some() {
                continue;
            }
            let known = self.unmanaged_node(&node.hostname);
            let awaited = known.filter(|known| known.awaited_by.is_some()).map(|known| known.first_seen);
            let fits = |request: &&OpenRequest| {
                node.role == NodeRole::Worker && node.can_be(&request.class) && request.is_older(awaited)
            };
            let candidates = open_requests.values().filter_map(VecDeque::front).filter(fits);
            let orphan = match known.map(|unmanaged| &unmanaged.kind) {
                Some(UnmanagedKind::Orphan { pool, .. }) => Some(pool.clone()),
                _ => None,
            };
            let Some(first) = candidates.clone().min_by_key(|request| request.match_order()) else {
                match orphan {
                    Some(pool) => {
                        let kind = UnmanagedKind::Orphan { pool, size: node.size };
                        self.save_unmanaged(changes, node, now, kind);
                    }
                    None => self.note_foreign(changes, node, now, &open_requests),
                }
                continue;
            };
            // Only requests that machines wait for make a node ambiguous. A request without a waiting machine
            // may never be fulfilled, and would make every later VM ambiguous.
            let awaited: Vec<&OpenRequest> =
                candidates.filter(|request| request.demand == Demand::Waiting).collect();
            let class =
                if awaited.len() > 1 { self.assume_class(&awaited) } else { Some(first.class.clone()) };
            let Some(class) = class else {
                let kind = UnmanagedKind::Orphan { pool: first.pool.clone(), size: node.size };
                self.save_unmanaged(changes, node, now, kind);
                continue;
            };
            let Some(request) = open_requests.get_mut(&class).and_then(VecDeque::pop_front) else { continue };
            let Some(mut machine) = self.machine(&request.machine).cloned() else { continue };
            // Accepted requests come first: the others may never have reached VPSie.
            let accepted =
                machine.requests.iter().position(|request| request.outcome == RequestOutcome::Accepted);
            let request = machine.requests.remove(accepted.unwrap_or(0));
            let request = machine.request_ref(&request);
            self.bind_node(changes, machine, node, Some(request), now, policy);
        }
    }

    /// The class that is assumed for a VM of unknown class: the only class with requests that are not
    /// overdue, else the class that was requested last. None if several are possible.
    fn assume_class(&self, awaited: &[&OpenRequest]) -> Option<MachineClass> {
        let mut fresh = awaited.iter().map(|request| &request.class).filter(|class| !self.is_overdue(class));
        match (fresh.next(), fresh.next()) {
            (Some(only), None) => Some(only.clone()),
            (Some(_), Some(_)) => None,
            (None, _) => {
                let requested = self.newest_open_requests();
                awaited
                    .iter()
                    .map(|request| &request.class)
                    .max_by_key(|class| requested.get(class).copied())
                    .cloned()
            }
        }
    }
}
