//! Durations as people write them.

use std::time::Duration;

use jiff::SignedDuration;

/// Reads `90s`, `10m`, `1h30m`, `2d`. Must be longer than nothing.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    text.trim()
        .parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "want a duration above 0 such as 90s, 10m or 1h30m".to_owned())
}
