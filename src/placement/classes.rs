//! Pods that ask for the same are one class: a thousand pods of three deployments are three.

use std::collections::{BTreeSet, HashMap};

use super::{PodRequest, Question};
use crate::catalog::Resources;

/// Pods by what they ask for.
pub(super) struct Classes {
    requests: Vec<PodRequest>,
    of_pod: Vec<u32>,
}

/// How many pods of each class.
pub(super) type Counts = Vec<u32>;

impl Classes {
    pub(super) fn of(question: &Question) -> Self {
        // Sorted, so that ties between classes are decided alike in whatever order the pods come.
        let requests: BTreeSet<PodRequest> = question.pods.iter().copied().collect();
        let numbers: HashMap<PodRequest, u32> = requests.iter().copied().zip(0..).collect();
        let of_pod = question.pods.iter().filter_map(|pod| numbers.get(pod).copied()).collect();
        Self { requests: requests.into_iter().collect(), of_pod }
    }

    /// The pods, as indexes of [`Question::pods`], by class. Indexes of no pod are left out.
    pub(super) fn count(&self, pods: &[u32]) -> Counts {
        let mut counts = vec![0; self.requests.len()];
        for class in pods.iter().filter_map(|pod| self.of_pod.get(*pod as usize)) {
            counts[*class as usize] += 1;
        }
        counts
    }

    /// All pods, by class.
    pub(super) fn all(&self) -> Counts {
        let mut counts = vec![0; self.requests.len()];
        for class in &self.of_pod {
            counts[*class as usize] += 1;
        }
        counts
    }

    /// How many nodes of such a size the pods need, the largest first, each in the first node that has room: what
    /// Cluster Autoscaler would estimate. Pods that fit no node count as one node each, so that they are never free.
    pub(super) fn nodes(&self, counts: &Counts, node: Resources) -> u32 {
        let whole = Room::of(node);
        let share = |class: &usize| self.requests[*class].share_of(whole);
        let mut order: Vec<usize> = (0..counts.len()).filter(|class| counts[*class] > 0).collect();
        order.sort_by(|a, b| share(b).total_cmp(&share(a)).then(a.cmp(b)));
        let (mut rooms, mut oversized): (Vec<Room>, u32) = (Vec::new(), 0);
        for class in order {
            let (request, mut left) = (self.requests[class], counts[class]);
            for room in &mut rooms {
                left -= room.take(request, left);
                if left == 0 {
                    break;
                }
            }
            while left > 0 {
                let mut room = whole;
                let taken = room.take(request, left);
                if taken == 0 {
                    oversized += left;
                    break;
                }
                left -= taken;
                rooms.push(room);
            }
        }
        rooms.len() as u32 + oversized
    }

    /// The sums of what the pods ask for.
    pub(super) fn sum(&self, counts: &Counts) -> (f64, f64) {
        counts.iter().zip(&self.requests).fold((0.0, 0.0), |(cpu, memory), (count, request)| {
            let count = f64::from(*count);
            (cpu + count * request.cpu_millis as f64, memory + count * request.memory_bytes as f64)
        })
    }
}

impl PodRequest {
    fn share_of(self, room: Room) -> f64 {
        self.cpu_millis as f64 / room.cpu_millis.max(1) as f64
            + self.memory_bytes as f64 / room.memory_bytes.max(1) as f64
    }
}

/// What is left of a node.
#[derive(Clone, Copy)]
struct Room {
    cpu_millis: u64,
    memory_bytes: u64,
    pods: u32,
}

impl Room {
    fn of(node: Resources) -> Self {
        Self {
            cpu_millis: node.cpu_millis,
            memory_bytes: node.memory_mib.saturating_mul(1 << 20),
            pods: node.pods,
        }
    }

    /// Takes as many as fit, up to `count`.
    fn take(&mut self, request: PodRequest, count: u32) -> u32 {
        let fit = |have: u64, want: u64| have.checked_div(want).unwrap_or(u64::MAX);
        let most = fit(self.cpu_millis, request.cpu_millis).min(fit(self.memory_bytes, request.memory_bytes));
        let taken = u32::try_from(most).unwrap_or(u32::MAX).min(self.pods).min(count);
        self.cpu_millis -= request.cpu_millis * u64::from(taken);
        self.memory_bytes -= request.memory_bytes * u64::from(taken);
        self.pods -= taken;
        taken
    }
}
