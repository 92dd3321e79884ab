//! Handles notices of interruptions: records them, adds a replacement, and begins the drain when the replacement is
//! ready, or in time before the VM ends (docs/designs/spot.md).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{CommandError, FleetHandle};
use super::nodes::{NodeFacts, NodesView};
use crate::catalog::{Resources, quantity};
use crate::clock::Clock;
use crate::fleet::{
    Cause, Change, Fleet, MAX_NOTICE, Machine, MachineId, Names, Notice, Phase, ReplacementState,
};
use crate::kubernetes::{DrainAction, drain_action, pods_on, termination_grace};
use crate::telemetry::Registry;

/// Time for evictions, beyond the grace period of the pods.
const EVICTION_MARGIN: Duration = Duration::from_secs(15);
/// Interval of checks while there are notices.
const INTERVAL: Duration = Duration::from_secs(1);
/// Interval of checks without notices.
const IDLE_INTERVAL: Duration = Duration::from_mins(1);
/// Maximum age of the known pods of a Node.
const PODS_FRESH_FOR: Duration = Duration::from_secs(10);
/// Maximum time for the lists of pods of one pass.
const LISTS_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum of concurrent lists of pods.
const MAX_LISTS: usize = 8;
/// Time between notice and interruption of a NodeGroup without `spotConfig`.
const DEFAULT_GRACE: Duration = Duration::from_mins(2);
/// Upper bounds of the buckets, seconds.
const BUCKETS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0];

