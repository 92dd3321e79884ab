//! Drains the Nodes of machines that are being deleted, before their VMs are deleted. `control/nodes` has
//! cordoned them.
//!
//! Disruption budgets are respected without a time limit, except after an interruption notice: then pods that
//! cannot be evicted are deleted in time to end. A blocked drain is reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::handle::{CommandError, FleetHandle};
use super::nodes::{NodeFacts, NodesView};
use crate::clock::{Clock, SystemClock};
use crate::fleet::{DrainState, Fleet, Machine, MachineId, Phase};
use crate::kubernetes::{
    DrainAction, EventType, Events, EvictionResult, Object, ObjectEvent, delete_pod, drain_action, evict,
    pods_on, termination_grace, termination_timeout,
};
use crate::telemetry::Registry;

/// Maximum of concurrent drains, without blocked ones.
const MAX_DRAINS: usize = 3;
/// Maximum of concurrent evictions per Node.
const MAX_EVICTIONS: usize = 5;
/// Maximum of concurrent evictions of a Node with an interruption notice.
const MAX_URGENT_EVICTIONS: usize = 50;
/// Interval of checks of a drain.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Wait before a blocked eviction is requested again.
const EVICTION_RETRY: Duration = Duration::from_secs(5);
/// Wait after a request about a Node failed.
const API_SERVER_RETRY: Duration = Duration::from_secs(5);
/// Time before the end of a VM at which pods that cannot be evicted are deleted, beyond their grace period.
const DELETION_MARGIN: Duration = Duration::from_secs(5);
/// Time after the announced end of a VM at which its pods are no longer waited for.
const OVERDUE_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// Maximum wait before a request about one Node is retried, if only that Node's requests fail.
const MAX_RETRY: Duration = Duration::from_mins(1);
/// A drain is reported as blocked after this time, and again after [`REPORT_INTERVAL`].
const REPORT_AFTER: Duration = Duration::from_mins(1);
const REPORT_INTERVAL: Duration = Duration::from_mins(10);

/// Metrics of drains. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct DrainMetrics {
    drains: Family<DrainLabels, Counter>,
    evictions: Family<DrainLabels, Counter>,
    blocked: Gauge,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DrainLabels {
    result: &'static str,
}

impl DrainMetrics {
    /// Registers `node_drains_total{result="drained|no_node"}`,
    /// `node_drain_evictions_total{result="accepted|blocked|throttled|deleted|failed"}` and `node_drains_blocked`.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "Completed drains of machines that are being deleted: drained, or no_node if there was no Node";
        registry.register("node_drains", help, None, &self.drains);
        let help = "Requested evictions, by reply of the API server: accepted, blocked, throttled, failed; deleted: it could not be \
            evicted in time before an interruption";
        registry.register("node_drain_evictions", help, None, &self.evictions);
        let help = "Drains that have been blocked for more than a minute";
        registry.register("node_drains_blocked", help, None, &self.blocked);
    }

    fn count_drain(&self, result: &'static str) {
        self.drains.get_or_create(&DrainLabels { result }).inc();
    }

    fn count_eviction(&self, result: &'static str) {
        self.evictions.get_or_create(&DrainLabels { result }).inc();
    }
}

/// The loop that drains Nodes.
pub struct Drain {
    handle: FleetHandle,
    client: Client,
    nodes: NodesView,
    events: Events,
    metrics: DrainMetrics,
    clock: Arc<dyn Clock>,
    /// Whether pods that cannot be evicted are deleted in time before an interruption.
    deletes_pods: bool,
    under_way: BTreeMap<MachineId, DrainProgress>,
    /// No request is sent before this time.
    quiet_until: Instant,
    /// Whether a request to the API server succeeded in this pass.
    has_succeeded: bool,
}

/// Progress of a drain.
struct DrainProgress {
    began: Instant,
    reported_at: Option<Instant>,
    /// Time from which the eviction of a pod may be requested again.
    blocked: BTreeMap<String, Instant>,
    /// Time at which a pod was first observed as terminating. Its deletion timestamp is by the API server's
    /// clock.
    leaving: BTreeMap<String, Instant>,
    /// Set while requests about its Node fail.
    failing: Option<Failing>,
}

/// Failing requests about one Node.
struct Failing {
    /// Time of the last failure.
    at: Instant,
    /// The wait before the next request, if other requests succeed.
    backoff: Backoff,
}

impl DrainProgress {
    fn new() -> Self {
        let blocked = BTreeMap::new();
        let leaving = BTreeMap::new();
        Self { began: Instant::now(), reported_at: None, blocked, leaving, failing: None }
    }

