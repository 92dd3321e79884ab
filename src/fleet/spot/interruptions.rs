//! The interruption rate of a spot class: an estimate from observations and a prior.
//!
//! The number of interruptions in a time is taken as Poisson distributed, and the prior of its rate as a Gamma
//! distribution, so the posterior is one, too.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cost::InterruptionRate;
use crate::fleet::age::{age, is_ahead};

/// Time after which an observation counts half.
const HALF_LIFE: Duration = Duration::from_hours(14 * 24);
/// Interval at which the running time of machines is added.
const INTERVAL: Duration = Duration::from_mins(10);
/// A second interruption of the class within this time opens its circuit breaker.
const REPEAT_WINDOW: Duration = Duration::from_mins(10);
/// Weight of the prior, interruptions.
const PRIOR_WEIGHT: f64 = 1.0;
/// Quantile of the standard normal distribution for the lower bound with 95 percent certainty.
const Z_95: f64 = -1.645;
/// Unit of the recorded number of interruptions. Records have integers, so that they are read as written.
const MILLION: f64 = 1e6;

/// The observations of a spot class. Older ones count less, with a half-life of 14 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interruptions {
    /// Number of interruptions, millionths.
    millionths: u64,
    /// Running time of machines, seconds.
    machine_seconds: u64,
    /// Time to which the observations are summed.
    until: Timestamp,
    /// Time of the last interruption.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Timestamp>,
}

impl Interruptions {
    /// No observations up to now.
    pub(in crate::fleet) fn new(now: Timestamp) -> Self {
        Self { millionths: 0, machine_seconds: 0, until: now, last: None }
    }

    /// Adds the running time of machines up to `now`, once per interval. `running_since` has the time since
    /// when each machine of the class is Running.
    pub(in crate::fleet) fn add_running_time(
        &mut self,
        now: Timestamp,
        running_since: impl Iterator<Item = Timestamp>,
    ) {
        if age(self.until, now) < INTERVAL {
            return;
        }
        let seconds: u64 = running_since.map(|since| age(since.max(self.until), now).as_secs()).sum();
        self.decay(now);
        self.machine_seconds = self.machine_seconds.saturating_add(seconds);
    }

    /// Adds an interruption. Returns true iff it is the second one within ten minutes.
    pub(in crate::fleet) fn record(&mut self, at: Timestamp) -> bool {
        let is_repeated = self.last.is_some_and(|last| age(last, at) < REPEAT_WINDOW);
        self.millionths = self.millionths.saturating_add(MILLION as u64);
        self.last = Some(at);
        is_repeated
    }

    fn decay(&mut self, now: Timestamp) {
        let factor = (-age(self.until, now).as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        let decayed = |amount: u64| (amount as f64 * factor) as u64;
        self.millionths = decayed(self.millionths);
        self.machine_seconds = decayed(self.machine_seconds);
        self.until = now;
    }

    /// Corrects times that were recorded while the clock was ahead.
    pub(super) fn correct_times(&mut self, now: Timestamp) {
        if is_ahead(self.until, now) {
            self.until = now;
        }
        if let Some(last) = self.last.as_mut().filter(|last| is_ahead(**last, now)) {
            *last = now;
        }
    }

    /// Whether nothing is left of the observations.
    pub(super) fn is_empty(&self) -> bool {
        self.millionths == 0 && self.machine_seconds == 0
    }

    /// The expected rate.
    pub fn rate(&self, prior: InterruptionRate) -> InterruptionRate {
        let (shape, hours) = self.posterior(prior);
        InterruptionRate::per_hour(shape / hours)
    }

    /// The rate that the true one exceeds with 95 percent certainty: the quantile of the Gamma distribution by
    /// the approximation of Wilson and Hilferty (1931).
    pub fn certain_rate(&self, prior: InterruptionRate) -> InterruptionRate {
        let (shape, hours) = self.posterior(prior);
        let ninth = 1.0 / (9.0 * shape);
        let quantile = shape * (1.0 - ninth + Z_95 * ninth.sqrt()).powi(3);
        InterruptionRate::per_hour(quantile.max(0.0) / hours)
    }

    /// Shape of the posterior, and its rate parameter in hours.
    fn posterior(&self, prior: InterruptionRate) -> (f64, f64) {
        let prior_hours = PRIOR_WEIGHT / prior.to_per_hour();
        let shape = PRIOR_WEIGHT + self.millionths as f64 / MILLION;
        (shape, prior_hours + self.machine_seconds as f64 / 3600.0)
    }
}
