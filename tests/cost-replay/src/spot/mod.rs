//! Spot machines in the replay: a market that refuses and interrupts VMs, and the policies on it.

mod backoff;
mod market;
mod provider;
pub(crate) mod report;
#[cfg(test)]
mod tests;

use backoff::Backoff;
use market::SpotMarket;
pub(crate) use market::Zone;
pub(crate) use provider::Provider;

use crate::data::{ReplayPool, ReplayResources};
use crate::estimator::MAX_NODES;
use crate::replay::{Eviction, Replay, ReplayEvent};

/// Time from a notice until the end of the VM, seconds.
pub(crate) const NOTICE: u64 = 120;
/// Time before the end of a VM at which this program begins a drain without a ready replacement: the default grace
/// period of pods (30 s), and 15 s.
const DRAIN_TIME: u64 = 45;

/// How Cluster Autoscaler uses spot pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpotPolicyKind {
    /// Spot pools only, by price, also after failures.
    CheapestSpot,
    /// All pools, by price. Cluster Autoscaler backs pools off.
    Backoff,
    /// This program, with its `maxSpotPercentage`. Cluster Autoscaler backs pools off, too.
    Ours(u32),
}

/// A policy on a spot market.
pub(crate) struct SpotRun {
    kind: SpotPolicyKind,
    market: SpotMarket,
    backoff: Backoff,
    provider: Option<Provider>,
    /// Time from the request of a node until it is ready.
    boot: u64,
}

impl SpotRun {
    pub(crate) fn new(
        kind: SpotPolicyKind,
        pools: &[ReplayPool],
        zones: &[Zone],
        boot: u64,
        seed: u64,
    ) -> Self {
        let provider = match kind {
            SpotPolicyKind::CheapestSpot | SpotPolicyKind::Backoff => None,
            SpotPolicyKind::Ours(max_spot) => Some(Provider::new(pools, max_spot)),
        };
        let market = SpotMarket::new(pools, zones, seed);
        Self { kind, market, backoff: Backoff::default(), provider, boot }
    }

    pub(crate) fn first_events(&self) -> Vec<(u64, ReplayEvent)> {
        self.market.changes().map(|(pool, at)| (at, ReplayEvent::Switch(pool))).collect()
    }

    pub(crate) fn provider(&self) -> Option<&Provider> {
        self.provider.as_ref()
    }

    /// Number of nodes that Cluster Autoscaler may add to the pool.
    pub(crate) fn headroom(&self, index: usize, pool: &ReplayPool, now: u64) -> usize {
        match (self.kind, &self.provider) {
            (SpotPolicyKind::CheapestSpot, _) if pool.spot.is_none() => 0,
            _ if self.backoff.is_backed_off(index, now) => 0,
            (_, Some(provider)) => provider.headroom(index).min(MAX_NODES),
            (_, None) => MAX_NODES,
        }
    }

    /// Cluster Autoscaler adds nodes to a pool. The cloud refuses them while the pool is not available.
    pub(crate) fn increase(&mut self, run: &mut Replay<'_>, pool: usize, count: u64, now: u64) {
        let added = match &mut self.provider {
            None if self.market.is_available(pool) => {
                for _ in 0..count {
                    self.add_node(run, pool, now);
                }
                count
            }
            None => 0,
            Some(provider) => {
                let machines = provider.increase(pool, count, now);
                let added = machines.iter().filter(|id| {
                    if let Some(node) = provider.node_of(id) {
                        // Taken over: a replacement on its way counts as upcoming from now on.
                        run.nodes[node].replacement = false;
                        return true;
                    }
                    let is_available = self.market.is_available(pool);
                    let is_created = provider.request(id, is_available, run.nodes.len(), now);
                    if is_created {
                        add_node(&mut self.market, run, pool, self.boot, now);
                    }
                    is_created
                });
                let added = added.count() as u64;
                provider.delete_failed(pool, now);
                added
            }
        };
        if added < count {
            run.cost.spot.refused += 1;
            if self.kind != SpotPolicyKind::CheapestSpot {
                self.backoff.record_failure(pool, now);
            }
        }
    }

    fn add_node(&mut self, run: &mut Replay<'_>, pool: usize, now: u64) -> usize {
        add_node(&mut self.market, run, pool, self.boot, now)
    }

    /// The availability of a pool changes. When it ends, all VMs of the pool get a notice.
    pub(crate) fn switch(&mut self, run: &mut Replay<'_>, pool: usize, now: u64) {
        if let Some(next) = self.market.switch(pool) {
            run.push_event(next, ReplayEvent::Switch(pool));
        }
        if !self.market.is_available(pool) {
            let nodes: Vec<usize> =
                run.alive.iter().copied().filter(|node| run.nodes[*node].pool == pool).collect();
            self.give_notices(run, &nodes, now);
        }
    }

