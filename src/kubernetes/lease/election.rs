//! The rules of the election, without clock or network.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

use super::{ElectionConfig, LeaderAddresses};

/// The election as one process sees it.
#[derive(Debug)]
pub(super) struct Election {
    config: ElectionConfig,
    seen: Option<ObservedLease>,
    term: Option<Term>,
    /// UID of the Lease for which a takeover was sent.
    takeover_uid: Option<String>,
}

/// A state of the Lease and the time at which it was first seen.
#[derive(Debug)]
struct ObservedLease {
    state: LeaseState,
    since: Instant,
    /// The Lease is free after this time without a change.
    lease_duration: Duration,
}

/// The fields that a renewal changes.
#[derive(Debug, PartialEq, Eq)]
struct LeaseState {
    holder: String,
    renewed: Option<Timestamp>,
    version: Option<String>,
}

/// The time for which a claim of the Lease lets this process lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) from: Instant,
    pub(super) until: Instant,
    uid: Option<String>,
}

/// The next action on the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseAction {
    /// The Lease does not exist.
    Create,
    /// The Lease is free.
    TakeOver,
    /// This process holds the Lease.
    Renew,
    /// Another process holds the Lease until this time, or longer if it renews.
    Wait(Instant),
}

impl Election {
    pub(super) fn new(config: ElectionConfig) -> Self {
        Self { config, seen: None, term: None, takeover_uid: None }
    }

    /// Evaluates a Lease that was read. `now` must not be before the reply: time counts from when a change
    /// was seen, and an earlier time would end the holder's term too early.
    pub(super) fn observe(&mut self, lease: Option<&Lease>, now: Instant) -> LeaseAction {
        let Some(lease) = lease else { return LeaseAction::Create };
        let state = LeaseState::read(lease);
        let before = self.seen.take().filter(|seen| seen.state == state);
        let lease_duration = duration(lease).unwrap_or(self.config.lease_duration);
        let ObservedLease { state, since, .. } =
            self.seen.insert(before.unwrap_or(ObservedLease { state, since: now, lease_duration }));
        let free = *since + lease_duration;
        if state.holder == self.config.identity {
            LeaseAction::Renew
        } else if state.holder.is_empty() || now >= free {
            self.takeover_uid.clone_from(&lease.metadata.uid);
            LeaseAction::TakeOver
        } else {
            LeaseAction::Wait(free)
        }
    }

    /// Records that this Lease was written, by a request that was sent at `sent`; its reply arrived at `now`.
    /// Returns the term.
    ///
    /// A new Lease does not prove that no other process leads: a deleted Lease may have had a holder that
    /// does not know of the deletion yet. After creating a Lease this process therefore waits as long as a
    /// standby replica would have waited for that holder. It also waits if it finds itself as the holder,
    /// unless this process took the Lease over.
    pub(super) fn record_claim(
        &mut self,
        action: LeaseAction,
        written: &Lease,
        sent: Instant,
        now: Instant,
    ) -> Term {
        let uid = &written.metadata.uid;
        let leading = self.term.as_ref().filter(|term| term.from <= sent && sent < term.until);
        let known = self.term.as_ref().filter(|term| action == LeaseAction::Renew && term.uid == *uid);
        let took_over = action == LeaseAction::TakeOver
            || action == LeaseAction::Renew && self.takeover_uid.is_some() && self.takeover_uid == *uid;
        let from = match leading.or(known) {
            Some(term) => term.from,
            None if took_over => now,
            None => {
                now + self
                    .seen
                    .as_ref()
                    .map_or(Duration::ZERO, |seen| seen.lease_duration)
                    .max(self.config.lease_duration)
            }
        };
        let term = Term { from, until: sent + self.config.renew_deadline, uid: uid.clone() };
        self.term.insert(term).clone()
    }

    /// Ends the term of this process, independently of the Lease.
    pub(super) fn resign(&mut self) {
        self.term = None;
        self.takeover_uid = None;
    }

    /// The Lease to write, with the `resourceVersion` that was read, so that the write fails if the Lease
    /// changed. `wall` is informational only.
    pub(super) fn claim(&self, seen: Option<&Lease>, wall: Timestamp) -> Lease {
        let ElectionConfig { namespace, name, identity, lease_duration, addresses, .. } = &self.config;
        let mut lease = seen.cloned().unwrap_or_default();
        lease.metadata.name = Some(name.clone());
        lease.metadata.namespace = Some(namespace.clone());
        LeaderAddresses::write(*addresses, lease.metadata.annotations.get_or_insert_default());
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

    /// The addresses of the leader, if that is another process that publishes them.
    pub(super) fn successor(&self, seen: &Lease) -> Option<LeaderAddresses> {
        let other = !holder(seen).is_empty() && holder(seen) != self.config.identity;
        LeaderAddresses::read(seen.metadata.annotations.as_ref()?).filter(|_| other)
    }

    /// The Lease without a holder, if this process holds it. It is free at once.
    pub(super) fn released(&self, seen: &Lease, wall: Timestamp) -> Option<Lease> {
        let mut lease = seen.clone();
        LeaderAddresses::write(None, lease.metadata.annotations.get_or_insert_default());
        let spec = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_ref() == Some(&self.config.identity))?;
        spec.holder_identity = Some(String::new());
        spec.renew_time = Some(MicroTime(wall));
        Some(lease)
    }
}

impl LeaseState {
    fn read(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        Self {
            holder: holder(lease).to_owned(),
            renewed: spec.and_then(|spec| Some(spec.renew_time.as_ref()?.0)),
            version: lease.metadata.resource_version.clone(),
        }
    }
}

/// The identity of the holder, or an empty string.
pub(super) fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// The `leaseDurationSeconds` of the Lease.
fn duration(lease: &Lease) -> Option<Duration> {
    let LeaseSpec { lease_duration_seconds, .. } = lease.spec.as_ref()?;
    let seconds = u64::try_from((*lease_duration_seconds)?).ok().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}
