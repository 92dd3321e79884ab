//! Evidence that a datacenter is suspect: failed creations, Nodes, listings and VPSie's own statement.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::breaker::{DatacenterState, OutageCause};
use super::counts::is_since;
use super::history::{CreationFailure, CreationFailureKind, DatacenterHealth, DatacenterHistory};
use super::observations::UnreadyNodes;
use crate::catalog::{CapacityType, DatacenterId};
use crate::fleet::age::age;
use crate::fleet::ids::{MachineId, NodeGroupName};
use crate::fleet::machine::{FailureReason, Machine, Phase};
use crate::fleet::record::Change;
use crate::fleet::state::Fleet;

/// Time after which a machine with a VM and without a Node counts as never joined, if it is deleted.
const JOIN_TIME: Duration = Duration::from_mins(10);
/// Time for which a machine must be Running before its Node counts: a new Node is not Ready at first.
const SETTLED_TIME: Duration = Duration::from_mins(5);
/// Time for which more than half of the Nodes must be not Ready.
const NOT_READY_TIME: Duration = Duration::from_mins(1);

/// An observation about a datacenter, from a change of a machine.
enum Observation {
    Failed(CreationFailure),
    Delivered,
    Joined,
}

impl Fleet {
    /// The record of the health of datacenters.
    pub fn datacenter_history(&self) -> &DatacenterHistory {
        &self.datacenters.history
    }

    /// Notes the Running machines whose Node is not Ready.
    pub fn note_unready_nodes(&mut self, machines: BTreeSet<MachineId>, now: Timestamp) -> Vec<Change> {
        self.transient.datacenters.unready = Some(UnreadyNodes { at: now, machines });
        let mut changes = Vec::new();
        self.advance_datacenters(&mut changes, now);
        changes
    }

    /// Notes the datacenters that VPSie lists as inactive.
    pub fn note_inactive_datacenters(
        &mut self,
        inactive: BTreeSet<DatacenterId>,
        now: Timestamp,
    ) -> Vec<Change> {
        self.transient.datacenters.inactive = Some(inactive);
        let mut changes = Vec::new();
        self.advance_datacenters(&mut changes, now);
        changes
    }

    /// The record of datacenters after the change, if the change is evidence for or against an outage.
    pub(in crate::fleet) fn datacenter_history_after(&self, change: &Change) -> Option<DatacenterHistory> {
        let Change::SaveMachine(machine) = change else { return None };
        let datacenter = &machine.pool.datacenter;
        if !self.datacenters.watched.contains(datacenter) {
            return None;
        }
        let (observation, now) = self.observation(machine)?;
        let known = self.datacenters.history.0.contains_key(datacenter);
        let mut history = self.datacenters.history.clone();
        match observation {
            Observation::Failed(failure) => {
                self.note_creation_failure(&mut history, machine, failure);
                self.assess_datacenters(&mut history, now);
            }
            Observation::Delivered if known => history.entry(datacenter).note_delivered(machine.created_at),
            Observation::Joined if known => history.entry(datacenter).note_joined(),
            Observation::Delivered | Observation::Joined => {}
        }
        (history != self.datacenters.history).then_some(history)
    }

