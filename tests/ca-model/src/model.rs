//! The loop: upstream's `RunOnce`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::cluster::{Cluster, ClusterError};
use crate::expander::Expander;
use crate::link::Link;
use crate::minor::Minor;
use crate::object::{Node, Pod, SchedulableNode, TO_BE_DELETED, schedulable_nodes, schedule_pod};
use crate::provider::{Call, Failure, Options, Provider};
use crate::registry::{Registry, Run};
use crate::scale_down::ScaleDown;

/// Flags of Cluster Autoscaler, with its defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--max-node-provision-time`.
    pub max_node_provision_time: Duration,
    /// `--scale-down-unneeded-time`.
    pub scale_down_unneeded_time: Duration,
    /// `--scale-down-unready-time`.
    pub scale_down_unready_time: Duration,
    /// `--scale-down-utilization-threshold`.
    pub scale_down_utilization_threshold: f64,
    /// `--scale-down-delay-after-add`.
    pub scale_down_delay_after_add: Duration,
    /// `--scale-down-delay-after-delete`.
    pub scale_down_delay_after_delete: Duration,
    /// `--scale-down-delay-after-failure`.
    pub scale_down_delay_after_failure: Duration,
    /// `--unremovable-node-recheck-timeout`.
    pub unremovable_recheck: Duration,
    /// `--max-scale-down-parallelism`.
    pub max_scale_down_parallelism: usize,
    /// `--max-drain-parallelism`.
    pub max_drain_parallelism: usize,
    /// `--node-delete-delay-after-taint`.
    pub delete_delay_after_taint: Duration,
    /// Timeout of a drain.
    pub max_drain_time: Duration,
    /// `--cordon-node-before-terminating`.
    pub cordon: bool,
    /// `--initial-node-group-backoff-duration`.
    pub initial_backoff: Duration,
    /// `--max-node-group-backoff-duration`.
    pub max_backoff: Duration,
    /// `--node-group-backoff-reset-timeout`.
    pub backoff_reset: Duration,
    /// `--ok-total-unready-count`.
    pub ok_unready: usize,
    /// `--max-total-unready-percentage`.
    pub max_unready_percent: f64,
    /// `--max-node-startup-time`, from 1.35 on. It is 15 minutes before.
    pub max_node_startup_time: Duration,
    /// `--max-nodes-per-scaleup`.
    pub max_nodes_per_scale_up: usize,
    /// `--force-delete-unregistered-nodes`.
    pub force_delete_unregistered: bool,
    /// Interval of the background refresher, which lists instances; a constant upstream.
    pub instances_refresh: Duration,
    /// `--expander`: filters of the options of a scale-up, in this order. A random choice follows them.
    pub expander: Vec<Expander>,
    /// Random seed for the choice among equally good options.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        let minutes = Duration::from_mins;
        Self {
            max_node_provision_time: minutes(15),
            scale_down_unneeded_time: minutes(10),
            scale_down_unready_time: minutes(20),
            scale_down_utilization_threshold: 0.5,
            scale_down_delay_after_add: minutes(10),
            scale_down_delay_after_delete: Duration::ZERO,
            scale_down_delay_after_failure: minutes(3),
            unremovable_recheck: minutes(5),
            max_scale_down_parallelism: 10,
            max_drain_parallelism: 1,
            delete_delay_after_taint: Duration::from_secs(5),
            max_drain_time: minutes(12),
            cordon: true,
            initial_backoff: minutes(5),
            max_backoff: minutes(30),
            backoff_reset: minutes(180),
            ok_unready: 3,
            max_unready_percent: 45.0,
            max_node_startup_time: minutes(15),
            max_nodes_per_scale_up: 1000,
            force_delete_unregistered: false,
            instances_refresh: minutes(2),
            expander: vec![Expander::LeastWaste],
            seed: 0,
        }
    }
}

impl Config {
    pub(crate) fn options(&self) -> Options {
        Options {
            utilization: self.scale_down_utilization_threshold,
            unneeded: self.scale_down_unneeded_time,
            unready: self.scale_down_unready_time,
            provision: self.max_node_provision_time,
            startup: self.max_node_startup_time,
            ignore_daemon_sets: false,
        }
    }
}

/// An action or an observation of the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the fields suffice")]
pub enum Event {
    /// A group was scaled up.
    ScaledUp { group: String, delta: i64 },
    /// The provider refused to scale up a group.
    ScaleUpFailed { group: String, delta: i64 },
    /// A group is not scaled up before `until`.
    BackedOff { group: String, code: String, until: Timestamp },
    /// Nodes of a group did not register in time.
    TimedOut { group: String },
    /// A target size was decreased.
    Decreased { group: String, delta: i64, done: bool },
    /// Instances that did not register in time were deleted.
    RemovedUnregistered { group: String, ids: Vec<String>, done: bool },
    /// Instances that could not be created were deleted.
    RemovedFailed { group: String, ids: Vec<String>, done: bool },
    /// A node is tainted and will be drained.
    Draining { node: String },
    /// The provider accepted the deletion of a node.
    Deleted { group: String, node: String },
    /// A node could not be deleted and is schedulable again.
    DeletionFailed { node: String, why: String },
}

