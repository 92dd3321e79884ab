//! Handles notices of interruptions: records them, adds a replacement, and begins the drain when the replacement is
//! ready, or in time before the VM ends (docs/designs/spot.md).

mod metrics;
mod pods;
mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{CommandError, FleetHandle};
use super::nodes::{NodeFacts, NodesView};
use crate::catalog::Resources;
use crate::clock::Clock;
use crate::fleet::{
    Cause, Change, Fleet, Machine, MachineId, Names, Notice, NoticeSource, Phase, ReplacementState,
};
use metrics::DrainReplacement;
pub use metrics::InterruptionMetrics;
use pods::PodLists;
pub use pods::{NodePods, drain_time};
use progress::{ReportedStages, has_ready_replacement};

/// Interval of checks while there are notices.
const INTERVAL: Duration = Duration::from_secs(1);
/// Interval of checks without notices.
const IDLE_INTERVAL: Duration = Duration::from_mins(1);
/// Maximum age of the known pods of a Node.
const PODS_FRESH_FOR: Duration = Duration::from_secs(10);
/// Maximum time for the lists of pods of one pass.
const LISTS_TIMEOUT: Duration = Duration::from_millis(500);
/// The source that this loop reads.
const NODE: NoticeSource = NoticeSource::Node;

/// The loop over machines with a notice.
pub struct Interruptions {
    handle: FleetHandle,
    nodes: NodesView,
    clock: Arc<dyn Clock>,
    metrics: InterruptionMetrics,
    pods: BTreeMap<MachineId, NodePods>,
    lists: PodLists,
    stages: ReportedStages,
}

