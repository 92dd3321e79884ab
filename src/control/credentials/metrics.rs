//! Metrics of credentials.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Registry;

/// Metrics of the rotation of credentials. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct CredentialMetrics {
    checks: Family<CheckLabels, Counter>,
    valid: Gauge,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    result: &'static str,
}

impl CredentialMetrics {
    /// Registers `credential_checks_total{result="accepted|refused|unknown|invalid"}` and
    /// `credentials_valid`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Checks of new credentials, by result: accepted, refused, unknown (no reply, or another error), \
            invalid (missing or malformed; not sent to VPSie)";
        registry.register("credential_checks", help, None, &self.checks);
        let help = "1 if VPSie accepted the newest credentials, 0 if they are refused, missing or malformed";
        registry.register("credentials_valid", help, None, &self.valid);
    }

    pub(super) fn count_result(&self, result: &'static str) {
        self.checks.get_or_create(&CheckLabels { result }).inc();
    }

    pub(super) fn set_valid(&self, valid: bool) {
        self.valid.set(valid.into());
    }

    #[cfg(test)]
    pub(super) fn counted(&self, result: &'static str) -> u64 {
        self.checks.get_or_create(&CheckLabels { result }).get()
    }

    #[cfg(test)]
    pub(super) fn is_valid(&self) -> bool {
        self.valid.get() == 1
    }
}
