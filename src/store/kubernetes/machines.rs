//! Machines as VPSieNodes: what is written of them, and in which order.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::shelf::{Half, Kept};
use crate::api::{VPSieNode, VPSieNodeStatus};
use crate::fleet::{ClusterId, Machine, Phase, names};
use crate::kubernetes::merge_patch;

/// Holds a VPSieNode until its VM is gone.
pub(super) const FINALIZER: &str = "vpsienode.autoscaler.vpsie.com/finalizer";

/// Annotation: the format of a record. Grows with every change of it.
const FORMAT: (&str, u32) = ("autoscaler.vpsie.com/record-format", 2);

/// Whether a newer version recorded it.
pub(super) fn is_newer(node: &VPSieNode) -> bool {
    node.annotations().get(FORMAT.0).and_then(|text| text.parse::<u32>().ok()).is_some_and(|it| it > FORMAT.1)
}

impl Kept for VPSieNode {
    /// That somebody deletes it is metadata, too: who looks for that is told by a watch.
    fn same(&self, other: &Self) -> bool {
        let machine = |node: &Self| {
            let mut node = node.clone();
            node.metadata.deletion_timestamp = None;
            node.machine()
        };
        machine(self) == machine(other)
    }
}

/// A machine's record for the first time. Its status is another write, so the VM that it may have is in the spec:
/// without it, one that broke off would be a machine that is to be asked for.
pub(super) fn new_node(machine: &Machine, cluster: &ClusterId) -> VPSieNode {
    let mut node = VPSieNode::of(machine, cluster);
    let vm = machine.vm();
    node.status = None;
    node.spec.node_name = vm.map(|vm| vm.hostname.to_string());
    node.spec.vpsie_node_identifier = vm.and_then(|vm| vm.id.as_ref()).map(ToString::to_string);
    node.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    let group = (names::NODE_GROUP.to_owned(), machine.pool.node_group.to_string());
    node.metadata.labels = Some(BTreeMap::from([group]));
    node.metadata.annotations = Some(BTreeMap::from([(FORMAT.0.to_owned(), FORMAT.1.to_string())]));
    node
}

/// The order of the two writes of a machine, so that nothing is lost when only the first is done.
///
/// An ask that goes does so because its VM was seen, or because it made none: the status says which, and must be
/// there first. Else the VM would be unknown, or the machine Creating with nothing asked. Until the ask goes, too,
/// it stands for a VM that is known: one request too many is forgotten in time. An ask that comes makes the machine
/// Creating, whatever its status says.
pub(super) fn order(stored: &VPSieNode, machine: &Machine) -> [Half; 2] {
    if machine.asks.len() < stored.spec.asks.len() {
        [Half::Status, Half::Main]
    } else {
        [Half::Main, Half::Status]
    }
}

/// What is to change of one half. None when it is as wanted.
pub(super) fn patch(stored: &VPSieNode, machine: &Machine, half: Half) -> Option<Value> {
    match half {
        Half::Main => main(stored, machine),
        Half::Status => status(stored, machine).map(|status| json!({"status": status})),
    }
}

fn main(stored: &VPSieNode, machine: &Machine) -> Option<Value> {
    let wanted = VPSieNode::of(machine, &stored.spec.resource_identifier.as_str().into()).spec;
    let mut spec = stored.spec.clone();
    (spec.recorded_at, spec.asks) = (wanted.recorded_at, wanted.asks);
    // When it was asked for stays told, and is no write more, when that is over.
    if matches!(machine.phase, Phase::Pending | Phase::Creating { .. }) {
        spec.asked_at = wanted.asked_at;
    }
    let mut patch = json!({});
    if let Some(spec) = merge_patch(&json!(stored.spec), &json!(spec)) {
        patch["spec"] = spec;
    }
    // Somebody took it away from one that stays.
    if stored.metadata.deletion_timestamp.is_none() && !stored.finalizers().iter().any(|f| f == FINALIZER) {
        let all: Vec<_> = stored.finalizers().iter().map(String::as_str).chain([FINALIZER]).collect();
        patch["metadata"] = json!({"finalizers": all});
    }
    (patch != json!({})).then_some(patch)
}

fn status(stored: &VPSieNode, machine: &Machine) -> Option<Value> {
    let wanted = VPSieNode::of(machine, &stored.spec.resource_identifier.as_str().into()).status?;
    let Some(old) = &stored.status else {
        // No status is that of a machine that is Pending.
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

/// Lets go of an object that is to be deleted.
pub(super) fn release(stored: &VPSieNode) -> Option<Value> {
    let others: Vec<_> = stored.finalizers().iter().filter(|f| *f != FINALIZER).collect();
    (others.len() < stored.finalizers().len()).then(|| json!({"metadata": {"finalizers": others}}))
}
