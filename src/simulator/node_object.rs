//! Nodes as kubelets register them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::config::{OfferConfig, SimulatorConfig};
use super::vm::{Vm, VmKind};

/// Options of the Nodes of simulated VMs.
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

/// Name of the Node of a VM.
pub(super) fn node_name(vm: &Vm) -> String {
    vm.hostname.to_lowercase()
}

/// The Node as a kubelet registers it.
pub(super) fn node(vm: &Vm, config: &SimulatorConfig, options: &JoinOptions, now: Timestamp) -> Option<Node> {
    let offer = config.offer(vm.size)?;
    let cluster =
        vm.cluster.as_deref().and_then(|cluster| config.cluster(cluster)).map(|(_, cluster)| cluster);
    let version = cluster.or(config.clusters.first())?.kube_version.clone();
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

/// The condition of a ready Node.
pub(super) fn ready_condition(vm: &Vm, now: Timestamp) -> NodeCondition {
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
