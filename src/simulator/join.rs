//! Registers simulated VMs as Nodes, as a kubelet does: without providerID, and without the labels and taints
//! of vpsie-autoscaler.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::{OfferConfig, SimulatorConfig};
use super::handle::Simulator;
use super::state::{Phase, Vm, VmKind};

/// Options of [`join`].
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// UUID of the cluster whose VMs join. None: the first cluster of the configuration.
    pub cluster: Option<String>,
    /// The source of Node heartbeats.
    pub heartbeat: Heartbeat,
    /// Annotations of every Node.
    pub annotations: BTreeMap<String, String>,
    /// Labels of every Node, in addition to the kubelet's own.
    pub labels: BTreeMap<String, String>,
    /// CPU that is not allocatable to pods, millicores.
    pub reserved_cpu_millis: u64,
    /// Memory that is not allocatable to pods, MiB.
    pub reserved_memory_mib: u64,
}

/// The source of Node heartbeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Heartbeat {
    /// The simulator, for as long as the VM is up.
    #[default]
    Own,
    /// Another program, such as kwok: Nodes are registered without a Ready condition. It does not know the
    /// VMs, so a Node stays ready after its VM is gone, until the Node is deleted.
    Other,
}

impl Default for JoinOptions {
    fn default() -> Self {
        Self {
            cluster: None,
            heartbeat: Heartbeat::Own,
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            reserved_cpu_millis: 100,
            reserved_memory_mib: 256,
        }
    }
}

/// Time between checks of the VMs.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time between heartbeats. A Node is not ready after 40 seconds without one.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of concurrent requests to the API server.
const CONCURRENT_REQUESTS: usize = 16;

/// Registers running VMs as Nodes and sends their heartbeats until `shutdown`.
///
/// A VM's Node is registered once. If the Node is deleted while the VM runs, it is not registered again, as
/// with a kubelet that is not restarted.
pub async fn join(simulator: Simulator, client: Client, options: JoinOptions, shutdown: CancellationToken) {
    let mut joiner = Joiner { nodes: Api::all(client), simulator, options, joined: BTreeMap::new() };
    let mut changes = joiner.simulator.changes();
    loop {
        joiner.update_nodes().await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            _ = changes.changed() => {}
        }
    }
}

struct Joiner {
    nodes: Api<Node>,
    simulator: Simulator,
    options: JoinOptions,
    /// The time of the next heartbeat by VM. None: its Node was deleted.
    joined: BTreeMap<String, Option<Instant>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeartbeatResult {
    Alive,
    Failed,
    NodeGone,
}

impl Joiner {
    async fn update_nodes(&mut self) {
        let (up, config) = self.running_vms();
        let uuids: BTreeSet<&str> = up.iter().map(|vm| vm.uuid.as_str()).collect();
        self.joined.retain(|uuid, _| uuids.contains(uuid.as_str()));
        let due: Vec<Vm> = up.iter().filter(|vm| self.is_due(&vm.uuid)).cloned().collect();
        let this = &*self;
        let config = &config;
        let results: Vec<(String, HeartbeatResult)> = futures::stream::iter(due)
            .map(|vm| async move {
                let joined = this.joined.contains_key(&vm.uuid);
                let result =
                    if joined { this.send_heartbeat(&vm).await } else { this.register(&vm, config).await };
                (vm.uuid, result)
            })
            .buffer_unordered(CONCURRENT_REQUESTS)
            .collect()
            .await;
        for (uuid, result) in results {
            let next = match result {
                HeartbeatResult::Alive => Some(Instant::now() + HEARTBEAT_INTERVAL),
                HeartbeatResult::NodeGone => None,
                HeartbeatResult::Failed => continue,
            };
            self.joined.insert(uuid, next);
        }
    }

    fn is_due(&self, uuid: &str) -> bool {
        self.joined.get(uuid).is_none_or(|next| {
            self.options.heartbeat == Heartbeat::Own && next.is_some_and(|at| at <= Instant::now())
        })
    }

    /// The running VMs of the cluster.
    fn running_vms(&self) -> (Vec<Vm>, SimulatorConfig) {
        self.simulator.with_state(|state, cx, _| {
            let first = cx.config.clusters.first().map(|cluster| &cluster.identifier);
            let cluster = self.options.cluster.as_ref().or(first).cloned().unwrap_or_default();
            let up = state.nodes(cx.now, &cluster).filter(|vm| vm.phase(cx.now) == Phase::Running);
            (up.cloned().collect(), cx.config.clone())
        })
    }

    async fn register(&self, vm: &Vm, config: &SimulatorConfig) -> HeartbeatResult {
        let Some(node) = node(vm, config, &self.options, self.simulator.now()) else {
            return HeartbeatResult::Failed;
        };
        match self.nodes.create(&PostParams::default(), &node).await {
            Ok(_) => {
                tracing::info!(node = node_name(vm), "registered the Node of a simulated VM");
                HeartbeatResult::Alive
            }
            Err(kube::Error::Api(status)) if status.code == 409 => self.send_heartbeat(vm).await,
            Err(error) => failed(vm, &error),
        }
    }

