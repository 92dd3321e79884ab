//! What an option's nodes have left when its pods are on them.

use rust_decimal::Decimal;

use super::classes::Classes;
use super::{Candidate, Question};
use crate::cost::{Rates, UsdPerHour};

/// Part of what is left over that counts, at what it would cost at the margin. Replays of real traces on real
/// price lists are cheapest with four fifths (docs/use/cost.md): pods that come later use most of it. All of
/// it would make a large node as good as a small one for a single pod.
const PART: f64 = 0.8;

/// The worth of what is left over.
pub(super) struct Leftover {
    rates: Rates,
    cores: f64,
    gib: f64,
}

impl Leftover {
    /// At the marginal prices of the options that can be taken, for pods in the shape of those that wait.
    pub(super) fn new(question: &Question, classes: &Classes) -> Self {
        let usable = question.candidates.iter().filter(|option| option.blocked.is_none());
        let priced = usable.filter_map(|option| Some((option.allocatable, option.price?)));
        let (cpu, memory) = classes.sum(&classes.all());
        Self { rates: Rates::marginal(priced).unwrap_or_default(), cores: cpu / 1000.0, gib: memory / GIB }
    }

    /// What counts of what is left of an option's nodes: only what a core can use together with its memory. Nodes for
    /// the rest are left out: they are not decided on yet.
    pub(super) fn of(&self, option: &Candidate, used: (f64, f64)) -> UsdPerHour {
        if self.cores <= 0.0 || self.gib <= 0.0 {
            return UsdPerHour::ZERO;
        }
        let (nodes, node) = (f64::from(option.nodes), option.allocatable);
        let cores = (nodes * node.cpu_millis as f64 - used.0).max(0.0) / 1000.0;
        let gib = (nodes * node.memory_mib as f64 / 1024.0 - used.1 / GIB).max(0.0);
        let ratio = self.gib / self.cores;
        let cores = cores.min(gib / ratio);
        let worth = PART * self.rates.of(cores, cores * ratio);
        UsdPerHour(Decimal::try_from(worth).unwrap_or_default().round_dp(12))
    }
}

const GIB: f64 = (1_u64 << 30) as f64;
