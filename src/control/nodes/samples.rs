//! Samples of Nodes, for templates of Nodes that do not exist yet. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::time::Instant;

use super::view::NodeFacts;
use crate::api;
use crate::catalog::{Resources, quantity};
use crate::fleet::{Amounts, Fleet, Hostname, NodeShape, ObservedNode, PROVIDER_ID_PREFIX, Phase};

/// Time that a new Node must be unchanged before it is a sample: the first status of a kubelet lacks the
/// disk, and devices and labels come later.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Time that a Node with an earlier sample must be unchanged. It is longer, because each change is a write.
const CHANGE_STABLE_AFTER: Duration = Duration::from_mins(2);
/// A Node that keeps changing is a sample after this time.
const MAX_WAIT: Duration = Duration::from_mins(3);
/// Maximum of labels (bytes) and resources of a sample: the size of a record is limited.
const MAX_LABEL_BYTES: usize = 4 << 10;
const MAX_EXTENDED: usize = 32;

const ARCH: &str = "kubernetes.io/arch";
const OS: &str = "kubernetes.io/os";

/// Labels that users and tools set on single Nodes.
const PER_NODE_LABELS: [&str; 3] = [
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "node.kubernetes.io/exclude-disruption",
    "alpha.service-controller.kubernetes.io/exclude-balancer",
];

/// Prefix of labels of vpsie-autoscaler.
const OWN_PREFIX: &str = "autoscaler.vpsie.com/";

/// The shapes of Nodes, and the times since when they are unchanged.
#[derive(Debug, Default)]
pub(super) struct StableNodes(BTreeMap<String, NodeStability>);

#[derive(Debug)]
struct NodeStability {
    shape: NodeShape,
    since: Instant,
    first: Instant,
}

impl StableNodes {
    /// A new sample of the Node, and the hostname of its VM. Only Nodes of machines that are identified,
    /// ready and stable give samples.
    pub(super) fn new_sample(
        &mut self,
        fleet: &Fleet,
        node: &Node,
        facts: &NodeFacts,
        time: Timestamp,
        now: Instant,
    ) -> Option<(Hostname, ObservedNode)> {
        let uid = node.metadata.uid.as_ref()?;
        let machine = facts.machine.as_ref().and_then(|id| fleet.machine(id));
        let machine = machine.filter(|machine| !matches!(machine.phase, Phase::Deleting { .. }));
        let shape = if facts.identified && facts.ready { shape(node) } else { None };
        let (Some(machine), Some(shape)) = (machine, shape) else {
            self.forget_node(uid);
            return None;
        };
        let vm = machine.vm()?.hostname.clone();
        let known = fleet.size_profile(machine.size).is_some_and(|profile| profile.has_node(uid));
        if !self.is_stable(uid, &shape, known, now) {
            return None;
        }
        let registered =
            node.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |made| made.0);
        let shown = ObservedNode { uid: uid.clone(), registered, shape };
        fleet.is_new_sample(machine, &shown, time).then_some((vm, shown))
    }

    fn is_stable(&mut self, uid: &str, shape: &NodeShape, known: bool, now: Instant) -> bool {
        let Some(shown) = self.0.get_mut(uid) else {
            self.0.insert(uid.to_owned(), NodeStability { shape: shape.clone(), since: now, first: now });
            return false;
        };
        if shown.shape != *shape {
            shown.shape.clone_from(shape);
            shown.since = now;
        }
        let same_for = now.duration_since(shown.since);
        if known {
            same_for >= CHANGE_STABLE_AFTER
        } else {
            same_for >= STABLE_AFTER || now.duration_since(shown.first) >= MAX_WAIT
        }
    }

    /// Removes a Node.
    pub(super) fn forget_node(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// Removes all other Nodes.
    pub(super) fn retain(&mut self, keep: impl Fn(&String) -> bool) {
        self.0.retain(|uid, _| keep(uid));
    }
}

/// The shape of a Node. None if it lacks cores, memory or pods: its kubelet has not reported yet.
fn shape(node: &Node) -> Option<NodeShape> {
    let status = node.status.as_ref()?;
    let capacity = status.capacity.as_ref()?;
    let allocatable = status.allocatable.as_ref()?;
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    Some(NodeShape {
        capacity: resources(capacity)?,
        allocatable: resources(allocatable)?,
        extended_capacity: extended(capacity),
        extended_allocatable: extended(allocatable),
        architecture: label(ARCH),
        operating_system: label(OS),
        labels: labels(node),
    })
}

fn resources(of: &BTreeMap<String, Quantity>) -> Option<Resources> {
    let read = |name: &str| quantity::parse(&of.get(name)?.0).filter(|amount| *amount > 0.0);
    Some(Resources {
        cpu_millis: (read("cpu")? * 1000.0) as u64,
        memory_mib: (read("memory")? / f64::from(1 << 20)) as u64,
        disk_gib: read("ephemeral-storage").map_or(0, |bytes| (bytes / f64::from(1 << 30)) as u64),
        pods: read("pods")? as u32,
    })
}

fn extended(of: &BTreeMap<String, Quantity>) -> Amounts {
    let usual = ["cpu", "memory", "ephemeral-storage", "pods"];
    let others = of.iter().filter(|(name, _)| !usual.contains(&name.as_str()));
    let read = others.filter_map(|(name, amount)| Some((name.clone(), quantity::parse(&amount.0)? as u64)));
    read.take(MAX_EXTENDED).collect()
}

/// Labels from other programs that do not identify the Node.
fn labels(node: &Node) -> BTreeMap<String, String> {
    let identities = identities(node);
    let mut room = MAX_LABEL_BYTES;
    let all = node.metadata.labels.iter().flatten();
    let others = all.filter(|(key, value)| {
        api::reserved(&api::LABELS, key).is_none()
            && !PER_NODE_LABELS.contains(&key.as_str())
            && !key.starts_with(OWN_PREFIX)
            && !identities
                .iter()
                .any(|identity| value.contains(identity.as_str()) || key.contains(identity.as_str()))
    });
    let fit = others.filter(|(key, value)| {
        let left = room.checked_sub(key.len() + value.len());
        room = left.unwrap_or(room);
        left.is_some()
    });
    fit.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Values that identify this Node.
fn identities(node: &Node) -> Vec<String> {
    let status = node.status.as_ref();
    let info = status.and_then(|status| status.node_info.as_ref());
    let addresses = status.iter().flat_map(|status| status.addresses.iter().flatten());
    let provider_id = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref());
    let vm = provider_id.map(|id| id.strip_prefix(PROVIDER_ID_PREFIX).unwrap_or(id));
    let ids = [
        node.metadata.name.as_deref(),
        node.metadata.uid.as_deref(),
        vm,
        info.map(|info| info.machine_id.as_str()),
        info.map(|info| info.system_uuid.as_str()),
        info.map(|info| info.boot_id.as_str()),
    ];
    let all = ids.into_iter().flatten().chain(addresses.map(|address| address.address.as_str()));
    // An IPv6 address is not a valid label value.
    let all = all.flat_map(|id| [id.to_owned(), id.replace(':', "-")]);
    all.filter(|id| id.len() >= 3).collect()
}

#[cfg(test)]
mod tests;
