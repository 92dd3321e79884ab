//! Random times between two bounds.

use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer};

/// A time that is uniformly distributed between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Lower bound.
    pub from: SignedDuration,
    /// Upper bound.
    pub to: SignedDuration,
}

/// Error of a text that is not a [`Span`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be a time such as 40s, or two bounds such as 20s..60s, the lower bound first")]
pub struct SpanError(String);

impl Span {
    /// A constant time.
    pub const fn exactly(time: SignedDuration) -> Self {
        Self { from: time, to: time }
    }

    /// Zero.
    pub const ZERO: Self = Self::exactly(SignedDuration::ZERO);

    pub(super) const fn seconds(from: i64, to: i64) -> Self {
        Self { from: SignedDuration::from_secs(from), to: SignedDuration::from_secs(to) }
    }

    pub(super) fn draw(self, rng: &mut impl rand::RngExt) -> SignedDuration {
        let millis = self.from.as_millis() as i64..=self.to.as_millis() as i64;
        SignedDuration::from_millis(rng.random_range(millis))
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let time = |part: &str| part.trim().parse::<SignedDuration>().ok().filter(|t| !t.is_negative());
        match (time(from), time(to)) {
            (Some(from), Some(to)) if from <= to => Ok(Self { from, to }),
            _ => Err(SpanError(text.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A time after another one.
pub(super) fn later(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.saturating_add(by).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_one_time_or_two() {
        assert_eq!("40s".parse(), Ok(Span::seconds(40, 40)));
        assert_eq!("20s..1m".parse(), Ok(Span::seconds(20, 60)));
        for text in ["", "soon", "60s..20s", "-1s", "1s.."] {
            assert_eq!(text.parse::<Span>(), Err(SpanError(text.to_owned())));
        }
    }
}