    /// Whether it makes no progress, and was reported.
    fn is_blocked(&self) -> bool {
        self.reported_at.is_some() && (self.failing.is_some() || !self.blocked.is_empty())
    }

    /// Whether its next request is due.
    fn is_due(&self) -> bool {
        self.failing.as_ref().is_none_or(|failing| failing.backoff.is_ready())
    }

    /// Whether the drain must be reported now.
    fn is_late(&self, now: Instant) -> bool {
        now >= self.began + REPORT_AFTER
            && self.reported_at.is_none_or(|reported_at| now >= reported_at + REPORT_INTERVAL)
    }
}

impl Drain {
    /// Creates the loop over machines that must be drained.
    pub fn new(
        handle: FleetHandle,
        client: Client,
        nodes: NodesView,
        events: Events,
        metrics: DrainMetrics,
    ) -> Self {
        Self {
            handle,
            client,
            nodes,
            events,
            metrics,
            clock: Arc::new(SystemClock),
            deletes_pods: true,
            under_way: BTreeMap::new(),
            quiet_until: Instant::now(),
            has_succeeded: false,
        }
    }

    /// Takes the time from this clock in place of the system's.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Whether pods that cannot be evicted are deleted in time before an interruption. The default is true.
    pub fn with_pod_deletion(self, deletes_pods: bool) -> Self {
        Self { deletes_pods, ..self }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut commits = self.handle.clone();
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
        let mut machines = self.handle.read(due_drains);
        self.under_way.retain(|id, _| machines.iter().any(|due| due.machine == *id));
        // Machines whose requests fail come last and in turn, so that they delay no others.
        machines.sort_by_key(|due| Some(self.under_way.get(&due.machine)?.failing.as_ref()?.at));
        self.has_succeeded = false;
        // Before the first list of Nodes, a missing Node proves nothing.
        if self.nodes.has_listed() {
            let mut free = MAX_DRAINS;
            for due in &machines {
                if Instant::now() < self.quiet_until {
                    break;
                }
                if !self.under_way.get(&due.machine).is_none_or(DrainProgress::is_due) {
                    continue;
                }
                let nodes = self.nodes.nodes_of(&due.machine);
                let is_blocked = self.under_way.get(&due.machine).is_some_and(DrainProgress::is_blocked);
                match (nodes.is_empty(), due.drain) {
                    (true, DrainState::Pending)
                        if self.nodes.was_compared(&due.machine) && self.is_gone(&due.machine).await =>
                    {
                        self.record_drain(&due.machine, DrainState::NoNode, None).await?;
                    }
                    // The Node registered after the check.
                    (false, DrainState::NoNode) => {
                        self.record_drain(&due.machine, DrainState::Pending, None).await?;
                    }
                    (false, DrainState::Pending | DrainState::Done)
                        if is_blocked || due.deadline.is_some() || free > 0 =>
                    {
                        free -= usize::from(!is_blocked && due.deadline.is_none());
                        self.drain(due, &nodes).await?;
                    }
                    _ => {}
                }
            }
        }
        let blocked = self.under_way.values().filter(|progress| progress.is_blocked()).count();
        self.metrics.blocked.set(blocked as i64);
        Ok(!machines.is_empty())
    }

