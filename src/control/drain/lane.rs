//! A loop over drains: those with a deadline, or the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::due::{DueDrain, due_drains, find_due_drain};
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
/// Time after which the order of the drains is determined again within a pass: more urgent ones may have come.
const ORDER_VALID_FOR: Duration = Duration::from_secs(1);

/// The drains of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Of machines with an interruption notice: all of them, the most urgent first.
    Deadline,
    /// Of machines without an interruption notice.
    None,
}

/// A loop over the drains of one urgency. Slow drains of one lane delay none of the other. In the lane of drains with a
/// deadline, a slow drain occupies one of [`MAX_URGENT_NODES`] slots and delays none of the others.
pub(super) struct DrainLane {
    drainer: Arc<NodeDrainer>,
    urgency: Urgency,
    under_way: BTreeMap<MachineId, DrainProgress>,
    /// Steps under way. Those of an earlier pass may continue in the next one.
    running: FuturesUnordered<BoxFuture<'static, Step>>,
    /// Machines with a step under way, and whether their drain is blocked.
    slots: BTreeMap<MachineId, bool>,
    pass: Pass,
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

impl Default for Pass {
    fn default() -> Self {
        Self { stepped: BTreeSet::new(), free: MAX_DRAINS, has_succeeded: false, failed: Vec::new() }
    }
}

/// The drains of a pass that had no step yet, in their order.
struct Queue {
    machines: VecDeque<MachineId>,
    ordered_at: Instant,
}

impl Queue {
    fn new(due: Vec<DueDrain>) -> Self {
        Self { machines: due.into_iter().map(|due| due.machine).collect(), ordered_at: Instant::now() }
    }
}

impl DrainLane {
    pub(super) fn new(drainer: Arc<NodeDrainer>, urgency: Urgency) -> Self {
        Self {
            drainer,
            urgency,
            under_way: BTreeMap::new(),
            running: FuturesUnordered::new(),
            slots: BTreeMap::new(),
            pass: Pass::default(),
            quiet_until: Instant::now(),
            blocked: 0,
        }
    }

