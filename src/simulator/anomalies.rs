//! Faults of VPSie that last, unlike those of single requests.

use jiff::SignedDuration;
use serde::Deserialize;

use super::config_error::ConfigError;
use super::span::Span;

/// Lasting anomalies. None by default.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AnomaliesConfig {
    /// Whether every deletion of a worker is refused with 403, as for a token that may create and not delete.
    pub deletions_forbidden: bool,
    /// How likely one request makes two workers, 0 to 1.
    pub duplicates: f64,
    /// How likely a worker appears late, 0 to 1.
    pub late: f64,
    /// How late such a worker is listed and up.
    pub late_by: Span,
    /// How likely a deleted worker is listed and runs again, 0 to 1.
    pub returns: f64,
    /// How long after it was gone such a worker returns.
    pub returns_after: Span,
    /// How likely nothing shows the role of a worker, 0 to 1: no `role`, an unknown `node_type`, a hostname
    /// without `-slave`.
    pub unknown_roles: f64,
    /// How likely the account has another VM with the hostname of a worker, such as a restored backup, 0 to
    /// 1.
    pub namesakes: f64,
    /// How long after a worker is listed in its cluster `storages/vms` lists it too.
    pub uuid_told_after: Span,
    /// Rows on a page of a list where the client asks for no number.
    pub page_rows: usize,
}

impl Default for AnomaliesConfig {
    fn default() -> Self {
        Self {
            deletions_forbidden: false,
            duplicates: 0.0,
            late: 0.0,
            late_by: Span::exactly(SignedDuration::from_hours(3)),
            returns: 0.0,
            returns_after: Span::exactly(SignedDuration::from_mins(10)),
            unknown_roles: 0.0,
            namesakes: 0.0,
            uuid_told_after: Span::ZERO,
            page_rows: 20,
        }
    }
}

impl AnomaliesConfig {
    /// Checks what the types leave open.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let error =
            |field: &str, problem: String| Err(ConfigError { field: format!("anomalies.{field}"), problem });
        for (name, chance) in [
            ("duplicates", self.duplicates),
            ("late", self.late),
            ("returns", self.returns),
            ("unknownRoles", self.unknown_roles),
            ("namesakes", self.namesakes),
        ] {
            if !(0.0..=1.0).contains(&chance) {
                return error(name, format!("{chance}: want 0 to 1"));
            }
        }
        if self.page_rows == 0 {
            return error("pageRows", "0: want 1 or more".to_owned());
        }
        Ok(())
    }
}

/// Whether it happens. Without a chance nothing is drawn, so that what else is drawn stays as it is.
pub(super) fn happens(chance: f64, rng: &mut impl rand::RngExt) -> bool {
    chance > 0.0 && rng.random_bool(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chance_is_0_to_1_and_a_page_has_rows() {
        let chance = AnomaliesConfig { late: 1.5, ..AnomaliesConfig::default() };
        assert_eq!(chance.validate().unwrap_err().to_string(), "anomalies.late: 1.5: want 0 to 1");
        let page = AnomaliesConfig { page_rows: 0, ..AnomaliesConfig::default() };
        assert_eq!(page.validate().unwrap_err().to_string(), "anomalies.pageRows: 0: want 1 or more");
        AnomaliesConfig::default().validate().unwrap();
    }
}
