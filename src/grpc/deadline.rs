//! The deadline of a call.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The tenth of the caller's timeout that is reserved for the transport of the reply.
const REPLY_RESERVE: u32 = 10;

/// The time that a call may take so that its reply arrives before the caller's deadline. None without a
/// deadline.
pub(super) fn time_budget(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The protocol allows at most eight digits, so this cannot overflow.
    let count = u64::from(digits.parse::<u32>().ok().filter(|_| digits.len() <= 8)?);
    let timeout = match unit {
        "H" => Duration::from_hours(count),
        "M" => Duration::from_mins(count),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout.saturating_sub(timeout / REPLY_RESERVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_refuses_malformed_values() {
        let time_budget = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            time_budget(&metadata)
        };
        assert_eq!(time_budget("5S"), Some(Duration::from_millis(4500)));
        assert_eq!(time_budget("100m"), Some(Duration::from_millis(90)));
        assert_eq!(time_budget("99999999H"), Some(Duration::from_hours(99_999_999) / 10 * 9));
        for text in ["", "S", "5", "-5S", "5s", "999999999S", "1e3S"] {
            assert_eq!(time_budget(text), None, "{text}");
        }
        assert_eq!(super::time_budget(&MetadataMap::new()), None);
    }
}
