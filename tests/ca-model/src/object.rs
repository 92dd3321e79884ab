//! Nodes and pods, with the fields that a simulation of scheduling needs.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// Taint of nodes that Cluster Autoscaler is deleting. Its value is the time of the taint, in Unix seconds.
pub const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Taints that Kubernetes sets on nodes that are not ready, and removes shortly after they become ready.
const NOT_READY: [&str; 3] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/network-unavailable",
];

/// Prefix of taints of nodes that have not started yet.
const STARTUP_TAINT_PREFIX: &str = "startup-taint.cluster-autoscaler.kubernetes.io/";

/// Resources of pods and nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU, millicores.
    pub cpu_millis: i64,
    /// Memory, MiB.
    pub memory_mib: i64,
    /// Number of pods.
    pub pods: i64,
}

impl Resources {
    /// Returns true iff `self` covers `wanted`.
    pub fn covers(&self, wanted: &Self) -> bool {
        self.cpu_millis >= wanted.cpu_millis
            && self.memory_mib >= wanted.memory_mib
            && self.pods >= wanted.pods
    }

    pub(crate) fn subtract(&mut self, used: &Self) {
        self.cpu_millis -= used.cpu_millis;
        self.memory_mib -= used.memory_mib;
        self.pods -= used.pods;
    }
}

/// A taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// A toleration. An empty key tolerates every key, no value every value, no effect every effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toleration {
    /// The taint's key.
    pub key: String,
    /// The taint's value.
    pub value: Option<String>,
    /// The taint's effect.
    pub effect: Option<String>,
}

/// A Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `spec.providerID`; empty while unset.
    pub provider_id: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Whether its Ready condition is true.
    pub ready: bool,
    /// Last transition of the Ready condition.
    pub ready_since: Timestamp,
    /// Creation time of the object.
    pub created: Timestamp,
    /// `status.allocatable`.
    pub allocatable: Resources,
}

impl Node {
    /// A ready node.
    pub fn new(name: &str, provider_id: &str, allocatable: Resources, now: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            provider_id: provider_id.to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: Vec::new(),
            unschedulable: false,
            ready: true,
            ready_since: now,
            created: now,
            allocatable,
        }
    }

    /// Returns true iff its Ready condition is true and it has no taint of an unready node
    /// (`GetNodeReadiness`), nor a startup taint (`FilterOutNodesWithStartupTaints`).
    pub(crate) fn is_ready(&self) -> bool {
        let is_unready_taint = |taint: &Taint| {
            NOT_READY.contains(&taint.key.as_str()) || taint.key.starts_with(STARTUP_TAINT_PREFIX)
        };
        self.ready && !self.taints.iter().any(is_unready_taint)
    }

    /// Time at which Cluster Autoscaler began to delete it.
    pub fn to_be_deleted_since(&self) -> Option<Timestamp> {
        let taint = self.taints.iter().find(|taint| taint.key == TO_BE_DELETED)?;
        Timestamp::from_second(taint.value.parse().ok()?).ok()
    }
}

/// A Pod object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node that it is bound to.
    pub node: Option<String>,
    /// The sum of its requests; `pods` is 1.
    pub requests: Resources,
    /// `spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// Whether a controller recreates it after an eviction. Other pods keep their node.
    pub controlled: bool,
    /// Whether it cannot leave its node: a pod of a DaemonSet, or a mirror of a static pod.
    pub node_bound: bool,
    /// Whether the scheduler has reported that no node fits.
    pub unschedulable: bool,
    /// Creation time.
    pub created: Timestamp,
}

impl Pod {
    /// A pending, controlled pod.
    pub fn new(name: &str, cpu_millis: i64, memory_mib: i64, now: Timestamp) -> Self {
        Self {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            node: None,
            requests: Resources { cpu_millis, memory_mib, pods: 1 },
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            controlled: true,
            node_bound: false,
            unschedulable: false,
            created: now,
        }
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| {
            (toleration.key.is_empty() || toleration.key == taint.key)
                && toleration.value.as_ref().is_none_or(|value| *value == taint.value)
                && toleration.effect.as_ref().is_none_or(|effect| *effect == taint.effect)
        })
    }
}

/// A node, or an upcoming node, with its free resources.
#[derive(Clone, Debug)]
pub(crate) struct SchedulableNode {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub is_schedulable: bool,
    pub free: Resources,
}

impl SchedulableNode {
    /// The node without pods.
    pub(crate) fn from_node(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            labels: node.labels.clone(),
            taints: node.taints.clone(),
            is_schedulable: node.is_ready() && !node.unschedulable,
            free: node.allocatable,
        }
    }

    /// Returns true iff the scheduler can bind the pod to it.
    pub(crate) fn fits(&self, pod: &Pod) -> bool {
        self.is_schedulable
            && self.free.covers(&pod.requests)
            && pod.node_selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
            && self.taints.iter().all(|taint| taint.effect == "PreferNoSchedule" || pod.tolerates(taint))
    }
}

/// The nodes with the resources that their pods leave free.
pub(crate) fn schedulable_nodes<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    pods: &[Pod],
) -> Vec<SchedulableNode> {
    let mut free_nodes: Vec<_> = nodes.into_iter().map(SchedulableNode::from_node).collect();
    for pod in pods {
        if let Some(node) = free_nodes.iter_mut().find(|node| Some(&node.name) == pod.node.as_ref()) {
            node.free.subtract(&pod.requests);
        }
    }
    free_nodes
}

/// Places the pod on the first node that fits. Returns false if none fits.
pub(crate) fn schedule_pod(free_nodes: &mut [SchedulableNode], pod: &Pod) -> bool {
    match free_nodes.iter_mut().find(|node| node.fits(pod)) {
        Some(node) => {
            node.free.subtract(&pod.requests);
            true
        }
        None => false,
    }
}

/// Parses a Kubernetes quantity, in its base unit. None if it is malformed.
pub fn quantity(text: &str) -> Option<f64> {
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        exponent => return format!("{number}{exponent}").parse().ok(),
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// Resources of quantities, as in `status.allocatable`. Missing quantities are 0.
pub fn resources<'a>(quantity_of: impl Fn(&str) -> Option<&'a str>) -> Resources {
    let read = |name: &str| quantity_of(name).and_then(quantity).unwrap_or(0.0);
    Resources {
        cpu_millis: (read("cpu") * 1000.0).round() as i64,
        memory_mib: (read("memory") / (1024.0 * 1024.0)).floor() as i64,
        pods: read("pods") as i64,
    }
}