    async fn send_heartbeat(&self, vm: &Vm) -> HeartbeatResult {
        if self.options.heartbeat == Heartbeat::Other {
            return HeartbeatResult::Alive;
        }
        let patch = json!({ "status": { "conditions": [ready_condition(vm, self.simulator.now())] } });
        let params = PatchParams::default();
        match self.nodes.patch_status(&node_name(vm), &params, &Patch::Strategic(patch)).await {
            Ok(_) => HeartbeatResult::Alive,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::info!(node = node_name(vm), "the Node of a simulated VM was deleted");
                HeartbeatResult::NodeGone
            }
            Err(error) => failed(vm, &error),
        }
    }
}

fn failed(vm: &Vm, error: &kube::Error) -> HeartbeatResult {
    tracing::warn!(node = node_name(vm), %error, "cannot update the Node of a simulated VM");
    HeartbeatResult::Failed
}

fn node_name(vm: &Vm) -> String {
    vm.hostname.to_lowercase()
}

/// The Node as a kubelet registers it.
fn node(vm: &Vm, config: &SimulatorConfig, options: &JoinOptions, now: Timestamp) -> Option<Node> {
    let offer = config.offer(vm.size)?;
    let version = vm.cluster.as_deref().and_then(|cluster| config.cluster(cluster))?.1.kube_version.clone();
    let name = node_name(vm);
    let mut labels = options.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", "amd64"),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let control_plane = (vm.kind == VmKind::ControlPlane).then(|| {
        labels.insert(CONTROL_PLANE.to_owned(), String::new());
        vec![Taint { key: CONTROL_PLANE.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }]
    });
    let conditions = (options.heartbeat == Heartbeat::Own).then(|| vec![ready_condition(vm, now)]);
    let (capacity, allocatable) = resources(offer, options);
    Some(Node {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels),
            annotations: (!options.annotations.is_empty()).then(|| options.annotations.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: control_plane, ..NodeSpec::default() }),
        status: Some(NodeStatus {
            addresses: Some(vec![
                NodeAddress { type_: "InternalIP".to_owned(), address: vm.private_address() },
                NodeAddress { type_: "ExternalIP".to_owned(), address: vm.address() },
                NodeAddress { type_: "Hostname".to_owned(), address: name },
            ]),
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            conditions,
            node_info: Some(NodeSystemInfo {
                architecture: "amd64".to_owned(),
                container_runtime_version: "containerd://2.1.4".to_owned(),
                kernel_version: "6.8.0-79-generic".to_owned(),
                kubelet_version: format!("v{version}"),
                operating_system: "linux".to_owned(),
                os_image: "Ubuntu 24.04.3 LTS".to_owned(),
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        }),
    })
}

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

fn ready_condition(vm: &Vm, now: Timestamp) -> NodeCondition {
    NodeCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        reason: Some("KubeletReady".to_owned()),
        message: Some("kubelet is posting ready status".to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(vm.up_at.unwrap_or(now))),
    }
}

type Quantities = BTreeMap<String, Quantity>;

/// Capacity and allocatable resources of an offer. The capacity lacks the kernel's share; the allocatable
/// resources also lack the reserves and the kubelet's eviction threshold for disks (10 %).
fn resources(offer: &OfferConfig, options: &JoinOptions) -> (Quantities, Quantities) {
    let memory_kib = offer.ram * 1024 - kernel_kib(offer.ram);
    let disk_kib = offer.disk * 1024 * 1024 / 100 * 97;
    let cpu_millis = u64::from(offer.cpu) * 1000;
    let quantities = |cpu_millis: u64, memory_kib: u64, disk_kib: u64| {
        [
            ("cpu", format!("{cpu_millis}m")),
            ("memory", format!("{memory_kib}Ki")),
            ("ephemeral-storage", format!("{disk_kib}Ki")),
            ("pods", crate::catalog::DEFAULT_MAX_PODS.to_string()),
        ]
        .into_iter()
        .map(|(name, quantity)| (name.to_owned(), Quantity(quantity)))
        .collect()
    };
    let allocatable = quantities(
        cpu_millis.saturating_sub(options.reserved_cpu_millis),
        memory_kib.saturating_sub(options.reserved_memory_mib * 1024),
        disk_kib / 10 * 9,
    );
    (quantities(cpu_millis, memory_kib, disk_kib), allocatable)
}

/// Memory of firmware and kernel, KiB: about 64 MiB and 1.5 %.
fn kernel_kib(ram_mib: u64) -> u64 {
    (64 * 1024 + ram_mib * 1024 * 15 / 1000).min(ram_mib * 1024)
}
