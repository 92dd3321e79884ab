//! Scale-down: upstream's planner and actuator (docs/reference/cluster-autoscaler.md#scale-down).

use std::collections::BTreeMap;

use futures::future::join_all;
use jiff::Timestamp;

use crate::cluster::Cluster;
use crate::minor::Minor;
use crate::model::{Config, Event, Stop};
use crate::object::{Node, Pod, SchedulableNode, TO_BE_DELETED, Taint, schedulable_nodes};
use crate::provider::{Group, Provider};
use crate::registry::{ignore_abort, options};

/// Annotation of nodes that are not removed.
const SCALE_DOWN_DISABLED: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";
/// Time after which the deletion of a node that still exists may be repeated.
const DELETION_TIMEOUT: std::time::Duration = std::time::Duration::from_mins(5);

#[derive(Debug)]
struct Deletion {
    node: Node,
    group: String,
    tainted: Timestamp,
    evicted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct ScaleDown {
    unneeded: BTreeMap<String, Timestamp>,
    unremovable: BTreeMap<String, Timestamp>,
    deletions: Vec<Deletion>,
    last_delete: Option<Timestamp>,
    last_failure: Option<Timestamp>,
    started: bool,
}

impl ScaleDown {
    /// Resets the times for which nodes are unneeded.
    pub(crate) fn reset_unneeded(&mut self) {
        self.unneeded.clear();
    }

    pub(crate) fn is_in_cooldown(&self, config: &Config, now: Timestamp) -> bool {
        self.last_delete.is_some_and(|at| at + config.scale_down_delay_after_delete > now)
            || self.last_failure.is_some_and(|at| at + config.scale_down_delay_after_failure > now)
    }

    /// Returns true iff deletions have started since the last call.
    pub(crate) fn take_started(&mut self) -> bool {
        std::mem::take(&mut self.started)
    }

    /// Finds unneeded nodes, and starts the deletion of nodes that were unneeded for long enough.
    #[expect(clippy::too_many_arguments, reason = "the state of the loop")]
    pub(crate) async fn plan(
        &mut self,
        provider: &Provider,
        config: &Config,
        nodes: &[Node],
        pods: &[Pod],
        now: Timestamp,
        cooldown: bool,
        cluster: &dyn Cluster,
        events: &mut Vec<Event>,
    ) -> Result<(), Stop> {
        let mut sizes = BTreeMap::new();
        for group in provider.groups().await {
            if let Ok(size) = provider.target_size(&group.id).await {
                sizes.insert(group.id, size);
            }
        }
        let mut candidates = Vec::new();
        for node in nodes {
            let Ok(Some(group)) = provider.group_of(node).await else { continue };
            let deleting = self.deletions.iter().any(|deletion| deletion.node.name == node.name)
                || node.to_be_deleted_since().is_some_and(|at| at + DELETION_TIMEOUT > now);
            if !deleting && sizes.get(&group.id).is_some_and(|size| *size > group.min) {
                candidates.push((node, group));
            }
        }
        self.unremovable.retain(|_, until| *until > now);
        let mut free_nodes: Vec<SchedulableNode> = schedulable_nodes(nodes, pods);
        let mut unneeded = BTreeMap::new();
        let mut removable = Vec::new();
        for (node, group) in &candidates {
            let is_disabled = node.annotations.get(SCALE_DOWN_DISABLED).is_some_and(|value| value == "true");
            if is_disabled || self.unremovable.contains_key(&node.name) {
                continue;
            }
            ignore_abort(options(provider, config, &group.id).await)?;
            let Some(limits) = ignore_abort(options(provider, config, &group.id).await)? else { continue };
            if utilization(node, pods) > limits.utilization {
                continue;
            }
            let Some(left) = simulate_removal(&free_nodes, node, pods) else {
                self.unremovable.insert(node.name.clone(), now + config.unremovable_recheck);
                continue;
            };
            free_nodes = left;
            ignore_abort(options(provider, config, &group.id).await)?;
            let since = self.unneeded.get(&node.name).copied().unwrap_or(now);
            unneeded.insert(node.name.clone(), since);
            removable.push((*node, group, since));
        }
        self.unneeded = unneeded;
        if provider.minor() >= Minor::V1_36 {
            removable = keep_long_unneeded(provider, config, removable, now).await?;
        }
        if cooldown || (candidates.is_empty() && provider.minor() > Minor::V1_30) {
            return Ok(());
        }
        if provider.minor() >= Minor::V1_36 {
            // Upstream looks up the groups of all nodes to check minimum quotas.
            for node in nodes {
                drop(provider.group_of(node).await);
            }
        }
        let mut sizes = BTreeMap::new();
        for group in provider.groups().await {
            if let Ok(size) = provider.target_size(&group.id).await {
                sizes.insert(group.id, size);
            }
        }
        if provider.minor() < Minor::V1_36 {
            removable = keep_long_unneeded(provider, config, removable, now).await?;
        }
        for deletion in &self.deletions {
            sizes.entry(deletion.group.clone()).and_modify(|size| *size -= 1);
        }
        let draining =
            self.deletions.iter().filter(|deletion| has_movable_pods(&deletion.node.name, pods)).count();
        let mut drains = config.max_drain_parallelism.saturating_sub(draining);
        // Empty nodes first.
        removable.sort_by_key(|(node, ..)| has_movable_pods(&node.name, pods));
        for (node, group, _) in removable {
            let drain = has_movable_pods(&node.name, pods);
            let size = sizes.entry(group.id.clone()).or_default();
            let full = self.deletions.len() >= config.max_scale_down_parallelism || (drain && drains == 0);
            if full || *size <= group.min {
                continue;
            }
            *size -= 1;
            drains -= usize::from(drain);
            for _ in 0..2 {
                ignore_abort(options(provider, config, &group.id).await)?;
            }
            let value = now.as_second().to_string();
            let taint = Taint { key: TO_BE_DELETED.to_owned(), value, effect: "NoSchedule".to_owned() };
            cluster.taint(&node.name, taint, config.cordon).await?;
            events.push(Event::Draining { node: node.name.clone() });
            let deletion =
                Deletion { node: node.clone(), group: group.id.clone(), tainted: now, evicted: false };
            self.deletions.push(deletion);
            self.last_delete = Some(now);
            self.started = true;
        }
        Ok(())
    }

