//! One row, and its fields in all their forms.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::{Map, Value};

use crate::fleet::Hostname;

/// A row. Each reader takes the possible names of a field, and returns the first readable one.
#[derive(Clone, Copy)]
pub(in crate::vpsie) struct Row<'a>(pub(in crate::vpsie) &'a Map<String, Value>);

/// A time, as VPSie writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vpsie) struct Time {
    pub(in crate::vpsie) at: Timestamp,
    /// Whether the text has a time zone. Otherwise it is read as UTC.
    pub(in crate::vpsie) zoned: bool,
}

impl Row<'_> {
    fn find<T>(self, names: &[&str], read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        names.iter().find_map(|name| self.0.get(*name).and_then(&read))
    }

    /// A non-empty text, or a number as text.
    pub(in crate::vpsie) fn text(self, names: &[&str]) -> Option<String> {
        self.find(names, text)
    }

    /// A hostname. Numbers are not hostnames.
    pub(in crate::vpsie) fn hostname(self, names: &[&str]) -> Option<Hostname> {
        self.find(names, |value| value.as_str().map(Hostname::new).filter(|name| !name.as_str().is_empty()))
    }

    /// A non-negative whole number.
    pub(in crate::vpsie) fn number(self, names: &[&str]) -> Option<u64> {
        self.find(names, |value| decimal(value).filter(Decimal::is_integer).and_then(|d| d.to_u64()))
    }

    /// An amount: number or text (docs/reference/vpsie-api.md#values).
    pub(in crate::vpsie) fn decimal(self, names: &[&str]) -> Option<Decimal> {
        self.find(names, decimal)
    }

    /// A flag: 0/1, "0"/"1", true/false.
    pub(in crate::vpsie) fn flag(self, names: &[&str]) -> Option<bool> {
        self.find(names, flag)
    }

    /// A time.
    pub(in crate::vpsie) fn time(self, names: &[&str]) -> Option<Time> {
        self.find(names, time)
    }

    /// The texts of a list. Empty if there is no list.
    pub(in crate::vpsie) fn texts(self, name: &str) -> Vec<String> {
        let values = self.0.get(name).and_then(Value::as_array);
        values.into_iter().flatten().filter_map(text).collect()
    }

    /// IP addresses under any of the names: a text or a list of them.
    pub(in crate::vpsie) fn addresses(self, names: &[&str]) -> BTreeSet<IpAddr> {
        let values = names.iter().filter_map(|name| self.0.get(*name));
        let texts = values.flat_map(|value| match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        });
        let read = |value: &Value| text(value)?.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified());
        texts.filter_map(read).collect()
    }
}

fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

fn decimal(value: &Value) -> Option<Decimal> {
    let text = text(value)?;
    let text = text.trim_start_matches('$').trim_end_matches("USD").trim();
    // A comma separates thousands, as in 1,234.50. Without a point it would be ambiguous.
    let text = if text.contains('.') { text.replace(',', "") } else { text.to_owned() };
    Decimal::from_str(&text).or_else(|_| Decimal::from_scientific(&text)).ok()
}

fn flag(value: &Value) -> Option<bool> {
    if let Value::Bool(flag) = value {
        return Some(*flag);
    }
    match text(value)?.to_lowercase().as_str() {
        "1" | "true" | "yes" => Some(true),
        "0" | "false" | "no" => Some(false),
        _ => None,
    }
}

/// Earliest plausible time. Databases write earlier ones for "never": 0, 1970 in any zone, MySQL's year 0.
const FIRST: Timestamp = Timestamp::constant(YEAR_1980, 0);
const YEAR_1980: i64 = 315_532_800;
/// Latest plausible time. `9999-12-31` also means "never".
const LAST: Timestamp = Timestamp::constant(YEAR_9999, 0);
const YEAR_9999: i64 = 253_370_764_800;

/// A time. None if it is unreadable or means "never".
fn time(value: &Value) -> Option<Time> {
    parse_time(value).filter(|time| (FIRST..LAST).contains(&time.at))
}

