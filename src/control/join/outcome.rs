//! The outcome of a join, and how many machines a payload may have. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::records::{JoinRecord, PayloadRecord};
use crate::fleet::{Fleet, Hostname, Machine, Phase};
use crate::join::PayloadHash;

/// Time that a listed VM has to join. A machine that is deleted earlier shows nothing about its payload.
const MIN_JOIN_TIME: Duration = Duration::from_mins(10);
/// Failures of payloads that were made within this time are one: a burst may have one cause outside the payload.
const BURST: Duration = Duration::from_mins(1);
/// Number of failures in a row after which a payload is stopped.
const MAX_UNJOINED: u32 = 3;
/// Maximum of machines that join at once with a payload that has never joined.
const MAX_UNPROVEN: usize = 3;
/// Time until one machine is tried with a stopped payload. It doubles with each further failure.
const STOP_TIME: Duration = Duration::from_mins(30);
/// Maximum of that time.
const MAX_STOP_TIME: Duration = Duration::from_hours(8);

/// The outcome of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinOutcome {
    /// The Node registered.
    Joined,
    /// The VM existed, and its Node did not register in time.
    NeverJoined,
    /// The VM never existed, or was deleted early.
    Unknown,
}

/// The outcome of a join that has ended.
pub(super) fn join_outcome(fleet: &Fleet, hostname: &Hostname, record: &JoinRecord) -> JoinOutcome {
    let had_time = |end: Timestamp| record.listed_at.is_some_and(|listed| listed + MIN_JOIN_TIME <= end);
    let machine = fleet.machine(&record.machine).filter(|machine| is_its_vm(machine, hostname));
    match machine.map(|machine| &machine.phase) {
        Some(Phase::Running { .. }) => JoinOutcome::Joined,
        Some(Phase::Deleting { since, .. }) if had_time(*since) => JoinOutcome::NeverJoined,
        Some(Phase::Deleting { .. } | Phase::Pending | Phase::Creating { .. } | Phase::Failed { .. })
        | None => JoinOutcome::Unknown,
    }
}

fn is_its_vm(machine: &Machine, hostname: &Hostname) -> bool {
    machine.vm().is_some_and(|vm| vm.hostname == *hostname)
}

/// The record of the NodeGroup's payload after a join. None: unchanged.
pub(super) fn count_outcome(
    record: Option<&PayloadRecord>,
    join: &JoinRecord,
    outcome: JoinOutcome,
    now: Timestamp,
) -> Option<PayloadRecord> {
    let same = record.filter(|record| record.payload == join.payload);
    let last = record.and_then(|record| record.last_issued_at);
    if same.is_none() && last > Some(join.issued_at) {
        // The payload has changed since.
        return None;
    }
    match outcome {
        JoinOutcome::Joined => Some(PayloadRecord {
            proven: true,
            last_issued_at: last.max(Some(join.issued_at)),
            ..PayloadRecord::new(join.payload.clone())
        }),
        JoinOutcome::NeverJoined => {
            let before = same.cloned().unwrap_or_else(|| PayloadRecord::new(join.payload.clone()));
            let is_counted = before.last_issued_at.is_some_and(|last| join.issued_at < last + BURST);
            (!is_counted).then(|| count_failure(before, join.issued_at, now))
        }
        JoinOutcome::Unknown => None,
    }
}

fn count_failure(before: PayloadRecord, issued_at: Timestamp, now: Timestamp) -> PayloadRecord {
    let unjoined = before.unjoined.saturating_add(1);
    let (stopped_at, attempts) =
        if unjoined >= MAX_UNJOINED { (Some(now), before.attempts.saturating_add(1)) } else { (None, 0) };
    PayloadRecord { unjoined, last_issued_at: Some(issued_at), stopped_at, attempts, ..before }
}

/// How many machines may join with a payload at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JoinLimit {
    /// Any number: a machine with the payload has joined.
    None,
    /// A few, of which one must join first.
    AtMost(usize),
    /// None, with the reason.
    Stopped(String),
}

/// The limit of a payload of the NodeGroup that has the record.
pub(super) fn join_limit(record: Option<&PayloadRecord>, payload: &PayloadHash, now: Timestamp) -> JoinLimit {
    let Some(record) = record.filter(|record| record.payload == *payload) else {
        return JoinLimit::AtMost(MAX_UNPROVEN);
    };
    match stopped_until(record) {
        Some(until) if now < until => JoinLimit::Stopped(stop_message(record, until)),
        Some(_) => JoinLimit::AtMost(1),
        None if record.proven => JoinLimit::None,
        None => JoinLimit::AtMost(MAX_UNPROVEN),
    }
}

fn stopped_until(record: &PayloadRecord) -> Option<Timestamp> {
    let doublings = record.attempts.saturating_sub(1);
    let time = STOP_TIME.saturating_mul(2_u32.saturating_pow(doublings)).min(MAX_STOP_TIME);
    record.stopped_at.map(|at| at + time)
}

fn stop_message(record: &PayloadRecord, until: Timestamp) -> String {
    let PayloadRecord { payload, unjoined, .. } = record;
    format!(
        "the last {unjoined} machines with the payload {payload} never joined the cluster, so none is added until \
         {until:.0}, then one: log in to a VM to see why, then correct selfManaged or its template"
    )
}