impl Interruptions {
    /// Creates the loop.
    pub fn new(
        handle: FleetHandle,
        client: Client,
        nodes: NodesView,
        clock: Arc<dyn Clock>,
        metrics: InterruptionMetrics,
    ) -> Self {
        Self {
            handle,
            nodes,
            clock,
            metrics,
            pods: BTreeMap::new(),
            lists: PodLists::new(client),
            stages: ReportedStages::default(),
        }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut nodes = self.nodes.changes();
        let mut commits = self.handle.clone();
        loop {
            let handled = shutdown.run_until_cancelled(self.handle_notices()).await;
            let Some(Ok(has_notices)) = handled else { return };
            let interval = if has_notices { INTERVAL } else { IDLE_INTERVAL };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
                changed = nodes.changed() => if changed.is_err() { return },
                // A listing or the webhook may have recorded a notice.
                () = commits.changed() => {}
            }
        }
    }

    /// Takes each step that is due. Returns true iff there is a notice that is not handled completely.
    async fn handle_notices(&mut self) -> Result<bool, CommandError> {
        let is_recorded = self.record_notices().await?;
        let noticed: Vec<MachineId> =
            self.handle.read(|fleet| fleet.machines_with_notice().iter().map(|m| m.id.clone()).collect());
        let known: BTreeSet<&MachineId> = noticed.iter().collect();
        self.pods.retain(|id, _| known.contains(id));
        self.report_stages();
        if noticed.is_empty() {
            return Ok(!is_recorded);
        }
        self.list_pods(&noticed).await;
        self.add_replacements().await?;
        self.begin_drains().await?;
        self.report_stages();
        Ok(true)
    }

    fn report_stages(&mut self) {
        let now = self.clock.now();
        let nodes = &self.nodes;
        let stages = &mut self.stages;
        let reached = self.handle.read(|fleet| stages.update(fleet, |machine| nodes.is_ready(machine)));
        for (notice, stage) in reached {
            self.metrics.observe(stage, &notice, now);
        }
    }

    /// Records new, changed and withdrawn notices of Nodes. Returns false if a write failed.
    async fn record_notices(&self) -> Result<bool, CommandError> {
        let now = self.clock.now();
        let noticed = self.nodes.nodes_with_notice();
        let (given, withdrawn) = self.handle.read(|fleet| {
            let given: Vec<(MachineId, Timestamp)> =
                noticed.iter().filter_map(|node| self.given_notice(fleet, node, now)).collect();
            let is_reported =
                |m: &&Machine| m.notice.as_ref().is_some_and(|notice| notice.deadlines.contains_key(&NODE));
            let has_notice =
                fleet.machines().filter(is_reported).filter(|m| m.vm().is_some() && !m.is_ending_by_notice());
            let shows_none = |m: &&Machine| {
                let node = self.nodes.node_of(&m.id);
                node.is_some_and(|node| node.notice.is_none_or(|notice| notice.is_too_early(now)))
            };
            (given, has_notice.filter(shows_none).map(|m| m.id.clone()).collect::<Vec<_>>())
        });
        if given.is_empty() && withdrawn.is_empty() {
            return Ok(true);
        }
        self.update(move |fleet, now, _| {
            let given = given
                .iter()
                .flat_map(|(machine, deadline)| fleet.record_notice(machine, NODE, *deadline, now));
            let mut changes: Vec<_> = given.collect();
            changes.extend(withdrawn.iter().flat_map(|id| fleet.withdraw_notice(id, NODE)));
            changes
        })
        .await
    }

    /// The machine of the Node and the deadline of its notice, if the notice is new or its deadline changed.
    fn given_notice(
        &self,
        fleet: &Fleet,
        node: &NodeFacts,
        now: Timestamp,
    ) -> Option<(MachineId, Timestamp)> {
        let machine = fleet.machine(node.machine.as_ref()?)?;
        if self.nodes.node_of(&machine.id).is_none_or(|own| own.name != node.name) {
            return None;
        }
        let deadline = fleet.reported_deadline(machine, NODE, node.notice?, now)?;
        Some((machine.id.clone(), deadline))
    }

    /// Lists the pods of these machines' Nodes, unless the known ones are fresh. It waits no longer than
    /// [`LISTS_TIMEOUT`], so that slow lists delay no replacement; they go on meanwhile.
    async fn list_pods(&mut self, machines: &[MachineId]) {
        for id in machines {
            let is_fresh = self.pods.get(id).is_some_and(|pods| pods.listed_at.elapsed() < PODS_FRESH_FOR);
            if let Some(node) = self.nodes.node_of(id).filter(|_| !is_fresh) {
                self.lists.begin(id, node.name);
            }
        }
        let until = Instant::now() + LISTS_TIMEOUT;
        while let Ok(Some((id, pods))) = tokio::time::timeout_at(until, self.lists.next()).await {
            // Pods of a machine without a notice are removed in the next pass.
            if let Some(pods) = pods {
                self.pods.insert(id, pods);
            }
        }
    }

    /// Adds a replacement for each machine that has none, in one write.
    async fn add_replacements(&self) -> Result<(), CommandError> {
        let missing: Vec<(MachineId, Resources)> = self.handle.read(|fleet| {
            let missing = fleet
                .machines_with_notice()
                .into_iter()
                .filter(|m| fleet.replacement_state(&m.id) == Some(ReplacementState::Missing));
            // An empty Node needs no replacement.
            let with_needed =
                |machine: &Machine| Some((machine.id.clone(), self.needed_resources(fleet, machine)?));
            missing.filter_map(with_needed).collect()
        });
        if missing.is_empty() {
            return Ok(());
        }
        self.update(move |fleet, now, names| {
            let add =
                |(id, needed): &(MachineId, Resources)| fleet.replace_machine(id, *needed, now, &mut *names);
            missing.iter().flat_map(add).collect()
        })
        .await
        .map(drop)
    }

    /// The resources that the pods of the machine's Node need: those of the pods, or of the whole Node while its
    /// pods are unknown. None if no pod must move, also for a replacement without a Node.
    fn needed_resources(&self, fleet: &Fleet, machine: &Machine) -> Option<Resources> {
        match self.pods.get(&machine.id) {
            Some(pods) if pods.requests.pods == 0 => None,
            Some(pods) => Some(pods.requests),
            // Its machine gets another replacement.
            None if machine.replaces.is_some() && !matches!(machine.phase, Phase::Running { .. }) => None,
            None => {
                let pool = fleet.pool(&machine.pool.to_string())?;
                Some(fleet.template(pool).allocatable)
            }
        }
    }

    /// Begins the drains that are due: their replacement is ready, no pod must move, or no time is left.
    async fn begin_drains(&self) -> Result<(), CommandError> {
        let now = self.clock.now();
        let due: Vec<(MachineId, Notice, DrainReplacement)> = self.handle.read(|fleet| {
            let due_drain = |machine: &&Machine| {
                let notice = machine.notice.clone()?;
                let is_ready = has_ready_replacement(fleet, machine, |id| self.nodes.is_ready(id));
                let pods = self.pods.get(&machine.id);
                let is_empty = pods.is_some_and(|pods| pods.requests.pods == 0);
                let time = notice.deadline().duration_since(notice.received_at).max(SignedDuration::ZERO);
                let is_last_moment = now + drain_time(pods, time.unsigned_abs()) >= notice.deadline();
                let replacement = match (is_ready, is_empty) {
                    (true, _) => DrainReplacement::Ready,
                    (false, true) => DrainReplacement::NotNeeded,
                    (false, false) => DrainReplacement::Missing,
                };
                (is_ready || is_empty || is_last_moment).then(|| (machine.id.clone(), notice, replacement))
            };
            fleet.machines_with_notice().iter().filter_map(due_drain).collect()
        });
        if due.is_empty() {
            return Ok(());
        }
        let machines: Vec<MachineId> = due.iter().map(|(id, ..)| id.clone()).collect();
        let is_written = self
            .update(move |fleet, now, _| {
                machines.iter().flat_map(|id| fleet.retire_interrupted(id, now)).collect()
            })
            .await?;
        for (id, notice, replacement) in due.into_iter().filter(|_| is_written) {
            self.metrics.count_drain(replacement);
            if replacement == DrainReplacement::Missing {
                tracing::warn!(
                    machine = %id,
                    deadline = %notice.deadline(),
                    "draining a Node with an interruption notice: no replacement was ready in time; its pods may be pending"
                );
            } else {
                tracing::info!(machine = %id, replacement = replacement.name(), "draining a Node with an interruption notice");
            }
        }
        Ok(())
    }

    /// Changes the fleet. Returns false if the write failed.
    async fn update(
        &self,
        change: impl FnOnce(&mut Fleet, Timestamp, Names<'_>) -> Vec<Change> + Send + 'static,
    ) -> Result<bool, CommandError> {
        match self.handle.update_independent(Cause::InterruptionNotice, change).await {
            Ok(_) => Ok(true),
            Err(CommandError::Stopped) => Err(CommandError::Stopped),
            Err(error) => {
                tracing::warn!(%error, "cannot record notices or replacements; retrying");
                Ok(false)
            }
        }
    }
}
