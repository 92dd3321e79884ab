//! The circuit breakers of datacenters in the fleet.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::breaker::{DatacenterState, OutageCause};
use super::counts::is_since;
use super::history::DatacenterHistory;
use crate::catalog::DatacenterId;
use crate::fleet::age::age;
use crate::fleet::machine::{Failure, FailureReason, Machine, Phase, RequestOutcome};
use crate::fleet::record::Change;
use crate::fleet::state::Fleet;

impl Fleet {
    /// Makes the transitions of circuit breakers that are due, and fails machines that wait in suspect datacenters.
    pub(in crate::fleet) fn advance_datacenters(&mut self, changes: &mut Vec<Change>, now: Timestamp) {
        self.derive_watched_datacenters();
        if self.datacenters.watched.is_empty() && self.datacenters.history.0.is_empty() {
            return;
        }
        self.note_unready_datacenters(now);
        self.note_ended_outages(now);
        self.note_short_datacenters(now);
        let mut history = self.datacenters.history.clone();
        history.0.retain(|datacenter, health| {
            health.expire(now);
            self.datacenters.watched.contains(datacenter) && !health.is_reset(now)
        });
        self.assess_datacenters(&mut history, now);
        if history != self.datacenters.history {
            self.push_change(changes, Change::SaveDatacenterHistory(history));
        }
        self.fail_waiting_in_suspect_datacenters(changes, now);
    }

    /// Notes since when the observable outage of each datacenter has ended.
    fn note_ended_outages(&mut self, now: Timestamp) {
        let suspect = self.datacenters.history.0.values().filter_map(|health| {
            let cause = health.breaker.cause().filter(|cause| cause.is_observable())?;
            Some((&health.datacenter, cause))
        });
        let known = &self.transient.datacenters.ended_since;
        let has_ended = |(datacenter, cause): &(&DatacenterId, OutageCause)| {
            self.is_observed(*cause) && self.observable_evidence(datacenter, now).is_none()
        };
        let since = |datacenter: &DatacenterId| known.get(datacenter).copied().unwrap_or(now).min(now);
        let ended = suspect
            .filter(has_ended)
            .map(|(datacenter, _)| (datacenter.clone(), since(datacenter)))
            .collect();
        if *known != ended {
            self.transient.datacenters.ended_since = ended;
        }
    }

    /// Opens and closes circuit breakers by the present evidence.
    ///
    /// Evidence in every datacenter is a fault of the API, of the account or of the payload: it opens no circuit breaker,
    /// and closes each circuit breaker that opened because of failed creations.
    pub(super) fn assess_datacenters(&self, history: &mut DatacenterHistory, now: Timestamp) {
        let watched = &self.datacenters.watched;
        let is_suspect = |datacenter: &DatacenterId| self.observable_evidence(datacenter, now).is_some();
        // Another one cannot grow in place of a suspect one.
        let all_suspect = self.datacenters.declared.iter().all(is_suspect);
        let mut all_fail = false;
        for datacenter in watched {
            let observable = self.observable_evidence(datacenter, now).filter(|_| !all_suspect);
            let Some(health) = history.0.get(datacenter) else {
                if let Some(cause) = observable {
                    history.entry(datacenter).breaker.open(cause, now);
                }
                continue;
            };
            let creation = self.creation_evidence(health, now);
            match health.breaker.state {
                DatacenterState::Closed { .. } => match (observable, creation) {
                    (Some(cause), _) => history.entry(datacenter).breaker.open(cause, now),
                    (None, Some(_)) if !self.has_healthy_other(history, datacenter, now) => all_fail = true,
                    (None, Some(cause)) if health.breaker.is_settled(now) => {
                        history.entry(datacenter).breaker.open(cause, now);
                    }
                    (None, _) => {}
                },
                DatacenterState::Open { .. } => self.advance_open(history, datacenter, now),
                DatacenterState::HalfOpen { since } => {
                    if let Some(cause) = observable {
                        history.entry(datacenter).breaker.open(cause, now);
                    } else if self.has_joined_since(datacenter, since) {
                        let health = history.entry(datacenter);
                        health.failures.clear();
                        health.breaker.close(now);
                    }
                }
            }
        }
        if all_fail {
            for health in history.0.values_mut() {
                health.disprove_failures(now);
            }
        }
    }

