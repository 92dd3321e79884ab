//! The Node that a pool would add, as Cluster Autoscaler's scheduler simulation needs it
//! (docs/reference/cluster-autoscaler.md#nodegrouptemplatenodeinfo).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::group::NodeGroup;
use super::ids::PoolId;
use super::policy::Binding;
use super::size_profile::{Amounts, MAX_SAMPLES_OF_GROUP, NodeShape};
use super::spot::SpotDefaults;
use super::taint::{Taint, TaintEffect};
use crate::catalog::{CAPACITY_TYPE_LABELS, CapacityType, Offer, Resources};
use crate::cost::{CostLimit, Prices};

/// Names of labels, annotations and taints of vpsie-autoscaler.
pub mod names {
    /// Label: `true` on managed Nodes.
    pub const MANAGED: &str = "autoscaler.vpsie.com/managed";
    /// The NodeGroup of a Node.
    pub const NODE_GROUP: &str = "autoscaler.vpsie.com/nodegroup";
    /// The offer of a Node.
    pub const OFFERING: &str = "autoscaler.vpsie.com/offering";
    /// The datacenter of a Node.
    pub const DATACENTER: &str = "autoscaler.vpsie.com/datacenter";
    /// On demand or spot. A taint of this key is on Nodes of spot pools with `spotConfig.taint`.
    pub const CAPACITY_TYPE: &str = "autoscaler.vpsie.com/capacity-type";
    /// Annotation: the pool id. It is not a label, because labels are compared to find similar node groups.
    pub const POOL: &str = "autoscaler.vpsie.com/pool";
    /// Annotation of a NodeGroup: when its value changes, earlier samples of its Nodes no longer count.
    pub const RELEARN: &str = "autoscaler.vpsie.com/relearn";
    /// Taint: the Node's VM is an orphan. Its value shows whether vpsie-autoscaler cordoned the Node.
    pub const ORPHAN: &str = "autoscaler.vpsie.com/orphan";
    /// Taint of a new Node until its VM is attached to its VPC and firewall group. By its prefix, Cluster Autoscaler
    /// counts the Node as starting, and ignores the taint in templates.
    pub const NETWORK: &str = "startup-taint.cluster-autoscaler.kubernetes.io/vpsie-network";
    /// Annotation that users and agents set: VPSie will interrupt the Node's VM. Its value is the time (RFC 3339), or
    /// empty if it is unknown, or `none` to override notices of other programs. A taint of this key is a notice, too.
    pub const INTERRUPTION: &str = "autoscaler.vpsie.com/interruption";
    /// Annotation: the machine with a notice that the Node's machine replaces.
    pub const REPLACES: &str = "autoscaler.vpsie.com/replaces";
    /// Annotation: vpsie-autoscaler cordoned the Node because of a notice.
    pub const INTERRUPTION_CORDON: &str = "autoscaler.vpsie.com/interruption-cordon";
    /// Annotation that a user sets to `true` on the Node of a worker that was added by hand: it does not
    /// count as the result of a request.
    pub const ADDED_BY_HAND: &str = "autoscaler.vpsie.com/added-by-hand";
}

const ARCH: &str = "kubernetes.io/arch";
/// Architecture of Nodes without samples and declarations.
const USUAL_ARCHITECTURE: &str = "amd64";
/// Operating system of Nodes without samples and declarations.
const USUAL_OS: &str = "linux";
/// Resources whose bytes reduce the allocatable memory.
const HUGE_PAGES: [&str; 2] = ["hugepages-2Mi", "hugepages-1Gi"];

/// A template: a Node that does not exist yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Labels of the real Node.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the real Node.
    pub annotations: BTreeMap<String, String>,
    /// Taints of the real Node.
    pub taints: Vec<Taint>,
    /// `status.capacity`.
    pub capacity: Resources,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// Devices and huge pages of `status.capacity`.
    pub extended_capacity: Amounts,
    /// Devices and huge pages of `status.allocatable`.
    pub extended_allocatable: Amounts,
}

