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
use crate::clock::Clock;
use crate::control::FleetHandle;
use crate::placement::decide;

pub use record::{Decisions, Record, RecordedOption, debug_routes};

/// Questions that are read or answered at a time: their memory is this often the largest message.
const QUESTIONS: usize = 2;

/// The `Expander` service over a fleet.
#[derive(Clone)]
pub struct ExpanderService {
    handle: FleetHandle,
    clock: Arc<dyn Clock>,
    decisions: Arc<Decisions>,
    permits: Arc<Semaphore>,
}

impl ExpanderService {
    /// Decides with what is known of the fleet, and keeps each decision.
    pub fn new(handle: FleetHandle, clock: Arc<dyn Clock>, decisions: Arc<Decisions>) -> Self {
        Self { handle, clock, decisions, permits: Arc::new(Semaphore::new(QUESTIONS)) }
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
        self.decisions.keep(&question, &decision, now, started.elapsed());
        let best = decision.options.iter().filter(|ranked| ranked.best);
        let pools = best.filter_map(|ranked| question.candidates.get(ranked.candidate));
        let reply = |pool: &str| WireOption { node_group_id: pool.to_owned(), ..WireOption::default() };
        pools.map(|candidate| reply(&candidate.pool)).collect()
    }
}

#[async_trait]
impl Expander for ExpanderService {
    /// Never an error, and never empty when there is an option: from 1.32 on an empty answer means that
    /// nothing is to grow (docs/reference/cluster-autoscaler.md#grpc-expander).
    async fn best_options(
        &self,
        request: Request<BestOptionsRequest>,
    ) -> Result<Response<BestOptionsResponse>, Status> {
        let options = self.best(request.into_inner());
        Ok(Response::new(BestOptionsResponse { options }))
    }
}
