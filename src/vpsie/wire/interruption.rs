//! The announcement of an interruption in a row (docs/reference/vpsie-api.md#spot).

use std::str::FromStr;

use super::row::Row;
use crate::fleet::ReportedInterruption;

/// Names of the fields of a row that announce the interruption of its VM. No client shows such a field; these are
/// assumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptionFields(Vec<String>);

/// Texts that announce an interruption.
const ANNOUNCEMENTS: [&str; 8] = [
    "pending",
    "scheduled",
    "interrupting",
    "interrupted",
    "preempting",
    "preempted",
    "reclaiming",
    "terminating",
];

/// The default of [`InterruptionFields`], as text.
pub const INTERRUPTION_FIELDS: &str =
    "interruption_at,interruption_time,preemption_at,is_interrupted,is_preempted";

/// Invalid name of a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a field: letters, digits, _ and - are allowed")]
pub struct InvalidField(String);

impl Default for InterruptionFields {
    fn default() -> Self {
        Self(INTERRUPTION_FIELDS.split(',').map(str::to_owned).collect())
    }
}

impl FromStr for InterruptionFields {
    type Err = InvalidField;

    /// Reads names that are separated by commas. An empty text means no fields.
    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let names: Vec<String> =
            text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
        let is_name = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        match names.iter().find(|name| !is_name(name)) {
            Some(name) => Err(InvalidField(name.clone())),
            None => Ok(Self(names)),
        }
    }
}

impl InterruptionFields {
    /// The interruption that the row announces. A field is a time (its deadline, if it has a time zone), a flag, or one of
    /// [`ANNOUNCEMENTS`]. Any other value announces nothing.
    pub(super) fn read(&self, row: Row<'_>) -> Option<ReportedInterruption> {
        self.0.iter().find_map(|name| {
            let name = &[name.as_str()];
            if let Some(announced) = row.flag(name) {
                return announced.then_some(ReportedInterruption { deadline: None });
            }
            if let Some(time) = row.time(name) {
                // A time without a zone may be wrong by hours.
                return Some(ReportedInterruption { deadline: time.zoned.then_some(time.at) });
            }
            let text = row.text(name)?.to_lowercase();
            ANNOUNCEMENTS.contains(&text.as_str()).then_some(ReportedInterruption { deadline: None })
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(field: &str, value: &Value) -> Option<ReportedInterruption> {
        let row = json!({field: value});
        InterruptionFields::default().read(Row(row.as_object().unwrap()))
    }

    #[test]
    fn a_field_is_a_time_a_flag_or_a_text() {
        let at = "2026-11-28T12:00:00Z";
        let without_deadline = Some(ReportedInterruption { deadline: None });
        let with_deadline = Some(ReportedInterruption { deadline: Some(at.parse().unwrap()) });
        for (value, want) in [
            (json!(at), with_deadline),
            (json!(1_795_867_200), with_deadline),
            (json!("2026-11-28 12:00:00"), without_deadline),
            (json!(true), without_deadline),
            (json!(1), without_deadline),
            (json!("pending"), without_deadline),
            (json!(null), None),
            (json!(false), None),
            (json!(0), None),
            (json!(""), None),
            (json!("none"), None),
            (json!("N/A"), None),
            (json!("-"), None),
            (json!("0000-00-00 00:00:00"), None),
            (json!("1970-01-01 00:00:00"), None),
            (json!({}), None),
        ] {
            assert_eq!(read("interruption_at", &value), want, "{value}");
        }
        assert_eq!(read("is_preempted", &json!(1)), without_deadline);
        assert_eq!(read("is_suspended", &json!(1)), None, "concerns the account");
    }

    #[test]
    fn names_are_configurable() {
        let fields: InterruptionFields = "is_suspended, dropped-on".parse().unwrap();
        let row = json!({"is_suspended": 1, "interruption_at": true});
        assert_eq!(fields.read(Row(row.as_object().unwrap())), Some(ReportedInterruption { deadline: None }));
        let none: InterruptionFields = "".parse().unwrap();
        assert_eq!(none.read(Row(row.as_object().unwrap())), None);
        let error = "is suspended".parse::<InterruptionFields>().unwrap_err();
        assert!(error.to_string().contains("is suspended"), "{error}");
    }
}
