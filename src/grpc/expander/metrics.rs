use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::placement::{Decision, DecisionInput, Rating};
use crate::telemetry::Registry;

/// Upper bounds of the buckets, seconds. Cluster Autoscaler gives up after 5 s.
const SECONDS: [f64; 9] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

/// Upper bounds of the buckets for options and pods.
const COUNTS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 50.0, 200.0, 1000.0, 5000.0];

/// Metrics of the expander.
#[derive(Clone, Debug)]
pub(super) struct ExpanderMetrics {
    decisions: Family<OutcomeLabels, Counter>,
    skipped: Family<ReasonLabels, Counter>,
    seconds: Histogram,
    options: Histogram,
    pods: Histogram,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

impl Default for ExpanderMetrics {
    fn default() -> Self {
        Self {
            decisions: Family::default(),
            skipped: Family::default(),
            seconds: Histogram::new(SECONDS),
            options: Histogram::new(COUNTS),
            pods: Histogram::new(COUNTS),
        }
    }
}

impl ExpanderMetrics {
    /// Registers the metrics that begin with `expander_`.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Decisions of the expander by the rating of the best option: price, unpriced, blocked (all options \
                    were certain to fail), or none (there were no options)";
        registry.register("expander_decisions", help, None, &self.decisions);
        let help = "Options excluded because they were certain to fail, by reason";
        registry.register("expander_options_skipped", help, None, &self.skipped);
        let help = "Duration of a decision";
        registry.register("expander_decision_duration", help, Some(Unit::Seconds), &self.seconds);
        registry.register("expander_options", "Options of a decision", None, &self.options);
        registry.register("expander_pods", "Pending pods of a decision", None, &self.pods);
    }

    pub(super) fn observe(&self, input: &DecisionInput, decision: &Decision, took: Duration) {
        let outcome = match decision.options.first().map(|best| &best.rating) {
            Some(Rating::Priced(_)) => "price",
            Some(Rating::Unpriced) => "unpriced",
            Some(Rating::Blocked(_)) => "blocked",
            None => "none",
        };
        self.decisions.get_or_create(&OutcomeLabels { outcome }).inc();
        for option in &decision.options {
            if let (Rating::Blocked(blocked), false) = (&option.rating, option.best) {
                let reason = blocked.reason.clone().into_owned();
                self.skipped.get_or_create(&ReasonLabels { reason }).inc();
            }
        }
        self.seconds.observe(took.as_secs_f64());
        self.options.observe(input.options.len() as f64);
        self.pods.observe(input.pods.len() as f64);
    }
}
