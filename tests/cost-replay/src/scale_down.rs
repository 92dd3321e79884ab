//! Cluster Autoscaler's scale-down (core/scaledown: eligibility, planner, unneeded, budgets).

use std::collections::{HashMap, HashSet};

use crate::autoscaler::{ClusterSnapshot, Hints};
use crate::replay::{Replay, ReplayConditions};

/// `--scale-down-utilization-threshold`.
const THRESHOLD: f64 = 0.5;
/// `--max-scale-down-parallelism`.
const PARALLELISM: usize = 10;
/// `--max-drain-parallelism`.
const DRAIN_PARALLELISM: usize = 1;

pub(crate) struct ScaleDown {
    conditions: ReplayConditions,
    /// Unneeded nodes with the time since which they are unneeded.
    unneeded: HashMap<usize, u64>,
    /// Nodes that could not be drained, with the time of the next check.
    unremovable: HashMap<usize, u64>,
    hints: Hints,
}

impl ScaleDown {
    pub(crate) fn new(conditions: ReplayConditions) -> Self {
        let unneeded = HashMap::new();
        let unremovable = HashMap::new();
        Self { conditions, unneeded, unremovable, hints: Hints::default() }
    }

    /// Updates the unneeded nodes. Returns false if there are none.
    pub(crate) fn update(&mut self, snapshot: &mut ClusterSnapshot, run: &Replay<'_>, now: u64) -> bool {
        self.unremovable.retain(|_, until| *until > now);
        let mut destinations: HashSet<usize> =
            run.alive.iter().copied().filter(|node| run.nodes[*node].is_ready(now)).collect();
        let limit = self.limit();
        let mut removable = HashMap::new();
        for node in self.candidates(run, now) {
            if removable.len() >= limit {
                break;
            }
            if self.empty_into(snapshot, run, node, &destinations) {
                destinations.remove(&node);
                removable.insert(node, self.unneeded.get(&node).copied().unwrap_or(now));
            } else {
                self.unremovable.insert(node, now + self.conditions.recheck);
            }
        }
        self.unneeded = removable;
        !self.unneeded.is_empty()
    }

    /// Nodes with a low utilization: first empty Nodes, then Nodes that the last loop found unneeded.
    fn candidates(&self, run: &Replay<'_>, now: u64) -> Vec<usize> {
        let eligible = |node: &usize| {
            run.nodes[*node].is_ready(now)
                && run.nodes[*node].utilization() <= THRESHOLD
                && !self.unremovable.contains_key(node)
                && run.may_remove(*node)
        };
        let mut nodes: Vec<usize> = run.alive.iter().copied().filter(eligible).collect();
        nodes.sort_by_key(|node| (!run.nodes[*node].pods.is_empty(), !self.unneeded.contains_key(node)));
        nodes
    }

    fn limit(&self) -> usize {
        let loops = (self.conditions.unneeded / self.conditions.scan).max(1) as usize;
        (self.unneeded.len() + 2 * PARALLELISM).min(PARALLELISM * loops + PARALLELISM)
    }

    /// Moves all pods of a node to others in the snapshot. Returns false, without changes, if that is
    /// impossible.
    fn empty_into(
        &mut self,
        snapshot: &mut ClusterSnapshot,
        run: &Replay<'_>,
        node: usize,
        destinations: &HashSet<usize>,
    ) -> bool {
        let mut moved = Vec::new();
        let pods = &run.nodes[node].pods;
        for pod in pods {
            let size = run.pods[*pod].size;
            let to = self
                .hints
                .place_pod(snapshot, *pod, size, |other| other != node && destinations.contains(&other));
            let Some(to) = to else { break };
            moved.push((to, size));
        }
        if moved.len() < pods.len() {
            for (to, size) in moved {
                if let Some(Some(free)) = snapshot.free_resources(to) {
                    free.add(size);
                }
            }
            return false;
        }
        if let Some(free) = snapshot.free_resources(node) {
            *free = None;
        }
        true
    }

    /// Removes nodes that were unneeded for long enough, empty ones first. Returns true iff one was removed.
    pub(crate) fn remove(&mut self, run: &mut Replay<'_>, now: u64) -> bool {
        let due = |since: u64| self.conditions.unneeded == 0 || since + self.conditions.unneeded < now;
        let mut due: Vec<usize> =
            self.unneeded.iter().filter(|(_, since)| due(**since)).map(|(node, _)| *node).collect();
        due.sort_unstable();
        let (empty, drain): (Vec<usize>, Vec<usize>) =
            due.into_iter().partition(|node| run.nodes[*node].pods.is_empty());
        let selected: Vec<usize> =
            empty.into_iter().chain(drain.into_iter().take(DRAIN_PARALLELISM)).take(PARALLELISM).collect();
        let mut any = false;
        for node in selected {
            self.unneeded.remove(&node);
            // A removal before it may have used up the limit.
            if run.may_remove(node) {
                run.scale_down(node, now);
                any = true;
            }
        }
        any
    }
}