impl Template {
    /// `kubernetes.io/arch`.
    pub fn architecture(&self) -> &str {
        self.labels.get(ARCH).map_or(USUAL_ARCHITECTURE, String::as_str)
    }
}

/// Reserved resources of a Node: capacity minus allocatable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reserved {
    /// CPU, millicores.
    pub cpu_millis: u64,
    /// Memory, MiB: kube-reserved, system-reserved, eviction threshold, and memory of the kernel.
    pub memory_mib: u64,
    /// Disk, GiB.
    pub disk_gib: u64,
}

/// Settings of the fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetSettings {
    /// Reserved resources of Nodes, until real Nodes show them.
    pub reserved: Reserved,
    /// Prices of offers.
    pub prices: Arc<Prices>,
    /// Cost limit of all machines together.
    pub cost_limit: CostLimit,
    /// Time of a machine that an interruption costs: the overlap with its replacement, and lost work.
    pub interruption_loss: Duration,
    /// Spot settings of NodeGroups that do not set their own.
    pub spot: SpotDefaults,
    /// The method of binding VMs to machines: a property of the backend.
    pub binding: Binding,
}

impl From<Reserved> for FleetSettings {
    fn from(reserved: Reserved) -> Self {
        Self { reserved, ..Self::default() }
    }
}

