//! Faults of VPSie that last, unlike those of single requests.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::config_error::ConfigError;
use super::span::Span;

/// Lasting anomalies. None by default.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AnomaliesConfig {
    /// Whether every deletion of a worker is refused with 403, as for a token that may only create.
    pub deletions_forbidden: bool,
    /// Probability that one request creates two workers, 0 to 1.
    pub duplicates: f64,
    /// Probability that a worker is late, 0 to 1.
    pub late: f64,
    /// Delay until such a worker is listed and until it is up.
    pub late_by: Span,
    /// Probability that a deleted worker is listed and runs again, 0 to 1.
    pub returns: f64,
    /// Time from the end of such a worker until it is listed again.
    pub returns_after: Span,
    /// Probability that no field shows the role of a worker, 0 to 1: no `role`, an unknown `node_type`, a
    /// hostname without `-slave`.
    pub unknown_roles: f64,
    /// Probability that the account has another VM with the hostname of a worker, such as a restored backup,
    /// 0 to 1.
    pub namesakes: f64,
    /// Time from the first listing of a worker in its cluster until `storages/vms` lists it with its UUID.
    pub uuid_listed_after: Span,
    /// Share of time in which the nodes of a cluster are listed incompletely, 0 to 1: rows without hostnames,
    /// or no list of workers.
    pub incomplete_listings: f64,
    /// Rows on a page of a list if the request has no `limit`.
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
            uuid_listed_after: Span::ZERO,
            incomplete_listings: 0.0,
            page_rows: 20,
        }
    }
}

impl AnomaliesConfig {
    /// Checks the ranges of the values.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let error =
            |field: &str, problem: String| Err(ConfigError { field: format!("anomalies.{field}"), problem });
        for (name, probability) in [
            ("duplicates", self.duplicates),
            ("late", self.late),
            ("returns", self.returns),
            ("unknownRoles", self.unknown_roles),
            ("namesakes", self.namesakes),
            ("incompleteListings", self.incomplete_listings),
        ] {
            if !(0.0..=1.0).contains(&probability) {
                return error(name, format!("must be 0 to 1, is {probability}"));
            }
        }
        if self.page_rows == 0 {
            return error("pageRows", "must be 1 or more, is 0".to_owned());
        }
        Ok(())
    }
}

/// The part that a listing of nodes lacks for some minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// The hostnames of these rows.
    Hostnames(u64),
    /// The list of workers.
    Workers,
}

impl Gap {
    /// Returns true iff the row of the VM has no hostname.
    pub(super) fn hides_hostname(self, vm: u64) -> bool {
        matches!(self, Self::Hostnames(seed) if mix(seed ^ vm).is_multiple_of(2))
    }
}

/// Duration of a gap, seconds.
const GAP_SECONDS: i64 = 5 * 60;

impl AnomaliesConfig {
    /// The gap of listings at this time. It depends on the time alone: listings draw no random numbers.
    pub(super) fn gap(&self, now: Timestamp) -> Option<Gap> {
        let drawn = mix(now.as_second().div_euclid(GAP_SECONDS).unsigned_abs());
        let is_gap = ((drawn >> 32) as f64) < self.incomplete_listings * f64::from(u32::MAX);
        is_gap.then(|| if drawn.is_multiple_of(2) { Gap::Workers } else { Gap::Hostnames(drawn) })
    }
}

/// The finalizer of SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
pub(super) fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Returns true with the given probability. A probability of 0 draws no random number, so that other draws
/// do not change.
pub(super) fn draw_event(probability: f64, rng: &mut impl rand::RngExt) -> bool {
    probability > 0.0 && rng.random_bool(probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_take_their_share_of_time() {
        let gaps = |share: f64| {
            let anomalies = AnomaliesConfig { incomplete_listings: share, ..AnomaliesConfig::default() };
            let at = |window: i64| anomalies.gap(Timestamp::from_second(window * GAP_SECONDS).unwrap());
            (0..1000).filter_map(at).collect::<Vec<_>>()
        };
        assert_eq!((gaps(0.0).len(), gaps(1.0).len()), (0, 1000));
        let some = gaps(0.3);
        assert!((200..400).contains(&some.len()), "{}", some.len());
        let workers = some.iter().filter(|gap| **gap == Gap::Workers).count();
        assert!(workers > 50 && some.len() - workers > 50, "{workers}");
    }

    #[test]
    fn checks_probabilities_and_page_rows() {
        let late = AnomaliesConfig { late: 1.5, ..AnomaliesConfig::default() };
        assert_eq!(late.validate().unwrap_err().to_string(), "anomalies.late: must be 0 to 1, is 1.5");
        let page = AnomaliesConfig { page_rows: 0, ..AnomaliesConfig::default() };
        assert_eq!(page.validate().unwrap_err().to_string(), "anomalies.pageRows: must be 1 or more, is 0");
        AnomaliesConfig::default().validate().unwrap();
    }
}
