//! What it would cost to run the pods that an option leaves waiting, with the other options of the call.

use super::classes::{Classes, Counts};
use super::{Candidate, Question};
use crate::cost::UsdPerHour;

/// Options that are packed for real in one round; the others are dearer already by what they would cost if pods
/// could be cut into pieces.
const PACKED: usize = 8;

/// Rounds after which what is still left counts nothing: each round covers all that its option can take, so more are
/// needed only by pods that hardly any option takes.
const ROUNDS: usize = 16;

/// The options that can be taken, and the pods of each.
pub(super) struct Rest<'a> {
    classes: &'a Classes,
    options: Vec<(&'a Candidate, UsdPerHour, &'a Counts)>,
}

impl<'a> Rest<'a> {
    /// Of the options that are not blocked and have a price.
    pub(super) fn new(question: &'a Question, classes: &'a Classes, counts: &'a [Counts]) -> Self {
        let options = question.candidates.iter().zip(counts).filter_map(|(candidate, counts)| {
            let price = candidate.price.filter(|_| candidate.blocked.is_none())?;
            Some((candidate, price, counts))
        });
        let mut options: Vec<_> = options.collect();
        // Ties between options are decided alike in whatever order they come.
        options.sort_by(|(a, ..), (b, ..)| a.pool.cmp(&b.pool));
        Self { classes, options }
    }

    /// What the pods would cost, covered greedily by the option that is cheapest for what it covers. Pods that no
    /// option takes cost nothing here: they wait whichever option is taken.
    pub(super) fn cost(&self, mut left: Counts) -> UsdPerHour {
        let mut cost = UsdPerHour::ZERO;
        for _ in 0..ROUNDS {
            let Some((paid, covered)) = self.round(&left) else { break };
            cost = cost + paid;
            for (left, covered) in left.iter_mut().zip(&covered) {
                *left -= covered;
            }
        }
        cost
    }

    /// What the option costs that is cheapest for its share of the pods, and what it covers.
    fn round(&self, left: &Counts) -> Option<(UsdPerHour, Counts)> {
        let (all_cpu, all_memory) = self.classes.sum(left);
        let all = left.iter().sum::<u32>().max(1);
        let mut rough: Vec<(f64, f64, usize, Counts)> = Vec::new();
        for (number, (candidate, price, counts)) in self.options.iter().enumerate() {
            let covered: Counts = left.iter().zip(*counts).map(|(left, count)| *left.min(count)).collect();
            let pods = covered.iter().sum::<u32>();
            if pods == 0 {
                continue;
            }
            let (cpu, memory) = self.classes.sum(&covered);
            // Pods that ask for nothing still count.
            let share = f64::midpoint(part(cpu, all_cpu), part(memory, all_memory))
                + 1e-6 * f64::from(pods) / f64::from(all);
            let node = candidate.allocatable;
            let nodes = part(cpu, node.cpu_millis as f64)
                .max(part(memory, node.memory_mib as f64 * f64::from(1 << 20)))
                .max(f64::from(pods) / f64::from(node.pods.max(1)));
            rough.push((nodes * price.to_f64() / share, share, number, covered));
        }
        rough.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.2.cmp(&b.2)));
        rough.truncate(PACKED);
        let packed = rough.into_iter().map(|(_, share, number, covered)| {
            let (candidate, price, _) = self.options[number];
            let paid = price * self.classes.nodes(&covered, candidate.allocatable).max(1);
            (paid.to_f64() / share, paid, covered)
        });
        packed.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, paid, covered)| (paid, covered))
    }
}

fn part(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}
