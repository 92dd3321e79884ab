//! A wall clock that follows tokio's virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use vpsie_autoscaler::clock::Clock;

/// A wall clock with a skew. Clones share the skew.
#[derive(Clone)]
pub(crate) struct VirtualClock {
    start: Instant,
    skew: Arc<AtomicI64>,
}

impl VirtualClock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), skew: Arc::default() }
    }

    /// A new clock with the same start and without skew.
    pub(crate) fn unskewed(&self) -> Self {
        Self { start: self.start, skew: Arc::default() }
    }

    /// A clock that is always `seconds` ahead of this one.
    pub(crate) fn with_error(&self, seconds: i64) -> Ahead {
        Ahead { clock: self.clone(), by: SignedDuration::from_secs(seconds) }
    }

    /// Moves this clock forward, or back if `seconds` is negative.
    pub(crate) fn jump(&self, seconds: i64) {
        self.skew.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Returns true iff this clock is more than `seconds` ahead.
    pub(crate) fn is_ahead(&self, seconds: i64) -> bool {
        self.skew.load(Ordering::Relaxed) > seconds
    }

    /// Virtual time since the start of the run.
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

/// A clock that is ahead of another one.
pub(crate) struct Ahead {
    clock: VirtualClock,
    by: SignedDuration,
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        self.clock.now() + self.by
    }
}
