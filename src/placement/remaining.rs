//! The cost of the pods that an option leaves pending, with the other options of the call.

use super::pod_groups::{PodCounts, PodGroups};
use super::{DecisionInput, ExpansionOption};
use crate::cost::UsdPerHour;

/// Number of options that are packed exactly in a round. The others cost more already by their fractional
/// estimate.
const PACKED_OPTIONS: usize = 8;

/// Maximum number of rounds; pods that remain then count nothing. Each round covers all pods that its option
/// can take, so more rounds are needed only for pods that hardly any option takes.
const MAX_ROUNDS: usize = 16;

/// Estimates the cost of remaining pods.
pub(super) struct RemainingCostEstimator<'a> {
    groups: &'a PodGroups,
    options: Vec<(&'a ExpansionOption, UsdPerHour, &'a PodCounts)>,
}

/// A fractional estimate of an option in one round.
struct RoughEstimate {
    /// Cost per share of the remaining pods.
    cost_per_share: f64,
    share: f64,
    /// Index of [`RemainingCostEstimator::options`].
    option: usize,
    covered: PodCounts,
}

impl<'a> RemainingCostEstimator<'a> {
    /// Uses the options that are not blocked and have a price.
    pub(super) fn new(input: &'a DecisionInput, groups: &'a PodGroups, counts: &'a [PodCounts]) -> Self {
        let options = input.options.iter().zip(counts).filter_map(|(option, counts)| {
            let price = option.price.filter(|_| option.blocked.is_none())?;
            Some((option, price, counts))
        });
        let mut options: Vec<_> = options.collect();
        // Ties between options do not depend on their order.
        options.sort_by(|(a, ..), (b, ..)| a.pool.cmp(&b.pool));
        Self { groups, options }
    }

    /// Covers the pods greedily, each round by the option that is cheapest for its share of the pods. Pods
    /// that no option takes cost nothing here: they stay pending with every choice.
    pub(super) fn estimate_cost(&self, mut remaining: PodCounts) -> UsdPerHour {
        let mut total = UsdPerHour::ZERO;
        for _ in 0..MAX_ROUNDS {
            let Some((cost, covered)) = self.cover_cheapest(&remaining) else { break };
            total = total + cost;
            for (remaining, covered) in remaining.iter_mut().zip(&covered) {
                *remaining -= covered;
            }
        }
        total
    }

    /// The cost of the option that is cheapest for its share of the pods, and the pods that it covers.
    fn cover_cheapest(&self, remaining: &PodCounts) -> Option<(UsdPerHour, PodCounts)> {
        let (all_cpu, all_memory) = self.groups.total_request(remaining);
        let all = remaining.iter().sum::<u32>().max(1);
        let mut rough: Vec<RoughEstimate> = Vec::new();
        for (index, (option, price, counts)) in self.options.iter().enumerate() {
            let covered: PodCounts =
                remaining.iter().zip(*counts).map(|(left, count)| *left.min(count)).collect();
            let pods = covered.iter().sum::<u32>();
            if pods == 0 {
                continue;
            }
            let (cpu, memory) = self.groups.total_request(&covered);
            // The last term is for pods without requests.
            let share = f64::midpoint(fraction(cpu, all_cpu), fraction(memory, all_memory))
                + 1e-6 * f64::from(pods) / f64::from(all);
            let node = option.allocatable;
            let nodes = fraction(cpu, node.cpu_millis as f64)
                .max(fraction(memory, node.memory_mib as f64 * f64::from(1 << 20)))
                .max(f64::from(pods) / f64::from(node.pods.max(1)));
            let cost_per_share = nodes * price.to_f64() / share;
            rough.push(RoughEstimate { cost_per_share, share, option: index, covered });
        }
        rough.sort_by(|a, b| a.cost_per_share.total_cmp(&b.cost_per_share).then(a.option.cmp(&b.option)));
        rough.truncate(PACKED_OPTIONS);
        let packed = rough.into_iter().map(|RoughEstimate { share, option, covered, .. }| {
            let (option, price, _) = self.options[option];
            let cost = price * self.groups.estimate_nodes(&covered, option.allocatable).max(1);
            (cost.to_f64() / share, cost, covered)
        });
        packed.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, cost, covered)| (cost, covered))
    }
}

fn fraction(amount: f64, total: f64) -> f64 {
    if total > 0.0 { amount / total } else { 0.0 }
}
