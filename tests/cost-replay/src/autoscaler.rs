//! Cluster Autoscaler's loop (core/static_autoscaler.go): a scale-up with one option for unschedulable pods,
//! then scale-down.

use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;

use crate::data::{Pod, ReplayResources};
use crate::estimator::estimate;
use crate::expander::{Expander, ExpanderInput};
use crate::replay::{Replay, ReplayConditions};
use crate::scale_down::ScaleDown;

/// Age of pods, seconds, below which the loop waits one more interval for further pods.
const MIN_POD_AGE: u64 = 2;

pub(crate) struct Autoscaler {
    expander: Expander,
    conditions: ReplayConditions,
    random: StdRng,
    last_scale_up: Option<u64>,
    packing: Hints,
    scale_down: ScaleDown,
}

impl Autoscaler {
    pub(crate) fn new(expander: Expander, conditions: ReplayConditions, random: StdRng) -> Self {
        let packing = Hints::default();
        let scale_down = ScaleDown::new(conditions);
        Self { expander, conditions, random, last_scale_up: None, packing, scale_down }
    }

    /// Runs one loop.
    pub(crate) fn run_once(&mut self, run: &mut Replay<'_>, now: u64) {
        let mut snapshot = ClusterSnapshot::from_replay(run, now);
        let unplaceable = self.packing.place_waiting(&mut snapshot, run);
        let oldest = unplaceable.iter().map(|pod| run.waiting_since(*pod)).min();
        let all_pods_new = oldest.is_some_and(|since| since + MIN_POD_AGE > now);
        if !unplaceable.is_empty() && !all_pods_new {
            self.scale_up(run, &unplaceable, now);
        }
        let unneeded = self.scale_down.update(&mut snapshot, run, now);
        let in_cooldown = self.last_scale_up.is_some_and(|at| at + self.conditions.after_add > now);
        if unneeded && !in_cooldown && !all_pods_new && self.scale_down.remove(run, now) {
            run.schedule(now);
        }
    }

    fn scale_up(&mut self, run: &mut Replay<'_>, unplaceable: &[usize], now: u64) {
        let groups = groups(run.pods, unplaceable);
        let pools = run.pools.iter().enumerate();
        let option = |(index, pool)| estimate(index, pool, &groups, run.pods, run.headroom(index, now));
        let options: Vec<_> = pools.filter_map(option).collect();
        let input = ExpanderInput {
            pools: run.pools,
            pods: run.pods,
            waiting: unplaceable,
            nodes: run.alive.len(),
            provider: run.provider(),
            now,
        };
        if let Some(index) = input.choose_option(self.expander, &options, &mut self.random) {
            run.add(options[index].pool, options[index].nodes, self.conditions.boot, now);
            self.last_scale_up = Some(now);
        }
    }
}

/// Groups equal pods, in the order of their first pod.
fn groups(pods: &[Pod], waiting: &[usize]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of_class = HashMap::new();
    for pod in waiting {
        let group = *group_of_class.entry(pods[*pod].class).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(*pod);
    }
    groups
}

/// The loop's view of the nodes, including nodes that are still starting.
pub(crate) struct ClusterSnapshot {
    /// Index and free resources of each node. None if the loop removes it.
    pub(crate) nodes: Vec<(usize, Option<ReplayResources>)>,
    positions: HashMap<usize, usize>,
}

impl ClusterSnapshot {
    fn from_replay(run: &Replay<'_>, now: u64) -> Self {
        let counted = run.alive.iter().filter(|node| run.nodes[**node].is_counted(now));
        let nodes: Vec<_> = counted.map(|node| (*node, Some(run.nodes[*node].free))).collect();
        let positions = nodes.iter().enumerate().map(|(position, (node, _))| (*node, position)).collect();
        Self { nodes, positions }
    }

    pub(crate) fn free_resources(&mut self, node: usize) -> Option<&mut Option<ReplayResources>> {
        self.positions.get(&node).map(|position| &mut self.nodes[*position].1)
    }
}

/// Places pods in a snapshot: on the node of the last placement, else on the next node that fits, round-robin
/// (HintingSimulator).
#[derive(Default)]
pub(crate) struct Hints {
    last: HashMap<usize, usize>,
    last_match: usize,
}

impl Hints {
    /// Places a pod on a node that `acceptable` accepts. Returns the node.
    pub(crate) fn place_pod(
        &mut self,
        snapshot: &mut ClusterSnapshot,
        pod: usize,
        size: ReplayResources,
        acceptable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let hint = self.last.get(&pod).copied().filter(|node| acceptable(*node));
        if let Some(node) = hint
            && let Some(Some(free)) = snapshot.free_resources(node)
            && free.holds(size)
        {
            free.subtract(size);
            return Some(node);
        }
        let count = snapshot.nodes.len();
        for i in 1..=count {
            let at = (i + self.last_match) % count;
            let (node, free) = &mut snapshot.nodes[at];
            if let Some(free) = free
                && free.holds(size)
                && acceptable(*node)
            {
                free.subtract(size);
                self.last_match = at;
                self.last.insert(pod, *node);
                return Some(*node);
            }
        }
        None
    }

    /// Places pending pods. Returns the pods that fit no node.
    fn place_waiting(&mut self, snapshot: &mut ClusterSnapshot, run: &Replay<'_>) -> Vec<usize> {
        let mut unplaceable_classes = HashSet::new();
        let mut unplaceable = Vec::new();
        for pod in &run.waiting {
            let Pod { size, class, .. } = run.pods[*pod];
            if self.place_pod(snapshot, *pod, size, |_| !unplaceable_classes.contains(&class)).is_none() {
                unplaceable_classes.insert(class);
                unplaceable.push(*pod);
            }
        }
        unplaceable
    }
}
