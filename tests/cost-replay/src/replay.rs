//! Replays a trace on a market in virtual time: pods arrive and end, kube-scheduler places them, and Cluster
//! Autoscaler's loop runs at its interval. Nodes cost from their request until their removal.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::autoscaler::Autoscaler;
use crate::cluster::{ReplayNode, score};
use crate::data::{Pod, ReplayPool};
use crate::estimator::MAX_NODES;
use crate::expander::Expander;
use crate::spot::{Provider, SpotRun};

/// Times of the replay, seconds, and the strategy of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplayConditions {
    /// `--scan-interval`.
    pub(crate) scan: u64,
    /// Time from the request of a node until it is ready.
    pub(crate) boot: u64,
    /// `--scale-down-unneeded-time`.
    pub(crate) unneeded: u64,
    /// `--scale-down-delay-after-add`.
    pub(crate) after_add: u64,
    /// `--unremovable-node-recheck-timeout`.
    pub(crate) recheck: u64,
    /// Whether kube-scheduler packs pods (NodeResourcesFit with MostAllocated) instead of spreading them.
    pub(crate) packs: bool,
}

impl ReplayConditions {
    /// Cluster Autoscaler's defaults; a node is ready after two minutes.
    pub(crate) const DEFAULT: Self =
        Self { scan: 10, boot: 120, unneeded: 600, after_add: 600, recheck: 300, packs: false };
    /// Immediate scale-down: the remaining cost above the bound is due to the choice of nodes and their boot.
    pub(crate) const PROMPT: Self = Self { unneeded: 0, after_add: 0, recheck: 0, ..Self::DEFAULT };
    /// The defaults with a scheduler that packs.
    pub(crate) const PACKS: Self = Self { packs: true, ..Self::DEFAULT };
}

/// The result of a replay.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplayCost {
    /// Cost per second of use, USD.
    pub(crate) usd: f64,
    /// Cost per started hour of each node, USD.
    pub(crate) usd_started_hours: f64,
    /// Part of `usd` for nodes before they were ready.
    pub(crate) booting: f64,
    /// Part of `usd` for ready nodes without pods.
    pub(crate) empty: f64,
    /// Delay of the end of each pod, seconds, sorted.
    pub(crate) waits: Vec<u64>,
    pub(crate) scale_ups: u64,
    pub(crate) evictions: u64,
    pub(crate) nodes: usize,
    pub(crate) max_nodes: usize,
    /// Number of pods that fit no pool.
    pub(crate) never_ran: usize,
    pub(crate) spot: SpotCost,
}

/// Effects of interruptions. Times are seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpotCost {
    /// Number of VMs that the cloud ended.
    pub(crate) interruptions: u64,
    /// Work of interrupted pods since their last start.
    pub(crate) lost: u64,
    /// Time that interrupted pods were pending.
    pub(crate) pending: u64,
    /// Pods that were evicted before the end of their VM.
    pub(crate) moved: u64,
    /// Pods that ended with their VM.
    pub(crate) killed: u64,
    /// Scale-ups and replacements that the cloud refused.
    pub(crate) refused: u64,
    /// Time of spot VMs, and of all VMs.
    pub(crate) spot_time: u64,
    pub(crate) vm_time: u64,
}

/// The reason why a pod leaves its node before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// Cluster Autoscaler removes the node.
    ScaleDown,
    /// The provider drains the node because of a notice.
    Notice,
    /// The VM ended.
    VmEnd,
}

/// An event. At one time, the first kinds come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReplayEvent {
    /// The end of a pod, ignored if the pod was evicted meanwhile.
    End(usize, u32),
    Ready(usize),
    Arrival(usize),
    /// The availability of a spot pool changes.
    Switch(usize),
    /// The cloud announces the end of the VM of a node.
    Notice(usize),
    /// The last moment to move the pods of a node with a notice.
    LastMoment(usize),
    /// The VM of a node ends.
    VmEnd(usize),
}

/// The progress of a pod.
#[derive(Clone, Debug, Default)]
struct PodProgress {
    remaining: u64,
    started: u64,
    node: Option<usize>,
    evictions: u32,
    waiting_since: u64,
    /// Pending because of an interruption.
    interrupted: bool,
}

pub(crate) struct Replay<'a> {
    pub(crate) pods: &'a [Pod],
    pub(crate) pools: &'a [ReplayPool],
    pub(crate) nodes: Vec<ReplayNode>,
    /// Indexes of existing nodes.
    pub(crate) alive: Vec<usize>,
    /// Pending pods, the longest pending first.
    pub(crate) waiting: Vec<usize>,
    /// The spot market and the policy.
    pub(crate) spot: Option<SpotRun>,
    pub(crate) cost: ReplayCost,
    progress: Vec<PodProgress>,
    events: BinaryHeap<Reverse<(u64, ReplayEvent)>>,
    empty_since: Vec<Option<u64>>,
    left: usize,
    packs: bool,
}

