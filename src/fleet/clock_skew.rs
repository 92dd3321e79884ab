//! Correction of times that were recorded while the clock was ahead.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use super::age::{TOLERANCE, is_ahead};
use super::machine::{Machine, Phase};
use super::record::{Change, UnmanagedNode};
use super::spot::MAX_NOTICE;
use super::state::Fleet;
use super::used_requests::unused_time;

/// Time by which a node is older than requests, after the times of both were corrected.
const SEEN_BEFORE_REQUESTS: SignedDuration = SignedDuration::from_mins(1);

/// Sets a time in the future to `now`.
fn correct(time: &mut Timestamp, now: Timestamp) {
    if is_ahead(*time, now) {
        *time = now;
    }
}

impl Machine {
    /// Its recorded times, without those of its requests.
    fn times(&mut self) -> impl Iterator<Item = &mut Timestamp> {
        let (since, accepted) = match &mut self.phase {
            Phase::Pending => (None, None),
            Phase::Creating { since, .. } | Phase::Running { since, .. } => (Some(since), None),
            Phase::Failed { at, .. } => (Some(at), None),
            Phase::Deleting { since, accepted_at, .. } => (Some(since), accepted_at.as_mut()),
        };
        let received = self.notice.as_mut().map(|notice| &mut notice.received_at);
        [&mut self.created_at].into_iter().chain(since).chain(accepted).chain(received)
    }

    /// Corrects the times of its requests. They name the requests, so they stay different from each other and
    /// from `used`, those of requests that have a VM.
    fn correct_requests(&mut self, used: impl Iterator<Item = Timestamp>, now: Timestamp) {
        let mut taken: HashSet<Timestamp> =
            self.requests.iter().map(|request| request.at).chain(used).collect();
        for request in self.requests.iter_mut().rev().filter(|request| is_ahead(request.at, now)) {
            request.at = unused_time(&taken, now);
            taken.insert(request.at);
        }
    }
}

impl Fleet {
    /// Sets times in the future to now. They were recorded while the clock was ahead; without the correction,
    /// their deadlines would be late by that. Names of requests are no deadlines and stay. (A shortage with
    /// such a time is ignored: [`Fleet::growth_block`].)
    pub(super) fn correct_times(&mut self, changes: &mut Vec<Change>, now: Timestamp) {
        let mut corrected = Vec::new();
        for old in self.machines.values() {
            let mut machine = old.clone();
            machine.times().for_each(|time| correct(time, now));
            // A notice is at most this far ahead.
            let deadlines = machine.notice.iter_mut().flat_map(|notice| notice.deadlines.values_mut());
            deadlines.filter(|at| is_ahead(**at, now + MAX_NOTICE)).for_each(|at| *at = now + TOLERANCE);
            if machine.requests.iter().any(|request| is_ahead(request.at, now)) {
                let used = self.used_requests().filter(|used| used.machine == old.id).map(|used| used.at);
                machine.correct_requests(used, now);
            }
            if machine != *old {
                corrected.push(Change::SaveMachine(machine));
            }
        }
        for change in corrected.drain(..) {
            self.push_change(changes, change);
        }
        for old in self.unmanaged.values() {
            let mut unmanaged: UnmanagedNode = old.clone();
            // Requests that were sent after its first listing stay newer: it must not become their result.
            if is_ahead(unmanaged.first_seen, now) {
                unmanaged.first_seen = now - SEEN_BEFORE_REQUESTS;
            }
            if let Some(late) = &mut unmanaged.abandoned_request {
                correct(&mut late.at, now);
            }
            if unmanaged != *old {
                corrected.push(Change::SaveUnmanaged(unmanaged));
            }
        }
        for change in corrected {
            self.push_change(changes, change);
        }
        let mut history = self.request_history().clone();
        history.abandoned.iter_mut().for_each(|late| correct(&mut late.at, now));
        history.moved.iter_mut().for_each(|moved| correct(&mut moved.moved_at, now));
        self.save_request_history(changes, history);
        let ahead = |time: &Timestamp| is_ahead(*time, now);
        if self
            .transient
            .missing
            .values()
            .map(|(_, since)| since)
            .chain(self.transient.delayed.values())
            .any(ahead)
        {
            self.transient.missing.values_mut().for_each(|(_, since)| correct(since, now));
            self.transient.delayed.values_mut().for_each(|since| correct(since, now));
        }
    }
}
