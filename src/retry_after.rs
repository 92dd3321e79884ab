//! The `Retry-After` of a reply, at most [`RetryAfter::MAX`].

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};
use jiff::Timestamp;

/// The wait that a server requests, at most [`RetryAfter::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetryAfter(Duration);

impl RetryAfter {
    /// Maximum wait. One reply must not stop listings, creations and deletions for hours, and one request a
    /// minute is far below every known rate limit.
    pub const MAX: Duration = Duration::from_mins(1);

    /// The wait, limited to [`RetryAfter::MAX`].
    pub fn new(asked: Duration) -> Self {
        Self(asked.min(Self::MAX))
    }

    /// The wait in seconds, as servers send it. None if it is negative or not a number.
    pub fn from_secs_f64(seconds: f64) -> Option<Self> {
        (seconds >= 0.0).then(|| Self(Duration::from_secs_f64(seconds.min(Self::MAX.as_secs_f64()))))
    }

    /// Reads the header: seconds or a date. A date counts from the `Date` of the reply, because the server's
    /// clock may differ from the local one; without that header it counts from `now`.
    pub fn read(headers: &HeaderMap, now: Timestamp) -> Option<Self> {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
        let date = |text| jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp());
        let asked = text(header::RETRY_AFTER)?;
        if let Ok(seconds) = asked.parse::<f64>() {
            return Self::from_secs_f64(seconds);
        }
        let sent = text(header::DATE).and_then(date).unwrap_or(now);
        Some(Self::new(Duration::try_from(date(asked)?.duration_since(sent)).unwrap_or_default()))
    }

    /// The wait itself.
    pub fn get(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(HeaderName, &str)]) -> Option<u64> {
        let headers = headers.iter().map(|(name, text)| (name.clone(), text.parse().unwrap()));
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        RetryAfter::read(&headers.collect(), now).map(|wait| wait.get().as_secs())
    }

    #[test]
    fn reads_seconds_and_dates() {
        for (text, want) in [
            ("7", Some(7)),
            (" 7.5 ", Some(7)),
            ("Thu, 01 Jan 2026 00:00:09 GMT", Some(9)),
            ("Wed, 31 Dec 2025 00:00:00 GMT", Some(0)),
            ("-3", None),
            ("NaN", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(read(&[(header::RETRY_AFTER, text)]), want, "{text}");
        }
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn caps_every_form() {
        for text in ["61", "86400", "1e19", "1e400", "inf", "Fri, 01 Jan 2027 00:00:00 GMT"] {
            assert_eq!(read(&[(header::RETRY_AFTER, text)]), Some(60), "{text}");
        }
        assert_eq!(RetryAfter::new(Duration::MAX).get(), RetryAfter::MAX);
    }

    #[test]
    fn counts_a_date_from_the_date_of_the_reply() {
        let later = (header::RETRY_AFTER, "Thu, 01 Jan 2026 09:00:20 GMT");
        assert_eq!(read(&[later.clone(), (header::DATE, "Thu, 01 Jan 2026 09:00:00 GMT")]), Some(20));
        assert_eq!(read(&[later, (header::DATE, "garbled")]), Some(60));
    }
}
