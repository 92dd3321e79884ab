//! The order of the options.

use std::cmp::Reverse;
use std::collections::HashMap;

use rust_decimal::Decimal;

use super::classes::{Classes, Counts};
use super::leftover::Leftover;
use super::rest::Rest;
use super::{Candidate, Decision, Question, Ranked, Terms, Verdict};
use crate::cost::UsdPerHour;

/// Decimals of a rate that count when rates are compared: monthly prices that were divided differ in the last ones.
const DECIMALS: u32 = 9;

/// Orders the options: by what all pods that wait would cost if that option were taken first, less a part of what its
/// nodes would have left for others; then those whose price
/// nobody knows, then those that are certain to fail. Of options that cost the same the preferred one comes first,
/// then the one with fewer nodes, then the NodeGroup's own order; between NodeGroups all are as good, and the rest of
/// Cluster Autoscaler's chain decides.
///
/// At least one option is the best, if there is any.
pub fn decide(question: &Question) -> Decision {
    let classes = Classes::of(question);
    let counts: Vec<Counts> = question.candidates.iter().map(|option| classes.count(&option.pods)).collect();
    let rest = Rest::new(question, &classes, &counts);
    let all = classes.all();
    let leftover = Leftover::new(question, &classes);
    let mut rests: HashMap<&Counts, Waiting> = HashMap::new();
    let mut verdicts = Vec::with_capacity(counts.len());
    for (candidate, counts) in question.candidates.iter().zip(&counts) {
        verdicts.push(match (&candidate.blocked, candidate.price) {
            (Some(blocked), _) => Verdict::Blocked(blocked.clone()),
            (None, None) => Verdict::Unpriced,
            (None, Some(price)) => {
                // Options that take the same pods leave the same rest.
                let waiting = rests.entry(counts).or_insert_with(|| {
                    let left: Counts = all.iter().zip(counts).map(|(all, taken)| all - taken).collect();
                    Waiting { pods: left.iter().sum(), cost: rest.cost(left) }
                });
                let leftover = leftover.of(candidate, classes.sum(counts));
                let (nodes, rest) = (price * candidate.nodes, waiting.cost);
                let total = nodes + rest - leftover;
                Verdict::Priced(Terms { nodes, rest, leftover, total, left_waiting: waiting.pods })
            }
        });
    }
    let mut options: Vec<Ranked> = verdicts
        .into_iter()
        .enumerate()
        .map(|(candidate, verdict)| Ranked { candidate, best: false, verdict })
        .collect();
    options.sort_by_cached_key(|ranked| {
        let option = &question.candidates[ranked.candidate];
        let names = (option.node_group.clone(), option.place, option.pool.clone());
        (cost(&ranked.verdict), standing(option), names, ranked.candidate)
    });
    prefer(&mut options, question);
    mark_best(&mut options, question);
    Decision { options }
}

/// Puts the option that its NodeGroup prefers first, where it costs no more now than the one that is: what is left over
/// for later is no reason to leave it.
fn prefer(options: &mut [Ranked], question: &Question) {
    let dollars = |ranked: &Ranked| match &ranked.verdict {
        Verdict::Priced(terms) => Some((terms.nodes + terms.rest).0.round_dp(DECIMALS)),
        Verdict::Unpriced | Verdict::Blocked(_) => None,
    };
    let of = |ranked: &Ranked| &question.candidates[ranked.candidate];
    let Some(first) = options.first() else { return };
    let Some(least) = dollars(first).filter(|_| !of(first).preferred) else { return };
    let rivals = options.iter().position(|ranked| {
        let option = of(ranked);
        option.preferred
            && option.node_group == of(first).node_group
            && dollars(ranked).is_some_and(|dollars| dollars <= least)
    });
    if let Some(at) = rivals {
        options[..=at].rotate_right(1);
    }
}

/// What an option leaves waiting.
struct Waiting {
    pods: u32,
    /// What the other options would cost for them.
    cost: UsdPerHour,
}

/// What options are ordered by first.
fn cost(verdict: &Verdict) -> (u8, Decimal) {
    match verdict {
        Verdict::Priced(terms) => (0, terms.total.0.round_dp(DECIMALS)),
        Verdict::Unpriced => (1, Decimal::ZERO),
        Verdict::Blocked(_) => (2, Decimal::ZERO),
    }
}

/// What options that cost the same are ordered by.
fn standing(option: &Candidate) -> (Reverse<bool>, u32) {
    (Reverse(option.preferred), option.nodes)
}

/// The first option, and those that are as good: of no NodeGroup twice, where prices decide.
fn mark_best(options: &mut [Ranked], question: &Question) {
    let of = |ranked: &Ranked| &question.candidates[ranked.candidate];
    let Some(first) = options.first() else { return };
    let (first_cost, first_standing) = (cost(&first.verdict), standing(of(first)));
    let priced = matches!(first.verdict, Verdict::Priced(_));
    let mut groups = Vec::new();
    for ranked in options.iter_mut().take_while(|ranked| cost(&ranked.verdict) == first_cost) {
        let option = of(ranked);
        ranked.best = !priced || standing(option) == first_standing && !groups.contains(&&option.node_group);
        groups.push(&option.node_group);
    }
}