/// The result of a run of the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoopResult {
    /// Completed.
    Done,
    /// Aborted for all groups, until the next loop.
    Aborted(String),
    /// A reply made the process panic: the provider violated the contract.
    Crashed(String),
}

/// Report of one run of the loop.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its result.
    pub outcome: LoopResult,
    /// Its events, in order.
    pub events: Vec<Event>,
    /// Its RPCs, in order.
    pub calls: Vec<Call>,
}

/// Reason for the early end of a run.
#[derive(Debug)]
pub(crate) enum Stop {
    Abort(String),
    Crash(String),
}

impl From<tonic::Status> for Stop {
    fn from(status: tonic::Status) -> Self {
        Self::Abort(format!("{:?}: {}", status.code(), status.message()))
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Error(status) => status.into(),
            Failure::Crash(why) => Self::Crash(why),
        }
    }
}

impl From<ClusterError> for Stop {
    fn from(error: ClusterError) -> Self {
        Self::Abort(error.to_string())
    }
}

/// A process of Cluster Autoscaler. It has no state of earlier processes.
pub struct Autoscaler {
    pub(crate) config: Config,
    pub(crate) provider: Provider,
    pub(crate) registry: Registry,
    pub(crate) last_scale_up: Option<Timestamp>,
    pub(crate) random_state: u64,
    pub(crate) expander: Option<Link>,
    scale_down: ScaleDown,
    /// Templates of healthy nodes, kept after the end of the nodes
    /// (docs/reference/cluster-autoscaler.md#nodegrouptemplatenodeinfo).
    seen_templates: BTreeMap<String, Node>,
    started: bool,
}

impl Autoscaler {
    /// Starts a process that uses this provider.
    pub fn new(config: Config, provider: Provider) -> Self {
        Self {
            random_state: config.seed,
            config,
            provider,
            registry: Registry::default(),
            last_scale_up: None,
            expander: None,
            scale_down: ScaleDown::default(),
            seen_templates: BTreeMap::new(),
            started: false,
        }
    }

    /// Sets the service of [`Expander::Grpc`].
    pub fn with_expander(self, service: Link) -> Self {
        Self { expander: Some(service), ..self }
    }

    /// Its flags. The next run of the loop applies changes.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Runs the loop once.
    pub async fn loop_once(&mut self, cluster: &dyn Cluster, now: Timestamp) -> Report {
        let mut events = Vec::new();
        let outcome = match self.run_once(cluster, now, &mut events).await {
            Ok(()) => LoopResult::Done,
            Err(Stop::Abort(why)) => LoopResult::Aborted(why),
            Err(Stop::Crash(why)) => LoopResult::Crashed(why),
        };
        Report { outcome, events, calls: self.provider.take_calls() }
    }

    /// Stops the process.
    pub async fn stop(self) -> Vec<Call> {
        drop(self.provider.cleanup().await);
        self.provider.take_calls()
    }

    async fn run_once(
        &mut self,
        cluster: &dyn Cluster,
        now: Timestamp,
        events: &mut Vec<Event>,
    ) -> Result<(), Stop> {
        if !self.started {
            self.clean_up_taints(cluster).await;
            self.started = true;
        }
        self.registry.refresh_instances(&self.provider, &self.config, now).await;
        self.scale_down.continue_deletions(&self.provider, &self.config, cluster, now, events).await?;
        let nodes = cluster.nodes().await?;
        let pods = cluster.pods().await?;
        self.provider.gpu_label().await;
        if self.provider.minor() >= Minor::V1_35 {
            // The check for device drivers precedes Refresh; only replies for managed nodes are cached.
            for node in nodes.iter().filter(|node| node.is_ready()) {
                drop(self.provider.group_of(node).await);
            }
        }
        self.provider.refresh().await?;
        self.provider.groups().await;
        let templates = self.templates(&nodes, now).await?;
        let mut run =
            Run { provider: &self.provider, config: &self.config, now, templates: &templates, events };
        self.registry.update(&mut run, &nodes).await?;
        match self.registry.remove_old_unregistered(&mut run).await {
            Err(Stop::Abort(_)) | Ok(()) => {}
            Err(crash) => return Err(crash),
        }
        if !self.registry.is_cluster_healthy(&self.config) {
            self.scale_down.reset_unneeded();
            return Ok(());
        }
        if self.registry.remove_failed(&mut run).await {
            self.registry.recalculate(&self.provider).await;
            if self.provider.minor() <= Minor::V1_30 {
                return Ok(());
            }
        }
        if self.registry.fix_sizes(&mut run).await? {
            return Ok(());
        }
        let (upcoming, starting) = self.registry.upcoming(&run).await;
        let started_nodes: Vec<_> =
            nodes.iter().filter(|node| !starting.contains(&node.name)).cloned().collect();
        let mut free_nodes = schedulable_nodes(&started_nodes, &pods);
        add_upcoming(&mut free_nodes, &upcoming, &templates)?;
        let waiting = unschedulable_pods(&mut free_nodes, &pods);
        let all_pods_new =
            !waiting.is_empty() && waiting.iter().all(|pod| pod.created + Duration::from_secs(2) > now);
        if !waiting.is_empty() && !all_pods_new {
            let scaled = self.scale_up(&waiting, &nodes, &templates, now, events).await?;
            if scaled && self.provider.minor() < Minor::V1_36 {
                return Ok(());
            }
        }
        let cooldown = all_pods_new || self.is_in_cooldown(now);
        self.scale_down
            .plan(&self.provider, &self.config, &started_nodes, &pods, now, cooldown, cluster, events)
            .await?;
        self.scale_down.continue_deletions(&self.provider, &self.config, cluster, now, events).await?;
        if self.scale_down.take_started() {
            self.registry.recalculate(&self.provider).await;
        }
        // Upstream taints nodes that it may delete soon, and looks up their groups for that.
        for node in &nodes {
            drop(self.provider.group_of(node).await);
        }
        Ok(())
    }

