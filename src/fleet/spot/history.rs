//! The record of spot classes: circuit breakers and observed interruptions.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::breaker::{BreakerState, CircuitBreaker, SpotFailure, TRIAL_TIME};
use super::interruptions::Interruptions;
use crate::catalog::{CapacityType, DatacenterId, MachineClass, SizeId};
use crate::cost::InterruptionRate;
use crate::fleet::age::{TOLERANCE, age};
use crate::fleet::ids::MachineId;

/// Circuit breaker and interruptions of each spot class. One record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<SpotClass>", into = "Vec<SpotClass>")]
pub struct SpotHistory(pub(super) BTreeMap<MachineClass, SpotClass>);

/// The state of a spot class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpotClass {
    /// Datacenter of its VMs.
    pub datacenter: DatacenterId,
    /// Size of its VMs.
    pub size: SizeId,
    /// Its circuit breaker.
    pub breaker: CircuitBreaker,
    /// Its interruptions.
    pub interruptions: Interruptions,
    /// The last machines whose interruption was counted. A repeated notice, or the end of the VM after it, counts
    /// nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) counted: Vec<MachineId>,
}

/// Maximum of remembered machines of a class.
pub(super) const MAX_COUNTED: usize = 64;

impl SpotClass {
    fn new(class: &MachineClass, now: Timestamp) -> Self {
        Self {
            datacenter: class.datacenter.clone(),
            size: class.size,
            breaker: CircuitBreaker::default(),
            interruptions: Interruptions::new(now),
            counted: Vec::new(),
        }
    }

    pub(super) fn class(&self) -> MachineClass {
        MachineClass {
            datacenter: self.datacenter.clone(),
            size: self.size,
            capacity_type: CapacityType::Spot,
        }
    }
}

impl From<Vec<SpotClass>> for SpotHistory {
    fn from(classes: Vec<SpotClass>) -> Self {
        Self(classes.into_iter().map(|class| (class.class(), class)).collect())
    }
}

impl From<SpotHistory> for Vec<SpotClass> {
    fn from(history: SpotHistory) -> Self {
        history.0.into_values().collect()
    }
}

impl SpotHistory {
    /// All classes with a history.
    pub fn classes(&self) -> impl Iterator<Item = &SpotClass> {
        self.0.values()
    }

    /// The state of the circuit breaker of a class.
    pub fn breaker_state(&self, class: &MachineClass) -> BreakerState {
        self.find_class(class).map_or(BreakerState::Closed, |class| class.breaker.state)
    }

    pub(super) fn find_class(&self, class: &MachineClass) -> Option<&SpotClass> {
        self.0.get(class)
    }

    pub(super) fn entry(&mut self, class: MachineClass, now: Timestamp) -> &mut SpotClass {
        let new = SpotClass::new(&class, now);
        self.0.entry(class).or_insert(new)
    }
}

/// Whether a machine was created since then, by clocks of two leaders.
pub(super) fn is_since(created_at: Timestamp, since: Timestamp) -> bool {
    age(created_at, since) <= TOLERANCE
}

/// The reason why a spot pool cannot grow, although the maximum share allows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SpotBlock {
    /// The circuit breaker of its class is open.
    Open {
        /// The failure that opened it. None in a damaged record.
        failure: Option<SpotFailure>,
        /// Time of the next attempt.
        until: Timestamp,
    },
    /// The circuit breaker is half-open: the class can add one machine.
    HalfOpen,
    /// The class is interrupted more often than the NodeGroup allows.
    AboveAllowedRate {
        /// The rate that the true one exceeds with 95 percent certainty.
        certain: InterruptionRate,
        /// The allowed rate.
        allowed: InterruptionRate,
    },
}

impl fmt::Display for SpotBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { failure: Some(failure), until } => {
                write!(
                    f,
                    "the circuit breaker is open ({} at {:.0}); next attempt after {until:.0}",
                    failure.reason, failure.at
                )
            }
            Self::Open { failure: None, until } => {
                write!(f, "the circuit breaker is open; next attempt after {until:.0}")
            }
            Self::HalfOpen => {
                let minutes = TRIAL_TIME.as_secs() / 60;
                write!(
                    f,
                    "the circuit breaker is half-open: its class can add one machine, and more after that machine has \
                     run for {minutes} minutes"
                )
            }
            Self::AboveAllowedRate { certain, allowed } => write!(
                f,
                "the interruption rate is at least {certain} (95 percent certainty), above allowedInterruptionRate {:.0}; \
                 wait, or raise allowedInterruptionRate",
                allowed.to_percent_a_month()
            ),
        }
    }
}
