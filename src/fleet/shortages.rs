//! Recent shortages at VPSie. They have no record: the records of failed machines restore them.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::age::{age, is_ahead};
use super::machine::{Failure, FailureReason, Machine, Phase};
use crate::catalog::MachineClass;

/// Duration of a shortage. Cluster Autoscaler backs off a pool for the same time after its first failure
/// (`--initial-node-group-backoff-duration`).
const SHORTAGE_DURATION: Duration = Duration::from_mins(5);

/// Longest time for which Cluster Autoscaler backs off a pool (`--max-node-group-backoff-duration`).
const MAX_BACKOFF: Duration = Duration::from_mins(30);

/// If two failures of one class are further apart, the clock has jumped.
const CLOCK_JUMP: Duration = Duration::from_hours(2);

/// A shortage, and when it was last observed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shortage {
    pub(super) failure: Failure,
    pub(super) at: Timestamp,
}

impl Shortage {
    fn is_active(&self, now: Timestamp) -> bool {
        !is_ahead(self.at, now) && age(self.at, now) < SHORTAGE_DURATION
    }

    fn is_quota(&self) -> bool {
        self.failure.reason == FailureReason::QuotaExceeded
    }
}

/// The last stockout of a class.
pub(super) struct Stockout {
    pub(super) at: Timestamp,
    /// Whether it would fail a request now.
    pub(super) is_active: bool,
}

/// The last shortage of each class.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shortages(HashMap<MachineClass, Shortage>);

impl Shortages {
    /// The shortage that would fail a request now. A quota belongs to the account, so it applies to every
    /// class.
    pub(super) fn active(&self, class: &MachineClass, now: Timestamp) -> Option<&Shortage> {
        let own = self.0.get(class).filter(|shortage| shortage.is_active(now));
        let quotas = self.0.values().filter(|shortage| shortage.is_quota() && shortage.is_active(now));
        own.or_else(|| quotas.max_by_key(|shortage| shortage.at))
    }

    /// The last stockout of the class for which Cluster Autoscaler may still back off its pools. None if a machine of the
    /// class got its VM since.
    pub(super) fn last_stockout(&self, class: &MachineClass, now: Timestamp) -> Option<Stockout> {
        let shortage =
            self.0.get(class).filter(|shortage| shortage.failure.reason == FailureReason::Stockout)?;
        let counts = !is_ahead(shortage.at, now) && age(shortage.at, now) < MAX_BACKOFF;
        counts.then(|| Stockout { at: shortage.at, is_active: shortage.is_active(now) })
    }

    /// Records the shortage that failed a machine, or removes a shortage because a machine got its VM.
    pub(super) fn record(&mut self, machine: &Machine) {
        let key = machine.class();
        match &machine.phase {
            Phase::Failed { failure, at }
                if matches!(failure.reason, FailureReason::Stockout | FailureReason::QuotaExceeded) =>
            {
                // A shortage that is hours newer was recorded while the clock was ahead, and is replaced.
                let is_older = |noted: Timestamp| noted <= *at || age(*at, noted) >= CLOCK_JUMP;
                if self.0.get(&key).is_none_or(|shortage| is_older(shortage.at)) {
                    self.0.insert(key, Shortage { failure: failure.clone(), at: *at });
                }
            }
            Phase::Creating { vm: Some(_), .. } | Phase::Running { .. } => {
                // A machine that was recorded before the shortage does not prove its end.
                let is_over = |shortage: &Shortage| shortage.at <= machine.created_at;
                // A VM of any class proves that the account is below its quota.
                self.0.retain(|of, shortage| !(is_over(shortage) && (*of == key || shortage.is_quota())));
            }
            _ => {}
        }
    }
}