    /// Runs until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut commits = self.drainer.handle.clone();
        loop {
            let busy = shutdown.run_until_cancelled(self.advance_drains()).await;
            let Some(Ok(busy)) = busy else { return };
            let next_pass = Instant::now() + POLL_INTERVAL;
            loop {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    Some(step) = self.running.next(), if !self.running.is_empty() => {
                        if self.note_step(step).is_err() {
                            return;
                        }
                    }
                    () = tokio::time::sleep_until(next_pass), if busy => break,
                    () = commits.changed(), if !busy => break,
                }
            }
        }
    }

    /// Advances each drain as far as possible now. Returns true iff a Node is left to drain.
    async fn advance_drains(&mut self) -> Result<bool, CommandError> {
        let due = self.due_drains();
        let machines: BTreeSet<&MachineId> = due.iter().map(|due| &due.machine).collect();
        self.under_way.retain(|id, _| machines.contains(id));
        let busy = !due.is_empty();
        // Before the first list of Nodes, a missing Node proves nothing.
        if self.drainer.nodes.has_listed() {
            self.pass(Queue::new(due)).await?;
        }
        let waiting = self.under_way.values().map(DrainProgress::is_blocked);
        let blocked =
            waiting.chain(self.slots.values().copied()).filter(|is_blocked| *is_blocked).count() as i64;
        self.drainer.metrics.blocked.inc_by(blocked - self.blocked);
        self.blocked = blocked;
        Ok(busy)
    }

    /// The due drains of this lane. Machines whose requests fail come last and in turn, so that they delay no others.
    fn due_drains(&self) -> Vec<DueDrain> {
        let mut due = self.drainer.handle.read(due_drains);
        due.retain(|due| self.has(due));
        due.sort_by_key(|due| self.under_way.get(&due.machine)?.failed_at());
        due
    }

    /// Whether the drain belongs to this lane.
    fn has(&self, due: &DueDrain) -> bool {
        due.deadline.is_some() == (self.urgency == Urgency::Deadline)
    }

    /// Advances each drain by one step. Drains with a deadline: returns once no other step can begin.
    async fn pass(&mut self, mut queue: Queue) -> Result<(), CommandError> {
        self.note_failures();
        self.pass = Pass::default();
        let most = match self.urgency {
            Urgency::Deadline => MAX_URGENT_NODES,
            Urgency::None => 1,
        };
        loop {
            while self.slots.len() < most
                && self.may_send()
                && let Some((due, nodes)) = self.next(&mut queue)
            {
                self.begin_step(due, nodes);
            }
            let is_complete = queue.machines.is_empty() && self.urgency == Urgency::Deadline;
            if self.slots.is_empty() || is_complete {
                break;
            }
            match tokio::time::timeout(POLL_INTERVAL, self.running.next()).await {
                Ok(Some(step)) => self.note_step(step)?,
                Ok(None) => break,
                Err(_) if self.urgency == Urgency::Deadline && !self.may_send() => break,
                Err(_) => {}
            }
        }
        if self.slots.is_empty() {
            self.note_failures();
        }
        Ok(())
    }

    /// Whether a request may be sent. Not after a failure, until another request of the pass succeeded. Drains with a
    /// deadline continue while evictions are throttled, since pods may have to be deleted.
    fn may_send(&self) -> bool {
        let is_failing = !self.pass.failed.is_empty() && !self.pass.has_succeeded;
        let is_throttled = self.urgency == Urgency::None && self.drainer.is_throttled();
        !is_failing && Instant::now() >= self.quiet_until && !is_throttled
    }

    /// The next drain of the pass.
    fn next(&mut self, queue: &mut Queue) -> Option<(DueDrain, Vec<NodeFacts>)> {
        if queue.ordered_at.elapsed() >= ORDER_VALID_FOR {
            *queue = Queue::new(self.due_drains());
        }
        while let Some(machine) = queue.machines.pop_front() {
            let progress = self.under_way.get(&machine);
            if self.slots.contains_key(&machine)
                || !progress.is_none_or(DrainProgress::is_due)
                || !self.pass.stepped.insert(machine.clone())
            {
                continue;
            }
            let due = self.drainer.handle.read(|fleet| find_due_drain(fleet, &machine));
            let Some(due) = due.filter(|due| self.has(due)) else { continue };
            let nodes = self.drainer.nodes.nodes_of(&machine);
            if nodes.is_empty() && due.drain != DrainState::Pending {
                continue;
            }
            let is_drain = !nodes.is_empty() && due.drain != DrainState::NoNode;
            let is_free = due.deadline.is_some() || progress.is_some_and(DrainProgress::is_blocked);
            if is_drain && !is_free {
                if self.pass.free == 0 {
                    continue;
                }
                self.pass.free -= 1;
            }
            return Some((due, nodes));
        }
        None
    }

    fn begin_step(&mut self, due: DueDrain, nodes: Vec<NodeFacts>) {
        let progress = self.under_way.remove(&due.machine);
        self.slots.insert(due.machine.clone(), progress.as_ref().is_some_and(DrainProgress::is_blocked));
        self.running.push(advance(Arc::clone(&self.drainer), due, nodes, progress).boxed());
    }

    fn note_step(&mut self, step: Step) -> Result<(), CommandError> {
        let Step { due, nodes, progress, was_under_way, result } = step;
        self.slots.remove(&due.machine);
        let pass = &mut self.pass;
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
    fn note_failures(&mut self) {
        let now = Instant::now();
        let has_succeeded = self.pass.has_succeeded;
        let failed = std::mem::take(&mut self.pass.failed);
        if !failed.is_empty() && !has_succeeded {
            self.quiet_until = now + API_SERVER_RETRY;
        }
        for (id, nodes, why) in failed {
            let progress = self.under_way.entry(id.clone()).or_insert_with(DrainProgress::new);
            progress.note_failure(has_succeeded);
            if progress.must_report(now) {
                self.drainer.report_blocked(&id, nodes.first(), &why);
            }
        }
    }
}

async fn advance(
    drainer: Arc<NodeDrainer>,
    due: DueDrain,
    nodes: Vec<NodeFacts>,
    progress: Option<DrainProgress>,
) -> Step {
    let was_under_way = progress.is_some();
    let mut progress = progress.unwrap_or_else(DrainProgress::new);
    let result = drainer.advance(&due, &nodes, &mut progress).await;
    Step { due, nodes, progress, was_under_way, result }
}
