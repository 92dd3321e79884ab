//! A loop over drains: those with a deadline, or the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::due::{DueDrain, due_drains};
use super::node::{NodeDrainer, StepResult};
use super::progress::{API_SERVER_RETRY, DrainProgress};
use crate::control::handle::CommandError;
use crate::control::nodes::NodeFacts;
use crate::fleet::{DrainState, MachineId};

/// Maximum of concurrent drains without a deadline, without blocked ones.
const MAX_DRAINS: usize = 3;
/// Maximum of Nodes with an interruption notice for which requests are sent at the same time.
const MAX_URGENT_NODES: usize = 16;
/// Interval of checks of a drain.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The drains of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Of machines with an interruption notice: all of them, the most urgent first.
    Deadline,
    /// Of machines without an interruption notice.
    None,
}

/// A loop over the drains of one urgency. Slow drains of one lane delay none of the other.
pub(super) struct DrainLane {
    drainer: Arc<NodeDrainer>,
    urgency: Urgency,
    under_way: BTreeMap<MachineId, DrainProgress>,
    /// No request is sent before this time, because all requests of a pass failed.
    quiet_until: Instant,
    /// Number of blocked drains in the metric.
    blocked: i64,
}

/// A step of a drain and its result.
struct Step {
    due: DueDrain,
    nodes: Vec<NodeFacts>,
    progress: DrainProgress,
    /// Whether the drain was under way before.
    was_under_way: bool,
    result: Result<StepResult, CommandError>,
}

/// The steps of a pass over the drains.
struct Pass {
    /// Machines that had their step.
    stepped: BTreeSet<MachineId>,
    /// Number of drains that may be advanced, without blocked ones.
    free: usize,
    /// Whether a request to the API server succeeded.
    has_succeeded: bool,
    failed: Vec<(MachineId, Vec<NodeFacts>, String)>,
}

impl DrainLane {
    pub(super) fn new(drainer: Arc<NodeDrainer>, urgency: Urgency) -> Self {
        Self { drainer, urgency, under_way: BTreeMap::new(), quiet_until: Instant::now(), blocked: 0 }
    }

    /// Runs until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut commits = self.drainer.handle.clone();
        loop {
            let busy = shutdown.run_until_cancelled(self.advance_drains()).await;
            let Some(Ok(busy)) = busy else { return };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(POLL_INTERVAL), if busy => {}
                () = commits.changed(), if !busy => {}
            }
        }
    }

    /// Advances each drain as far as possible now. Returns true iff a Node is left to drain.
    async fn advance_drains(&mut self) -> Result<bool, CommandError> {
        let due = self.due_drains();
        self.under_way.retain(|id, _| due.iter().any(|due| due.machine == *id));
        // Before the first list of Nodes, a missing Node proves nothing.
        if self.drainer.nodes.has_listed() {
            self.pass().await?;
        }
        let blocked = self.under_way.values().filter(|progress| progress.is_blocked()).count() as i64;
        self.drainer.metrics.blocked.inc_by(blocked - self.blocked);
        self.blocked = blocked;
        Ok(!due.is_empty())
    }

    /// The due drains of this lane. Machines whose requests fail come last and in turn, so that they delay no others.
    fn due_drains(&self) -> Vec<DueDrain> {
        let mut due = self.drainer.handle.read(due_drains);
        due.retain(|due| due.deadline.is_some() == (self.urgency == Urgency::Deadline));
        due.sort_by_key(|due| self.under_way.get(&due.machine)?.failed_at());
        due
    }

    /// Advances each drain by one step.
    async fn pass(&mut self) -> Result<(), CommandError> {
        let drainer = Arc::clone(&self.drainer);
        let most = match self.urgency {
            Urgency::Deadline => MAX_URGENT_NODES,
            Urgency::None => 1,
        };
        let mut pass =
            Pass { stepped: BTreeSet::new(), free: MAX_DRAINS, has_succeeded: false, failed: Vec::new() };
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < most
                && self.may_send(&pass)
                && let Some((due, nodes)) = self.next(&mut pass)
            {
                let progress = self.under_way.remove(&due.machine);
                running.push(advance(&drainer, due, nodes, progress));
            }
            let Some(step) = running.next().await else { break };
            self.note_step(step, &mut pass)?;
        }
        self.note_failures(pass);
        Ok(())
    }

    /// Whether a request may be sent. Not after a failure, until another request of the pass succeeded.
    fn may_send(&self, pass: &Pass) -> bool {
        let is_failing = !pass.failed.is_empty() && !pass.has_succeeded;
        !is_failing && Instant::now() >= self.quiet_until && !self.drainer.is_throttled()
    }

    /// The next drain of the pass, by the present state of the fleet: a more urgent one may have come.
    fn next(&self, pass: &mut Pass) -> Option<(DueDrain, Vec<NodeFacts>)> {
        for due in self.due_drains() {
            let progress = self.under_way.get(&due.machine);
            if !progress.is_none_or(DrainProgress::is_due) || !pass.stepped.insert(due.machine.clone()) {
                continue;
            }
            let nodes = self.drainer.nodes.nodes_of(&due.machine);
            if nodes.is_empty() && due.drain != DrainState::Pending {
                continue;
            }
            let is_drain = !nodes.is_empty() && due.drain != DrainState::NoNode;
            let is_free = due.deadline.is_some() || progress.is_some_and(DrainProgress::is_blocked);
            if is_drain && !is_free {
                if pass.free == 0 {
                    continue;
                }
                pass.free -= 1;
            }
            return Some((due, nodes));
        }
        None
    }

    fn note_step(&mut self, step: Step, pass: &mut Pass) -> Result<(), CommandError> {
        let Step { due, nodes, progress, was_under_way, result } = step;
        let is_under_way = match result? {
            StepResult::Complete => {
                pass.has_succeeded = true;
                false
            }
            StepResult::UnderWay => {
                pass.has_succeeded = true;
                true
            }
            StepResult::Waiting => {
                pass.has_succeeded = true;
                was_under_way
            }
            StepResult::Skipped => was_under_way,
            StepResult::Failed(why) => {
                pass.failed.push((due.machine.clone(), nodes, why));
                was_under_way
            }
        };
        if is_under_way {
            self.under_way.insert(due.machine, progress);
        }
        Ok(())
    }

    /// Records failed requests about Nodes. Only these Nodes wait if another request of the pass succeeded; otherwise
    /// all Nodes of the lane wait.
    fn note_failures(&mut self, pass: Pass) {
        let now = Instant::now();
        if !pass.failed.is_empty() && !pass.has_succeeded {
            self.quiet_until = now + API_SERVER_RETRY;
        }
        for (id, nodes, why) in pass.failed {
            let progress = self.under_way.entry(id.clone()).or_insert_with(DrainProgress::new);
            progress.note_failure(pass.has_succeeded);
            if progress.must_report(now) {
                self.drainer.report_blocked(&id, nodes.first(), &why);
            }
        }
    }
}

async fn advance(
    drainer: &NodeDrainer,
    due: DueDrain,
    nodes: Vec<NodeFacts>,
    progress: Option<DrainProgress>,
) -> Step {
    let was_under_way = progress.is_some();
    let mut progress = progress.unwrap_or_else(DrainProgress::new);
    let result = drainer.advance(&due, &nodes, &mut progress).await;
    Step { due, nodes, progress, was_under_way, result }
}
