//! The rules of the election, without clock and network.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

use super::{ElectionConfig, Reached};

/// What one process knows of the election.
#[derive(Debug)]
pub(super) struct Election {
    config: ElectionConfig,
    seen: Option<Seen>,
    term: Option<Term>,
    /// The Lease (its UID) that a takeover was sent for.
    taking: Option<String>,
}

/// The Lease as it was first seen in its present state.
#[derive(Debug)]
struct Seen {
    record: Record,
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

/// From when to when a Lease that is ours lets us lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) from: Instant,
    pub(super) until: Instant,
    uid: Option<String>,
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none.
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
        Self { config, seen: None, term: None, taking: None }
    }

    /// Takes what the API server said. `now` must not be before its reply: time counts from when a change was seen,
    /// and seeing it too early would be believing the holder gone too early.
    pub(super) fn saw(&mut self, lease: Option<&Lease>, now: Instant) -> Step {
        let Some(lease) = lease else { return Step::Create };
        let record = Record::of(lease);
        let before = self.seen.take().filter(|seen| seen.record == record);
        let patience = duration(lease).unwrap_or(self.config.lease_duration);
        let Seen { record, since, .. } =
            self.seen.insert(before.unwrap_or(Seen { record, since: now, patience }));
        let free = *since + patience;
        if record.holder == self.config.identity {
            Step::Renew
        } else if record.holder.is_empty() || now >= free {
            self.taking.clone_from(&lease.metadata.uid);
            Step::TakeOver
        } else {
            Step::Wait(free)
        }
    }

    /// The step was done: this Lease was written by what was sent at `sent`, as is known at `now`. When we lead.
    ///
    /// A new Lease is no proof that nobody leads: one that somebody deleted may have been held until then, and its
    /// holder may not know yet. So who made one waits as long as others would have waited for that holder. The
    /// same with one that is found to be ours, unless it is known to be the one that was taken over.
    pub(super) fn claimed(&mut self, step: Step, written: &Lease, sent: Instant, now: Instant) -> Term {
        let uid = &written.metadata.uid;
        let leading = self.term.as_ref().filter(|term| term.from <= sent && sent < term.until);
        let known = self.term.as_ref().filter(|term| step == Step::Renew && term.uid == *uid);
        let took_over =
            step == Step::TakeOver || step == Step::Renew && self.taking.is_some() && self.taking == *uid;
        let from = match leading.or(known) {
            Some(term) => term.from,
            None if took_over => now,
            None => {
                now + self
                    .seen
                    .as_ref()
                    .map_or(Duration::ZERO, |seen| seen.patience)
                    .max(self.config.lease_duration)
            }
        };
        let term = Term { from, until: sent + self.config.renew_deadline, uid: uid.clone() };
        self.term.insert(term).clone()
    }

    /// We do not lead any more, whatever the Lease says.
    pub(super) fn gave_up(&mut self) {
        self.term = None;
        self.taking = None;
    }

    /// The Lease to write. With the `resourceVersion` of the one that was seen, so that it succeeds only if nothing
    /// changed. `wall` is for people: nobody counts with it.
    pub(super) fn claim(&self, seen: Option<&Lease>, wall: Timestamp) -> Lease {
        let ElectionConfig { namespace, name, identity, lease_duration, reached, .. } = &self.config;
        let mut lease = seen.cloned().unwrap_or_default();
        lease.metadata.name = Some(name.clone());
        lease.metadata.namespace = Some(namespace.clone());
        Reached::write(*reached, lease.metadata.annotations.get_or_insert_default());
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

    /// Where the one that leads is reached, if that is another and it says so.
    pub(super) fn successor(&self, seen: &Lease) -> Option<Reached> {
        let other = !holder(seen).is_empty() && holder(seen) != self.config.identity;
        Reached::read(seen.metadata.annotations.as_ref()?).filter(|_| other)
    }

    /// The Lease without a holder, if we are it: free at once.
    pub(super) fn released(&self, seen: &Lease, wall: Timestamp) -> Option<Lease> {
        let mut lease = seen.clone();
        Reached::write(None, lease.metadata.annotations.get_or_insert_default());
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
