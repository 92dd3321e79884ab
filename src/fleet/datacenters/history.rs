//! The record of the health of datacenters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::breaker::{DatacenterBreaker, DatacenterState, OutageCause};
use crate::catalog::{DatacenterId, SizeId};
use crate::fleet::age::{age, is_ahead};
use crate::fleet::ids::NodeGroupName;

/// Time in which failures of two sizes are evidence of an outage.
const OFFERS_WINDOW: Duration = Duration::from_mins(10);
/// Time in which two machines without a VM or a Node are evidence of an outage.
const SILENT_WINDOW: Duration = Duration::from_hours(1);
/// Number of machines in a row without a VM or a Node that are evidence of an outage.
const SILENT_MACHINES: usize = 2;
/// Maximum of remembered failures of a datacenter.
const MAX_FAILURES: usize = 16;

/// Health of each datacenter that is, or was recently, suspect. One record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<DatacenterHealth>", into = "Vec<DatacenterHealth>")]
pub struct DatacenterHistory(pub(super) BTreeMap<DatacenterId, DatacenterHealth>);

/// The health of a datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatacenterHealth {
    /// The datacenter.
    pub datacenter: DatacenterId,
    /// Its circuit breaker.
    pub breaker: DatacenterBreaker,
    /// Creations that failed since the last success.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<CreationFailure>,
}

/// The failed creation of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreationFailure {
    /// Its kind.
    #[serde(rename = "failure")]
    pub kind: CreationFailureKind,
    /// Size of the machine.
    pub size: SizeId,
    /// Its NodeGroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_group: Option<NodeGroupName>,
    /// Its time.
    pub at: Timestamp,
}

/// The kind of a failed creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CreationFailureKind {
    /// VPSie refused the request.
    Refused,
    /// VPSie accepted the request, and no VM was listed in time.
    NotDelivered,
    /// The VM was listed, and its Node never registered.
    NeverJoined,
}

impl CreationFailureKind {
    /// The cause if an attempt while the breaker was half-open failed.
    pub(super) fn cause(self) -> OutageCause {
        match self {
            Self::Refused => OutageCause::OffersFailed,
            Self::NotDelivered => OutageCause::NotDelivered,
            Self::NeverJoined => OutageCause::NeverJoined,
        }
    }
}

impl From<Vec<DatacenterHealth>> for DatacenterHistory {
    fn from(all: Vec<DatacenterHealth>) -> Self {
        Self(all.into_iter().map(|health| (health.datacenter.clone(), health)).collect())
    }
}

impl From<DatacenterHistory> for Vec<DatacenterHealth> {
    fn from(history: DatacenterHistory) -> Self {
        history.0.into_values().collect()
    }
}

impl DatacenterHistory {
    /// All datacenters with a record.
    pub fn datacenters(&self) -> impl Iterator<Item = &DatacenterHealth> {
        self.0.values()
    }

    /// The circuit breaker of a datacenter.
    pub fn breaker(&self, datacenter: &DatacenterId) -> DatacenterBreaker {
        self.0.get(datacenter).map(|health| health.breaker).unwrap_or_default()
    }

    /// The state of the circuit breaker of a datacenter.
    pub fn state(&self, datacenter: &DatacenterId) -> DatacenterState {
        self.breaker(datacenter).state
    }

    pub(super) fn entry(&mut self, datacenter: &DatacenterId) -> &mut DatacenterHealth {
        self.0.entry(datacenter.clone()).or_insert_with(|| DatacenterHealth {
            datacenter: datacenter.clone(),
            breaker: DatacenterBreaker::default(),
            failures: Vec::new(),
        })
    }
}

impl DatacenterHealth {
    pub(super) fn add_failure(&mut self, failure: CreationFailure) {
        if self.failures.len() >= MAX_FAILURES {
            self.failures.remove(0);
        }
        self.failures.push(failure);
    }

    /// Forgets failures that a delivered VM disproves. Its machine was created at `created_at`.
    pub(super) fn note_delivered(&mut self, created_at: Timestamp) {
        self.failures.retain(|failure| match failure.kind {
            CreationFailureKind::Refused => failure.at > created_at,
            CreationFailureKind::NotDelivered => false,
            CreationFailureKind::NeverJoined => true,
        });
    }

    /// Forgets failures that a registered Node disproves.
    pub(super) fn note_joined(&mut self) {
        self.failures.retain(|failure| failure.kind != CreationFailureKind::NeverJoined);
    }

    /// Forgets failures that are no evidence about this datacenter, and closes the circuit breaker if they opened it. Further
    /// failures of machines that exist already are no evidence either.
    pub(super) fn disprove_failures(&mut self, now: Timestamp) {
        let had_failures = !std::mem::take(&mut self.failures).is_empty();
        let is_due = match self.breaker.cause() {
            Some(cause) => !cause.is_observable(),
            None => had_failures,
        };
        if is_due {
            self.breaker.close(now);
        }
    }

    /// The evidence of an outage in the failed creations. `can_join` tells whether machines of a NodeGroup can join at all:
    /// those of a single NodeGroup with a broken payload join nowhere.
    pub(super) fn creation_evidence(
        &self,
        now: Timestamp,
        can_join: &dyn Fn(&NodeGroupName) -> bool,
    ) -> Option<OutageCause> {
        let recent = |kind| {
            let is_recent = move |failure: &&CreationFailure| {
                failure.kind == kind && age(failure.at, now) < SILENT_WINDOW
            };
            self.failures.iter().filter(is_recent)
        };
        if recent(CreationFailureKind::NotDelivered).count() >= SILENT_MACHINES {
            return Some(OutageCause::NotDelivered);
        }
        let never_joined = recent(CreationFailureKind::NeverJoined);
        if never_joined.clone().count() >= SILENT_MACHINES {
            let groups: BTreeSet<_> = never_joined.map(|failure| failure.node_group.as_ref()).collect();
            if groups.len() > 1 || groups.into_iter().any(|group| group.is_none_or(can_join)) {
                return Some(OutageCause::NeverJoined);
            }
        }
        let mut recent = self.failures.iter().filter(|failure| {
            failure.kind != CreationFailureKind::NeverJoined && age(failure.at, now) < OFFERS_WINDOW
        });
        let first = recent.next()?;
        recent.any(|failure| failure.size != first.size).then_some(OutageCause::OffersFailed)
    }

    /// Corrects times of a clock that was ahead, and forgets old failures.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.breaker.correct_times(now);
        self.failures.retain(|failure| !is_ahead(failure.at, now) && age(failure.at, now) < SILENT_WINDOW);
    }

    /// Whether no failure is remembered and no earlier outage counts.
    pub(super) fn is_reset(&self, now: Timestamp) -> bool {
        self.failures.is_empty() && self.breaker.is_reset(now)
    }
}
