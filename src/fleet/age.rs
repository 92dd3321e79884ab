//! The age of recorded times.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How far in the future a recorded time may be: clocks of replicas that follow each other differ by as much.
pub(super) const TOLERANCE: Duration = Duration::from_mins(2);

/// How long ago, 0 for the future: a clock that was set back makes nothing older.
pub(super) fn age(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).max(SignedDuration::ZERO).unsigned_abs()
}

/// Whether a recorded time is in the future: it was recorded while the clock was ahead.
pub(super) fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    age(now, time) > TOLERANCE
}
