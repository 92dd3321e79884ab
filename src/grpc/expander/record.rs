//! Decisions that were made, for a person who asks why.

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
use crate::placement::{Decision, Question, Verdict};
use crate::telemetry::Registry;

/// Decisions that are kept. With [`OPTIONS`] each they take some megabytes at most.
const KEPT: usize = 256;

/// Options of a decision that are kept, the best first.
const OPTIONS: usize = 100;

/// A decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its number since the process started, from 1.
    #[serde(default)]
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// How long it took, microseconds.
    pub micros: u64,
    /// Pods that wait, each counted once.
    pub pods: u32,
    /// The options, the best first.
    pub options: Vec<RecordedOption>,
    /// Options that were worse than all of these and are not kept.
    pub more: usize,
}

/// An option of a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedOption {
    /// Its pool.
    pub pool: Arc<str>,
    /// Nodes that would be added.
    pub nodes: u32,
    /// Pods that they would take.
    pub pods: u32,
    /// What one of them costs.
    pub price: Option<UsdPerHour>,
    /// Whether Cluster Autoscaler was told that it is (among) the best.
    pub best: bool,
    /// What became of it.
    pub verdict: Verdict,
}

impl Record {
    fn new(question: &Question, decision: &Decision, at: Timestamp) -> Self {
        let mut options: Vec<_> = decision
            .options
            .iter()
            .filter_map(|ranked| {
                let candidate = question.candidates.get(ranked.candidate)?;
                Some(RecordedOption {
                    pool: Arc::clone(&candidate.pool),
                    nodes: candidate.nodes,
                    pods: candidate.pods.len() as u32,
                    price: candidate.price,
                    best: ranked.best,
                    verdict: ranked.verdict.clone(),
                })
            })
            .collect();
        let best = options.iter().filter(|option| option.best).count();
        let more = options.len().saturating_sub(OPTIONS.max(best));
        options.truncate(OPTIONS.max(best));
        Self { number: 0, at, micros: 0, pods: question.pods.len() as u32, options, more }
    }

    /// The options that Cluster Autoscaler was told.
    pub fn best(&self) -> impl Iterator<Item = &RecordedOption> {
        self.options.iter().filter(|option| option.best)
    }

    /// One line about it.
    fn summary(&self) -> String {
        let mut line = String::new();
        let mut best = self.best();
        let Some(first) = best.next() else { return "no options".to_owned() };
        let (nodes, plural) = (first.nodes, if first.nodes == 1 { "node" } else { "nodes" });
        let _ = write!(line, "{nodes} {plural} of {} for {} of {} pods", first.pool, first.pods, self.pods);
        match &first.verdict {
            Verdict::Priced(terms) => {
                let _ = write!(line, ": {}, in all {}", terms.nodes, terms.nodes + terms.rest);
            }
            Verdict::Unpriced => line.push_str(": nobody knows its price, nor that of another option"),
            Verdict::Blocked(blocked) => {
                let _ = write!(line, ": all options are certain to fail, this one by {}", blocked.reason);
            }
        }
        let others = best.count();
        if others > 0 {
            let _ = write!(line, "; {others} others are as good");
        }
        line
    }
}

/// Target of the line that each decision is logged with.
const LOG: &str = "vpsie_autoscaler::expander";

/// What becomes of decisions: the last of them, counts of all, and a line of the log for each.
#[derive(Debug, Default)]
pub struct Decisions {
    ring: Mutex<Ring>,
    metrics: ExpanderMetrics,
}

#[derive(Debug, Default)]
struct Ring {
    made: u64,
    last: VecDeque<Arc<Record>>,
}