    /// The observation about the datacenter from the new record of a machine, and its time.
    fn observation(&self, new: &Machine) -> Option<(Observation, Timestamp)> {
        let old = self.machines.get(&new.id);
        let failed = |kind, at| {
            let node_group = Some(new.pool.node_group.clone());
            let failure = CreationFailure { kind, size: new.size, node_group, at };
            Some((Observation::Failed(failure), at))
        };
        match (old.map(|old| &old.phase), &new.phase) {
            (Some(Phase::Failed { .. }), Phase::Failed { .. })
            | (Some(Phase::Running { .. }), Phase::Running { .. })
            | (Some(Phase::Creating { vm: Some(_), .. }), Phase::Creating { .. }) => None,
            (old, Phase::Failed { failure, at }) => match failure.reason {
                // A refused spot machine can be a shortage of its class only.
                FailureReason::Stockout | FailureReason::Refused
                    if new.pool.capacity_type == CapacityType::OnDemand =>
                {
                    failed(CreationFailureKind::Refused, *at)
                }
                FailureReason::CreateTimeout if matches!(old, Some(Phase::Creating { vm: Some(_), .. })) => {
                    failed(CreationFailureKind::NeverJoined, *at)
                }
                FailureReason::CreateTimeout => failed(CreationFailureKind::NotDelivered, *at),
                FailureReason::JoinTimeout => failed(CreationFailureKind::NeverJoined, *at),
                // They do not depend on the datacenter, or follow from its state.
                FailureReason::Stockout
                | FailureReason::Refused
                | FailureReason::QuotaExceeded
                | FailureReason::Authentication
                | FailureReason::InvalidConfiguration
                | FailureReason::ApiUnavailable
                | FailureReason::DatacenterUnavailable => None,
            },
            (Some(Phase::Creating { vm: Some(_), since: listed }), Phase::Deleting { since, .. }) => {
                let is_late = age(*listed, *since) >= JOIN_TIME;
                is_late.then(|| failed(CreationFailureKind::NeverJoined, *since)).flatten()
            }
            (_, Phase::Running { since, .. }) => Some((Observation::Joined, *since)),
            (_, Phase::Creating { vm: Some(_), since }) => Some((Observation::Delivered, *since)),
            (_, Phase::Pending | Phase::Creating { .. } | Phase::Deleting { .. }) => None,
        }
    }

    /// Adds the failure of a machine. The failure does not count if the circuit breaker changed, or another machine
    /// succeeded, after the creation of the machine: earlier failures of its burst counted already.
    fn note_creation_failure(
        &self,
        history: &mut DatacenterHistory,
        machine: &Machine,
        failure: CreationFailure,
    ) {
        let datacenter = &machine.pool.datacenter;
        let health = history.entry(datacenter);
        match health.breaker.state {
            DatacenterState::Closed { since } => {
                if since.is_none_or(|since| machine.created_at > since)
                    && !self.has_later_success(machine, failure.kind)
                {
                    health.add_failure(failure);
                }
            }
            DatacenterState::Open { .. } => {}
            DatacenterState::HalfOpen { since } => {
                if !is_since(machine.created_at, since) {
                    return;
                }
                let CreationFailure { kind, at, .. } = failure;
                health.add_failure(failure);
                let is_evidence =
                    kind != CreationFailureKind::NeverJoined || self.can_join(&machine.pool.node_group);
                if is_evidence && self.has_healthy_other(history, datacenter, at) {
                    history.entry(datacenter).breaker.open(kind.cause(), at);
                }
            }
        }
    }

    /// Whether a machine that was created with the failed one or after it has come further: what failed was one machine, and
    /// not the datacenter.
    fn has_later_success(&self, failed: &Machine, kind: CreationFailureKind) -> bool {
        let has_succeeded = |machine: &Machine| match (&machine.phase, kind) {
            (Phase::Running { .. }, CreationFailureKind::NeverJoined | CreationFailureKind::NotDelivered)
            | (Phase::Creating { vm: Some(_), .. }, CreationFailureKind::NotDelivered) => true,
            (
                Phase::Running { .. }
                | Phase::Pending
                | Phase::Creating { .. }
                | Phase::Failed { .. }
                | Phase::Deleting { .. },
                CreationFailureKind::Refused
                | CreationFailureKind::NotDelivered
                | CreationFailureKind::NeverJoined,
            ) => false,
        };
        self.machines.values().any(|machine| {
            machine.pool.datacenter == failed.pool.datacenter
                && machine.created_at >= failed.created_at
                && has_succeeded(machine)
        })
    }

