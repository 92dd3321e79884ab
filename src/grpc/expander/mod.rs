//! The `Expander` service: orders Cluster Autoscaler's options and records the decisions.

mod input;
mod metrics;
mod pods;
mod record;
mod usage;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};

use super::proto::grpcplugin::expander_server::Expander;
use super::proto::grpcplugin::{BestOptionsRequest, BestOptionsResponse, Option as WireOption};
use crate::clock::Clock;
use crate::control::FleetHandle;
use crate::placement::rank_options;

use input::read_input;
pub use record::{DecisionRecord, Decisions, RecordedOption, debug_routes};
pub(super) use usage::ExpanderUsage;

/// Maximum number of concurrent requests. Each may need memory for the largest message.
const CONCURRENT_REQUESTS: usize = 2;

/// The `Expander` service over a fleet.
#[derive(Clone)]
pub struct ExpanderService {
    handle: FleetHandle,
    clock: Arc<dyn Clock>,
    decisions: Arc<Decisions>,
    permits: Arc<Semaphore>,
    usage: ExpanderUsage,
}

impl ExpanderService {
    /// A service that decides by the state of the fleet and records each decision.
    pub fn new(handle: FleetHandle, clock: Arc<dyn Clock>, decisions: Arc<Decisions>) -> Self {
        let usage = ExpanderUsage::default();
        Self { handle, clock, decisions, permits: Arc::new(Semaphore::new(CONCURRENT_REQUESTS)), usage }
    }

    /// Sets whether Cluster Autoscaler is assumed to use it until its requests show that. The default is false.
    pub fn with_assumed_usage(self, is_used: bool) -> Self {
        Self { usage: ExpanderUsage::assumed(is_used), ..self }
    }

    /// Whether Cluster Autoscaler uses it.
    pub(super) fn usage(&self) -> &ExpanderUsage {
        &self.usage
    }

    /// The time.
    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Permits of concurrent requests, shared by all ports.
    pub(super) fn permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.permits)
    }

    fn choose_best(&self, request: BestOptionsRequest) -> Vec<WireOption> {
        let started = Instant::now();
        let now = self.clock.now();
        let input = read_input(&self.handle, request, now);
        let decision = rank_options(&input);
        self.decisions.record(&input, &decision, now, started.elapsed());
        let best = decision.options.iter().filter(|ranked| ranked.best);
        let pools = best.filter_map(|ranked| input.options.get(ranked.option));
        let reply = |pool: &str| WireOption { node_group_id: pool.to_owned(), ..WireOption::default() };
        pools.map(|option| reply(&option.pool)).collect()
    }
}

#[async_trait]
impl Expander for ExpanderService {
    /// Never an error, and never empty if there is an option: from 1.32 on an empty reply means that
    /// nothing may grow (docs/reference/cluster-autoscaler.md#grpc-expander).
    async fn best_options(
        &self,
        request: Request<BestOptionsRequest>,
    ) -> Result<Response<BestOptionsResponse>, Status> {
        self.usage.note_request();
        let options = self.choose_best(request.into_inner());
        Ok(Response::new(BestOptionsResponse { options }))
    }
}
