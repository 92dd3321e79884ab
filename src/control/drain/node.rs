//! One step of the drain of one Node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::Instant;

use super::due::DueDrain;
use super::metrics::DrainMetrics;
use super::progress::DrainProgress;
use crate::clock::Clock;
use crate::control::handle::{CommandError, FleetHandle};
use crate::control::nodes::{NodeFacts, NodesView};
use crate::fleet::{DrainState, MachineId};
use crate::kubernetes::{
    DrainAction, EventType, Events, EvictionResult, Object, ObjectEvent, delete_pod, drain_action, evict,
    pods_on, termination_grace, termination_timeout,
};

/// Maximum of concurrent evictions per Node.
const MAX_EVICTIONS: usize = 5;
/// Maximum of concurrent evictions of a Node with an interruption notice.
const MAX_URGENT_EVICTIONS: usize = 50;
/// Wait before a blocked eviction is requested again.
const EVICTION_RETRY: Duration = Duration::from_secs(5);
/// Time before the end of a VM at which pods that cannot be evicted are deleted, beyond their grace period.
const DELETION_MARGIN: Duration = Duration::from_secs(5);
/// Time after the announced end of a VM at which its pods are no longer waited for.
const OVERDUE_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Drains Nodes, several at a time.
pub(super) struct NodeDrainer {
    pub(super) handle: FleetHandle,
    pub(super) client: Client,
    pub(super) nodes: NodesView,
    pub(super) events: Events,
    pub(super) metrics: DrainMetrics,
    pub(super) clock: Arc<dyn Clock>,
    /// Whether pods that cannot be evicted are deleted in time before an interruption.
    pub(super) deletes_pods: bool,
    /// The API server requested that no eviction is sent before this time.
    pub(super) throttled_until: Mutex<Instant>,
}

/// The result of a step.
pub(super) enum StepResult {
    /// The drain is under way.
    UnderWay,
    /// The API server replied, and the drain cannot begin yet.
    Waiting,
    /// There was nothing to do.
    Skipped,
    /// The drain or the check is complete.
    Complete,
    /// The request about the Node failed.
    Failed(String),
}

/// The Node of a machine.
#[derive(Clone, Copy)]
struct Target<'a> {
    machine: &'a MachineId,
    node: &'a NodeFacts,
}