fn parse_time(value: &Value) -> Option<Time> {
    let text = text(value)?;
    let zoned = |at| Time { at, zoned: true };
    if let Ok(number) = text.parse::<i64>() {
        // Seconds until the year 5138, else milliseconds.
        let at = if number.unsigned_abs() < 100_000_000_000 {
            Timestamp::from_second(number)
        } else {
            Timestamp::from_millisecond(number)
        };
        return at.ok().map(zoned);
    }
    if let Ok(at) = Timestamp::from_str(&text) {
        return Some(zoned(at));
    }
    if let Ok(at) = jiff::fmt::rfc2822::parse(&text) {
        return Some(zoned(at.timestamp()));
    }
    let civil = DateTime::from_str(&text).ok()?;
    let at = TimeZone::UTC.to_timestamp(civil).ok()?;
    Some(Time { at, zoned: false })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_come_in_every_form() {
        for (value, want) in [
            (json!(1), Some(true)),
            (json!(0), Some(false)),
            (json!("1"), Some(true)),
            (json!("0"), Some(false)),
            (json!(true), Some(true)),
            (json!("False"), Some(false)),
            (json!(null), None),
            (json!("maybe"), None),
            (json!([]), None),
        ] {
            assert_eq!(flag(&value), want, "{value}");
        }
    }

    #[test]
    fn money_comes_in_every_form() {
        for (value, want) in [
            (json!(24), Some("24")),
            (json!(24.5), Some("24.5")),
            (json!("24.50"), Some("24.50")),
            (json!(" $1,234.50 "), Some("1234.50")),
            (json!("24 USD"), Some("24")),
            (json!(1e-2), Some("0.01")),
            (json!("2.4e1"), Some("24")),
            (json!("24,50"), None),
            (json!(""), None),
            (json!("free"), None),
            (json!(null), None),
            (json!({}), None),
        ] {
            assert_eq!(decimal(&value).map(|d| d.to_string()).as_deref(), want, "{value}");
        }
    }

    #[test]
    fn times_come_in_every_form() {
        let at = "2026-03-04T05:06:07Z".parse().unwrap();
        for (value, zoned) in [
            (json!("2026-03-04T05:06:07Z"), true),
            (json!("2026-03-04T05:06:07.000Z"), true),
            (json!("2026-03-04T07:06:07+02:00"), true),
            (json!("Wed, 04 Mar 2026 05:06:07 GMT"), true),
            (json!(1_772_600_767), true),
            (json!("1772600767"), true),
            (json!(1_772_600_767_000_i64), true),
            (json!("2026-03-04 05:06:07"), false),
            (json!("2026-03-04T05:06:07"), false),
        ] {
            assert_eq!(time(&value), Some(Time { at, zoned }), "{value}");
        }
        for value in [json!(""), json!(null), json!("soon"), json!(true), json!(false), json!({})] {
            assert_eq!(time(&value), None, "{value}");
        }
    }

    #[test]
    fn reads_times_that_mean_never_as_none() {
        for value in [
            json!(0),
            json!("0"),
            json!(1),
            json!(-1),
            json!("0000-00-00 00:00:00"),
            json!("1970-01-01"),
            json!("1970-01-01 00:00:00"),
            json!("1970-01-01T00:00:00Z"),
            json!("1970-01-01T01:00:00+01:00"),
            json!("1969-12-31T19:00:00-05:00"),
            json!("0001-01-01T00:00:00Z"),
            json!("9999-12-31 23:59:59"),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(1e28),
        ] {
            assert_eq!(time(&value), None, "{value}");
        }
    }

    #[test]
    fn addresses_come_alone_or_in_lists() {
        let row =
            json!({"a": "10.0.0.1", "b": ["10.0.0.2", "", 7, "::1"], "c": null, "d": "0.0.0.0", "e": {}});
        let read = Row(row.as_object().unwrap()).addresses(&["a", "b", "c", "d", "e", "f"]);
        let want: BTreeSet<IpAddr> = ["10.0.0.1", "10.0.0.2", "::1"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!(read, want);
    }

    #[test]
    fn ids_are_numbers_or_text() {
        let row = json!({"a": 7, "b": "7", "c": 7.0, "d": "", "e": -1, "f": "x"});
        let row = Row(row.as_object().unwrap());
        for name in ["a", "b", "c"] {
            assert_eq!(row.number(&[name]), Some(7), "{name}");
        }
        assert_eq!(row.text(&["missing", "d", "a"]).as_deref(), Some("7"));
        assert_eq!((row.number(&["d"]), row.number(&["e"]), row.number(&["f"])), (None, None, None));
    }
}