impl Decisions {
    /// Registers the metrics that begin with `expander_`.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    pub(super) fn keep(&self, question: &Question, decision: &Decision, at: Timestamp, took: Duration) {
        self.metrics.observe(question, decision, took);
        let record = Record { micros: took.as_micros() as u64, ..Record::new(question, decision, at) };
        tracing::info!(
            target: LOG,
            took = format!("{}us", record.micros),
            pods = record.pods,
            options = question.candidates.len(),
            "{}",
            record.summary()
        );
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.made += 1;
        let number = ring.made;
        if ring.last.len() == KEPT {
            ring.last.pop_back();
        }
        ring.last.push_front(Arc::new(Record { number, ..record }));
    }

    /// The last `count` of them, the newest first.
    pub fn last(&self, count: usize) -> Vec<Arc<Record>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last.iter().take(count).cloned().collect()
    }
}

#[derive(Deserialize)]
struct Asked {
    last: Option<usize>,
}

/// `/debug/decisions`: the last decisions as JSON, the newest first; `?last=n` for the last n.
pub fn debug_routes(decisions: Arc<Decisions>) -> Router {
    let show = |State(decisions): State<Arc<Decisions>>, Query(asked): Query<Asked>| async move {
        Json(decisions.last(asked.last.unwrap_or(KEPT))).into_response()
    };
    Router::new().route("/debug/decisions", get(show)).with_state(decisions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        use crate::placement::{Blocked, Terms};
        let option = |verdict| RecordedOption {
            pool: "a".into(),
            nodes: 1,
            pods: 2,
            price: Some(UsdPerHour::ZERO),
            best: true,
            verdict,
        };
        let (rate, reason) = (UsdPerHour::ZERO, "STOCKOUT".into());
        let terms = Terms { nodes: rate, rest: rate, leftover: rate, total: rate, left_waiting: 3 };
        let options = vec![
            option(Verdict::Priced(terms)),
            option(Verdict::Unpriced),
            option(Verdict::Blocked(Blocked { reason, message: String::new() })),
        ];
        let record = Record { number: 1, at: Timestamp::UNIX_EPOCH, micros: 2, pods: 3, options, more: 4 };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record, "{text}");
    }

    #[test]
    fn options_that_are_not_kept_are_counted_all_the_same() {
        use crate::catalog::Resources;
        use crate::placement::{Blocked, Candidate, decide};
        let candidate = |n: usize| Candidate {
            pool: format!("pool-{n}").into(),
            node_group: None,
            nodes: 1,
            pods: Vec::new(),
            allocatable: Resources { cpu_millis: 1, memory_mib: 1, disk_gib: 0, pods: 1 },
            price: Some(UsdPerHour(1.into())),
            blocked: (n > 0).then(|| Blocked { reason: "STOCKOUT".into(), message: String::new() }),
            preferred: false,
            place: 0,
        };
        let question = Question { pods: Vec::new(), candidates: (0..=OPTIONS + 20).map(candidate).collect() };
        let decisions = Decisions::default();
        let mut registry = Registry::default();
        decisions.register(&mut registry);
        decisions.keep(&question, &decide(&question), Timestamp::UNIX_EPOCH, Duration::ZERO);
        let text = registry.encode().unwrap();
        let skipped = format!(r#"expander_options_skipped_total{{reason="STOCKOUT"}} {}"#, OPTIONS + 20);
        assert!(text.contains(&skipped), "{text}");
        let record = &decisions.last(1)[0];
        assert_eq!((record.options.len(), record.more), (OPTIONS, 21));
    }

    #[test]
    fn the_last_decisions_are_kept_and_numbered() {
        let decisions = Decisions::default();
        for _ in 0..KEPT + 3 {
            let (at, took) = (Timestamp::UNIX_EPOCH, Duration::ZERO);
            decisions.keep(&Question::default(), &Decision::default(), at, took);
        }
        let numbers: Vec<u64> = decisions.last(2).iter().map(|record| record.number).collect();
        assert_eq!(numbers, [KEPT as u64 + 3, KEPT as u64 + 2]);
        assert_eq!(decisions.last(usize::MAX).len(), KEPT);
    }
}
