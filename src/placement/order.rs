//! The order of the options.

use std::cmp::Reverse;
use std::collections::HashMap;

use rust_decimal::Decimal;

use super::pod_groups::{PodCounts, PodGroups};
use super::remaining::RemainingCostEstimator;
use super::spare::SparePricer;
use super::{CostEstimate, Decision, DecisionInput, ExpansionOption, RankedOption, Rating};
use crate::cost::UsdPerHour;

/// Decimals of a rate that count in comparisons: monthly prices converted to hours differ in later ones.
const DECIMALS: u32 = 9;

/// Charge for spot nodes if all spot machines of the NodeGroup are of one class, fraction of their price. So
/// classes whose prices are closer than this are mixed.
const CONCENTRATION_CHARGE: f64 = 0.1;

/// Orders the options by the estimated cost of all pending pods if that option is chosen, less the counted
/// value of its nodes' spare capacity. Options without a price come after those, and options that are certain
/// to fail come last. Replacements on their way cost nothing more.
///
/// Among options of equal cost the preferred one comes first, then fewer nodes, then the order of the
/// NodeGroup's pools. Equal options of different NodeGroups are all best, and the rest of Cluster
/// Autoscaler's chain decides.
///
/// If there is any option, at least one is best.
pub fn rank_options(input: &DecisionInput) -> Decision {
    let groups = PodGroups::new(input);
    let counts: Vec<PodCounts> = input.options.iter().map(|option| groups.count(&option.pods)).collect();
    let estimator = RemainingCostEstimator::new(input, &groups, &counts);
    let all = groups.count_all();
    let spare_pricer = SparePricer::new(input, &groups);
    let mut remaining: HashMap<&PodCounts, RemainingPods> = HashMap::new();
    let mut ratings = Vec::with_capacity(counts.len());
    for (option, counts) in input.options.iter().zip(&counts) {
        ratings.push(match (&option.blocked, option.price) {
            (Some(blocked), _) => Rating::Blocked(blocked.clone()),
            (None, None) => Rating::Unpriced,
            (None, Some(price)) => {
                // Options that take the same pods leave the same pods.
                let remaining = remaining.entry(counts).or_insert_with(|| {
                    let left: PodCounts = all.iter().zip(counts).map(|(all, placed)| all - placed).collect();
                    RemainingPods { count: left.iter().sum(), cost: estimator.estimate_cost(left) }
                });
                let (cpu, memory) = groups.total_request(counts);
                let spare = spare_pricer.price_spare(option, cpu, memory);
                let replacements = option.coming_nodes();
                let nodes = price * (option.nodes - replacements);
                let concentration = nodes.scaled(CONCENTRATION_CHARGE * option.concentration);
                let placement = nodes.scaled(option.placement);
                Rating::Priced(CostEstimate {
                    nodes,
                    replacements,
                    concentration,
                    placement,
                    remaining: remaining.cost,
                    spare,
                    total: nodes + concentration + placement + remaining.cost - spare,
                    remaining_pods: remaining.count,
                })
            }
        });
    }
    let mut options: Vec<RankedOption> = ratings
        .into_iter()
        .enumerate()
        .map(|(option, rating)| RankedOption { option, best: false, rating })
        .collect();
    options.sort_by_cached_key(|ranked| {
        let option = &input.options[ranked.option];
        let names = (option.node_group.clone(), option.position, option.pool.clone());
        (cost_key(&ranked.rating), tie_break_key(option), names, ranked.option)
    });
    move_preferred_first(&mut options, input);
    mark_best(&mut options, input);
    Decision { options }
}

/// Moves the option that its NodeGroup prefers to the front, if it costs no more now than the first one of
/// the same NodeGroup. Spare capacity does not count here.
fn move_preferred_first(options: &mut [RankedOption], input: &DecisionInput) {
    let cost_now = |ranked: &RankedOption| match &ranked.rating {
        Rating::Priced(estimate) => {
            let cost = estimate.nodes + estimate.concentration + estimate.placement + estimate.remaining;
            Some(cost.0.round_dp(DECIMALS))
        }
        Rating::Unpriced | Rating::Blocked(_) => None,
    };
    let option = |ranked: &RankedOption| &input.options[ranked.option];
    let Some(first) = options.first() else { return };
    let Some(lowest) = cost_now(first).filter(|_| !option(first).preferred) else { return };
    let preferred = options.iter().position(|ranked| {
        option(ranked).preferred
            && option(ranked).node_group == option(first).node_group
            && cost_now(ranked).is_some_and(|cost| cost <= lowest)
    });
    if let Some(index) = preferred {
        options[..=index].rotate_right(1);
    }
}

/// The pods that an option leaves pending.
struct RemainingPods {
    count: u32,
    /// Their estimated cost with the other options.
    cost: UsdPerHour,
}

/// The first key of the order.
fn cost_key(rating: &Rating) -> (u8, Decimal) {
    match rating {
        Rating::Priced(estimate) => (0, estimate.total.0.round_dp(DECIMALS)),
        Rating::Unpriced => (1, Decimal::ZERO),
        Rating::Blocked(_) => (2, Decimal::ZERO),
    }
}

/// The order of options with the same cost.
fn tie_break_key(option: &ExpansionOption) -> (Reverse<bool>, u32) {
    (Reverse(option.preferred), option.nodes)
}

/// Marks the first option and the options that are equally good. Of priced options, one of each NodeGroup is
/// marked.
fn mark_best(options: &mut [RankedOption], input: &DecisionInput) {
    let Some(first) = options.first() else { return };
    let first_cost = cost_key(&first.rating);
    let first_tie_break = tie_break_key(&input.options[first.option]);
    let priced = matches!(first.rating, Rating::Priced(_));
    let mut groups = Vec::new();
    for ranked in options.iter_mut().take_while(|ranked| cost_key(&ranked.rating) == first_cost) {
        let option = &input.options[ranked.option];
        ranked.best =
            !priced || tie_break_key(option) == first_tie_break && !groups.contains(&&option.node_group);
        groups.push(&option.node_group);
    }
}