    /// Whether machines of the NodeGroup can join the cluster: one has joined with its present payload. If that is unknown,
    /// any running machine shows it.
    pub(super) fn can_join(&self, group: &NodeGroupName) -> bool {
        if let Some(proven) = &self.transient.payloads.proven {
            return proven.contains(group);
        }
        let counts = self.datacenters.counts.get(group);
        counts.is_some_and(|counts| counts.values().any(|counts| counts.running > 0))
    }

    /// The evidence of an outage in the failed creations of a datacenter.
    pub(super) fn creation_evidence(&self, health: &DatacenterHealth, now: Timestamp) -> Option<OutageCause> {
        health.creation_evidence(now, &|group| self.can_join(group))
    }

    /// Whether another datacenter is closed and has no evidence of an outage.
    pub(super) fn has_healthy_other(
        &self,
        history: &DatacenterHistory,
        datacenter: &DatacenterId,
        now: Timestamp,
    ) -> bool {
        let is_healthy = |other: &&DatacenterId| {
            *other != datacenter
                && self.observable_evidence(other, now).is_none()
                && history.0.get(*other).is_none_or(|health| {
                    health.breaker.state.is_closed() && self.creation_evidence(health, now).is_none()
                })
        };
        self.datacenters.declared.iter().any(|other| is_healthy(&other))
    }

    /// Evidence whose end can be observed.
    pub(super) fn observable_evidence(
        &self,
        datacenter: &DatacenterId,
        now: Timestamp,
    ) -> Option<OutageCause> {
        let observations = &self.transient.datacenters;
        let is_in =
            |set: &Option<BTreeSet<DatacenterId>>| set.as_ref().is_some_and(|set| set.contains(datacenter));
        if is_in(&observations.inactive) {
            return Some(OutageCause::Inactive);
        }
        if is_in(&observations.missing_rows) {
            return Some(OutageCause::RowsMissing);
        }
        let since = observations.not_ready_since.get(datacenter)?;
        (age(*since, now) >= NOT_READY_TIME).then_some(OutageCause::NodesNotReady)
    }

    /// Whether the cause was observed since the process started. Before that, its absence proves nothing.
    pub(super) fn is_observed(&self, cause: OutageCause) -> bool {
        let observations = &self.transient.datacenters;
        match cause {
            OutageCause::Inactive => observations.inactive.is_some(),
            OutageCause::RowsMissing => observations.missing_rows.is_some(),
            OutageCause::NodesNotReady => observations.unready.is_some(),
            OutageCause::OffersFailed | OutageCause::NotDelivered | OutageCause::NeverJoined => true,
        }
    }

    /// Notes the datacenters with more than half of their Nodes, and at least two, not Ready.
    pub(super) fn note_unready_datacenters(&mut self, now: Timestamp) {
        let Some(unready) = &self.transient.datacenters.unready else { return };
        let settled = self.machines.values().filter(|machine| {
            matches!(machine.phase, Phase::Running { since, .. } if age(since, now) >= SETTLED_TIME)
        });
        let mut counts: BTreeMap<&DatacenterId, (u32, u32)> = BTreeMap::new();
        for machine in settled.filter(|machine| self.datacenters.watched.contains(&machine.pool.datacenter)) {
            let (all, not_ready) = counts.entry(&machine.pool.datacenter).or_default();
            *all += 1;
            *not_ready += u32::from(unready.machines.contains(&machine.id));
        }
        let known = &self.transient.datacenters.not_ready_since;
        let suspect =
            counts.into_iter().filter(|(_, (all, not_ready))| *not_ready >= 2 && 2 * not_ready > *all);
        let since = |datacenter: &DatacenterId| known.get(datacenter).copied().unwrap_or(now).min(now);
        let suspect = suspect.map(|(datacenter, _)| (datacenter.clone(), since(datacenter))).collect();
        if *known != suspect {
            self.transient.datacenters.not_ready_since = suspect;
        }
    }
}
