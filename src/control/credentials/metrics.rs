//! What is counted of credentials.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Registry;

/// Metrics of the credentials that are read again. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct CredentialMetrics {
    rotations: Family<Labels, Counter>,
    valid: Gauge,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

impl CredentialMetrics {
    /// Registers `credential_rotations_total{result="accepted|refused|unknown|invalid"}` and `credentials_valid`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Credentials that were tried, by what VPSie said: accepted, refused, unknown; invalid are too wrong to be \
                    tried";
        registry.register("credential_rotations", help, None, &self.rotations);
        let help = "1 once VPSie accepted the credentials, until newer ones are refused or wrong";
        registry.register("credentials_valid", help, None, &self.valid);
    }

    pub(super) fn count(&self, result: &'static str) {
        self.rotations.get_or_create(&Labels { result }).inc();
    }

    pub(super) fn valid(&self, valid: bool) {
        self.valid.set(valid.into());
    }

    #[cfg(test)]
    pub(super) fn counted(&self, result: &'static str) -> u64 {
        self.rotations.get_or_create(&Labels { result }).get()
    }

    #[cfg(test)]
    pub(super) fn is_valid(&self) -> bool {
        self.valid.get() == 1
    }
}