    fn is_in_cooldown(&self, now: Timestamp) -> bool {
        self.last_scale_up.is_some_and(|at| at + self.config.scale_down_delay_after_add > now)
            || self.scale_down.is_in_cooldown(&self.config, now)
    }

    /// Removes deletion taints that an earlier process left behind.
    async fn clean_up_taints(&self, cluster: &dyn Cluster) {
        for node in cluster.nodes().await.unwrap_or_default() {
            let is_managed = matches!(self.provider.group_of(&node).await, Ok(Some(_)));
            if is_managed && node.to_be_deleted_since().is_some() {
                drop(cluster.untaint(&node.name, TO_BE_DELETED).await);
            }
        }
    }

    /// Templates by group: of a healthy node, else of an earlier healthy node, else of the provider, else of
    /// any node.
    async fn templates(&mut self, nodes: &[Node], now: Timestamp) -> Result<BTreeMap<String, Node>, Stop> {
        let is_healthy = |node: &&Node| {
            let stable = node.is_ready() && node.ready_since + Duration::from_mins(1) < now;
            stable && !node.unschedulable && node.to_be_deleted_since().is_none()
        };
        let (good, bad): (Vec<_>, Vec<_>) = nodes.iter().partition(is_healthy);
        let mut templates = BTreeMap::new();
        for node in good {
            if let Some(group) = self.group_for_template(node).await? {
                templates.entry(group).or_insert_with(|| template_of_node(node));
            }
        }
        self.seen_templates.extend(templates.clone());
        let groups = self.provider.groups().await;
        self.seen_templates.retain(|id, _| groups.iter().any(|group| group.id == *id));
        for group in groups {
            if templates.contains_key(&group.id) {
                continue;
            }
            let template = match self.seen_templates.get(&group.id) {
                Some(seen) => Some(seen.clone()),
                None => match self.provider.template(&group.id).await {
                    Ok(template) => template,
                    Err(Failure::Error(status)) if self.provider.minor() <= Minor::V1_30 => {
                        return Err(status.into());
                    }
                    Err(Failure::Error(_)) => None,
                    Err(crash) => return Err(crash.into()),
                },
            };
            templates.extend(template.map(|template| (group.id, template)));
        }
        for node in bad {
            let group = self.group_for_template(node).await?;
            if self.provider.minor() < Minor::V1_34 {
                // Requested twice: results for unmanaged nodes are not cached.
                self.group_for_template(node).await?;
            }
            if let Some(group) = group {
                templates.entry(group).or_insert_with(|| template_of_node(node));
            }
        }
        Ok(templates)
    }

    async fn group_for_template(&self, node: &Node) -> Result<Option<String>, Stop> {
        match self.provider.group_of(node).await {
            Err(status) if self.provider.minor() < Minor::V1_34 => Err(status.into()),
            group => Ok(group.ok().flatten().map(|group| group.id)),
        }
    }
}

/// Template of further nodes like this one.
fn template_of_node(node: &Node) -> Node {
    let mut template = node.clone();
    let transient = |key: &str| key == TO_BE_DELETED || key.starts_with("node.kubernetes.io/");
    template.taints.retain(|taint| !transient(&taint.key));
    template.unschedulable = false;
    template.ready = true;
    template
}

fn add_upcoming(
    free_nodes: &mut Vec<SchedulableNode>,
    upcoming: &BTreeMap<String, i64>,
    templates: &BTreeMap<String, Node>,
) -> Result<(), Stop> {
    for (group, count) in upcoming {
        let template = templates
            .get(group)
            .ok_or_else(|| Stop::Abort(format!("failed to find template node for {group}")))?;
        free_nodes.extend((0..*count).map(|_| SchedulableNode::from_node(template)));
    }
    Ok(())
}

/// Pending pods that fit no existing and no upcoming node.
fn unschedulable_pods(free_nodes: &mut [SchedulableNode], pods: &[Pod]) -> Vec<Pod> {
    let waiting = pods.iter().filter(|pod| pod.node.is_none() && pod.unschedulable && !pod.node_bound);
    let mut names = BTreeSet::new();
    waiting
        .filter(|pod| !schedule_pod(free_nodes, pod) && names.insert((&pod.namespace, &pod.name)))
        .cloned()
        .collect()
}