/// Labels that vpsie-autoscaler sets on every Node of the pool, in the template and on the real Node.
pub(super) fn node_labels(
    group: Option<&NodeGroup>,
    pool: &PoolId,
    offer: &Offer,
    has_spot_offer: bool,
) -> BTreeMap<String, String> {
    let mut labels = group.map(|group| group.labels.clone()).unwrap_or_default();
    if has_spot_offer || pool.capacity_type == CapacityType::Spot {
        for (key, spot, on_demand) in CAPACITY_TYPE_LABELS {
            let value = if pool.capacity_type == CapacityType::Spot { Some(spot) } else { on_demand };
            // Other programs set the labels that the NodeGroup declares.
            let is_declared = group.is_some_and(|group| group.node.labels.contains_key(key));
            if let Some(value) = value.filter(|_| !is_declared) {
                labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
    }
    let mut set = |key: &str, value: &str| labels.insert(key.to_owned(), value.to_owned());
    set(names::MANAGED, "true");
    set(names::NODE_GROUP, pool.node_group.as_str());
    set(names::OFFERING, pool.offer.as_str());
    set(names::DATACENTER, pool.datacenter.as_str());
    set(names::CAPACITY_TYPE, pool.capacity_type.as_str());
    // VPSie's names of sizes can be invalid label values, and one invalid label would make Kubernetes refuse
    // the whole patch. The offer in the NodeGroup is validated.
    let instance_type = if is_label_value(&offer.name) { &offer.name } else { pool.offer.as_str() };
    set("node.kubernetes.io/instance-type", instance_type);
    set("topology.kubernetes.io/region", pool.datacenter.as_str());
    set("topology.kubernetes.io/zone", pool.datacenter.as_str());
    labels
}

impl NodeGroup {
    /// Taints of its Nodes of this capacity type.
    pub fn node_taints(&self, capacity_type: CapacityType) -> Vec<Taint> {
        let mut taints = self.taints.clone();
        if capacity_type == CapacityType::Spot
            && let Some(effect) = self.spot.and_then(|spot| spot.taint)
        {
            let value = capacity_type.as_str().to_owned();
            taints.push(Taint { key: names::CAPACITY_TYPE.to_owned(), value, effect });
        }
        taints
    }
}

/// The taint of a new Node until its VM is attached to its VPC and firewall group. Templates do not have it.
pub fn network_taint() -> Taint {
    Taint { key: names::NETWORK.to_owned(), value: "attaching".to_owned(), effect: TaintEffect::NoSchedule }
}

/// Whether Kubernetes accepts the text as the value of a label.
pub(crate) fn is_label_value(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.is_empty()
        || text.len() <= 63
            && text.chars().all(inner)
            && ends(text.chars().next())
            && ends(text.chars().last())
}

/// The template of a pool: the shape of real Nodes, or the nominal size less reserved resources, with the
/// declarations of the NodeGroup, unless its last `nodes` contradict them. `own_labels` are [`node_labels`].
pub fn template(
    group: Option<&NodeGroup>,
    own_labels: &BTreeMap<String, String>,
    pool: &PoolId,
    offer: &Offer,
    shape: Option<NodeShape>,
    nodes: &[&NodeShape],
    reserved: Reserved,
) -> Template {
    let declared = group.map(|group| &group.node);
    let of_declared = |name: &str| declared.and_then(|node| node.resources.get(name)).copied().unwrap_or(0);
    let huge_mib = HUGE_PAGES.iter().map(|name| of_declared(name)).fold(0, u64::saturating_add) >> 20;
    let reserved = Reserved { memory_mib: reserved.memory_mib.saturating_add(huge_mib), ..reserved };
    let nominal = NodeShape::new(offer.resources, subtract_reserved(offer.resources, reserved));
    let NodeShape {
        mut capacity,
        mut allocatable,
        mut extended_capacity,
        mut extended_allocatable,
        architecture,
        operating_system,
        mut labels,
    } = shape.unwrap_or_else(|| nominal.clone());
    if capacity.disk_gib == 0 {
        capacity.disk_gib = nominal.capacity.disk_gib;
    }
    if allocatable.disk_gib == 0 {
        allocatable.disk_gib = nominal.allocatable.disk_gib;
    }
    allocatable.disk_gib = allocatable.disk_gib.min(capacity.disk_gib);
    if let Some(declared) = declared {
        for (name, amount) in &declared.resources {
            // If all of the last Nodes have fewer devices, pods would not fit on a new Node.
            if !is_contradicted(nodes, |shape| {
                shape.extended_allocatable.get(name).copied().unwrap_or(0) < *amount
            }) {
                extended_capacity.insert(name.clone(), *amount);
                extended_allocatable.insert(name.clone(), *amount);
            }
        }
        labels.extend(declared.labels.clone());
    }
    labels.extend(own_labels.clone());
    let holds = |declared: Option<&String>, of: fn(&NodeShape) -> &Option<String>| {
        let differs = |shape: &NodeShape| of(shape).is_some() && of(shape).as_ref() != declared;
        declared.filter(|_| !is_contradicted(nodes, differs)).cloned()
    };
    let architecture =
        holds(declared.and_then(|node| node.architecture.as_ref()), |shape| &shape.architecture)
            .or(architecture)
            .unwrap_or_else(|| USUAL_ARCHITECTURE.to_owned());
    let operating_system =
        holds(declared.and_then(|node| node.operating_system.as_ref()), |shape| &shape.operating_system)
            .or(operating_system)
            .unwrap_or_else(|| USUAL_OS.to_owned());
    for prefix in ["", "beta."] {
        labels.insert(format!("{prefix}kubernetes.io/arch"), architecture.clone());
        labels.insert(format!("{prefix}kubernetes.io/os"), operating_system.clone());
    }
    Template {
        labels,
        annotations: BTreeMap::from([(names::POOL.to_owned(), pool.to_string())]),
        taints: group.map(|group| group.node_taints(pool.capacity_type)).unwrap_or_default(),
        capacity,
        allocatable,
        extended_capacity,
        extended_allocatable,
    }
}

/// Whether there is the maximum of samples, and all of them differ from the declaration.
fn is_contradicted(nodes: &[&NodeShape], differs: impl Fn(&NodeShape) -> bool) -> bool {
    nodes.len() >= MAX_SAMPLES_OF_GROUP && nodes.iter().all(|shape| differs(shape))
}

fn subtract_reserved(nominal: Resources, reserved: Reserved) -> Resources {
    Resources {
        cpu_millis: nominal.cpu_millis.saturating_sub(reserved.cpu_millis).max(1),
        memory_mib: nominal.memory_mib.saturating_sub(reserved.memory_mib).max(1),
        disk_gib: nominal.disk_gib.saturating_sub(reserved.disk_gib),
        pods: nominal.pods,
    }
}
