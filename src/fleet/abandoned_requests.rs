//! Abandoned requests: VPSie may still fulfil them, but their machines no longer wait for them.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::age::age;
use super::ids::{Hostname, PoolId};
use super::listing::{ListedNode, NodeRole};
use super::machine::{Machine, RequestRef};
use super::policy::Policy;
use super::record::Change;
use super::request_history::{AbandonedRef, AbandonedRequests, MovedRequest, RequestHistory};
use super::state::Fleet;
use crate::catalog::SizeId;

/// Time that the request history names a moved request. A write ends within seconds.
const MOVED_KEPT: Duration = Duration::from_hours(1);

impl AbandonedRequests {
    /// Whether a request belongs to this entry. Requests of one pool in the same hour share one, so a day has
    /// at most 25 entries per pool.
    fn covers(&self, pool: &PoolId, size: SizeId, at: Timestamp) -> bool {
        let hour = |at: Timestamp| at.as_second().div_euclid(3600);
        self.pool == *pool && self.size == size && hour(self.at) == hour(at)
    }
}

impl Fleet {
    /// The request history.
    pub fn request_history(&self) -> &RequestHistory {
        &self.request_history
    }

    /// Replaces the set of nodes that no request can have created.
    pub fn note_known_before(&mut self, nodes: BTreeSet<Hostname>) -> Vec<Change> {
        let mut changes = Vec::new();
        let history = RequestHistory { known_before: Some(nodes), ..self.request_history.clone() };
        self.save_request_history(&mut changes, history);
        changes
    }

    /// Records that these nodes were added by hand. They do not count as paid for.
    pub fn note_added_by_hand(&mut self, nodes: &BTreeSet<Hostname>) -> Vec<Change> {
        let mut changes = Vec::new();
        for hostname in nodes {
            self.free_requests(&mut changes, hostname);
        }
        let mut history = self.request_history.clone();
        if let Some(known) = &mut history.known_before {
            known.extend(nodes.iter().filter(|name| self.machine_by_hostname(name).is_none()).cloned());
        }
        self.save_request_history(&mut changes, history);
        changes
    }

    /// Moves requests that a machine drops to the request history.
    pub(super) fn remember_abandoned(
        &mut self,
        changes: &mut Vec<Change>,
        machine: &Machine,
        abandoned: &[Timestamp],
        now: Timestamp,
    ) {
        if abandoned.is_empty() {
            return;
        }
        let mut history = self.request_history.clone();
        for at in abandoned {
            let request = RequestRef { machine: machine.id.clone(), at: *at };
            history.moved.push(MovedRequest { request, moved_at: now });
            match history.abandoned.iter_mut().find(|late| late.covers(&machine.pool, machine.size, *at)) {
                Some(late) => {
                    late.at = late.at.max(*at);
                    late.count = late.count.saturating_add(1);
                }
                None => history.abandoned.push(AbandonedRequests {
                    pool: machine.pool.clone(),
                    size: machine.size,
                    at: *at,
                    count: 1,
                }),
            }
        }
        self.save_request_history(changes, history);
    }

    /// Removes abandoned requests whose VM is no longer expected, and the names of moved requests that the
    /// records of their machines no longer have. `unwritten` are the requests that these records still have.
    pub(super) fn expire_abandoned(
        &mut self,
        changes: &mut Vec<Change>,
        unwritten: &HashSet<RequestRef>,
        now: Timestamp,
        policy: &Policy,
    ) {
        let mut history = self.request_history.clone();
        history
            .moved
            .retain(|moved| age(moved.moved_at, now) < MOVED_KEPT || unwritten.contains(&moved.request));
        history.abandoned.retain(|late| age(late.at, now) < policy.abandoned_request_ttl);
        self.save_request_history(changes, history);
    }

    /// Finds the oldest abandoned request that can have created the node and has no node yet.
    pub(super) fn find_abandoned_request(&self, node: &ListedNode) -> Option<AbandonedRef> {
        if node.role == NodeRole::ControlPlane {
            return None;
        }
        let fits = self.request_history.abandoned.iter().filter(|late| node.can_be(&late.class()));
        let oldest = fits.filter(|late| self.count_open(late) > 0).min_by_key(|late| late.at)?;
        Some(AbandonedRef { pool: oldest.pool.clone(), size: oldest.size, at: oldest.at })
    }

    /// Number of abandoned requests without a node that counts as their result.
    pub fn open_abandoned_requests(&self) -> u32 {
        self.request_history.abandoned.iter().fold(0, |sum, late| sum.saturating_add(self.count_open(late)))
    }

    /// Number of open requests of one entry. Computed from the nodes, so that one write (the node's record)
    /// fulfils a request.
    fn count_open(&self, late: &AbandonedRequests) -> u32 {
        let named = self.unmanaged.values().filter_map(|unmanaged| unmanaged.abandoned_request.as_ref());
        let used = named.filter(|name| late.covers(&name.pool, name.size, name.at));
        late.count.saturating_sub(used.count() as u32)
    }

    pub(super) fn save_request_history(&mut self, changes: &mut Vec<Change>, history: RequestHistory) {
        if history != self.request_history {
            self.push_change(changes, Change::SaveRequestHistory(history));
        }
    }
}
