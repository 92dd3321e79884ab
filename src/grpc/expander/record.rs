//! Records of decisions, for `explain`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::metrics::ExpanderMetrics;
use crate::cost::UsdPerHour;
use crate::placement::{Decision, DecisionInput, Rating};
use crate::telemetry::Registry;

/// Maximum number of records. With [`MAX_OPTIONS`] each they take some megabytes.
const MAX_RECORDS: usize = 256;

/// Maximum number of recorded options of a decision, the best first.
const MAX_OPTIONS: usize = 100;

/// A recorded decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRecord {
    /// Its number since the process started, from 1.
    #[serde(default)]
    pub number: u64,
    /// Time of the decision.
    pub at: Timestamp,
    /// Duration, microseconds.
    pub micros: u64,
    /// Number of pending pods.
    pub pods: u32,
    /// The options, the best first.
    pub options: Vec<RecordedOption>,
    /// Number of further options, worse than these, that are not recorded.
    pub more: usize,
}

/// A recorded option.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedOption {
    /// Its pool.
    pub pool: Arc<str>,
    /// Number of nodes that would be added.
    pub nodes: u32,
    /// Number of pods that they would take.
    pub pods: u32,
    /// Expected price of one node, with the cost of its interruptions.
    pub price: Option<UsdPerHour>,
    /// The part of the price that is the expected cost of interruptions.
    #[serde(default, skip_serializing_if = "UsdPerHour::is_zero")]
    pub interruptions: UsdPerHour,
    /// Whether it was in the reply to Cluster Autoscaler.
    pub best: bool,
    /// The reason for its position.
    pub rating: Rating,
}

impl DecisionRecord {
    fn new(input: &DecisionInput, decision: &Decision, at: Timestamp) -> Self {
        let mut options: Vec<_> = decision
            .options
            .iter()
            .filter_map(|ranked| {
                let option = input.options.get(ranked.option)?;
                Some(RecordedOption {
                    pool: Arc::clone(&option.pool),
                    nodes: option.nodes,
                    pods: option.pods.len() as u32,
                    price: option.price,
                    interruptions: option.interruptions,
                    best: ranked.best,
                    rating: ranked.rating.clone(),
                })
            })
            .collect();
        let best = options.iter().filter(|option| option.best).count();
        let more = options.len().saturating_sub(MAX_OPTIONS.max(best));
        options.truncate(MAX_OPTIONS.max(best));
        Self { number: 0, at, micros: 0, pods: input.pods.len() as u32, options, more }
    }

    /// The options in the reply to Cluster Autoscaler.
    pub fn best(&self) -> impl Iterator<Item = &RecordedOption> {
        self.options.iter().filter(|option| option.best)
    }

    /// A summary in one line.
    fn summary(&self) -> String {
        let mut line = String::new();
        let mut best = self.best();
        let Some(first) = best.next() else { return "no options".to_owned() };
        let nodes = first.nodes;
        let plural = if nodes == 1 { "node" } else { "nodes" };
        let _ = write!(line, "{nodes} {plural} of {} for {} of {} pods", first.pool, first.pods, self.pods);
        match &first.rating {
            Rating::Priced(estimate) => {
                let _ = write!(
                    line,
                    ": {}, with the remaining pods {}",
                    estimate.nodes,
                    estimate.nodes + estimate.remaining
                );
            }
            Rating::Unpriced => line.push_str(": no option has a known price"),
            Rating::Blocked(blocked) => {
                let _ = write!(line, ": all options are certain to fail, this one with {}", blocked.reason);
            }
        }
        let others = best.count();
        if others > 0 {
            let _ = write!(line, "; {others} other options are equally good");
        }
        line
    }
}

/// Log target of decisions.
const LOG: &str = "vpsie_autoscaler::expander";

/// Keeps the last decisions, counts all of them, and logs each.
#[derive(Debug, Default)]
pub struct Decisions {
    ring: Mutex<Ring>,
    metrics: ExpanderMetrics,
}

#[derive(Debug, Default)]
struct Ring {
    total: u64,
    last: VecDeque<Arc<DecisionRecord>>,
}

