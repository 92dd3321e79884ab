//! The circuit breaker of a datacenter. Pure: every time is an argument.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleet::age::{age, is_ahead};

/// Time that the breaker stays open after the first outage. It doubles with each further one.
const FIRST_OPEN_TIME: Duration = Duration::from_mins(2);
/// Maximum time that the breaker stays open before the next attempt.
const MAX_OPEN_TIME: Duration = Duration::from_mins(30);
/// Time that the breaker must be closed before earlier outages no longer count.
const RESET_TIME: Duration = Duration::from_hours(1);

/// The circuit breaker of a datacenter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatacenterBreaker {
    /// Its state.
    pub state: DatacenterState,
    /// Number of times that it opened, each within an hour after it closed.
    pub outages: u32,
    /// The last cause that opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Outage>,
}

/// The state of the circuit breaker of a datacenter. Only a change of the record changes it, so that limits need no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
pub enum DatacenterState {
    /// Pools of the datacenter can grow.
    Closed {
        /// Time at which it closed, or at which failed creations proved to be no evidence about the datacenter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
    },
    /// Pools of the datacenter cannot grow.
    Open {
        /// Time at which it opened.
        since: Timestamp,
        /// Time at which it becomes half-open. None: it closes when its cause has ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// All pools of the datacenter together can add one machine.
    HalfOpen {
        /// Time at which it became half-open.
        since: Timestamp,
    },
}

impl Default for DatacenterState {
    fn default() -> Self {
        Self::Closed { since: None }
    }
}

/// An outage that opened a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// Its cause.
    pub cause: OutageCause,
    /// Its time.
    pub at: Timestamp,
}

/// The evidence that a datacenter is suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OutageCause {
    /// VPSie refused or did not deliver machines of two sizes.
    OffersFailed,
    /// VPSie accepted two machines in a row, and their VMs were not listed in time.
    NotDelivered,
    /// Two machines in a row had a VM, and their Nodes never registered.
    NeverJoined,
    /// More than half of its Nodes are not Ready.
    NodesNotReady,
    /// More than half of its VMs are missing from VPSie's listing.
    RowsMissing,
    /// VPSie lists it as inactive.
    Inactive,
}

impl OutageCause {
    /// All causes.
    pub const ALL: [Self; 6] = [
        Self::OffersFailed,
        Self::NotDelivered,
        Self::NeverJoined,
        Self::NodesNotReady,
        Self::RowsMissing,
        Self::Inactive,
    ];

    /// The name in status, metrics and the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::OffersFailed => "OffersFailed",
            Self::NotDelivered => "NotDelivered",
            Self::NeverJoined => "NeverJoined",
            Self::NodesNotReady => "NodesNotReady",
            Self::RowsMissing => "RowsMissing",
            Self::Inactive => "Inactive",
        }
    }

    /// Whether its end can be observed. The end of another one is known only after an attempt.
    pub(super) fn is_observable(self) -> bool {
        matches!(self, Self::NodesNotReady | Self::RowsMissing | Self::Inactive)
    }
}

impl fmt::Display for OutageCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OffersFailed => "VPSie could not create machines of two sizes there within ten minutes",
            Self::NotDelivered => "VPSie accepted two machines in a row there and delivered no VM",
            Self::NeverJoined => "two machines in a row there got a VM and their Nodes never registered",
            Self::NodesNotReady => "more than half of its Nodes are not Ready",
            Self::RowsMissing => "more than half of its VMs are missing from VPSie's listing",
            Self::Inactive => "VPSie lists it as inactive",
        })
    }
}

impl DatacenterState {
    /// The name of the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }

    /// Whether pools of the datacenter can grow without a limit.
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}

impl DatacenterBreaker {
    /// Opens it, unless it is open.
    pub(super) fn open(&mut self, cause: OutageCause, now: Timestamp) {
        if matches!(self.state, DatacenterState::Open { .. }) {
            return;
        }
        self.outages = if self.is_reset(now) { 1 } else { self.outages.saturating_add(1) };
        self.last = Some(Outage { cause, at: now });
        let until = (!cause.is_observable()).then(|| now + self.open_time());
        self.state = DatacenterState::Open { since: now, until };
    }

    /// Closes it.
    pub(super) fn close(&mut self, now: Timestamp) {
        self.state = DatacenterState::Closed { since: Some(now) };
    }

    /// Makes it half-open if that is due.
    pub(super) fn advance(&mut self, now: Timestamp) {
        if let DatacenterState::Open { until: Some(until), .. } = self.state
            && now >= until
        {
            self.state = DatacenterState::HalfOpen { since: now };
        }
    }

    /// Time that it stays open after the last outage, or that the end of an observable one must last.
    pub(super) fn open_time(&self) -> Duration {
        let doubled = FIRST_OPEN_TIME.saturating_mul(1 << self.outages.saturating_sub(1).min(16));
        doubled.min(MAX_OPEN_TIME)
    }

    /// The cause while it is not closed.
    pub(super) fn cause(&self) -> Option<OutageCause> {
        self.last.map(|last| last.cause).filter(|_| !self.state.is_closed())
    }

    /// Whether it is closed and no earlier outage counts.
    pub(super) fn is_reset(&self, now: Timestamp) -> bool {
        match self.state {
            DatacenterState::Closed { since } => since.is_none_or(|since| age(since, now) >= RESET_TIME),
            DatacenterState::Open { .. } | DatacenterState::HalfOpen { .. } => false,
        }
    }

    /// Whether failed creations can open it: it did not close just before.
    pub(super) fn is_settled(&self, now: Timestamp) -> bool {
        match self.state {
            DatacenterState::Closed { since } => since.is_none_or(|since| age(since, now) >= FIRST_OPEN_TIME),
            DatacenterState::Open { .. } | DatacenterState::HalfOpen { .. } => true,
        }
    }

    /// Corrects times that were recorded while the clock was ahead.
    pub(super) fn correct_times(&mut self, now: Timestamp) {
        let latest = now + self.open_time();
        let correct = |time: &mut Timestamp, latest: Timestamp| {
            if is_ahead(*time, latest) {
                *time = latest;
            }
        };
        match &mut self.state {
            DatacenterState::Closed { since } => since.iter_mut().for_each(|since| correct(since, now)),
            DatacenterState::Open { since, until } => {
                correct(since, now);
                if let Some(until) = until {
                    correct(until, latest);
                }
            }
            DatacenterState::HalfOpen { since } => correct(since, now),
        }
        self.last.iter_mut().for_each(|last| correct(&mut last.at, now));
    }
}
