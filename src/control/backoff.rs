//! Exponential backoff.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry_after::RetryAfter;

/// A delay that doubles with each failure, from `least` to `most`, and is reset by a success.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    delay: Duration,
    until: Instant,
}

impl Backoff {
    pub(super) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, delay: Duration::ZERO, until: Instant::now() }
    }

    pub(super) fn record_success(&mut self) {
        self.delay = Duration::ZERO;
        self.until = Instant::now();
    }

    /// Records a failure. `at_least` is the wait that the server requests. Calls that run at the same time
    /// fail together, so a failure during the delay does not double it.
    pub(super) fn record_failure(&mut self, at_least: Option<RetryAfter>) {
        if self.is_ready() {
            self.delay = (self.delay * 2).clamp(self.least, self.most);
        }
        self.until =
            self.until.max(Instant::now() + self.delay.max(at_least.map_or(Duration::ZERO, RetryAfter::get)));
    }

    pub(super) fn is_ready(&self) -> bool {
        Instant::now() >= self.until
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }
}
