//! The cluster: nodes, the pods on them, and the scores of kube-scheduler.

use crate::data::{ReplayPool, ReplayResources};

/// A node from its request. Times are seconds of the trace.
#[derive(Clone, Debug)]
pub(crate) struct ReplayNode {
    pub(crate) pool: usize,
    pub(crate) requested_at: u64,
    pub(crate) ready: u64,
    pub(crate) gone: Option<u64>,
    pub(crate) allocatable: ReplayResources,
    pub(crate) free: ReplayResources,
    /// Indexes of the trace's pods.
    pub(crate) pods: Vec<usize>,
    /// The end of its VM, after an interruption notice.
    pub(crate) deadline: Option<u64>,
    /// Cordoned because of the notice.
    pub(crate) cordoned: bool,
    /// Its pods were evicted because of the notice.
    pub(crate) drained: bool,
    /// Added by the provider for a node with a notice, so Cluster Autoscaler does not count it as upcoming.
    pub(crate) replacement: bool,
}

impl ReplayNode {
    pub(crate) fn new(index: usize, pool: &ReplayPool, requested_at: u64, boot: u64) -> Self {
        let allocatable = pool.allocatable;
        Self {
            pool: index,
            requested_at,
            ready: requested_at + boot,
            gone: None,
            allocatable,
            free: allocatable,
            pods: Vec::new(),
            deadline: None,
            cordoned: false,
            drained: false,
            replacement: false,
        }
    }

    /// Whether it takes pods.
    pub(crate) fn is_ready(&self, now: u64) -> bool {
        self.ready <= now && self.gone.is_none() && !self.cordoned && !self.drained
    }

    /// Whether Cluster Autoscaler 1.36 plans with its free resources: it is schedulable, or upcoming.
    pub(crate) fn is_counted(&self, now: u64) -> bool {
        self.is_ready(now) || (self.ready > now && !self.replacement && !self.drained)
    }

    pub(crate) fn place_pod(&mut self, pod: usize, size: ReplayResources) {
        self.free.subtract(size);
        self.pods.push(pod);
    }

    pub(crate) fn remove(&mut self, pod: usize, size: ReplayResources) {
        self.free.add(size);
        self.pods.retain(|other| *other != pod);
    }

    /// The utilization for scale-down: the larger share of requests.
    pub(crate) fn utilization(&self) -> f64 {
        let (cpu, memory) = used(self.allocatable, self.free);
        cpu.max(memory)
    }
}

/// The used shares of CPU and memory.
fn used(allocatable: ReplayResources, free: ReplayResources) -> (f64, f64) {
    let share = |have: u64, left: u64| 1.0 - left as f64 / have as f64;
    (share(allocatable.cpu, free.cpu), share(allocatable.memory, free.memory))
}

/// kube-scheduler's score of a node for a pod: NodeResourcesFit (LeastAllocated, its default, or
/// MostAllocated) and NodeResourcesBalancedAllocation, of equal weight.
pub(crate) fn score(node: &ReplayNode, size: ReplayResources, most_allocated: bool) -> f64 {
    let mut free = node.free;
    free.subtract(size);
    let (cpu, memory) = used(node.allocatable, free);
    let allocated = f64::midpoint(cpu, memory);
    let fit = if most_allocated { allocated } else { 1.0 - allocated };
    let balanced = 1.0 - (cpu - memory).abs() / 2.0;
    fit + balanced
}