/// Metrics of interruptions. Clones share their counts.
#[derive(Clone, Debug)]
pub struct InterruptionMetrics {
    notices: Family<SourceLabel, Counter>,
    drains: Family<ReplacementLabel, Counter>,
    until_stage: Family<StageLabel, Histogram>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplacementLabel {
    replacement: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

impl Default for InterruptionMetrics {
    fn default() -> Self {
        Self {
            notices: Family::default(),
            drains: Family::default(),
            until_stage: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl InterruptionMetrics {
    /// Registers `interruption_notices_total{source}`, `interruption_drains_total{replacement="ready|not_needed|missing"}` and
    /// `interruption_stage_duration_seconds{stage="replacement_recorded|drain_begun"}`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Interruption notices received, by source: node";
        registry.register("interruption_notices", help, None, &self.notices);
        let help = "Drains begun because of a notice, by replacement: ready, not_needed (no pod to move), missing (none was \
                    ready in time)";
        registry.register("interruption_drains", help, None, &self.drains);
        let help = "Time from a notice until replacement_recorded (its replacement was recorded) or drain_begun (the drain began)";
        registry.register("interruption_stage_duration", help, Some(Unit::Seconds), &self.until_stage);
    }

    fn observe(&self, stage: &'static str, notice: &Notice, now: Timestamp) {
        let elapsed = now.duration_since(notice.received_at).as_secs_f64().max(0.0);
        self.until_stage.get_or_create(&StageLabel { stage }).observe(elapsed);
    }
}

/// The loop over machines with a notice.
pub struct Interruptions {
    handle: FleetHandle,
    client: Client,
    nodes: NodesView,
    clock: Arc<dyn Clock>,
    metrics: InterruptionMetrics,
    pods: BTreeMap<MachineId, NodePods>,
}

/// The pods of a machine's Node that must move.
#[derive(Clone, Debug)]
struct NodePods {
    listed_at: Instant,
    requests: Resources,
    /// Grace periods, each once.
    graces: BTreeSet<Duration>,
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
        Self { handle, client, nodes, clock, metrics, pods: BTreeMap::new() }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut nodes = self.nodes.changes();
        loop {
            let handled = shutdown.run_until_cancelled(self.handle_notices()).await;
            let Some(Ok(has_notices)) = handled else { return };
            let interval = if has_notices { INTERVAL } else { IDLE_INTERVAL };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
                changed = nodes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Takes each step that is due. Returns true iff there is a notice that is not handled completely.
    async fn handle_notices(&mut self) -> Result<bool, CommandError> {
        let is_recorded = self.record_notices().await?;
        let noticed: Vec<MachineId> =
            self.handle.read(|fleet| fleet.machines_with_notice().iter().map(|m| m.id.clone()).collect());
        self.pods.retain(|id, _| noticed.contains(id));
        if noticed.is_empty() {
            return Ok(!is_recorded);
        }
        self.list_pods(&noticed).await;
        self.add_replacements().await?;
        self.begin_drains().await?;
        Ok(true)
    }

    /// Records new, changed and withdrawn notices of Nodes. Returns false if a write failed.
    async fn record_notices(&self) -> Result<bool, CommandError> {
        let now = self.clock.now();
        let noticed = self.nodes.nodes_with_notice();
        let (given, withdrawn) = self.handle.read(|fleet| {
            let given: Vec<GivenNotice> =
                noticed.iter().filter_map(|node| self.given_notice(fleet, node, now)).collect();
            let has_notice = fleet.machines().filter(|m| m.notice.is_some() && m.vm().is_some());
            let shows_none =
                |m: &&Machine| self.nodes.node_of(&m.id).is_some_and(|node| node.notice.is_none());
            (given, has_notice.filter(shows_none).map(|m| m.id.clone()).collect::<Vec<_>>())
        });
        if given.is_empty() && withdrawn.is_empty() {
            return Ok(true);
        }
        let new = given.iter().filter(|given| given.is_new).count() as u64;
        let is_written = self
            .update(move |fleet, now, _| {
                let given =
                    given.iter().flat_map(|given| fleet.record_notice(&given.machine, given.deadline, now));
                let mut changes: Vec<_> = given.collect();
                changes.extend(withdrawn.iter().flat_map(|id| fleet.withdraw_notice(id)));
                changes
            })
            .await?;
        if is_written {
            self.metrics.notices.get_or_create(&SourceLabel { source: "node" }).inc_by(new);
        }
        Ok(is_written)
    }

    /// The notice of the Node, if it is new or its deadline changed. A new notice with a past deadline
    /// has an unknown deadline. A notice whose deadline is more than a day ahead is ignored.
    fn given_notice(&self, fleet: &Fleet, node: &NodeFacts, now: Timestamp) -> Option<GivenNotice> {
        let machine = fleet.machine(node.machine.as_ref()?).filter(|machine| machine.vm().is_some())?;
        if self.nodes.node_of(&machine.id).is_none_or(|own| own.name != node.name) {
            return None;
        }
        let found = node.notice?.deadline;
        if found.is_some_and(|deadline| deadline > now + MAX_NOTICE) {
            return None;
        }
        let known = machine.notice.as_ref().map(|notice| notice.deadline);
        let found = found.filter(|deadline| known.is_some() || *deadline > now);
        let deadline = found.or(known).unwrap_or_else(|| now + grace_period(fleet, machine));
        (known != Some(deadline)).then(|| GivenNotice {
            machine: machine.id.clone(),
            deadline,
            is_new: known.is_none(),
        })
    }

    /// Lists the pods of these machines' Nodes, unless the known ones are fresh. It takes no longer than
    /// [`LISTS_TIMEOUT`], so that slow lists delay no replacement.
    async fn list_pods(&mut self, machines: &[MachineId]) {
        let is_due = |id: &&MachineId| {
            self.pods.get(*id).is_none_or(|pods| pods.listed_at.elapsed() >= PODS_FRESH_FOR)
        };
        let due =
            machines.iter().filter(is_due).filter_map(|id| Some((id.clone(), self.nodes.node_of(id)?.name)));
        let due: Vec<(MachineId, String)> = due.collect();
        let client = &self.client;
        let lists =
            futures::stream::iter(due).map(async |(id, node)| (id, pods_on(client, &node).await, node));
        let mut lists = std::pin::pin!(lists.buffer_unordered(MAX_LISTS));
        let until = Instant::now() + LISTS_TIMEOUT;
        while let Ok(Some((id, listed, node))) = tokio::time::timeout_at(until, lists.next()).await {
            match listed {
                Ok(pods) => drop(self.pods.insert(id, NodePods::from_pods(&pods))),
                Err(error) => {
                    tracing::warn!(node, %error, "cannot list the pods of a Node with an interruption notice; retrying");
                }
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
        let machines: Vec<MachineId> = missing.iter().map(|(id, _)| id.clone()).collect();
        let is_written = self
            .update(move |fleet, now, names| {
                let add = |(id, needed): &(MachineId, Resources)| {
                    fleet.replace_machine(id, *needed, now, &mut *names)
                };
                missing.iter().flat_map(add).collect()
            })
            .await?;
        let now = self.clock.now();
        self.handle.read(|fleet| {
            for machine in machines.iter().filter(|_| is_written).filter_map(|id| fleet.machine(id)) {
                if let Some(notice) = &machine.notice
                    && fleet.replacement_state(&machine.id) == Some(ReplacementState::Coming)
                {
                    self.metrics.observe("replacement_recorded", notice, now);
                }
            }
        });
        Ok(())
    }

    /// The resources that the pods of the machine's Node need: those of the pods, or of the whole Node while its
    /// pods are unknown. None if no pod must move.
    fn needed_resources(&self, fleet: &Fleet, machine: &Machine) -> Option<Resources> {
        match self.pods.get(&machine.id) {
            Some(pods) if pods.requests.pods == 0 => None,
            Some(pods) => Some(pods.requests),
            None => {
                let pool = fleet.pool(&machine.pool.to_string())?;
                Some(fleet.template(pool).allocatable)
            }
        }
    }

    /// Begins the drains that are due: their replacement is ready, no pod must move, or no time is left.
    async fn begin_drains(&self) -> Result<(), CommandError> {
        let now = self.clock.now();
        let due: Vec<(MachineId, Notice, &'static str)> = self.handle.read(|fleet| {
            let due_drain = |machine: &&Machine| {
                let notice = machine.notice.clone()?;
                let replacement = fleet.live_replacement(&machine.id);
                let is_ready = replacement.is_some_and(|replacement| {
                    matches!(replacement.phase, Phase::Running { .. }) && self.nodes.is_ready(&replacement.id)
                });
                let pods = self.pods.get(&machine.id);
                let is_empty = pods.is_some_and(|pods| pods.requests.pods == 0);
                let is_last_moment = now + drain_time(pods, &notice) >= notice.deadline;
                let replacement = match (is_ready, is_empty) {
                    (true, _) => "ready",
                    (false, true) => "not_needed",
                    (false, false) => "missing",
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
            self.metrics.drains.get_or_create(&ReplacementLabel { replacement }).inc();
            self.metrics.observe("drain_begun", &notice, now);
            if replacement == "missing" {
                tracing::warn!(
                    machine = %id,
                    deadline = %notice.deadline,
                    "draining a Node with an interruption notice: no replacement was ready in time; its pods may be pending"
                );
            } else {
                tracing::info!(machine = %id, replacement, "draining a Node with an interruption notice");
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

/// A new notice of a Node, or one with a new deadline.
struct GivenNotice {
    machine: MachineId,
    deadline: Timestamp,
    is_new: bool,
}

/// Time that the drain takes: the longest grace period of the pods, and a margin. Grace periods that do not fit in the
/// time of the notice are left out: their pods cannot end in time anyway, and the others must not move early for them.
fn drain_time(pods: Option<&NodePods>, notice: &Notice) -> Duration {
    let time = notice.deadline.duration_since(notice.received_at).max(SignedDuration::ZERO).unsigned_abs();
    let graces = pods.into_iter().flat_map(|pods| &pods.graces);
    let longest = graces.copied().filter(|grace| *grace + EVICTION_MARGIN <= time).max();
    longest.unwrap_or_default() + EVICTION_MARGIN
}

/// Time between notice and interruption, if the notice has no deadline.
fn grace_period(fleet: &Fleet, machine: &Machine) -> Duration {
    let group = fleet.pool(&machine.pool.to_string()).and_then(|pool| fleet.group(pool));
    group.and_then(|group| group.spot).map_or(DEFAULT_GRACE, |spot| spot.grace_period.min(MAX_NOTICE))
}

impl NodePods {
    fn from_pods(pods: &[Pod]) -> Self {
        let none = Resources { cpu_millis: 0, memory_mib: 0, disk_gib: 0, pods: 0 };
        let mut all = Self { listed_at: Instant::now(), requests: none, graces: BTreeSet::new() };
        for pod in pods.iter().filter(|pod| drain_action(pod) == DrainAction::Evict) {
            let sum = |name: &str| -> f64 {
                let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
                let requests = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref()?.get(name));
                requests.filter_map(|amount| quantity::parse(&amount.0)).sum()
            };
            all.requests.cpu_millis += (sum("cpu") * 1000.0).ceil() as u64;
            all.requests.memory_mib += (sum("memory") / f64::from(1 << 20)).ceil() as u64;
            all.requests.disk_gib += (sum("ephemeral-storage") / f64::from(1 << 30)).ceil() as u64;
            all.requests.pods += 1;
            all.graces.insert(termination_grace(pod));
        }
        all
    }
}
