use rust_decimal::Decimal;

use super::{Decision, Question, Ranked, Terms, Verdict};
use crate::cost::UsdPerHour;

/// Orders the options. Never leaves all of them out.
pub fn decide(question: &Question) -> Decision {
    let mut options: Vec<Ranked> = question
        .candidates
        .iter()
        .enumerate()
        .map(|(candidate, option)| {
            let verdict = match (&option.blocked, option.price) {
                (Some(blocked), _) => Verdict::Blocked(blocked.clone()),
                (None, None) => Verdict::Unpriced,
                (None, Some(price)) => {
                    let nodes = price * option.nodes;
                    let left_waiting = question.pods.len().saturating_sub(option.pods.len()) as u32;
                    Verdict::Priced(Terms { nodes, rest: UsdPerHour::ZERO, total: nodes, left_waiting })
                }
            };
            Ranked { candidate, best: false, verdict }
        })
        .collect();
    let key = |ranked: &Ranked| match &ranked.verdict {
        Verdict::Priced(terms) => (0, terms.total),
        Verdict::Unpriced => (1, UsdPerHour::ZERO),
        Verdict::Blocked(_) => (2, UsdPerHour(Decimal::ZERO)),
    };
    options.sort_by_key(key);
    let first = options.first().map(key);
    for option in &mut options {
        option.best = Some(key(option)) == first;
    }
    Decision { options }
}
