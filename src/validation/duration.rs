//! Durations as people write them.

use std::time::Duration;

use jiff::SignedDuration;

/// The longest duration that a flag can have: no sum of it with a moment leaves what a clock can show.
const MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// Reads `90s`, `10m`, `1h30m`, `2d`. Must be longer than nothing and at most ten years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    any_duration(text)
        .filter(|duration| *duration <= MAX)
        .ok_or_else(|| "want a duration above 0 and at most 87600h such as 90s, 10m or 1h30m".to_owned())
}

/// The same without an upper limit: for what is only passed on.
pub(super) fn any_duration(text: &str) -> Option<Duration> {
    let duration = text.trim().parse::<SignedDuration>().ok()?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero())
}