impl NodeDrainer {
    /// Whether the API server requested a pause that is not over.
    pub(super) fn is_throttled(&self) -> bool {
        Instant::now() < *self.throttled_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn throttle(&self, until: Instant) {
        let mut throttled_until = self.throttled_until.lock().unwrap_or_else(PoisonError::into_inner);
        *throttled_until = until.max(*throttled_until);
    }

    /// Takes the next step of a machine.
    pub(super) async fn advance(
        &self,
        due: &DueDrain,
        nodes: &[NodeFacts],
        progress: &mut DrainProgress,
    ) -> Result<StepResult, CommandError> {
        match (nodes.first(), due.drain) {
            (None, DrainState::Pending) if self.nodes.was_compared(&due.machine) => {
                self.check_gone(&due.machine, progress).await
            }
            // The Node registered after the check.
            (Some(_), DrainState::NoNode) => self.record_drain(&due.machine, DrainState::Pending, None).await,
            (Some(node), DrainState::Pending | DrainState::Done) => {
                if nodes.iter().any(|node| !node.unschedulable) {
                    return Ok(StepResult::Skipped);
                }
                self.drain(due, Target { machine: &due.machine, node }, nodes, progress).await
            }
            (None, _) => Ok(StepResult::Skipped),
        }
    }

    async fn drain(
        &self,
        due: &DueDrain,
        target: Target<'_>,
        nodes: &[NodeFacts],
        progress: &mut DrainProgress,
    ) -> Result<StepResult, CommandError> {
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
                    return Ok(StepResult::Failed(format!("cannot list its pods: {error}")));
                }
            }
        }
        progress.note_success();
        let mut left = left_pods(&pods, progress, now);
        if self.is_overdue(due, &left, progress, now) && !left.is_empty() {
            tracing::warn!(
                machine = %target.machine,
                node = target.node.name,
                pods = left.len(),
                "the drain ended with pods left, because the interruption deadline has passed; the VM is deleted"
            );
            left.clear();
        }
        if left.is_empty() {
            return self.record_drain(target.machine, DrainState::Done, Some(target.node)).await;
        }
        let mut to_evict: BTreeMap<String, &Pod> = left
            .iter()
            .filter(|(action, _)| *action == DrainAction::Evict)
            .map(|(_, pod)| (key(pod), *pod))
            .collect();
        let blocked_by = self.evict_pods(due, &mut to_evict, progress, now).await;
        self.delete_late_pods(due, target.node, &to_evict).await;
        if let Some(why) = blocked_by.filter(|_| progress.must_report(now)) {
            self.report_blocked(target.machine, Some(target.node), &why);
        }
        Ok(StepResult::UnderWay)
    }

    /// Whether the pods had their time and the deadline has passed. Pods also get their grace period if the deadline
    /// had passed before the drain began.
    fn is_overdue(
        &self,
        due: &DueDrain,
        left: &[(DrainAction, &Pod)],
        progress: &DrainProgress,
        now: Instant,
    ) -> bool {
        let longest_grace = left.iter().map(|(_, pod)| termination_grace(pod)).max().unwrap_or_default();
        let has_had_time = now >= progress.began + longest_grace + OVERDUE_AFTER.unsigned_abs();
        let time = self.clock.now();
        let has_passed = due.deadline.is_some_and(|deadline| time.duration_since(deadline) >= OVERDUE_AFTER);
        self.deletes_pods && has_had_time && has_passed
    }

    /// Requests the evictions that are due. Afterwards `left` has the pods that are not evicted: blocked or throttled ones.
    /// Returns the reason why one is blocked.
    async fn evict_pods(
        &self,
        due: &DueDrain,
        left: &mut BTreeMap<String, &Pod>,
        progress: &mut DrainProgress,
        now: Instant,
    ) -> Option<String> {
        progress.blocked.retain(|pod, _| left.contains_key(pod));
        let is_ready = |pod: &String| progress.blocked.get(pod).is_none_or(|until| now >= *until);
        let ready: Vec<(String, &Pod)> =
            left.iter().filter(|(pod, _)| is_ready(pod)).map(|(key, pod)| (key.clone(), *pod)).collect();
        let mut blocked_by = None;
        let batch_size = if due.deadline.is_some() { MAX_URGENT_EVICTIONS } else { MAX_EVICTIONS };
        for batch in ready.chunks(batch_size) {
            if self.is_throttled() {
                break;
            }
            let evictions = batch.iter().map(async |(key, pod)| (key, evict(&self.client, pod).await));
            for (pod, result) in futures::future::join_all(evictions).await {
                self.metrics.count_eviction(result.name());
                match result {
                    EvictionResult::Accepted => {
                        progress.blocked.remove(pod);
                        left.remove(pod);
                    }
                    EvictionResult::Throttled(wait) => self.throttle(Instant::now() + wait.get()),
                    EvictionResult::Blocked(why) | EvictionResult::Failed(why) => {
                        progress.blocked.insert(pod.clone(), now + EVICTION_RETRY);
                        blocked_by = Some(format!("pod {pod}: {why}"));
                    }
                }
            }
        }
        blocked_by
    }

    /// Deletes pods that could not be evicted, if the deadline leaves them just their grace period.
    async fn delete_late_pods(&self, due: &DueDrain, node: &NodeFacts, left: &BTreeMap<String, &Pod>) {
        let Some(deadline) = due.deadline.filter(|_| self.deletes_pods) else { return };
        let time = self.clock.now();
        let is_late = |pod: &Pod| time + termination_grace(pod) + DELETION_MARGIN >= deadline;
        let late: Vec<&Pod> = left.values().copied().filter(|pod| is_late(pod)).collect();
        for batch in late.chunks(MAX_URGENT_EVICTIONS) {
            let deletions = batch.iter().map(async |pod| (*pod, delete_pod(&self.client, pod).await));
            for (pod, deleted) in futures::future::join_all(deletions).await {
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
    }

    /// Records that there is no Node, if the API server has none. The watch may be behind.
    async fn check_gone(
        &self,
        id: &MachineId,
        progress: &mut DrainProgress,
    ) -> Result<StepResult, CommandError> {
        let vm = self.handle.read(|fleet| fleet.machine(id).and_then(|machine| machine.vm().cloned()));
        let Some(name) = vm.map(|vm| vm.hostname) else {
            return self.record_drain(id, DrainState::NoNode, None).await;
        };
        // A known Node that is not the machine's belongs to another VM.
        if self.nodes.node_named(&name).is_some() {
            return self.record_drain(id, DrainState::NoNode, None).await;
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        // A list needs no additional permission.
        let only = ListParams::default().fields(&format!("metadata.name={}", name.as_str()));
        match nodes.list(&only).await {
            Ok(found) if found.items.is_empty() => self.record_drain(id, DrainState::NoNode, None).await,
            Ok(_) => {
                progress.note_success();
                Ok(StepResult::Waiting)
            }
            Err(error) => {
                tracing::warn!(machine = %id, %error, "cannot check whether the Node exists; retrying");
                Ok(StepResult::Failed(format!("cannot check whether the Node exists: {error}")))
            }
        }
    }

    /// Reports that the drain of the machine makes no progress.
    pub(super) fn report_blocked(&self, id: &MachineId, node: Option<&NodeFacts>, why: &str) {
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
        &self,
        id: &MachineId,
        drain: DrainState,
        node: Option<&NodeFacts>,
    ) -> Result<StepResult, CommandError> {
        match self.handle.note_drain(id.clone(), drain).await {
            Ok(()) => {}
            Err(CommandError::Stopped) => return Err(CommandError::Stopped),
            Err(error) => {
                tracing::warn!(machine = %id, %error, "cannot record the state of a drain; retrying");
                return Ok(StepResult::UnderWay);
            }
        }
        if drain == DrainState::Pending {
            tracing::info!(
                machine = %id,
                "a Node registered for a machine that is being deleted; the Node is drained first"
            );
            return Ok(StepResult::Skipped);
        }
        self.metrics.count_drain(if node.is_some() { "drained" } else { "no_node" });
        let Some(node) = node else {
            tracing::info!(machine = %id, "the machine has no Node to drain; its VM can be deleted");
            return Ok(StepResult::Complete);
        };
        tracing::info!(machine = %id, node = node.name, "drained the Node of a machine");
        let message = format!("drained the Node, because its machine {id} is being deleted");
        let about = ObjectEvent::node(&node.name, &node.uid, EventType::Normal, "Drained", message);
        self.events.publish(about.with_related(Object::VPSieNode(id.to_string())));
        Ok(StepResult::Complete)
    }
}

/// The pods that the drain must still move. Pods that exceed their termination timeout are left out.
fn left_pods<'a>(pods: &'a [Pod], progress: &mut DrainProgress, now: Instant) -> Vec<(DrainAction, &'a Pod)> {
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
    left
}

/// Identifies a pod, also if a later pod has the same name.
fn key(pod: &Pod) -> String {
    format!("{}/{} ({})", pod.namespace().unwrap_or_default(), pod.name_any(), pod.uid().unwrap_or_default())
}
