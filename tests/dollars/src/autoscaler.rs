//! Cluster Autoscaler's loop (core/static_autoscaler.go): pods that will find a place are left alone, for the
//! others one option is taken; then scale-down.

use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;

use crate::data::{FreeCapacity, Pod};
use crate::estimator::estimate;
use crate::expander::{Asked, Expander};
use crate::replay::{Conditions, Replay};
use crate::scale_down::ScaleDown;

/// A pod this young may have company soon: the loop waits for one more interval.
const YOUNG: u64 = 2;

pub(crate) struct Autoscaler {
    expander: Expander,
    conditions: Conditions,
    chance: StdRng,
    last_scale_up: Option<u64>,
    packing: Hints,
    scale_down: ScaleDown,
}

impl Autoscaler {
    pub(crate) fn new(expander: Expander, conditions: Conditions, chance: StdRng) -> Self {
        let (packing, scale_down) = (Hints::default(), ScaleDown::new(conditions));
        Self { expander, conditions, chance, last_scale_up: None, packing, scale_down }
    }

    /// One loop.
    pub(crate) fn turn(&mut self, run: &mut Replay<'_>, now: u64) {
        let mut snapshot = Snapshot::of(run);
        let helpless = self.packing.place_waiting(&mut snapshot, run);
        let oldest = helpless.iter().map(|pod| run.waiting_since(*pod)).min();
        let all_young = oldest.is_some_and(|since| since + YOUNG > now);
        if !helpless.is_empty() && !all_young {
            self.scale_up(run, &helpless, now);
        }
        let unneeded = self.scale_down.update(&mut snapshot, run, now);
        let cooling = self.last_scale_up.is_some_and(|at| at + self.conditions.after_add > now);
        if unneeded && !cooling && !all_young && self.scale_down.remove(run, now) {
            run.schedule(now);
        }
    }

    fn scale_up(&mut self, run: &mut Replay<'_>, helpless: &[usize], now: u64) {
        let groups = groups(run.pods, helpless);
        let pools = run.pools.iter().enumerate();
        let choices: Vec<_> =
            pools.filter_map(|(index, pool)| estimate(index, pool, &groups, run.pods)).collect();
        let asked = Asked { pools: run.pools, pods: run.pods, waiting: helpless, nodes: run.alive.len() };
        if let Some(index) = asked.take(self.expander, &choices, &mut self.chance) {
            run.add(choices[index].pool, choices[index].nodes, self.conditions.boot, now);
            self.last_scale_up = Some(now);
        }
    }
}

/// Equal pods together, in the order of their first.
fn groups(pods: &[Pod], waiting: &[usize]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut of_class = HashMap::new();
    for pod in waiting {
        let group = *of_class.entry(pods[*pod].class).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(*pod);
    }
    groups
}

/// The loop's view of the nodes; those that are still to come count.
pub(crate) struct Snapshot {
    /// Index of the node, what is free on it. None when it is taken away in the course of the loop.
    pub(crate) nodes: Vec<(usize, Option<FreeCapacity>)>,
    place: HashMap<usize, usize>,
}

impl Snapshot {
    fn of(run: &Replay<'_>) -> Self {
        let nodes: Vec<_> = run.alive.iter().map(|node| (*node, Some(run.nodes[*node].free))).collect();
        let place = nodes.iter().enumerate().map(|(place, (node, _))| (*node, place)).collect();
        Self { nodes, place }
    }

    pub(crate) fn room(&mut self, node: usize) -> Option<&mut Option<FreeCapacity>> {
        self.place.get(&node).map(|place| &mut self.nodes[*place].1)
    }
}

/// Places pods in a snapshot: where it was found before, else on the next node, round (HintingSimulator).
#[derive(Default)]
pub(crate) struct Hints {
    last: HashMap<usize, usize>,
    last_match: usize,
}

impl Hints {
    /// Whether it found a place, on a node that `acceptable` allows.
    pub(crate) fn place(
        &mut self,
        snapshot: &mut Snapshot,
        pod: usize,
        size: FreeCapacity,
        acceptable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let hint = self.last.get(&pod).copied().filter(|node| acceptable(*node));
        if let Some(node) = hint
            && let Some(Some(room)) = snapshot.room(node)
            && room.holds(size)
        {
            room.take(size);
            return Some(node);
        }
        let count = snapshot.nodes.len();
        for i in 1..=count {
            let at = (i + self.last_match) % count;
            let (node, room) = &mut snapshot.nodes[at];
            if let Some(room) = room
                && room.holds(size)
                && acceptable(*node)
            {
                room.take(size);
                self.last_match = at;
                self.last.insert(pod, *node);
                return Some(*node);
            }
        }
        None
    }

    /// Pods that wait and will not find a place.
    fn place_waiting(&mut self, snapshot: &mut Snapshot, run: &Replay<'_>) -> Vec<usize> {
        let mut hopeless = HashSet::new();
        let mut helpless = Vec::new();
        for pod in &run.waiting {
            let (size, class) = (run.pods[*pod].size, run.pods[*pod].class);
            if self.place(snapshot, *pod, size, |_| !hopeless.contains(&class)).is_none() {
                hopeless.insert(class);
                helpless.push(*pod);
            }
        }
        helpless
    }
}
