//! Which requests a new node may be the result of, and what becomes of a node that fits none.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use crate::catalog::MachineClass;
use crate::fleet::ids::{Hostname, MachineId, PoolId};
use crate::fleet::listing::{ListedNode, NodeRole};
use crate::fleet::machine::{Phase, RequestOutcome};
use crate::fleet::record::{Change, UnmanagedKind, UnmanagedNode};
use crate::fleet::state::Fleet;

/// Requests by class, the neediest first.
pub(super) type Claims = BTreeMap<MachineClass, VecDeque<Claim>>;

/// A request that a new node may be the result of.
pub(super) struct Claim {
    /// 0: a machine waits for it. 1: its machine is Deleting, so the VM is deleted at once. 2: left over.
    pub(super) rank: u8,
    /// No request of the machine was accepted: none may have reached VPSie, and it is asked again soon if none has.
    pub(super) doubtful: bool,
    pub(super) asked: Timestamp,
    /// When the first request of its machine was made, as far as it is known.
    pub(super) begun: Timestamp,
    pub(super) machine: MachineId,
    pub(super) class: MachineClass,
    pub(super) pool: PoolId,
}

impl Claim {
    /// Whether it was made before a node that was noted at that time, as far as the node is noted.
    pub(super) fn is_older(&self, noted: Option<Timestamp>) -> bool {
        noted.is_none_or(|noted| self.begun <= noted)
    }

    /// The less, the needier.
    pub(super) fn need(&self) -> (u8, bool, Timestamp, &MachineId) {
        (self.rank, self.doubtful, self.asked, &self.machine)
    }
}

impl Fleet {
    /// All requests that no node was matched with, by class, the neediest first. What VPSie says of a VM's age is not
    /// asked: its clock is not ours, and a VM of ours that is taken for foreign is billed for ever.
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
                    asked: request.at,
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

    /// Notes a node that fits no request. While a machine waits for a VM the node may be the result of that request all
    /// the same, and so may one that fits a request of the last day. No more nodes than there are requests, and none of
    /// the control plane. Neither is bound: a person may have added it.
    pub(super) fn note_foreign(
        &mut self,
        changes: &mut Vec<Change>,
        node: &ListedNode,
        now: Timestamp,
        claims: &Claims,
    ) {
        let known = self.unmanaged.get(&node.hostname).filter(|s| s.id.is_none() || s.id == node.id).cloned();
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
        };
        if known != Some(&unmanaged) {
            self.push_change(changes, Change::SaveUnmanaged(unmanaged));
        }
        if let Some(late) = late {
            self.remove_abandoned(changes, &late);
        }
    }

    /// The pool of the neediest machine that waits for a VM and that no foreign node may be the result of.
    fn awaited_by(&self, claims: &Claims) -> Option<PoolId> {
        let oldest = claims.values().flatten().map(|claim| claim.begun).min()?;
        let newer =
            |unmanaged: &&UnmanagedNode| unmanaged.awaited_by.is_some() && unmanaged.first_seen >= oldest;
        let noted = self.unmanaged.values().filter(newer).count();
        let requests = claims.values().map(VecDeque::len).sum::<usize>();
        let waiting = claims.values().flatten().filter(|claim| claim.rank < 2);
        waiting.min_by_key(|claim| claim.need()).filter(|_| noted < requests).map(|claim| claim.pool.clone())
    }

    /// A foreign node that is gone is not paid for any more.
    pub(in crate::fleet) fn stop_awaiting(&mut self, changes: &mut Vec<Change>, hostname: &Hostname) {
        let Some(unmanaged) = self.unmanaged.get(hostname).filter(|s| s.awaited_by.is_some()) else { return };
        let unmanaged = UnmanagedNode { awaited_by: None, ..unmanaged.clone() };
        self.push_change(changes, Change::SaveUnmanaged(unmanaged));
    }
}