    async fn drain(&mut self, due: &DueDrain, nodes: &[NodeFacts]) -> Result<(), CommandError> {
        let id = &due.machine;
        let Some(node) = nodes.first() else { return Ok(()) };
        if nodes.iter().any(|node| !node.unschedulable) {
            return Ok(());
        }
        let now = Instant::now();
        let mut pods = Vec::new();
        for node in nodes {
            match pods_on(&self.client, &node.name).await {
                Ok(found) => pods.extend(found),
                Err(error) => {
                    tracing::warn!(
                        node = node.name,
                        %error,
                        "cannot list the pods of a Node that is being drained; retrying"
                    );
                    self.note_failure(id, Some(node), &format!("cannot list its pods: {error}"));
                    return Ok(());
                }
            }
        }
        self.has_succeeded = true;
        let progress = self.under_way.entry(id.clone()).or_insert_with(DrainProgress::new);
        progress.failing = None;
        let mut left: Vec<(DrainAction, &Pod)> = pods
            .iter()
            .map(|pod| (drain_action(pod), pod))
            .filter(|(action, _)| *action != DrainAction::Ignore)
            .collect();
        let leaving = left.iter().filter(|(action, _)| *action == DrainAction::Wait).map(|(_, pod)| key(pod));
        progress.leaving = leaving
            .map(|pod| {
                let since = progress.leaving.get(&pod).copied().unwrap_or(now);
                (pod, since)
            })
            .collect();
        left.retain(|(_, pod)| {
            progress.leaving.get(&key(pod)).is_none_or(|since| now < *since + termination_timeout(pod))
        });
        let time = self.clock.now();
        // Pods also get their grace period if the deadline has passed before the drain began.
        let longest_grace = left.iter().map(|(_, pod)| termination_grace(pod)).max().unwrap_or_default();
        let has_had_time = now >= progress.began + longest_grace + OVERDUE_AFTER.unsigned_abs();
        let is_overdue = has_had_time
            && due.deadline.is_some_and(|deadline| time.duration_since(deadline) >= OVERDUE_AFTER);
        if is_overdue && self.deletes_pods && !left.is_empty() {
            tracing::warn!(
                machine = %id,
                node = node.name,
                pods = left.len(),
                "the drain ended with pods left, because the interruption deadline has passed; the VM is deleted"
            );
            left.clear();
        }
        if left.is_empty() {
            return self.record_drain(id, DrainState::Done, Some(node)).await;
        }
        let to_evict: BTreeMap<String, &Pod> = left
            .iter()
            .filter(|(action, _)| *action == DrainAction::Evict)
            .map(|(_, pod)| (key(pod), *pod))
            .collect();
        progress.blocked.retain(|pod, _| to_evict.contains_key(pod));
        let ready =
            to_evict.iter().filter(|(pod, _)| progress.blocked.get(*pod).is_none_or(|until| now >= *until));
        let ready: Vec<(String, Pod)> = ready.map(|(key, pod)| (key.clone(), Pod::clone(pod))).collect();
        let mut blocked_by = None;
        let batch_size = if due.deadline.is_some() { MAX_URGENT_EVICTIONS } else { MAX_EVICTIONS };
        for batch in ready.chunks(batch_size) {
            let evictions = batch.iter().map(async |(key, pod)| (key, evict(&self.client, pod).await));
            for (pod, result) in futures::future::join_all(evictions).await {
                self.metrics.count_eviction(result.name());
                match result {
                    EvictionResult::Accepted => drop(progress.blocked.remove(pod)),
                    EvictionResult::Throttled(wait) => {
                        self.quiet_until = self.quiet_until.max(now + wait.get());
                    }
                    EvictionResult::Blocked(why) | EvictionResult::Failed(why) => {
                        progress.blocked.insert(pod.clone(), now + EVICTION_RETRY);
                        blocked_by = Some(format!("pod {pod}: {why}"));
                    }
                }
            }
            if now < self.quiet_until {
                break;
            }
        }
        if let Some(deadline) = due.deadline.filter(|_| self.deletes_pods) {
            let is_late = |pod: &Pod| time + termination_grace(pod) + DELETION_MARGIN >= deadline;
            let blocked = &progress.blocked;
            let late = to_evict.iter().filter(|(pod, _)| blocked.contains_key(*pod)).map(|(_, pod)| *pod);
            for pod in late.filter(|pod| is_late(pod)) {
                let deleted = delete_pod(&self.client, pod).await;
                self.metrics.count_eviction(if deleted.is_ok() { "deleted" } else { "failed" });
                let name = key(pod);
                match deleted {
                    Ok(()) => tracing::warn!(
                        node = node.name,
                        pod = name,
                        "deleted a pod that could not be evicted: the interruption deadline of its Node is near"
                    ),
                    Err(error) => tracing::warn!(
                        node = node.name,
                        pod = name,
                        %error,
                        "cannot delete a pod of a Node with an interruption notice; retrying"
                    ),
                }
            }
        }
        if let Some(why) = blocked_by.filter(|_| progress.is_late(now)) {
            progress.reported_at = Some(now);
            self.report_blocked(id, Some(node), &why);
        }
        Ok(())
    }

    /// Records a failed request about one Node. Only this Node waits if another request of this pass
    /// succeeded; otherwise all Nodes wait.
    fn note_failure(&mut self, id: &MachineId, node: Option<&NodeFacts>, why: &str) {
        let now = Instant::now();
        let progress = self.under_way.entry(id.clone()).or_insert_with(DrainProgress::new);
        let backoff = Backoff::new(API_SERVER_RETRY, MAX_RETRY);
        let failing = progress.failing.get_or_insert(Failing { at: now, backoff });
        failing.at = now;
        if self.has_succeeded {
            failing.backoff.record_failure(None);
        } else {
            self.quiet_until = now + API_SERVER_RETRY;
        }
        if progress.is_late(now) {
            progress.reported_at = Some(now);
            self.report_blocked(id, node, why);
        }
    }

