//! The age of recorded times.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Tolerance for recorded times in the future: the clocks of two successive leaders may differ by as much.
pub(super) const TOLERANCE: Duration = Duration::from_mins(2);

/// The time since then; 0 for a time in the future, as after the clock was set back.
pub(super) fn age(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).max(SignedDuration::ZERO).unsigned_abs()
}

/// Whether a recorded time is in the future: it was recorded while the clock was ahead.
pub(super) fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    age(now, time) > TOLERANCE
}
