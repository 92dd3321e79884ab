//! Wall clocks that follow tokio's virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use vpsie_autoscaler::clock::Clock;

/// A clock that can be set wrong.
#[derive(Clone)]
pub(crate) struct VirtualClock {
    start: Instant,
    skew: Arc<AtomicI64>,
}

impl VirtualClock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), skew: Arc::default() }
    }

    /// Another clock of the same time, right again.
    pub(crate) fn right(&self) -> Self {
        Self { start: self.start, skew: Arc::default() }
    }

    /// Sets it forward, or back.
    pub(crate) fn jump(&self, seconds: i64) {
        self.skew.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Whether it is set forward by more than this.
    pub(crate) fn is_ahead(&self, seconds: i64) -> bool {
        self.skew.load(Ordering::Relaxed) > seconds
    }

    pub(crate) fn elapsed(&self) -> std::time::Duration {
        self.start.elapsed()
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        start + self.start.elapsed() + SignedDuration::from_secs(self.skew.load(Ordering::Relaxed))
    }
}