    /// Makes an open circuit breaker half-open, or closes it if its observable cause has ended for long enough.
    fn advance_open(&self, history: &mut DatacenterHistory, datacenter: &DatacenterId, now: Timestamp) {
        let health = history.entry(datacenter);
        let quiet_time = health.breaker.open_time();
        let is_observable = health.breaker.cause().is_some_and(OutageCause::is_observable);
        let ended_since = self.transient.datacenters.ended_since.get(datacenter);
        if is_observable && ended_since.is_some_and(|since| age(*since, now) >= quiet_time) {
            health.failures.clear();
            health.breaker.close(now);
        } else {
            health.breaker.advance(now);
        }
    }

    /// Whether a machine of the datacenter that was created since then has a Ready Node.
    fn has_joined_since(&self, datacenter: &DatacenterId, since: Timestamp) -> bool {
        let unready = self.transient.datacenters.unready.as_ref();
        self.machines.values().any(|machine| match &machine.phase {
            Phase::Running { since: running_since, .. } => {
                machine.pool.datacenter == *datacenter
                    && is_since(machine.created_at, since)
                    // Nodes are observed only with an API server.
                    && unready.is_none_or(|unready| {
                        unready.at >= *running_since && !unready.machines.contains(&machine.id)
                    })
            }
            Phase::Pending | Phase::Creating { .. } | Phase::Failed { .. } | Phase::Deleting { .. } => false,
        })
    }

    /// Fails the machines that wait for a VM in a datacenter with an open circuit breaker, so that Cluster Autoscaler uses
    /// another datacenter at once. A late VM is recognized by its request.
    pub(in crate::fleet) fn fail_waiting_in_suspect_datacenters(
        &mut self,
        changes: &mut Vec<Change>,
        now: Timestamp,
    ) {
        let open: Vec<(DatacenterId, Option<OutageCause>)> = self
            .datacenters
            .history
            .0
            .values()
            .filter(|health| matches!(health.breaker.state, DatacenterState::Open { .. }))
            .map(|health| (health.datacenter.clone(), health.breaker.cause()))
            .collect();
        for (datacenter, cause) in open {
            let why = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            let failure = Failure {
                reason: FailureReason::DatacenterUnavailable,
                message: format!("datacenter {datacenter} is suspect{why}"),
            };
            let is_silent = cause == Some(OutageCause::NotDelivered);
            let waits = |machine: &&Machine| {
                machine.pool.datacenter == datacenter
                    && !self.transient.in_flight.contains(&machine.id)
                    && waits_in_vain(machine, is_silent)
            };
            for machine in self.machines.values().filter(waits).cloned().collect::<Vec<_>>() {
                let phase = Phase::Failed { failure: failure.clone(), at: now };
                self.push_change(changes, Change::SaveMachine(Machine { phase, ..machine }));
            }
        }
    }

    /// Datacenters of NodeGroups with a distribution, and others that lost their distribution and still have machines.
    pub fn watched_datacenters(&self) -> &BTreeSet<DatacenterId> {
        &self.datacenters.watched
    }
}

/// Whether no request of the machine can be expected to deliver a VM soon. `is_silent`: VPSie accepts requests there, and
/// delivers nothing.
fn waits_in_vain(machine: &Machine, is_silent: bool) -> bool {
    match machine.phase {
        Phase::Pending => true,
        Phase::Creating { vm: None, .. } => machine.requests.iter().all(|request| match request.outcome {
            RequestOutcome::Lost => true,
            RequestOutcome::Accepted | RequestOutcome::Unclear => is_silent,
            RequestOutcome::InFlight => false,
        }),
        Phase::Creating { vm: Some(_), .. }
        | Phase::Running { .. }
        | Phase::Failed { .. }
        | Phase::Deleting { .. } => false,
    }
}
