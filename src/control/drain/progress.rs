//! The progress of a drain. Not durable: after a restart it begins again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::control::backoff::Backoff;

/// Wait after a request about a Node failed.
pub(super) const API_SERVER_RETRY: Duration = Duration::from_secs(5);
/// Maximum wait before a request about one Node is retried, if only that Node's requests fail.
const MAX_RETRY: Duration = Duration::from_mins(1);
/// A drain is reported as blocked after this time, and again after [`REPORT_INTERVAL`].
const REPORT_AFTER: Duration = Duration::from_mins(1);
const REPORT_INTERVAL: Duration = Duration::from_mins(10);

/// Progress of a drain.
pub(super) struct DrainProgress {
    pub(super) began: Instant,
    reported_at: Option<Instant>,
    /// Time from which the eviction of a pod may be requested again.
    pub(super) blocked: BTreeMap<String, Instant>,
    /// Time at which a pod was first observed as terminating. Its deletion timestamp is by the API server's
    /// clock.
    pub(super) leaving: BTreeMap<String, Instant>,
    /// Set while requests about its Node fail.
    failing: Option<Failing>,
}

/// Failing requests about one Node.
struct Failing {
    /// Time of the last failure.
    at: Instant,
    /// The wait before the next request, if other requests succeed.
    backoff: Backoff,
}

impl DrainProgress {
    pub(super) fn new() -> Self {
        let blocked = BTreeMap::new();
        let leaving = BTreeMap::new();
        Self { began: Instant::now(), reported_at: None, blocked, leaving, failing: None }
    }

    /// Whether it makes no progress, and was reported.
    pub(super) fn is_blocked(&self) -> bool {
        self.reported_at.is_some() && (self.failing.is_some() || !self.blocked.is_empty())
    }

    /// Whether its next request is due.
    pub(super) fn is_due(&self) -> bool {
        self.failing.as_ref().is_none_or(|failing| failing.backoff.is_ready())
    }

    /// Whether the drain must be reported as blocked now. If so, it counts as reported.
    pub(super) fn must_report(&mut self, now: Instant) -> bool {
        let is_late = now >= self.began + REPORT_AFTER
            && self.reported_at.is_none_or(|reported_at| now >= reported_at + REPORT_INTERVAL);
        if is_late {
            self.reported_at = Some(now);
        }
        is_late
    }

    /// Time of the last failure, while requests about its Node fail.
    pub(super) fn failed_at(&self) -> Option<Instant> {
        self.failing.as_ref().map(|failing| failing.at)
    }

    /// Records that requests about its Node succeed.
    pub(super) fn note_success(&mut self) {
        self.failing = None;
    }

    /// Records a failed request about its Node, and the wait before the next one if only this Node waits.
    pub(super) fn note_failure(&mut self, only_this_node: bool) {
        let backoff = Backoff::new(API_SERVER_RETRY, MAX_RETRY);
        let failing = self.failing.get_or_insert(Failing { at: Instant::now(), backoff });
        failing.at = Instant::now();
        if only_this_node {
            failing.backoff.record_failure(None);
        }
    }
}
