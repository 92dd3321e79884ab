//! Pods grouped by equal requests: a thousand pods of three deployments are three groups.

use std::collections::{BTreeSet, HashMap};

use super::{DecisionInput, PodRequest};
use crate::catalog::Resources;

/// Pods grouped by their requests.
pub(super) struct PodGroups {
    requests: Vec<PodRequest>,
    group_of_pod: Vec<u32>,
}

/// The number of pods in each group.
pub(super) type PodCounts = Vec<u32>;

impl PodGroups {
    pub(super) fn new(input: &DecisionInput) -> Self {
        // Sorted, so that ties between groups do not depend on the order of the pods.
        let requests: BTreeSet<PodRequest> = input.pods.iter().copied().collect();
        let numbers: HashMap<PodRequest, u32> = requests.iter().copied().zip(0..).collect();
        let group_of_pod = input.pods.iter().filter_map(|pod| numbers.get(pod).copied()).collect();
        Self { requests: requests.into_iter().collect(), group_of_pod }
    }

    /// Counts pods, given as indexes of [`DecisionInput::pods`], by group. Invalid indexes are ignored.
    pub(super) fn count(&self, pods: &[u32]) -> PodCounts {
        let mut counts = vec![0; self.requests.len()];
        for group in pods.iter().filter_map(|pod| self.group_of_pod.get(*pod as usize)) {
            counts[*group as usize] += 1;
        }
        counts
    }

    /// Counts all pods by group.
    pub(super) fn count_all(&self) -> PodCounts {
        let mut counts = vec![0; self.requests.len()];
        for group in &self.group_of_pod {
            counts[*group as usize] += 1;
        }
        counts
    }

    /// Estimates the number of nodes for the pods by first-fit decreasing, as Cluster Autoscaler does. A pod
    /// that fits no node counts as one node, so that it is never free.
    pub(super) fn estimate_nodes(&self, counts: &PodCounts, node: Resources) -> u32 {
        let empty = FreeCapacity::from_resources(node);
        let share = |group: &usize| self.requests[*group].share_of(empty);
        let mut order: Vec<usize> = (0..counts.len()).filter(|group| counts[*group] > 0).collect();
        order.sort_by(|a, b| share(b).total_cmp(&share(a)).then(a.cmp(b)));
        let mut nodes: Vec<FreeCapacity> = Vec::new();
        let mut oversized = 0;
        for group in order {
            let request = self.requests[group];
            let mut remaining = counts[group];
            for node in &mut nodes {
                remaining -= node.place_pods(request, remaining);
                if remaining == 0 {
                    break;
                }
            }
            while remaining > 0 {
                let mut node = empty;
                let placed = node.place_pods(request, remaining);
                if placed == 0 {
                    oversized += remaining;
                    break;
                }
                remaining -= placed;
                nodes.push(node);
            }
        }
        nodes.len() as u32 + oversized
    }

    /// The total CPU (millicores) and memory (bytes) that the pods request.
    pub(super) fn total_request(&self, counts: &PodCounts) -> (f64, f64) {
        counts.iter().zip(&self.requests).fold((0.0, 0.0), |(cpu, memory), (count, request)| {
            let count = f64::from(*count);
            (cpu + count * request.cpu_millis as f64, memory + count * request.memory_bytes as f64)
        })
    }
}

impl PodRequest {
    fn share_of(self, node: FreeCapacity) -> f64 {
        self.cpu_millis as f64 / node.cpu_millis.max(1) as f64
            + self.memory_bytes as f64 / node.memory_bytes.max(1) as f64
    }
}

/// The free capacity of a node.
#[derive(Clone, Copy)]
struct FreeCapacity {
    cpu_millis: u64,
    memory_bytes: u64,
    pods: u32,
}

impl FreeCapacity {
    fn from_resources(node: Resources) -> Self {
        Self {
            cpu_millis: node.cpu_millis,
            memory_bytes: node.memory_mib.saturating_mul(1 << 20),
            pods: node.pods,
        }
    }

    /// Places as many pods as fit, up to `count`. Returns their number.
    fn place_pods(&mut self, request: PodRequest, count: u32) -> u32 {
        let fit = |free: u64, requested: u64| free.checked_div(requested).unwrap_or(u64::MAX);
        let max = fit(self.cpu_millis, request.cpu_millis).min(fit(self.memory_bytes, request.memory_bytes));
        let placed = u32::try_from(max).unwrap_or(u32::MAX).min(self.pods).min(count);
        self.cpu_millis -= request.cpu_millis * u64::from(placed);
        self.memory_bytes -= request.memory_bytes * u64::from(placed);
        self.pods -= placed;
        placed
    }
}