/// Replays pods on pools with one expander.
pub(crate) fn replay(
    pods: &[Pod],
    pools: &[ReplayPool],
    expander: Expander,
    conditions: ReplayConditions,
    seed: u64,
) -> ReplayCost {
    replay_with(pods, pools, expander, conditions, seed, None)
}

/// Replays pods on pools with one expander, on a spot market.
pub(crate) fn replay_with(
    pods: &[Pod],
    pools: &[ReplayPool],
    expander: Expander,
    conditions: ReplayConditions,
    seed: u64,
    spot: Option<SpotRun>,
) -> ReplayCost {
    let placeable = |pod: &Pod| pools.iter().any(|pool| pool.allocatable.holds(pod.size));
    let mut run = Replay {
        pods,
        pools,
        nodes: Vec::new(),
        alive: Vec::new(),
        waiting: Vec::new(),
        progress: pods
            .iter()
            .map(|pod| PodProgress { remaining: pod.duration, ..PodProgress::default() })
            .collect(),
        spot,
        cost: ReplayCost::default(),
        events: BinaryHeap::new(),
        empty_since: Vec::new(),
        left: 0,
        packs: conditions.packs,
    };
    for (index, pod) in pods.iter().enumerate() {
        if placeable(pod) {
            run.events.push(Reverse((pod.arrival, ReplayEvent::Arrival(index))));
            run.left += 1;
        } else {
            run.cost.never_ran += 1;
        }
    }
    for (at, event) in run.spot.as_ref().map(SpotRun::first_events).unwrap_or_default() {
        run.push_event(at, event);
    }
    let mut autoscaler = Autoscaler::new(expander, conditions, StdRng::seed_from_u64(seed));
    let mut tick = 0;
    let mut now = 0;
    while run.left > 0 {
        let event = run.events.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        now = event.min(tick);
        if run.process_events(now) {
            run.schedule(now);
        }
        if now == tick {
            if run.with_spot(|spot, run| spot.run_once(run, now)) == Some(true) {
                run.schedule(now);
            }
            autoscaler.run_once(&mut run, now);
            tick += conditions.scan;
        }
    }
    run.bill(now)
}

