//! VPSieNodes of machines: their fields, and the order of writes.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::format;
use super::object_cache::{Endpoint, RecordObject};
use crate::api::{VPSieNode, VPSieNodeStatus};
use crate::fleet::{ClusterId, Machine, Phase, names};
use crate::kubernetes::merge_patch;

/// Holds a VPSieNode until its VM is gone.
pub(super) const FINALIZER: &str = "vpsienode.autoscaler.vpsie.com/finalizer";

impl RecordObject for VPSieNode {
    /// A deletion timestamp does not count either: the watch reports deletions.
    fn has_same_records(&self, other: &Self) -> bool {
        let machine = |node: &Self| {
            let mut node = node.clone();
            node.metadata.deletion_timestamp = None;
            node.to_machine()
        };
        machine(self) == machine(other)
    }
}

/// The first record of a machine. The status is a second write, so the spec names the VM, if any: if that
/// write is lost, the machine would otherwise be requested again.
pub(super) fn new_node(machine: &Machine, cluster: &ClusterId) -> VPSieNode {
    let mut node = VPSieNode::from_machine(machine, cluster);
    let vm = machine.vm();
    node.status = None;
    node.spec.node_name = vm.map(|vm| vm.hostname.to_string());
    node.spec.vpsie_node_identifier = vm.and_then(|vm| vm.id.as_ref()).map(ToString::to_string);
    node.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    let group = (names::NODE_GROUP.to_owned(), machine.pool.node_group.to_string());
    node.metadata.labels = Some(BTreeMap::from([group]));
    node.metadata.annotations = Some(BTreeMap::from([format::annotation()]));
    node
}

/// The order of the two writes of a machine, so that a partial write loses nothing.
///
/// - If a request is removed, the status is written first: it has the VM or the failure of that request. The
///   spec may then still have the request. It is not used again, because the VM in the status names it.
/// - Otherwise the spec is written first. A new request in the spec makes the machine Creating, independently
///   of its status.
pub(super) fn order(stored: &VPSieNode, machine: &Machine) -> [Endpoint; 2] {
    if machine.requests.len() < stored.spec.requests.len() {
        [Endpoint::Status, Endpoint::Main]
    } else {
        [Endpoint::Main, Endpoint::Status]
    }
}

/// The patch of one endpoint, or None if it is as wanted.
pub(super) fn patch(stored: &VPSieNode, machine: &Machine, endpoint: Endpoint) -> Option<Value> {
    match endpoint {
        Endpoint::Main => main(stored, machine),
        Endpoint::Status => status(stored, machine).map(|status| json!({"status": status})),
    }
}

fn main(stored: &VPSieNode, machine: &Machine) -> Option<Value> {
    let wanted = VPSieNode::from_machine(machine, &stored.spec.resource_identifier.as_str().into()).spec;
    let mut spec = stored.spec.clone();
    spec.recorded_at = wanted.recorded_at;
    spec.requests = wanted.requests;
    spec.replaces = wanted.replaces;
    // Later phases keep the time of the request, which saves a write.
    if matches!(machine.phase, Phase::Pending | Phase::Creating { .. }) {
        spec.requested_at = wanted.requested_at;
    }
    let mut patch = json!({});
    if let Some(spec) = merge_patch(&json!(stored.spec), &json!(spec)) {
        patch["spec"] = spec;
    }
    // Restores a finalizer that another writer removed.
    if stored.metadata.deletion_timestamp.is_none() && !stored.finalizers().iter().any(|f| f == FINALIZER) {
        let all: Vec<_> = stored.finalizers().iter().map(String::as_str).chain([FINALIZER]).collect();
        patch["metadata"]["finalizers"] = json!(all);
    }
    if let Some(annotations) = format::raised(&stored.metadata) {
        patch["metadata"]["annotations"] = annotations;
    }
    (patch != json!({})).then_some(patch)
}

fn status(stored: &VPSieNode, machine: &Machine) -> Option<Value> {
    let wanted = VPSieNode::from_machine(machine, &stored.spec.resource_identifier.as_str().into()).status?;
    let Some(old) = &stored.status else {
        // A missing status means Pending.
        return (machine.phase != Phase::Pending).then(|| json!(wanted));
    };
    let wanted = VPSieNodeStatus {
        node_name: wanted.node_name.or_else(|| old.node_name.clone()),
        vpsie_status: old.vpsie_status.clone(),
        resources: old.resources.clone(),
        created_at: old.created_at,
        joined_at: wanted.joined_at.or(old.joined_at),
        ready_at: old.ready_at,
        observed_generation: old.observed_generation,
        ..wanted
    };
    merge_patch(&json!(old), &json!(wanted))
}

/// Removes the finalizer of an object before its deletion.
pub(super) fn release(stored: &VPSieNode) -> Option<Value> {
    let others: Vec<_> = stored.finalizers().iter().filter(|f| *f != FINALIZER).collect();
    (others.len() < stored.finalizers().len()).then(|| json!({"metadata": {"finalizers": others}}))
}
