//! The rules of the election, without clock and network.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

use super::ElectionConfig;

/// What one process knows of the election.
#[derive(Debug)]
pub(super) struct Election {
    config: ElectionConfig,
    seen: Option<Seen>,
    /// Until when the last renewal that succeeded is good.
    held_until: Option<Instant>,
}

/// The Lease as it was first seen in its present state.
#[derive(Debug)]
struct Seen {
    /// None: there is no Lease.
    record: Option<Record>,
    since: Instant,
    /// How long nothing must change before it is free.
    patience: Duration,
}

/// What changes when a holder gives a sign.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    holder: String,
    renewed: Option<Timestamp>,
    version: Option<String>,
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none, and nobody can believe to hold one.
    Create,
    /// It is free.
    TakeOver,
    /// It is ours.
    Renew,
    /// Another's until then, unless it gives a sign.
    Wait(Instant),
}

impl Election {
    pub(super) fn new(config: ElectionConfig) -> Self {
        Self { config, seen: None, held_until: None }
    }

    /// Takes what the API server said. `now` must not be before its reply: time counts from when a change was seen,
    /// and seeing it too early would be believing the holder gone too early.
    pub(super) fn saw(&mut self, lease: Option<&Lease>, now: Instant) -> Step {
        let record = lease.map(Record::of);
        let before = self.seen.take().filter(|seen| seen.record == record);
        let own = self.config.lease_duration;
        let seen = before.unwrap_or_else(|| {
            let patience = lease.and_then(duration).unwrap_or(own);
            Seen { record, since: now, patience }
        });
        let free = seen.since + seen.patience;
        let step = match &seen.record {
            // Somebody deleted ours.
            None if self.held_until.is_some_and(|until| now < until) => Step::Create,
            // Whoever held the one that was there may not know yet that it is gone. That there never was one cannot
            // be known: the first start waits once.
            None if now >= free => Step::Create,
            Some(record) if record.holder == self.config.identity => Step::Renew,
            Some(record) if record.holder.is_empty() || now >= free => Step::TakeOver,
            _ => Step::Wait(free),
        };
        self.seen = Some(seen);
        step
    }

    /// The Lease to write. With the `resourceVersion` of the one that was seen, so that it succeeds only if nothing
    /// changed. `wall` is for people: nobody counts with it.
    pub(super) fn claim(&self, seen: Option<&Lease>, wall: Timestamp) -> Lease {
        let ElectionConfig { namespace, name, identity, lease_duration, .. } = &self.config;
        let mut lease = seen.cloned().unwrap_or_default();
        lease.metadata.name = Some(name.clone());
        lease.metadata.namespace = Some(namespace.clone());
        let seconds = i32::try_from(lease_duration.as_secs()).unwrap_or(i32::MAX);
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(identity) {
            spec.holder_identity = Some(identity.clone());
            spec.acquire_time = Some(MicroTime(wall));
            spec.lease_transitions =
                Some(seen.map_or(0, |_| spec.lease_transitions.unwrap_or(0).saturating_add(1)));
        }
        spec.lease_duration_seconds = Some(seconds);
        spec.renew_time = Some(MicroTime(wall));
        lease
    }

    /// A claim that was sent at `sent` was written. Until when it is good.
    pub(super) fn claimed(&mut self, sent: Instant) -> Instant {
        let until = sent + self.config.renew_deadline;
        self.held_until = Some(until);
        until
    }

    /// It is not ours any more.
    pub(super) fn gave_up(&mut self) {
        self.held_until = None;
    }

    /// The Lease without a holder, if we are it: free at once.
    pub(super) fn released(&self, seen: &Lease, wall: Timestamp) -> Option<Lease> {
        let mut lease = seen.clone();
        let spec = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_ref() == Some(&self.config.identity))?;
        spec.holder_identity = Some(String::new());
        spec.renew_time = Some(MicroTime(wall));
        Some(lease)
    }
}

impl Record {
    fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        Self {
            holder: holder(lease).to_owned(),
            renewed: spec.and_then(|spec| Some(spec.renew_time.as_ref()?.0)),
            version: lease.metadata.resource_version.clone(),
        }
    }
}

/// Who holds it. Empty: nobody.
pub(super) fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// How long its holder wants to be waited for.
fn duration(lease: &Lease) -> Option<Duration> {
    let LeaseSpec { lease_duration_seconds, .. } = lease.spec.as_ref()?;
    let seconds = u64::try_from((*lease_duration_seconds)?).ok().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}
