//! Durations in flags and manifests.

use std::time::Duration;

use jiff::SignedDuration;

/// Maximum duration of a flag: adding it to a timestamp cannot overflow.
const MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// Parses `90s`, `10m`, `1h30m`, `2d`. Must be above 0 and at most ten years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    any_duration(text)
        .filter(|duration| *duration <= MAX)
        .ok_or_else(|| "must be a duration such as 90s, 10m or 1h30m, above 0 and at most 87600h".to_owned())
}

/// Parses a duration without an upper limit, for values that are only passed on.
pub(super) fn any_duration(text: &str) -> Option<Duration> {
    let duration = text.trim().parse::<SignedDuration>().ok()?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero())
}