    /// Continues deletions: evicts pods, and deletes drained nodes at the provider, in parallel, one node per
    /// RPC.
    pub(crate) async fn continue_deletions(
        &mut self,
        provider: &Provider,
        config: &Config,
        cluster: &dyn Cluster,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> Result<(), Stop> {
        if self.deletions.is_empty() {
            return Ok(());
        }
        let mut pods = cluster.pods().await?;
        for deletion in
            self.deletions.iter_mut().filter(|d| d.tainted + config.delete_delay_after_taint <= now)
        {
            for pod in movable_pods(&deletion.node.name, &pods) {
                drop(cluster.evict(&pod.namespace, &pod.name).await);
            }
            deletion.evicted = true;
        }
        pods = cluster.pods().await?;
        let (ready, rest): (Vec<_>, Vec<_>) =
            self.deletions.drain(..).partition(|d| d.evicted && !has_movable_pods(&d.node.name, &pods));
        let (late, rest): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|d| d.tainted + config.max_drain_time < now);
        self.deletions = rest;
        let deleted = join_all(ready.iter().map(|deletion| delete(provider, config, deletion))).await;
        let late =
            late.into_iter().map(|deletion| (deletion, Err(Stop::Abort("drain timed out".to_owned()))));
        for (deletion, result) in ready.into_iter().zip(deleted).chain(late) {
            self.unneeded.remove(&deletion.node.name);
            match result {
                Ok(()) => events.push(Event::Deleted { group: deletion.group, node: deletion.node.name }),
                Err(Stop::Abort(why)) => {
                    drop(cluster.untaint(&deletion.node.name, TO_BE_DELETED).await);
                    events.push(Event::DeletionFailed { node: deletion.node.name, why });
                }
                Err(crash) => return Err(crash),
            }
        }
        Ok(())
    }
}

/// Keeps the nodes that were unneeded for the time that their groups require.
async fn keep_long_unneeded<'a>(
    provider: &Provider,
    config: &Config,
    nodes: Vec<(&'a Node, &'a Group, Timestamp)>,
    now: Timestamp,
) -> Result<Vec<(&'a Node, &'a Group, Timestamp)>, Stop> {
    let mut kept = Vec::new();
    for (node, group, since) in nodes {
        let Some(limits) = ignore_abort(options(provider, config, &group.id).await)? else { continue };
        let time = if node.is_ready() { limits.unneeded } else { limits.unready };
        if time.is_zero() || since + time < now {
            kept.push((node, group, since));
        }
    }
    Ok(kept)
}

async fn delete(provider: &Provider, config: &Config, deletion: &Deletion) -> Result<(), Stop> {
    let group = provider.group_of(&deletion.node).await?;
    let Some(group) = group else { return Err(Stop::Abort("the node no longer has a group".to_owned())) };
    options(provider, config, &group.id).await?;
    provider.delete_nodes(&group.id, std::slice::from_ref(&deletion.node)).await?;
    if provider.minor() >= Minor::V1_36 {
        provider.request_template_again(&group.id).await;
    }
    Ok(())
}

fn movable_pods<'a>(node: &'a str, pods: &'a [Pod]) -> impl Iterator<Item = &'a Pod> {
    pods.iter().filter(move |pod| pod.node.as_deref() == Some(node) && !pod.node_bound)
}

fn has_movable_pods(node: &str, pods: &[Pod]) -> bool {
    movable_pods(node, pods).next().is_some()
}

fn utilization(node: &Node, pods: &[Pod]) -> f64 {
    let mut cpu = 0;
    let mut memory = 0;
    for pod in pods.iter().filter(|pod| pod.node.as_deref() == Some(&node.name)) {
        cpu += pod.requests.cpu_millis;
        memory += pod.requests.memory_mib;
    }
    let share = |used: i64, total: i64| used as f64 / total.max(1) as f64;
    share(cpu, node.allocatable.cpu_millis).max(share(memory, node.allocatable.memory_mib))
}

/// The free nodes after the removal of this node, with its pods on other nodes. None if a pod cannot move.
fn simulate_removal(
    free_nodes: &[SchedulableNode],
    node: &Node,
    pods: &[Pod],
) -> Option<Vec<SchedulableNode>> {
    let mut left: Vec<_> = free_nodes.iter().filter(|other| other.name != node.name).cloned().collect();
    for pod in movable_pods(&node.name, pods) {
        if !pod.controlled || !crate::object::schedule_pod(&mut left, pod) {
            return None;
        }
    }
    Some(left)
}
