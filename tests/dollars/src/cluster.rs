//! The cluster: nodes, the pods on them, and where kube-scheduler puts a pod.

use crate::data::{FreeCapacity, Pool};

/// A node, from the moment it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) pool: usize,
    pub(crate) asked: u64,
    pub(crate) ready: u64,
    pub(crate) gone: Option<u64>,
    pub(crate) allocatable: FreeCapacity,
    pub(crate) free: FreeCapacity,
    /// Indexes of the trace's pods.
    pub(crate) pods: Vec<usize>,
}

impl Node {
    pub(crate) fn new(pool: usize, of: &Pool, asked: u64, boot: u64) -> Self {
        let allocatable = of.allocatable;
        Self {
            pool,
            asked,
            ready: asked + boot,
            gone: None,
            allocatable,
            free: allocatable,
            pods: Vec::new(),
        }
    }

    pub(crate) fn is_ready(&self, now: u64) -> bool {
        self.ready <= now && self.gone.is_none()
    }

    pub(crate) fn put(&mut self, pod: usize, size: FreeCapacity) {
        self.free.take(size);
        self.pods.push(pod);
    }

    pub(crate) fn remove(&mut self, pod: usize, size: FreeCapacity) {
        self.free.give(size);
        self.pods.retain(|other| *other != pod);
    }

    /// What scale-down goes by: the larger share of requests.
    pub(crate) fn utilization(&self) -> f64 {
        let (cpu, memory) = used(self.allocatable, self.free);
        cpu.max(memory)
    }
}

/// Shares of CPU and memory that are taken.
fn used(allocatable: FreeCapacity, free: FreeCapacity) -> (f64, f64) {
    let share = |have: u64, left: u64| 1.0 - left as f64 / have as f64;
    (share(allocatable.cpu, free.cpu), share(allocatable.memory, free.memory))
}

/// kube-scheduler's score of a node for a pod: NodeResourcesFit (LeastAllocated, its default, or MostAllocated) and
/// NodeResourcesBalancedAllocation, of equal weight.
pub(crate) fn score(node: &Node, size: FreeCapacity, most_allocated: bool) -> f64 {
    let mut free = node.free;
    free.take(size);
    let (cpu, memory) = used(node.allocatable, free);
    let allocated = f64::midpoint(cpu, memory);
    let fit = if most_allocated { allocated } else { 1.0 - allocated };
    let balanced = 1.0 - (cpu - memory).abs() / 2.0;
    fit + balanced
}