impl Replay<'_> {
    pub(crate) fn push_event(&mut self, at: u64, event: ReplayEvent) {
        self.events.push(Reverse((at, event)));
    }

    /// Runs `work` with the spot market. None without one.
    pub(crate) fn with_spot<T>(&mut self, work: impl FnOnce(&mut SpotRun, &mut Self) -> T) -> Option<T> {
        let mut spot = self.spot.take()?;
        let result = work(&mut spot, self);
        self.spot = Some(spot);
        Some(result)
    }

    /// Number of nodes that Cluster Autoscaler may add to the pool.
    pub(crate) fn headroom(&self, pool: usize, now: u64) -> usize {
        self.spot.as_ref().map_or(MAX_NODES, |spot| spot.headroom(pool, &self.pools[pool], now))
    }

    pub(crate) fn provider(&self) -> Option<&Provider> {
        self.spot.as_ref()?.provider()
    }

    /// Whether Cluster Autoscaler may remove the node.
    pub(crate) fn may_remove(&self, node: usize) -> bool {
        self.provider().is_none_or(|provider| provider.may_remove(node))
    }

    /// Processes the events until `now`. Returns true iff there were any.
    fn process_events(&mut self, now: u64) -> bool {
        let mut any = false;
        while let Some(Reverse((at, event))) = self.events.peek().copied() {
            if at > now {
                break;
            }
            self.events.pop();
            any = true;
            match event {
                ReplayEvent::Arrival(pod) => {
                    self.progress[pod].waiting_since = now;
                    self.waiting.push(pod);
                }
                ReplayEvent::Ready(node) if self.nodes[node].gone.is_none() => {
                    self.empty_since[node] = Some(now);
                    self.with_spot(|spot, run| spot.note_ready(run, node, now));
                }
                ReplayEvent::End(pod, evictions) if self.progress[pod].evictions == evictions => {
                    self.progress[pod].remaining = 0;
                    self.leave(pod, now);
                    self.cost.waits.push(now - self.pods[pod].end());
                    self.left -= 1;
                }
                ReplayEvent::Ready(_) | ReplayEvent::End(..) => {}
                ReplayEvent::Switch(pool) => {
                    self.with_spot(|spot, run| spot.switch(run, pool, now));
                }
                ReplayEvent::Notice(node) => {
                    self.with_spot(|spot, run| spot.give_notices(run, &[node], now));
                }
                ReplayEvent::LastMoment(node) => {
                    self.with_spot(|spot, run| spot.drain(run, node, now));
                }
                ReplayEvent::VmEnd(node) => {
                    self.with_spot(|spot, run| spot.end_vm(run, node, now));
                }
            }
        }
        any
    }

    fn leave(&mut self, pod: usize, now: u64) {
        if let Some(node) = self.progress[pod].node.take() {
            self.nodes[node].remove(pod, self.pods[pod].size);
            if self.nodes[node].pods.is_empty() {
                self.empty_since[node] = Some(now);
            }
        }
    }

    /// kube-scheduler: binds each pending pod to the ready node with the best score.
    pub(crate) fn schedule(&mut self, now: u64) {
        let mut unplaceable_classes = HashSet::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|pod| {
            let class = self.pods[*pod].class;
            let placed = !unplaceable_classes.contains(&class) && self.bind(*pod, now);
            if !placed {
                unplaceable_classes.insert(class);
            }
            !placed
        });
        self.waiting = waiting;
    }

    fn bind(&mut self, pod: usize, now: u64) -> bool {
        let size = self.pods[pod].size;
        let mut best: Option<(f64, usize)> = None;
        for index in &self.alive {
            let node = &self.nodes[*index];
            if node.is_ready(now) && node.free.holds(size) {
                let score = score(node, size, self.packs);
                if best.is_none_or(|(other, _)| score > other) {
                    best = Some((score, *index));
                }
            }
        }
        let Some((_, index)) = best else { return false };
        if let Some(since) = self.empty_since[index].take() {
            self.cost.empty += (now - since) as f64 * self.pools[self.nodes[index].pool].per_second();
        }
        self.nodes[index].place_pod(pod, size);
        let progress = &mut self.progress[pod];
        progress.node = Some(index);
        progress.started = now;
        if std::mem::take(&mut progress.interrupted) {
            self.cost.spot.pending += now - progress.waiting_since;
        }
        self.events.push(Reverse((now + progress.remaining, ReplayEvent::End(pod, progress.evictions))));
        true
    }

    pub(crate) fn add(&mut self, pool: usize, count: u64, boot: u64, now: u64) {
        self.cost.scale_ups += 1;
        if self.with_spot(|spot, run| spot.increase(run, pool, count, now)).is_none() {
            for _ in 0..count {
                self.add_node(pool, boot, now);
            }
        }
    }

    /// Adds a node. Returns its index.
    pub(crate) fn add_node(&mut self, pool: usize, boot: u64, now: u64) -> usize {
        let index = self.nodes.len();
        let node = ReplayNode::new(pool, &self.pools[pool], now, boot);
        self.push_event(node.ready, ReplayEvent::Ready(index));
        self.alive.push(index);
        self.nodes.push(node);
        self.empty_since.push(None);
        self.cost.max_nodes = self.cost.max_nodes.max(self.alive.len());
        index
    }

    /// Cluster Autoscaler removes a node.
    pub(crate) fn scale_down(&mut self, node: usize, now: u64) {
        let pool = self.nodes[node].pool;
        self.evict_pods(node, now, Eviction::ScaleDown);
        self.remove(node, now);
        self.with_spot(|spot, _| spot.note_scale_down(node, pool, now));
    }

    /// Evicts the pods of a node. They become pending and continue elsewhere.
    pub(crate) fn evict_pods(&mut self, node: usize, now: u64, reason: Eviction) {
        for pod in self.nodes[node].pods.clone() {
            self.leave(pod, now);
            let progress = &mut self.progress[pod];
            let worked = now - progress.started;
            progress.remaining -= worked;
            progress.evictions += 1;
            progress.waiting_since = now;
            self.waiting.push(pod);
            match reason {
                Eviction::ScaleDown => self.cost.evictions += 1,
                Eviction::Notice => self.cost.spot.moved += 1,
                Eviction::VmEnd => self.cost.spot.killed += 1,
            }
            if reason != Eviction::ScaleDown {
                progress.interrupted = true;
                self.cost.spot.lost += worked;
            }
        }
    }

    /// Ends the VM of a node without pods.
    pub(crate) fn remove(&mut self, node: usize, now: u64) {
        self.nodes[node].gone = Some(now);
        self.alive.retain(|other| *other != node);
        self.bill_empty_time(node, now);
    }

    fn bill_empty_time(&mut self, node: usize, now: u64) {
        if let Some(since) = self.empty_since[node].take() {
            self.cost.empty += (now - since) as f64 * self.pools[self.nodes[node].pool].per_second();
        }
    }

    pub(crate) fn waiting_since(&self, pod: usize) -> u64 {
        self.progress[pod].waiting_since
    }

    fn bill(mut self, now: u64) -> ReplayCost {
        for index in 0..self.nodes.len() {
            self.bill_empty_time(index, now);
            let node = &self.nodes[index];
            let until = node.gone.unwrap_or(now);
            let rate = self.pools[node.pool].per_second();
            self.cost.usd += (until - node.requested_at) as f64 * rate;
            self.cost.usd_started_hours += (until - node.requested_at).div_ceil(3600) as f64 * 3600.0 * rate;
            self.cost.spot.vm_time += until - node.requested_at;
            if self.pools[node.pool].spot.is_some() {
                self.cost.spot.spot_time += until - node.requested_at;
            }
            self.cost.booting += (until.min(node.ready) - node.requested_at) as f64 * rate;
        }
        self.cost.nodes = self.nodes.len();
        self.cost.waits.sort_unstable();
        self.cost
    }
}
