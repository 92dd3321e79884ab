//! How long the caller of a call waits.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// Share of a caller's patience that is left for the way back of the answer.
const WAY_BACK: u32 = 10;

/// How long a call may take so that its caller still hears the answer. None where the caller sets no deadline.
pub(super) fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // At most eight digits, says the protocol: nothing here can overflow.
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
    Some(timeout.saturating_sub(timeout / WAY_BACK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_refuses_the_rest() {
        let patience = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            patience(&metadata)
        };
        assert_eq!(patience("5S"), Some(Duration::from_millis(4500)));
        assert_eq!(patience("100m"), Some(Duration::from_millis(90)));
        assert_eq!(patience("99999999H"), Some(Duration::from_hours(99_999_999) / 10 * 9));
        for text in ["", "S", "5", "-5S", "5s", "999999999S", "1e3S"] {
            assert_eq!(patience(text), None, "{text}");
        }
        assert_eq!(super::patience(&MetadataMap::new()), None);
    }
}
