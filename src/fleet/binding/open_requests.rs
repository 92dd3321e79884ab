//! Open requests that a new node can match, and the record of a node that matches none.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use crate::catalog::MachineClass;
use crate::fleet::ids::{Hostname, MachineId, PoolId};
use crate::fleet::listing::{ListedNode, NodeRole};
use crate::fleet::machine::{Phase, RequestOutcome};
use crate::fleet::record::{Change, UnmanagedKind, UnmanagedNode};
use crate::fleet::state::Fleet;

/// Open requests by class, in the order in which new nodes are matched.
pub(super) type OpenRequests = BTreeMap<MachineClass, VecDeque<OpenRequest>>;

/// The use of the VM of an open request, in the order of matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Demand {
    /// A machine waits for the VM.
    Waiting,
    /// The machine is Deleting, so the VM will be deleted.
    Deleting,
    /// No machine waits for the VM: it will be an orphan.
    Surplus,
}

/// An open request: a new node may be its result.
pub(super) struct OpenRequest {
    pub(super) demand: Demand,
    /// No request of the machine was accepted. If none has reached VPSie, the machine is requested again
    /// soon.
    pub(super) never_accepted: bool,
    pub(super) requested_at: Timestamp,
    /// Time of the first request of its machine, as far as it is known.
    pub(super) first_requested_at: Timestamp,
    pub(super) machine: MachineId,
    pub(super) class: MachineClass,
    pub(super) pool: PoolId,
}

impl OpenRequest {
    /// Whether the machine was requested before the node was first listed. True if that time is unknown.
    pub(super) fn is_older(&self, noted: Option<Timestamp>) -> bool {
        noted.is_none_or(|noted| self.first_requested_at <= noted)
    }

    /// Order of matching: the smallest first.
    pub(super) fn match_order(&self) -> (Demand, bool, Timestamp, &MachineId) {
        (self.demand, self.never_accepted, self.requested_at, &self.machine)
    }
}

impl Fleet {
    /// All open requests by class, in the order of matching. The creation time of VMs at VPSie is ignored:
    /// VPSie's clock may differ, and a requested VM that counts as foreign is billed until a user finds it.
    pub(super) fn collect_open_requests(&self) -> OpenRequests {
        let mut open_requests = OpenRequests::new();
        for machine in self.machines.values() {
            let never_accepted =
                machine.requests.iter().all(|request| request.outcome != RequestOutcome::Accepted);
            for (nth, request) in machine.requests.iter().enumerate() {
                let demand = match &machine.phase {
                    Phase::Creating { vm: None, .. } | Phase::Pending if nth == 0 => Demand::Waiting,
                    Phase::Deleting { vm: None, .. } if nth == 0 => Demand::Deleting,
                    _ => Demand::Surplus,
                };
                let first_requested_at = match &machine.phase {
                    Phase::Creating { since, .. } => request.at.min(*since),
                    _ => request.at,
                };
                open_requests.entry(machine.class()).or_default().push_back(OpenRequest {
                    demand,
                    never_accepted,
                    requested_at: request.at,
                    first_requested_at,
                    machine: machine.id.clone(),
                    class: machine.class(),
                    pool: machine.pool.clone(),
                });
            }
        }
        for of_class in open_requests.values_mut() {
            of_class.make_contiguous().sort_by(|a, b| a.match_order().cmp(&b.match_order()));
        }
        open_requests
    }

    /// Saves a node that matches no request as foreign. If a machine waits for a VM, or an abandoned request
    /// of the last day matches, the node may still be the result of that request and counts as paid for: at
    /// most as many nodes as there are requests, and no node of the control plane. The node is not bound,
    /// because it may have been added by hand.
    pub(super) fn note_foreign(
        &mut self,
        changes: &mut Vec<Change>,
        node: &ListedNode,
        now: Timestamp,
        open_requests: &OpenRequests,
    ) {
        let known = self.unmanaged.get(&node.hostname).filter(|s| node.can_have_id(s.id.as_ref())).cloned();
        let known = known.as_ref();
        let waiting = self.waiting_pool(open_requests).filter(|_| known.is_none());
        let late = self.find_abandoned_request(node).filter(|_| known.is_none() && waiting.is_none());
        let awaited_by = match known {
            _ if node.role == NodeRole::ControlPlane => None,
            Some(known) => known.awaited_by.clone(),
            None => waiting.or_else(|| late.as_ref().map(|late| late.pool.clone())),
        };
        let first_seen = known.map_or(now, |known| known.first_seen);
        let unmanaged = UnmanagedNode {
            hostname: node.hostname.clone(),
            id: node.id.clone().or_else(|| known?.id.clone()),
            first_seen,
            kind: UnmanagedKind::Foreign,
            awaited_by,
            request: None,
            abandoned_request: late.or_else(|| known?.abandoned_request.clone()),
        };
        if known != Some(&unmanaged) {
            self.push_change(changes, Change::SaveUnmanaged(unmanaged));
        }
    }

    /// The pool of the first waiting machine without a foreign node that counts as its possible VM.
    fn waiting_pool(&self, open_requests: &OpenRequests) -> Option<PoolId> {
        let all = || open_requests.values().flatten();
        let oldest = all().map(|request| request.first_requested_at).min()?;
        let newer =
            |unmanaged: &&UnmanagedNode| unmanaged.awaited_by.is_some() && unmanaged.first_seen >= oldest;
        let noted = self.unmanaged.values().filter(newer).count();
        let waiting = all().filter(|request| request.demand != Demand::Surplus);
        let first = waiting.min_by_key(|request| request.match_order());
        first.filter(|_| noted < all().count()).map(|request| request.pool.clone())
    }

    /// Stops counting a foreign node as paid for, because it is no longer listed.
    pub(in crate::fleet) fn stop_awaiting(&mut self, changes: &mut Vec<Change>, hostname: &Hostname) {
        let Some(unmanaged) = self.unmanaged.get(hostname).filter(|s| s.awaited_by.is_some()) else { return };
        let unmanaged = UnmanagedNode { awaited_by: None, ..unmanaged.clone() };
        self.push_change(changes, Change::SaveUnmanaged(unmanaged));
    }

    /// Records that a node is the result of no request. Its abandoned request is open again.
    pub(in crate::fleet) fn free_requests(&mut self, changes: &mut Vec<Change>, hostname: &Hostname) {
        let Some(known) = self.unmanaged.get(hostname) else { return };
        let unmanaged = UnmanagedNode { awaited_by: None, abandoned_request: None, ..known.clone() };
        if unmanaged != *known {
            self.push_change(changes, Change::SaveUnmanaged(unmanaged));
        }
    }
}
