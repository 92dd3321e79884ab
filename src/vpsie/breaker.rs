//! Circuit breaker: after several failures, calls fail at once and no request is sent, so that VPSie can
//! recover.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Number of consecutive failures that open the breaker.
const THRESHOLD: u32 = 5;
/// Time until an open breaker admits a probe.
const OPEN_FOR: Duration = Duration::from_secs(30);

/// Counts requests without a reply, and 5xx. Refusals do not count as failures.
#[derive(Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
}

/// Permission to send one request. Report its result with [`Permit::replied`] or [`Permit::failed`]; a
/// dropped permit reports nothing.
pub(super) struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Breaker {
    /// Returns a permit, or the time to wait.
    pub(super) fn admit(&self) -> Result<Permit<'_>, Duration> {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(until) = state.open_until else { return Ok(Permit { breaker: self, probe: false }) };
        if until > now {
            return Err(until - now);
        }
        if state.probing {
            return Err(Duration::from_secs(1));
        }
        state.probing = true;
        Ok(Permit { breaker: self, probe: true })
    }

    /// Whether the breaker is open.
    pub(super) fn is_open(&self) -> bool {
        self.lock().open_until.is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// Reports that VPSie replied. Closes the breaker.
    pub(super) fn replied(self) {
        let mut state = self.breaker.lock();
        state.failures = 0;
        state.open_until = None;
    }

    /// Reports that there was no reply, or one with a 5xx. Returns whether this opened the breaker.
    pub(super) fn failed(self) -> bool {
        let mut state = self.breaker.lock();
        state.failures = state.failures.saturating_add(1);
        if self.probe || (state.failures >= THRESHOLD && state.open_until.is_none()) {
            state.open_until = Some(Instant::now() + OPEN_FOR);
            return true;
        }
        false
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.lock().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Breaker {
        let breaker = Breaker::default();
        for _ in 0..THRESHOLD {
            breaker.admit().ok().unwrap().failed();
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_a_row() {
        let breaker = Breaker::default();
        for _ in 1..THRESHOLD {
            breaker.admit().ok().unwrap().failed();
        }
        breaker.admit().ok().unwrap().replied();
        for _ in 1..THRESHOLD {
            breaker.admit().ok().unwrap().failed();
        }
        assert!(!breaker.is_open());
        breaker.admit().ok().unwrap().failed();
        assert!(breaker.is_open());
        assert_eq!(breaker.admit().err(), Some(OPEN_FOR));
    }

    #[tokio::test(start_paused = true)]
    async fn lets_one_probe_through_and_closes_on_an_answer() {
        let breaker = open();
        tokio::time::sleep(OPEN_FOR).await;
        let probe = breaker.admit().ok().unwrap();
        assert!(breaker.admit().is_err());
        probe.replied();
        assert!(!breaker.is_open());
        assert!(breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_opens_it_again() {
        let breaker = open();
        tokio::time::sleep(OPEN_FOR).await;
        breaker.admit().ok().unwrap().failed();
        assert_eq!(breaker.admit().err(), Some(OPEN_FOR));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_probe_leaves_room_for_the_next() {
        let breaker = open();
        tokio::time::sleep(OPEN_FOR).await;
        drop(breaker.admit().ok().unwrap());
        assert!(breaker.admit().is_ok());
    }
}
