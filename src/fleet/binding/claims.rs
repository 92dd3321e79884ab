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
pub(super) type Claims = BTreeMap<MachineClass, VecDeque<Claim>>;

/// An open request: a new node may be its result.
pub(super) struct Claim {
    /// 0: a machine waits for it. 1: its machine is Deleting, so the VM will be deleted. 2: no machine waits for it.
    pub(super) rank: u8,
    /// No request of the machine was accepted. If none has reached VPSie, the machine is requested again soon.
    pub(super) doubtful: bool,
    pub(super) requested_at: Timestamp,
    /// Time of the first request of its machine, as far as it is known.
    pub(super) begun: Timestamp,
    pub(super) machine: MachineId,
    pub(super) class: MachineClass,
    pub(super) pool: PoolId,
}

impl Claim {
    /// Whether the machine was requested before the node was first listed. True if that time is unknown.
    pub(super) fn is_older(&self, noted: Option<Timestamp>) -> bool {
        noted.is_none_or(|noted| self.begun <= noted)
    }

    /// Order of matching: the smallest first.
    pub(super) fn need(&self) -> (u8, bool, Timestamp, &MachineId) {
        (self.rank, self.doubtful, self.requested_at, &self.machine)
    }
}

impl Fleet {
    /// All open requests by class, in the order of matching. The creation time of VMs at VPSie is ignored: VPSie's
    /// clock may differ, and a VM of ours that counts as foreign is billed until a person finds it.
    pub(super) fn claims(&self) -> Claims {
        let mut claims = Claims::new();
        for machine in self.machines.values() {
            let doubtful = machine.requests.iter().all(|request| request.outcome != RequestOutcome::Accepted);
            for (nth, request) in machine.requests.iter().enumerate() {
                let rank = match &machine.phase {
                    Phase::Creating { vm: None, .. } | Phase::Pending if nth == 0 => 0,
                    Phase::Deleting { vm: None, .. } if nth == 0 => 1,
                    _ => 2,
                };
                let begun = match &machine.phase {
                    Phase::Creating { since, .. } => request.at.min(*since),
                    _ => request.at,
                };
                claims.entry(machine.class()).or_default().push_back(Claim {
                    rank,
                    doubtful,
                    requested_at: request.at,
                    begun,
                    machine: machine.id.clone(),
                    class: machine.class(),
                    pool: machine.pool.clone(),
                });
            }
        }
        for of_class in claims.values_mut() {
            of_class.make_contiguous().sort_by(|a, b| a.need().cmp(&b.need()));
        }
        claims
    }

    /// Saves a node that matches no request as foreign. If a machine waits for a VM, or an abandoned request of the
    /// last day matches, the node may still be the result of that request and counts as paid for: at most as many nodes
    /// as there are requests, and no node of the control plane. The node is not bound, because a person may have added
    /// it.
    pub(super) fn note_foreign(
        &mut self,
        changes: &mut Vec<Change>,
        node: &ListedNode,
        now: Timestamp,
        claims: &Claims,
    ) {
        let known = self.unmanaged.get(&node.hostname).filter(|s| node.can_have_id(s.id.as_ref())).cloned();
        let known = known.as_ref();
        let waiting = self.awaited_by(claims).filter(|_| known.is_none());
        let late = self.abandoned_request(node).filter(|_| known.is_none() && waiting.is_none());
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
    fn awaited_by(&self, claims: &Claims) -> Option<PoolId> {
        let oldest = claims.values().flatten().map(|claim| claim.begun).min()?;
        let newer =
            |unmanaged: &&UnmanagedNode| unmanaged.awaited_by.is_some() && unmanaged.first_seen >= oldest;
        let noted = self.unmanaged.values().filter(newer).count();
        let requests = claims.values().map(VecDeque::len).sum::<usize>();
        let waiting = claims.values().flatten().filter(|claim| claim.rank < 2);
        waiting.min_by_key(|claim| claim.need()).filter(|_| noted < requests).map(|claim| claim.pool.clone())
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
