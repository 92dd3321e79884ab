//! Abandoned requests: VPSie may still fulfil them, but their machines no longer wait.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::age::age;
use super::ids::Hostname;
use super::ledger::{AbandonedRequests, Ledger};
use super::listing::{ListedNode, NodeRole};
use super::machine::Machine;
use super::policy::Policy;
use super::record::Change;
use super::state::Fleet;

/// Requests of one pool in the same hour share one entry, so a day has at most 25 entries per pool.
fn hour(at: Timestamp) -> i64 {
    at.as_second().div_euclid(3600)
}

impl Fleet {
    /// The ledger of requests and listings.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Replaces the set of nodes that no request can have made.
    pub fn note_known_before(&mut self, nodes: BTreeSet<Hostname>) -> Vec<Change> {
        let mut changes = Vec::new();
        let ledger = Ledger { known_before: Some(nodes), ..self.ledger.clone() };
        self.save_ledger(&mut changes, ledger);
        changes
    }

    /// Records that a person added these nodes by hand. They do not count as paid for.
    pub fn acknowledge(&mut self, nodes: &BTreeSet<Hostname>) -> Vec<Change> {
        let mut changes = Vec::new();
        for hostname in nodes {
            self.stop_awaiting(&mut changes, hostname);
        }
        let mut ledger = self.ledger.clone();
        if let Some(known) = &mut ledger.known_before {
            known.extend(nodes.iter().filter(|name| self.machine_by_hostname(name).is_none()).cloned());
        }
        self.save_ledger(&mut changes, ledger);
        changes
    }

    /// Moves requests that a machine drops to the ledger.
    pub(super) fn remember_abandoned(
        &mut self,
        changes: &mut Vec<Change>,
        machine: &Machine,
        forgotten: &[Timestamp],
    ) {
        if forgotten.is_empty() {
            return;
        }
        let mut ledger = self.ledger.clone();
        for at in forgotten {
            let together = |late: &&mut AbandonedRequests| {
                late.pool == machine.pool && late.size == machine.size && hour(late.at) == hour(*at)
            };
            match ledger.abandoned.iter_mut().find(together) {
                Some(late) => {
                    late.at = late.at.max(*at);
                    late.count = late.count.saturating_add(1);
                }
                None => ledger.abandoned.push(AbandonedRequests {
                    pool: machine.pool.clone(),
                    size: machine.size,
                    at: *at,
                    count: 1,
                }),
            }
        }
        self.save_ledger(changes, ledger);
    }

    /// Removes abandoned requests whose VM is no longer expected.
    pub(super) fn expire_abandoned(&mut self, changes: &mut Vec<Change>, now: Timestamp, policy: &Policy) {
        let mut ledger = self.ledger.clone();
        ledger.abandoned.retain(|late| age(late.at, now) < policy.abandoned_request_ttl);
        self.save_ledger(changes, ledger);
    }

    /// The oldest abandoned request that can have made the node.
    pub(super) fn abandoned_request(&self, node: &ListedNode) -> Option<AbandonedRequests> {
        if node.role == NodeRole::ControlPlane {
            return None;
        }
        let fits = self.ledger.abandoned.iter().filter(|late| node.can_be(&late.class()));
        fits.min_by_key(|late| late.at).cloned()
    }

    /// Removes one abandoned request, because a node counts as its result.
    pub(super) fn remove_abandoned(&mut self, changes: &mut Vec<Change>, request: &AbandonedRequests) {
        let mut ledger = self.ledger.clone();
        if let Some(late) = ledger.abandoned.iter_mut().find(|late| *late == request) {
            late.count = late.count.saturating_sub(1);
        }
        ledger.abandoned.retain(|late| late.count > 0);
        self.save_ledger(changes, ledger);
    }

    pub(super) fn save_ledger(&mut self, changes: &mut Vec<Change>, ledger: Ledger) {
        if ledger != self.ledger {
            self.push_change(changes, Change::SaveLedger(ledger));
        }
    }
}
