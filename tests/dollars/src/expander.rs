//! Expander chains: which of Cluster Autoscaler's options is taken.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use vpsie_autoscaler::catalog::Resources;
use vpsie_autoscaler::cost::Rates;
use vpsie_autoscaler::placement::{DecisionInput, ExpansionOption, PodRequest, rank_options};

use crate::data::{FreeCapacity, Pod, Pool};

/// So many nodes of a pool for these pods.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) pool: usize,
    pub(crate) nodes: u64,
    /// Indexes of the trace's pods.
    pub(crate) pods: Vec<usize>,
}

/// An expander chain. What is left after the last is decided by chance, as in Cluster Autoscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expander {
    Random,
    LeastWaste,
    LeastNodes,
    Price,
    /// `grpc,least-waste`, with [`rank_options`] behind it.
    Ours,
}

impl Expander {
    pub(crate) const ALL: [Self; 5] =
        [Self::Random, Self::LeastWaste, Self::LeastNodes, Self::Price, Self::Ours];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::LeastWaste => "least-waste",
            Self::LeastNodes => "least-nodes",
            Self::Price => "price",
            Self::Ours => "grpc (ours)",
        }
    }
}

/// What an expander is asked.
pub(crate) struct Asked<'a> {
    pub(crate) pools: &'a [Pool],
    pub(crate) pods: &'a [Pod],
    /// Pods that wait, indexes of `pods`.
    pub(crate) waiting: &'a [usize],
    /// Nodes in the cluster.
    pub(crate) nodes: usize,
}

impl Asked<'_> {
    /// Index of the choice that is taken. None if there is none.
    pub(crate) fn take(&self, expander: Expander, choices: &[Choice], chance: &mut StdRng) -> Option<usize> {
        let all: Vec<usize> = (0..choices.len()).collect();
        let waste = |left: &[usize]| least(left, |index| self.waste(&choices[index]));
        let left = match expander {
            Expander::Random => all,
            Expander::LeastWaste => waste(&all),
            Expander::LeastNodes => least(&all, |index| choices[index].nodes as f64),
            Expander::Price => {
                let rates = self.rates();
                least(&all, |index| self.score(rates, &choices[index]))
            }
            Expander::Ours => waste(&self.ours(choices)),
        };
        left.choose(chance).copied()
    }

    fn requested(&self, choice: &Choice) -> FreeCapacity {
        let mut sum = FreeCapacity::default();
        for pod in &choice.pods {
            sum.give(self.pods[*pod].size);
        }
        sum
    }

    /// expander/waste: shares of CPU and memory, of capacity and not of what is allocatable.
    fn waste(&self, choice: &Choice) -> f64 {
        let capacity = self.pools[choice.pool].capacity;
        let requested = self.requested(choice);
        let wasted = |have: u64, want: u64| {
            let have = (have * choice.nodes) as f64;
            (have - want as f64) / have
        };
        wasted(capacity.cpu, requested.cpu) + wasted(capacity.memory, requested.memory)
    }

    /// The product's prices of a core and of a GiB.
    fn rates(&self) -> Rates {
        let priced = self.pools.iter().map(|pool| (resources(pool.capacity), pool.price));
        Rates::marginal(priced).unwrap_or_default()
    }

    /// expander/price.
    fn score(&self, rates: Rates, choice: &Choice) -> f64 {
        let pool = &self.pools[choice.pool];
        let price = |size: FreeCapacity| rates.of(size.cpu as f64 / 1000.0, size.memory as f64 / 1024.0);
        let stabilization = price(FreeCapacity { cpu: 500, memory: 500, pods: 1 });
        let nodes = pool.price.to_f64() * choice.nodes as f64;
        let pods: f64 = choice.pods.iter().map(|pod| price(self.pods[*pod].size)).sum();
        let cores = pool.capacity.cpu as f64 / 1000.0;
        let preferred = match self.nodes {
            0..=2 => 1.0,
            3..=6 => 2.0,
            7..=20 => 4.0,
            21..=60 => 8.0,
            61..=200 => 16.0,
            _ => 32.0,
        };
        let unfitness = f64::max(preferred / cores, cores / preferred);
        let suppressed = (unfitness - 1.0) * (1.0 - ((choice.nodes as f64 - 1.0) / 15.0).tanh()) + 1.0;
        suppressed * (nodes + stabilization) / (pods + stabilization)
    }

    /// What the product's expander answers.
    fn ours(&self, choices: &[Choice]) -> Vec<usize> {
        let mut indexes = vec![0; self.pods.len()];
        for (index, pod) in self.waiting.iter().enumerate() {
            indexes[*pod] = index as u32;
        }
        let pods = self.waiting.iter().map(|pod| {
            let size = self.pods[*pod].size;
            PodRequest { cpu_millis: size.cpu, memory_bytes: size.memory << 20 }
        });
        let options = choices.iter().map(|choice| {
            let pool = &self.pools[choice.pool];
            ExpansionOption {
                pool: Arc::from(pool.id.as_str()),
                nodes: choice.nodes as u32,
                pods: choice.pods.iter().map(|pod| indexes[*pod]).collect(),
                node_group: Some("all".into()),
                allocatable: resources(pool.allocatable),
                price: Some(pool.price),
                blocked: None,
                preferred: false,
                position: 0,
            }
        });
        let input = DecisionInput { pods: pods.collect(), options: options.collect() };
        rank_options(&input).options.iter().filter(|ranked| ranked.best).map(|ranked| ranked.option).collect()
    }
}

fn resources(room: FreeCapacity) -> Resources {
    Resources { cpu_millis: room.cpu, memory_mib: room.memory, disk_gib: 0, pods: room.pods as u32 }
}

/// Those with the lowest score, exact ties kept.
fn least(left: &[usize], score: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut best = f64::INFINITY;
    let mut kept = Vec::new();
    for index in left {
        let score = score(*index);
        if score < best {
            best = score;
            kept.clear();
        }
        if score <= best {
            kept.push(*index);
        }
    }
    kept
}
