//! The outcome of a join, and how many machines a payload may have. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::records::{FailedJoins, JoinRecord, PayloadRecord};
use crate::catalog::DatacenterId;
use crate::fleet::{FailureReason, Fleet, Hostname, Machine, Phase};
use crate::join::PayloadHash;

/// Time that a listed VM has to join. A machine that is deleted earlier shows nothing about its payload.
const MIN_JOIN_TIME: Duration = Duration::from_mins(10);
/// Failures of payloads that were made within this time are one: a burst may have one cause outside the payload.
const BURST: Duration = Duration::from_mins(1);
/// Number of failures in a row in a datacenter after which a payload is stopped there.
const MAX_UNJOINED: u32 = 3;
/// Maximum of machines that join at once with a payload that has never joined. Each datacenter may have one of its own.
const MAX_UNPROVEN: usize = 3;
/// Time until one machine is tried with a stopped payload. It doubles with each further failure.
const STOP_TIME: Duration = Duration::from_mins(30);
/// Maximum of that time.
const MAX_STOP_TIME: Duration = Duration::from_hours(8);

/// The outcome of a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JoinOutcome {
    /// The Node registered.
    Joined,
    /// The VM existed in the datacenter, and its Node did not register in time.
    NeverJoined(DatacenterId),
    /// The VM never existed, or was deleted early.
    Unknown,
}

/// The outcome of a join that has ended.
pub(super) fn join_outcome(fleet: &Fleet, hostname: &Hostname, record: &JoinRecord) -> JoinOutcome {
    let had_time = |end: Timestamp| record.listed_at.is_some_and(|listed| listed + MIN_JOIN_TIME <= end);
    let Some(machine) = fleet.machine(&record.machine) else { return JoinOutcome::Unknown };
    // Its VM is an orphan by now.
    if let Phase::Failed { failure, at } = &machine.phase
        && failure.reason == FailureReason::JoinTimeout
        && had_time(*at)
    {
        return JoinOutcome::NeverJoined(machine.pool.datacenter.clone());
    }
    if !is_its_vm(machine, hostname) {
        return JoinOutcome::Unknown;
    }
    match &machine.phase {
        Phase::Running { .. } => JoinOutcome::Joined,
        Phase::Deleting { since, .. } if had_time(*since) => {
            JoinOutcome::NeverJoined(machine.pool.datacenter.clone())
        }
        Phase::Deleting { .. } | Phase::Pending | Phase::Creating { .. } | Phase::Failed { .. } => {
            JoinOutcome::Unknown
        }
    }
}

fn is_its_vm(machine: &Machine, hostname: &Hostname) -> bool {
    machine.vm().is_some_and(|vm| vm.hostname == *hostname)
}

/// The record of the NodeGroup's payload after a join. None: unchanged. A join in any datacenter shows that the payload is
/// good, so failures elsewhere have another cause.
pub(super) fn count_outcome(
    record: Option<&PayloadRecord>,
    join: &JoinRecord,
    outcome: JoinOutcome,
    now: Timestamp,
) -> Option<PayloadRecord> {
    let same = record.filter(|record| record.payload == join.payload);
    let last = record.and_then(PayloadRecord::last_issued_at);
    if same.is_none() && last > Some(join.issued_at) {
        // The payload has changed since.
        return None;
    }
    match outcome {
        JoinOutcome::Joined => Some(PayloadRecord {
            joined_issued_at: last.max(Some(join.issued_at)),
            ..PayloadRecord::new(join.payload.clone())
        }),
        JoinOutcome::NeverJoined(datacenter) => {
            let mut after = same.cloned().unwrap_or_else(|| PayloadRecord::new(join.payload.clone()));
            let failed = after.datacenters.get(&datacenter);
            let last = failed.map(|failed| failed.last_issued_at).max(after.joined_issued_at);
            if last.is_some_and(|last| join.issued_at < last + BURST) {
                return None;
            }
            let failed = count_failure(failed, join.issued_at, now);
            after.datacenters.insert(datacenter, failed);
            Some(after)
        }
        JoinOutcome::Unknown => None,
    }
}

fn count_failure(before: Option<&FailedJoins>, issued_at: Timestamp, now: Timestamp) -> FailedJoins {
    let unjoined = before.map_or(0, |before| before.unjoined).saturating_add(1);
    let stops = before.map_or(0, |before| before.stops);
    let (stopped_at, stops) =
        if unjoined >= MAX_UNJOINED { (Some(now), stops.saturating_add(1)) } else { (None, stops) };
    FailedJoins { unjoined, last_issued_at: issued_at, stopped_at, stops }
}

/// How many machines of a NodeGroup may join in a datacenter at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JoinLimit {
    /// Any number: a machine with the payload has joined.
    None,
    /// So many in all datacenters, and always one in each. One must join first.
    AtMost(usize),
    /// None, with the reason.
    Stopped(String),
}

/// The limit of a payload of the NodeGroup that has the record, in a datacenter.
pub(super) fn join_limit(
    record: Option<&PayloadRecord>,
    payload: &PayloadHash,
    datacenter: &DatacenterId,
    now: Timestamp,
) -> JoinLimit {
    let Some(record) = record.filter(|record| record.payload == *payload) else {
        return JoinLimit::AtMost(MAX_UNPROVEN);
    };
    match record.datacenters.get(datacenter).and_then(stopped_until) {
        Some(until) if now < until => JoinLimit::Stopped(stop_message(record, datacenter, until)),
        None if record.is_proven() => JoinLimit::None,
        None if record.datacenters.is_empty() => JoinLimit::AtMost(MAX_UNPROVEN),
        // Further machines would most likely fail as well.
        Some(_) | None => JoinLimit::AtMost(1),
    }
}

/// The datacenters in which the payload is stopped, with the reason.
pub(super) fn stopped_datacenters(record: &PayloadRecord, now: Timestamp) -> BTreeMap<DatacenterId, String> {
    let stopped = |datacenter: &DatacenterId| match join_limit(Some(record), &record.payload, datacenter, now)
    {
        JoinLimit::Stopped(message) => Some((datacenter.clone(), message)),
        JoinLimit::AtMost(_) | JoinLimit::None => None,
    };
    record.datacenters.keys().filter_map(stopped).collect()
}

fn stopped_until(failed: &FailedJoins) -> Option<Timestamp> {
    let doublings = failed.stops.saturating_sub(1);
    let time = STOP_TIME.saturating_mul(2_u32.saturating_pow(doublings)).min(MAX_STOP_TIME);
    failed.stopped_at.map(|at| at + time)
}

fn stop_message(record: &PayloadRecord, datacenter: &DatacenterId, until: Timestamp) -> String {
    let unjoined = record.datacenters.get(datacenter).map_or(0, |failed| failed.unjoined);
    format!(
        "the last {unjoined} machines with the payload {} in datacenter {datacenter} never joined the cluster, so none is \
         added there until {until:.0}, then one: log in to a VM to see why, then correct selfManaged or its template",
        record.payload
    )
}
