//! The value of the spare capacity of an option's nodes.

use rust_decimal::Decimal;

use super::pod_groups::PodGroups;
use super::{DecisionInput, ExpansionOption};
use crate::cost::{Rates, UsdPerHour};

/// Fraction of the spare capacity's marginal price that counts. Replays of real traces on real price lists
/// are cheapest with four fifths (docs/use/cost.md), because later pods use most of it. With all of it, a
/// large node would be as good as a small one for a single pod.
const COUNTED_FRACTION: f64 = 0.8;

/// Prices spare capacity.
pub(super) struct SparePricer {
    rates: Rates,
    cores: f64,
    gib: f64,
}

impl SparePricer {
    /// Uses the marginal prices of the usable options, and the ratio of CPU to memory of the pending pods.
    pub(super) fn new(input: &DecisionInput, groups: &PodGroups) -> Self {
        let usable = input.options.iter().filter(|option| option.blocked.is_none());
        let priced = usable.filter_map(|option| Some((option.allocatable, option.price?)));
        let (cpu, memory) = groups.total_request(&groups.count_all());
        Self { rates: Rates::marginal(priced).unwrap_or_default(), cores: cpu / 1000.0, gib: memory / GIB }
    }

    /// The counted value of the spare capacity of an option's nodes, after `cpu` millicores and `memory`
    /// bytes are used. Only cores with memory beside them count. Nodes for the remaining pods are left out:
    /// Cluster Autoscaler has not decided on them yet. So is spare capacity of replacements, which does not depend on
    /// the choice.
    pub(super) fn price_spare(&self, option: &ExpansionOption, cpu: f64, memory: f64) -> UsdPerHour {
        if self.cores <= 0.0 || self.gib <= 0.0 {
            return UsdPerHour::ZERO;
        }
        let nodes = f64::from(option.nodes);
        let added = f64::from(option.nodes - option.coming_nodes());
        let node = option.allocatable;
        let spare = |each: f64, used: f64| (nodes * each - used).clamp(0.0, added * each);
        let cores = spare(node.cpu_millis as f64, cpu) / 1000.0;
        let gib = spare(node.memory_mib as f64 / 1024.0, memory / GIB);
        let ratio = self.gib / self.cores;
        let cores = cores.min(gib / ratio);
        let value = COUNTED_FRACTION * self.rates.price(cores, cores * ratio);
        UsdPerHour(Decimal::try_from(value).unwrap_or_default().round_dp(12))
    }
}

const GIB: f64 = (1_u64 << 30) as f64;
