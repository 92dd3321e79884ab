//! Metrics of drains.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Registry;

/// Metrics of drains. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct DrainMetrics {
    drains: Family<DrainLabels, Counter>,
    evictions: Family<DrainLabels, Counter>,
    pub(super) blocked: Gauge,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DrainLabels {
    result: &'static str,
}

impl DrainMetrics {
    /// Registers `node_drains_total{result="drained|no_node"}`,
    /// `node_drain_evictions_total{result="accepted|blocked|throttled|deleted|failed"}` and `node_drains_blocked`.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "Completed drains of machines that are being deleted: drained, or no_node if there was no Node";
        registry.register("node_drains", help, None, &self.drains);
        let help = "Requested evictions, by reply of the API server: accepted, blocked, throttled, failed; deleted: it could not be \
            evicted in time before an interruption";
        registry.register("node_drain_evictions", help, None, &self.evictions);
        let help = "Drains that have been blocked for more than a minute";
        registry.register("node_drains_blocked", help, None, &self.blocked);
    }

    pub(super) fn count_drain(&self, result: &'static str) {
        self.drains.get_or_create(&DrainLabels { result }).inc();
    }

    pub(super) fn count_eviction(&self, result: &'static str) {
        self.evictions.get_or_create(&DrainLabels { result }).inc();
    }
}
