//! Expander chains: the choice among Cluster Autoscaler's options.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use vpsie_autoscaler::catalog::Resources;
use vpsie_autoscaler::cost::{Rates, UsdPerHour};
use vpsie_autoscaler::placement::{DecisionInput, ExpansionOption, PodRequest, rank_options};

use crate::data::{Pod, ReplayPool, ReplayResources};
use crate::spot::Provider;

/// An option of a scale-up: a number of nodes of a pool, for these pods.
#[derive(Clone, Debug)]
pub(crate) struct ScaleUpOption {
    pub(crate) pool: usize,
    pub(crate) nodes: u64,
    /// Indexes of the trace's pods.
    pub(crate) pods: Vec<usize>,
}

/// An expander chain. Remaining ties are decided at random, as in Cluster Autoscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expander {
    Random,
    LeastWaste,
    LeastNodes,
    Price,
    /// `grpc,least-waste`, where the gRPC expander is [`rank_options`].
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

/// The input of an expander.
pub(crate) struct ExpanderInput<'a> {
    pub(crate) pools: &'a [ReplayPool],
    pub(crate) pods: &'a [Pod],
    /// Pending pods, indexes of `pods`.
    pub(crate) waiting: &'a [usize],
    /// Nodes in the cluster.
    pub(crate) nodes: usize,
    /// The provider, if the prices of its pools include interruptions.
    pub(crate) provider: Option<&'a Provider>,
    pub(crate) now: u64,
}

impl ExpanderInput<'_> {
    /// Returns the index of the chosen option. None if there are no options.
    pub(crate) fn choose_option(
        &self,
        expander: Expander,
        options: &[ScaleUpOption],
        random: &mut StdRng,
    ) -> Option<usize> {
        let all: Vec<usize> = (0..options.len()).collect();
        let waste = |left: &[usize]| least(left, |index| self.waste(&options[index]));
        let left = match expander {
            Expander::Random => all,
            Expander::LeastWaste => waste(&all),
            Expander::LeastNodes => least(&all, |index| options[index].nodes as f64),
            Expander::Price => {
                let rates = self.rates();
                least(&all, |index| self.score(rates, &options[index]))
            }
            Expander::Ours => waste(&self.ours(options)),
        };
        left.choose(random).copied()
    }

    fn requested(&self, option: &ScaleUpOption) -> ReplayResources {
        let mut sum = ReplayResources::default();
        for pod in &option.pods {
            sum.add(self.pods[*pod].size);
        }
        sum
    }

    /// expander/waste: unused shares of CPU and memory of the capacity, not of the allocatable resources.
    fn waste(&self, option: &ScaleUpOption) -> f64 {
        let capacity = self.pools[option.pool].capacity;
        let requested = self.requested(option);
        let wasted = |have: u64, want: u64| {
            let have = (have * option.nodes) as f64;
            (have - want as f64) / have
        };
        wasted(capacity.cpu, requested.cpu) + wasted(capacity.memory, requested.memory)
    }

    /// Marginal prices of a core and of a GiB.
    fn rates(&self) -> Rates {
        let priced = self.pools.iter().map(|pool| (resources(pool.capacity), pool.price));
        Rates::marginal(priced).unwrap_or_default()
    }

    /// expander/price.
    fn score(&self, rates: Rates, option: &ScaleUpOption) -> f64 {
        let pool = &self.pools[option.pool];
        let price =
            |size: ReplayResources| rates.price(size.cpu as f64 / 1000.0, size.memory as f64 / 1024.0);
        let stabilization = price(ReplayResources { cpu: 500, memory: 500, pods: 1 });
        let nodes = pool.price.to_f64() * option.nodes as f64;
        let pods: f64 = option.pods.iter().map(|pod| price(self.pods[*pod].size)).sum();
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
        let suppressed = (unfitness - 1.0) * (1.0 - ((option.nodes as f64 - 1.0) / 15.0).tanh()) + 1.0;
        suppressed * (nodes + stabilization) / (pods + stabilization)
    }

    /// The reply of vpsie-autoscaler's expander.
    fn ours(&self, options: &[ScaleUpOption]) -> Vec<usize> {
        let mut indexes = vec![0; self.pods.len()];
        for (index, pod) in self.waiting.iter().enumerate() {
            indexes[*pod] = index as u32;
        }
        let pods = self.waiting.iter().map(|pod| {
            let size = self.pods[*pod].size;
            PodRequest { cpu_millis: size.cpu, memory_bytes: size.memory << 20 }
        });
        let options = options.iter().map(|option| {
            let pool = &self.pools[option.pool];
            let plain = ExpansionOption {
                pool: Arc::from(pool.id.as_str()),
                nodes: option.nodes as u32,
                pods: option.pods.iter().map(|pod| indexes[*pod]).collect(),
                node_group: Some("all".into()),
                allocatable: resources(pool.allocatable),
                price: Some(pool.price),
                interruptions: UsdPerHour::ZERO,
                concentration: 0.0,
                placement: 0.0,
                replacements: 0,
                blocked: None,
                preferred: false,
                position: 0,
            };
            match self.provider {
                Some(provider) => provider.describe(option.pool, plain, self.now),
                None => plain,
            }
        });
        let input = DecisionInput { pods: pods.collect(), options: options.collect() };
        rank_options(&input).options.iter().filter(|ranked| ranked.best).map(|ranked| ranked.option).collect()
    }
}

pub(crate) fn resources(size: ReplayResources) -> Resources {
    Resources { cpu_millis: size.cpu, memory_mib: size.memory, disk_gib: 0, pods: size.pods as u32 }
}

/// The options with the lowest score, including exact ties.
fn least(left: &[usize], score: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut best = f64::INFINITY;
    let mut lowest = Vec::new();
    for index in left {
        let score = score(*index);
        if score < best {
            best = score;
            lowest.clear();
        }
        if score <= best {
            lowest.push(*index);
        }
    }
    lowest
}
