//! The `Expander` service: which of Cluster Autoscaler's options is best, and why.

mod metrics;
mod pods;
mod question;
mod record;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};

use super::proto::grpcplugin::expander_server::Expander;
use super::proto::grpcplugin::{BestOptionsRequest, BestOptionsResponse, Option as WireOption};
use crate::control::{Clock, FleetHandle};
use crate::placement::decide;

pub use metrics::ExpanderMetrics;
pub use record::{Decisions, Record, RecordedOption, debug_routes};

/// Target of the line that each decision is logged with.
const LOG: &str = "vpsie_autoscaler::expander";

/// Questions that are read or answered at a time: their memory is this often the largest message.
const QUESTIONS: usize = 2;

/// The `Expander` service over a fleet.
#[derive(Clone)]
pub struct ExpanderService {
    handle: FleetHandle,
    clock: Arc<dyn Clock>,
    decisions: Arc<Decisions>,
    metrics: ExpanderMetrics,
    permits: Arc<Semaphore>,
}

impl ExpanderService {
    /// Decides with what is known of the fleet, and keeps each decision.
    pub fn new(
        handle: FleetHandle,
        clock: Arc<dyn Clock>,
        decisions: Arc<Decisions>,
        metrics: ExpanderMetrics,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(QUESTIONS));
        Self { handle, clock, decisions, metrics, permits }
    }

    /// What bounds the questions that are read or answered at a time, over all ports.
    pub(super) fn permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.permits)
    }

    fn best(&self, request: BestOptionsRequest) -> Vec<WireOption> {
        let started = Instant::now();
        let now = self.clock.now();
        let question = question::of(&self.handle, request, now);
        let decision = decide(&question);
        let record = Record::new(&question, &decision, now);
        let elapsed = started.elapsed();
        let record = Record { micros: elapsed.as_micros() as u64, ..record };
        self.metrics.observe(&record, elapsed);
        tracing::info!(
            target: LOG,
            took = format!("{}us", record.micros),
            pods = record.pods,
            options = question.candidates.len(),
            "{}",
            record.summary()
        );
        let best = record
            .best()
            .map(|option| WireOption { node_group_id: option.pool.to_string(), ..WireOption::default() });
        let best = best.collect();
        self.decisions.keep(record);
        best
    }
}

#[async_trait]
impl Expander for ExpanderService {
    /// Never an error, and never empty when there is an option: from 1.32 on an empty answer means that nothing
    /// is to grow (contract R15).
    async fn best_options(
        &self,
        request: Request<BestOptionsRequest>,
    ) -> Result<Response<BestOptionsResponse>, Status> {
        let options = self.best(request.into_inner());
        Ok(Response::new(BestOptionsResponse { options }))
    }
}
