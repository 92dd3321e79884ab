//! Metrics of the client.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Unit;

use crate::telemetry::Registry;

/// Metrics of the requests to VPSie. Clones share their counters.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<EndpointLabels, Histogram, fn() -> Histogram>,
    retries: Family<EndpointLabels, Counter>,
    skipped_rows: Family<EndpointLabels, Counter>,
    missing_rows: Family<EndpointLabels, Gauge>,
    unidentified: Gauge,
    password_refusals: Counter,
    rate_limit_wait: Counter<f64, AtomicU64>,
    breaker_open: Gauge,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            // 50 ms to 51 s: a request times out at 30 s.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.05, 2.0, 11))),
            retries: Family::default(),
            skipped_rows: Family::default(),
            missing_rows: Family::default(),
            unidentified: Gauge::default(),
            password_refusals: Counter::default(),
            rate_limit_wait: Counter::default(),
            breaker_open: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers the metrics as `vpsie_api_…`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests to the VPSie API by outcome";
        registry.register("vpsie_api_requests", help, None, &self.requests);
        let help = "Duration of requests to the VPSie API";
        registry.register("vpsie_api_request_duration", help, Some(Unit::Seconds), &self.seconds);
        let help = "Repeated requests to the VPSie API";
        registry.register("vpsie_api_retries", help, None, &self.retries);
        let help = "Unreadable rows in replies of the VPSie API";
        registry.register("vpsie_api_skipped_rows", help, None, &self.skipped_rows);
        let help = "Rows missing from the last listing: rows that VPSie announced, but did not return";
        registry.register("vpsie_api_missing_rows", help, None, &self.missing_rows);
        let help = "Workers without a confirmed UUID, which cannot be deleted";
        registry.register("vpsie_api_unidentified_workers", help, None, &self.unidentified);
        let help = "Deletions of VMs that VPSie refused because of the password of the VM";
        registry.register("vpsie_api_password_refusals", help, None, &self.password_refusals);
        let help = "Time that calls waited for the rate limit";
        registry.register("vpsie_api_rate_limit_wait", help, Some(Unit::Seconds), &self.rate_limit_wait);
        let help =
            "1 while the circuit breaker is open: no requests are sent, because the VPSie API did not answer";
        registry.register("vpsie_api_breaker_open", help, None, &self.breaker_open);
    }

    pub(super) fn count_request(&self, endpoint: &'static str, outcome: &'static str, took: Duration) {
        self.requests.get_or_create(&RequestLabels { endpoint, outcome }).inc();
        self.seconds.get_or_create(&EndpointLabels { endpoint }).observe(took.as_secs_f64());
    }

    pub(super) fn count_retry(&self, endpoint: &'static str) {
        self.retries.get_or_create(&EndpointLabels { endpoint }).inc();
    }

    pub(super) fn count_skipped_row(&self, endpoint: &'static str) {
        self.skipped_rows.get_or_create(&EndpointLabels { endpoint }).inc();
    }

    /// Sets the number of missing rows. Returns whether it changed.
    pub(super) fn set_missing_rows(&self, endpoint: &'static str, missing: usize) -> bool {
        let missing = i64::try_from(missing).unwrap_or(i64::MAX);
        self.missing_rows.get_or_create(&EndpointLabels { endpoint }).set(missing) != missing
    }

    pub(super) fn set_unidentified(&self, workers: usize) {
        self.unidentified.set(i64::try_from(workers).unwrap_or(i64::MAX));
    }

    pub(super) fn count_password_refusal(&self) {
        self.password_refusals.inc();
    }

    pub(super) fn add_wait(&self, waited: Duration) {
        self.rate_limit_wait.inc_by(waited.as_secs_f64());
    }

    pub(super) fn set_breaker_open(&self, open: bool) {
        self.breaker_open.set(open.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels() {
        let mut registry = Registry::default();
        let metrics = Metrics::default();
        metrics.register(&mut registry);
        metrics.count_request("list_nodes", "ok", Duration::from_millis(70));
        metrics.count_retry("list_nodes");
        metrics.count_skipped_row("list_nodes");
        assert!(metrics.set_missing_rows("list_vms", 3) && !metrics.set_missing_rows("list_vms", 3));
        metrics.set_unidentified(2);
        metrics.count_password_refusal();
        metrics.add_wait(Duration::from_secs(2));
        metrics.set_breaker_open(true);
        let text = registry.encode().unwrap();
        for line in [
            r#"vpsie_autoscaler_vpsie_api_requests_total{endpoint="list_nodes",outcome="ok"} 1"#,
            r#"vpsie_autoscaler_vpsie_api_request_duration_seconds_bucket{le="0.1",endpoint="list_nodes"} 1"#,
            r#"vpsie_autoscaler_vpsie_api_retries_total{endpoint="list_nodes"} 1"#,
            r#"vpsie_autoscaler_vpsie_api_skipped_rows_total{endpoint="list_nodes"} 1"#,
            r#"vpsie_autoscaler_vpsie_api_missing_rows{endpoint="list_vms"} 3"#,
            "vpsie_autoscaler_vpsie_api_unidentified_workers 2",
            "vpsie_autoscaler_vpsie_api_password_refusals_total 1",
            "vpsie_autoscaler_vpsie_api_rate_limit_wait_seconds_total 2.0",
            "vpsie_autoscaler_vpsie_api_breaker_open 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
