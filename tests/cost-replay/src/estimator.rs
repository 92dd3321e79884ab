//! Cluster Autoscaler's binpacking estimator (estimator/binpacking_estimator.go, DecreasingPodOrderer).

use crate::data::{Pod, ReplayPool, ReplayResources};
use crate::expander::ScaleUpOption;

/// `--max-nodes-per-scaleup`.
pub(crate) const MAX_NODES: usize = 1000;

/// Number of nodes of a pool for pending pods, at most `max_nodes`. `groups` has groups of equal pods.
pub(crate) fn estimate(
    index: usize,
    pool: &ReplayPool,
    groups: &[Vec<usize>],
    pods: &[Pod],
    max_nodes: usize,
) -> Option<ScaleUpOption> {
    let template = pool.allocatable;
    let size = |group: &[usize]| group.first().map_or(ReplayResources::default(), |pod| pods[*pod].size);
    let mut groups: Vec<&Vec<usize>> = groups.iter().filter(|group| template.holds(size(group))).collect();
    let score = |group: &[usize]| {
        let size = size(group);
        size.cpu as f64 / template.cpu as f64 + size.memory as f64 / template.memory as f64
    };
    groups.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let mut packing = Packing { template, max_nodes, nodes: Vec::new(), last_match: 0 };
    let mut placed = Vec::new();
    for group in groups {
        let size = size(group);
        let fitting = group.iter().take_while(|_| packing.place_on_any(size)).count();
        let rest = group[fitting..].iter().take_while(|_| packing.place_on_last_or_new(size)).count();
        placed.extend_from_slice(&group[..fitting + rest]);
    }
    let nodes = packing.nodes.len() as u64;
    (nodes > 0).then_some(ScaleUpOption { pool: index, nodes, pods: placed })
}

struct Packing {
    template: ReplayResources,
    max_nodes: usize,
    /// Free resources of each new node.
    nodes: Vec<ReplayResources>,
    last_match: usize,
}

impl Packing {
    /// Places a pod on a new node, round-robin after the last match. Returns false if none fits.
    fn place_on_any(&mut self, size: ReplayResources) -> bool {
        let count = self.nodes.len();
        let found = (1..=count).map(|i| (i + self.last_match) % count).find(|at| self.nodes[*at].holds(size));
        let Some(at) = found else { return false };
        self.last_match = at;
        self.nodes[at].subtract(size);
        true
    }

    /// Places a pod on the newest node, or else on a further one.
    fn place_on_last_or_new(&mut self, size: ReplayResources) -> bool {
        if !self.nodes.last().is_some_and(|node| node.holds(size)) {
            if self.nodes.len() >= self.max_nodes {
                return false;
            }
            self.nodes.push(self.template);
        }
        if let Some(node) = self.nodes.last_mut() {
            node.subtract(size);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpsie_autoscaler::cost::UsdPerHour;

    fn estimate_of(cpus: &[u64]) -> (u64, usize) {
        let capacity = ReplayResources { cpu: 4000, memory: 8192, pods: 110 };
        let pool = ReplayPool {
            id: "p".into(),
            capacity,
            allocatable: capacity,
            price: UsdPerHour::ZERO,
            spot: None,
        };
        let pods: Vec<Pod> = cpus
            .iter()
            .map(|cpu| Pod {
                name: String::new(),
                size: ReplayResources { cpu: *cpu, memory: 100, pods: 1 },
                class: 0,
                arrival: 0,
                duration: 1,
            })
            .collect();
        let groups: Vec<Vec<usize>> = (0..pods.len()).map(|pod| vec![pod]).collect();
        estimate(0, &pool, &groups, &pods, MAX_NODES)
            .map_or((0, 0), |option| (option.nodes, option.pods.len()))
    }

    #[test]
    fn places_the_largest_pods_first() {
        assert_eq!(estimate_of(&[1000, 3000, 1000, 3000]), (2, 4));
    }

    #[test]
    fn a_pod_that_fits_no_empty_node_is_not_in_the_option() {
        assert_eq!(estimate_of(&[5000]), (0, 0));
        assert_eq!(estimate_of(&[5000, 4000]), (1, 1));
    }
}
