//! The age of recorded times.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Tolerance for recorded times in the future. The clocks of two successive leaders may differ by this.
pub(super) const TOLERANCE: Duration = Duration::from_mins(2);

/// The time from `since` to `now`. 0 for a time in the future, which exists if the clock was set back.
pub(super) fn age(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).max(SignedDuration::ZERO).unsigned_abs()
}

/// Returns true iff a recorded time is in the future, because the clock was ahead when it was recorded.
pub(super) fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    age(now, time) > TOLERANCE
}