    /// The cloud announces the end of the VMs of nodes. This program cordons the nodes and adds replacements.
    pub(crate) fn give_notices(&mut self, run: &mut Replay<'_>, nodes: &[usize], now: u64) {
        let is_new = |node: &usize| run.nodes[*node].gone.is_none() && run.nodes[*node].deadline.is_none();
        let nodes: Vec<usize> = nodes.iter().copied().filter(is_new).collect();
        for node in &nodes {
            run.cost.spot.interruptions += 1;
            run.nodes[*node].deadline = Some(now + NOTICE);
            run.push_event(now + NOTICE, ReplayEvent::VmEnd(*node));
            if let Some(provider) = &mut self.provider {
                provider.record_notice(*node, now);
                run.push_event(now + NOTICE - DRAIN_TIME, ReplayEvent::LastMoment(*node));
            }
        }
        if self.provider.is_some() {
            self.move_pods(run, &nodes, now);
        }
    }

    /// Cordons ready nodes with a notice, removes empty ones, and adds missing replacements.
    fn move_pods(&mut self, run: &mut Replay<'_>, nodes: &[usize], now: u64) {
        for node in nodes {
            let replay_node = &mut run.nodes[*node];
            replay_node.cordoned = replay_node.ready <= now;
            if replay_node.cordoned && replay_node.pods.is_empty() {
                self.drain(run, *node, now);
                self.end_vm(run, *node, now);
            }
        }
        for node in nodes {
            self.add_replacement(run, *node, now);
        }
    }

    /// Adds a replacement for a node with a notice, and another one while the cloud refuses it.
    fn add_replacement(&mut self, run: &mut Replay<'_>, node: usize, now: u64) {
        let Some(provider) = &mut self.provider else { return };
        let needed = needed_resources(run, node, now);
        while provider.lacks_replacement(node) {
            let Some((machine, pool)) = provider.replace(node, needed, now) else { break };
            if provider.request(&machine, self.market.is_available(pool), run.nodes.len(), now) {
                let added = add_node(&mut self.market, run, pool, self.boot, now);
                run.nodes[added].replacement = true;
            } else {
                run.cost.spot.refused += 1;
            }
        }
    }

    /// Evicts the pods of a node with a notice.
    pub(crate) fn drain(&mut self, run: &mut Replay<'_>, node: usize, now: u64) {
        let Some(provider) = &mut self.provider else { return };
        if run.nodes[node].gone.is_none() && !run.nodes[node].drained {
            provider.begin_drain(node, now);
            run.nodes[node].drained = true;
            run.evict_pods(node, now, Eviction::Notice);
        }
    }

    /// The VM of a node ends, with its pods.
    pub(crate) fn end_vm(&mut self, run: &mut Replay<'_>, node: usize, now: u64) {
        if run.nodes[node].gone.is_some() {
            return;
        }
        run.evict_pods(node, now, Eviction::VmEnd);
        run.remove(node, now);
        if let Some(provider) = &mut self.provider {
            provider.end_vm(node);
        }
    }

    /// A node is ready. If it replaces another one, its pods move.
    pub(crate) fn note_ready(&mut self, run: &mut Replay<'_>, node: usize, now: u64) {
        let Some(provider) = &mut self.provider else { return };
        run.nodes[node].cordoned = run.nodes[node].deadline.is_some();
        if let Some(replaced) = provider.note_registered(node, now) {
            self.drain(run, replaced, now);
        }
    }

    /// Cluster Autoscaler removed a node.
    pub(crate) fn note_scale_down(&mut self, node: usize, pool: usize, now: u64) {
        if let Some(provider) = &mut self.provider {
            provider.scale_down(node, pool, now);
        }
    }

    /// Applies the time limits of the provider, before each loop of Cluster Autoscaler. Returns true iff pods moved.
    pub(crate) fn run_once(&mut self, run: &mut Replay<'_>, now: u64) -> bool {
        let Some(provider) = &mut self.provider else { return false };
        provider.apply_deadlines(now);
        let has_notice = |node: &usize| run.nodes[*node].deadline.is_some() && !run.nodes[*node].drained;
        let noticed: Vec<usize> = run.alive.iter().copied().filter(has_notice).collect();
        let before = run.waiting.len();
        self.move_pods(run, &noticed, now);
        run.waiting.len() > before
    }
}

/// Adds a node whose VM the cloud created.
fn add_node(market: &mut SpotMarket, run: &mut Replay<'_>, pool: usize, boot: u64, now: u64) -> usize {
    let node = run.add_node(pool, boot, now);
    if let Some(life) = market.next_life(pool) {
        run.push_event(now + life, ReplayEvent::Notice(node));
    }
    node
}

/// The resources that the pods of a node need: those of the whole node before it is ready.
fn needed_resources(run: &Replay<'_>, node: usize, now: u64) -> ReplayResources {
    let node = &run.nodes[node];
    let mut needed = node.allocatable;
    if node.ready <= now {
        needed.subtract(node.free);
    }
    needed
}
