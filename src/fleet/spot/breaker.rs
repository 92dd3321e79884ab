//! The circuit breaker of a spot class. Pure: every time is an argument.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleet::age::{age, is_ahead};

/// Time that the breaker stays open after the first failure. It doubles with each further failure.
const FIRST_OPEN_TIME: Duration = Duration::from_mins(5);
/// Maximum time that the breaker stays open.
const MAX_OPEN_TIME: Duration = Duration::from_hours(4);
/// Time that a machine must run before the half-open breaker closes.
pub(super) const TRIAL_TIME: Duration = Duration::from_mins(15);
/// Time without a failure after which earlier failures no longer count.
const RESET_TIME: Duration = Duration::from_hours(24);

/// The circuit breaker of a spot class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Its state.
    pub state: BreakerState,
    /// Number of failures, each within a day of the one before.
    pub failures: u32,
    /// The last failure that opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<SpotFailure>,
}

/// The state of a circuit breaker. Only a change of the record changes it, so that limits need no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
pub enum BreakerState {
    /// Spot pools of the class can grow.
    #[default]
    Closed,
    /// Spot pools of the class cannot grow.
    Open {
        /// Time at which it becomes half-open.
        until: Timestamp,
    },
    /// All spot pools of the class together can add one machine.
    HalfOpen {
        /// Time since when it is half-open.
        since: Timestamp,
    },
}

/// A failure that opened a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpotFailure {
    /// Its kind.
    pub reason: SpotFailureReason,
    /// Its time.
    pub at: Timestamp,
}

/// The kind of a failure of a spot class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SpotFailureReason {
    /// VPSie refused a request.
    Refused,
    /// VPSie accepted a request, and no VM was listed in time.
    NotDelivered,
    /// VPSie interrupted machines.
    Interrupted,
}

impl fmt::Display for SpotFailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "VPSie refused a spot machine",
            Self::NotDelivered => "VPSie delivered no VM for a spot machine",
            Self::Interrupted => "VPSie interrupted spot machines",
        })
    }
}

impl BreakerState {
    /// The name in metrics and in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }
}

impl CircuitBreaker {
    /// Opens it because of a machine that was created at `created_at`. A machine from before the last failure is
    /// ignored.
    pub(super) fn record_failure(&mut self, failure: SpotFailure, created_at: Timestamp) {
        let is_known = self.last_failure.is_some_and(|last| created_at <= last.at);
        if is_known || matches!(self.state, BreakerState::Open { .. }) {
            return;
        }
        let is_forgotten = self.last_failure.is_none_or(|last| age(last.at, failure.at) >= RESET_TIME);
        self.failures = if is_forgotten { 1 } else { self.failures.saturating_add(1) };
        self.last_failure = Some(failure);
        self.state = BreakerState::Open { until: failure.at + self.open_time() };
    }

    /// Time that it stays open after the last failure.
    fn open_time(&self) -> Duration {
        let doubled = FIRST_OPEN_TIME.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        doubled.min(MAX_OPEN_TIME)
    }

    /// Makes the transitions that are due. `running_since` has, of each machine of the class that was created
    /// while the breaker was half-open and is Running, the time since when.
    pub(super) fn advance(&mut self, now: Timestamp, running_since: impl Iterator<Item = Timestamp>) {
        match self.state {
            BreakerState::Open { until } if now >= until => {
                self.state = BreakerState::HalfOpen { since: now }
            }
            BreakerState::Closed | BreakerState::Open { .. } => {}
            BreakerState::HalfOpen { .. } => {
                if running_since.into_iter().any(|since| age(since, now) >= TRIAL_TIME) {
                    self.state = BreakerState::Closed;
                }
            }
        }
    }

    /// Corrects times that were recorded while the clock was ahead.
    pub(super) fn correct_times(&mut self, now: Timestamp) {
        if let Some(failure) = self.last_failure.as_mut().filter(|failure| is_ahead(failure.at, now)) {
            failure.at = now;
        }
        let latest = now + self.open_time();
        match &mut self.state {
            BreakerState::Open { until } if is_ahead(*until, latest) => *until = latest,
            BreakerState::HalfOpen { since } if is_ahead(*since, now) => *since = now,
            _ => {}
        }
    }

    /// Whether it is closed and no earlier failure counts.
    pub(super) fn is_reset(&self, now: Timestamp) -> bool {
        self.state == BreakerState::Closed
            && self.last_failure.is_none_or(|last| age(last.at, now) >= RESET_TIME)
    }
}