impl Decisions {
    /// Registers the metrics that begin with `expander_`.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    pub(super) fn record(&self, input: &DecisionInput, decision: &Decision, at: Timestamp, took: Duration) {
        self.metrics.observe(input, decision, took);
        let record =
            DecisionRecord { micros: took.as_micros() as u64, ..DecisionRecord::new(input, decision, at) };
        tracing::info!(
            target: LOG,
            took = format!("{}us", record.micros),
            pods = record.pods,
            options = input.options.len(),
            "{}",
            record.summary()
        );
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.total += 1;
        let number = ring.total;
        if ring.last.len() == MAX_RECORDS {
            ring.last.pop_back();
        }
        ring.last.push_front(Arc::new(DecisionRecord { number, ..record }));
    }

    /// The last `count` decisions, the newest first.
    pub fn last(&self, count: usize) -> Vec<Arc<DecisionRecord>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last.iter().take(count).cloned().collect()
    }
}

#[derive(Deserialize)]
struct DecisionsQuery {
    last: Option<usize>,
}

/// `/debug/decisions`: the last decisions as JSON, the newest first; `?last=n` for the last n.
pub fn debug_routes(decisions: Arc<Decisions>) -> Router {
    let show = |State(decisions): State<Arc<Decisions>>, Query(query): Query<DecisionsQuery>| async move {
        Json(decisions.last(query.last.unwrap_or(MAX_RECORDS))).into_response()
    };
    Router::new().route("/debug/decisions", get(show)).with_state(decisions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_serialization() {
        use crate::placement::{Blocked, CostEstimate};
        let option = |rating| RecordedOption {
            pool: "a".into(),
            nodes: 1,
            pods: 2,
            price: Some(UsdPerHour::ZERO),
            interruptions: UsdPerHour::ZERO,
            best: true,
            rating,
        };
        let rate = UsdPerHour::ZERO;
        let reason = "STOCKOUT".into();
        let estimate = CostEstimate {
            nodes: rate,
            replacements: 1,
            concentration: rate,
            placement: rate,
            remaining: rate,
            spare: rate,
            total: rate,
            remaining_pods: 3,
        };
        let options = vec![
            option(Rating::Priced(estimate)),
            option(Rating::Unpriced),
            option(Rating::Blocked(Blocked { reason, message: String::new() })),
        ];
        let record =
            DecisionRecord { number: 1, at: Timestamp::UNIX_EPOCH, micros: 2, pods: 3, options, more: 4 };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<DecisionRecord>(&text).unwrap(), record, "{text}");
    }

    #[test]
    fn unrecorded_options_are_counted() {
        use crate::catalog::Resources;
        use crate::placement::{Blocked, ExpansionOption, rank_options};
        let option = |n: usize| ExpansionOption {
            pool: format!("pool-{n}").into(),
            node_group: None,
            nodes: 1,
            pods: Vec::new(),
            allocatable: Resources { cpu_millis: 1, memory_mib: 1, disk_gib: 0, pods: 1 },
            price: Some(UsdPerHour(1.into())),
            interruptions: UsdPerHour::ZERO,
            concentration: 0.0,
            placement: 0.0,
            replacements: 0,
            blocked: (n > 0).then(|| Blocked { reason: "STOCKOUT".into(), message: String::new() }),
            preferred: false,
            position: 0,
        };
        let input = DecisionInput { pods: Vec::new(), options: (0..=MAX_OPTIONS + 20).map(option).collect() };
        let decisions = Decisions::default();
        let mut registry = Registry::default();
        decisions.register(&mut registry);
        decisions.record(&input, &rank_options(&input), Timestamp::UNIX_EPOCH, Duration::ZERO);
        let text = registry.encode().unwrap();
        let skipped = format!(r#"expander_options_skipped_total{{reason="STOCKOUT"}} {}"#, MAX_OPTIONS + 20);
        assert!(text.contains(&skipped), "{text}");
        let record = &decisions.last(1)[0];
        assert_eq!((record.options.len(), record.more), (MAX_OPTIONS, 21));
    }

    #[test]
    fn the_last_decisions_are_recorded_with_numbers() {
        let decisions = Decisions::default();
        for _ in 0..MAX_RECORDS + 3 {
            let at = Timestamp::UNIX_EPOCH;
            let took = Duration::ZERO;
            decisions.record(&DecisionInput::default(), &Decision::default(), at, took);
        }
        let numbers: Vec<u64> = decisions.last(2).iter().map(|record| record.number).collect();
        assert_eq!(numbers, [MAX_RECORDS as u64 + 3, MAX_RECORDS as u64 + 2]);
        assert_eq!(decisions.last(usize::MAX).len(), MAX_RECORDS);
    }
}