    /// Whether the API server has no such Node. The watch may be behind.
    async fn is_gone(&mut self, id: &MachineId) -> bool {
        let vm = self.handle.read(|fleet| fleet.machine(id).and_then(|machine| machine.vm().cloned()));
        let Some(name) = vm.map(|vm| vm.hostname) else { return true };
        // A known Node that is not the machine's belongs to another VM.
        if self.nodes.node_named(&name).is_some() {
            return true;
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        // A list needs no additional permission.
        let only = ListParams::default().fields(&format!("metadata.name={}", name.as_str()));
        match nodes.list(&only).await {
            Ok(found) => {
                self.has_succeeded = true;
                if let Some(progress) = self.under_way.get_mut(id) {
                    progress.failing = None;
                }
                found.items.is_empty()
            }
            Err(error) => {
                tracing::warn!(machine = %id, %error, "cannot check whether the Node exists; retrying");
                self.note_failure(id, None, &format!("cannot check whether the Node exists: {error}"));
                false
            }
        }
    }

    fn report_blocked(&self, id: &MachineId, node: Option<&NodeFacts>, why: &str) {
        tracing::warn!(
            machine = %id,
            node = node.map(|node| node.name.as_str()),
            error = why,
            "the drain of a Node is blocked"
        );
        let message = format!("the Node cannot be drained yet: {why}");
        let on = Object::VPSieNode(id.to_string());
        self.events.publish(ObjectEvent::new(on.clone(), EventType::Warning, "DrainBlocked", &*message));
        let Some(node) = node else { return };
        let about = ObjectEvent::node(&node.name, &node.uid, EventType::Warning, "DrainBlocked", message);
        self.events.publish(about.with_related(on));
    }

    /// Records the state of a drain.
    async fn record_drain(
        &mut self,
        id: &MachineId,
        drain: DrainState,
        node: Option<&NodeFacts>,
    ) -> Result<(), CommandError> {
        match self.handle.note_drain(id.clone(), drain).await {
            Ok(()) => {}
            Err(CommandError::Stopped) => return Err(CommandError::Stopped),
            Err(error) => {
                tracing::warn!(machine = %id, %error, "cannot record the state of a drain; retrying");
                return Ok(());
            }
        }
        if drain == DrainState::Pending {
            tracing::info!(
                machine = %id,
                "a Node registered for a machine that is being deleted; the Node is drained first"
            );
            return Ok(());
        }
        self.under_way.remove(id);
        self.metrics.count_drain(if node.is_some() { "drained" } else { "no_node" });
        let Some(node) = node else {
            tracing::info!(machine = %id, "the machine has no Node to drain; its VM can be deleted");
            return Ok(());
        };
        tracing::info!(machine = %id, node = node.name, "drained the Node of a machine");
        let message = format!("drained the Node, because its machine {id} is being deleted");
        let about = ObjectEvent::node(&node.name, &node.uid, EventType::Normal, "Drained", message);
        self.events.publish(about.with_related(Object::VPSieNode(id.to_string())));
        Ok(())
    }
}

/// A machine whose drain is pending, or whose VM may be deleted only while no Node of it is known.
struct DueDrain {
    machine: MachineId,
    drain: DrainState,
    /// Deadline of its interruption notice.
    deadline: Option<Timestamp>,
}

/// Machines with a due drain: first those with an interruption notice, the most urgent first, then the longest Deleting.
fn due_drains(fleet: &Fleet) -> Vec<DueDrain> {
    let of = |machine: &Machine| match machine.phase {
        Phase::Deleting {
            drain: drain @ (DrainState::Pending | DrainState::NoNode),
            vm: Some(_),
            accepted_at: None,
            since,
            ..
        } => {
            let deadline = machine.notice.as_ref().map(|notice| notice.deadline);
            Some((since, DueDrain { machine: machine.id.clone(), drain, deadline }))
        }
        _ => None,
    };
    let workers = fleet.machines().filter(|machine| !fleet.is_control_plane(machine));
    let mut all: Vec<_> = workers.filter_map(of).collect();
    all.sort_by(|(a, one), (b, other)| {
        let order = |since: &Timestamp, due: &DueDrain| (due.deadline.is_none(), due.deadline, *since);
        (order(a, one), &one.machine).cmp(&(order(b, other), &other.machine))
    });
    all.into_iter().map(|(_, due)| due).collect()
}

/// Identifies a pod, also if a later pod has the same name.
fn key(pod: &Pod) -> String {
    format!("{}/{} ({})", pod.namespace().unwrap_or_default(), pod.name_any(), pod.uid().unwrap_or_default())
}
