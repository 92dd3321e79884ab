//! Patches of Nodes: identity, cordon and taints. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::{Value, json};

use super::notices::read_notice;
use crate::catalog::is_capacity_type_label;
use crate::fleet::{Fleet, Machine, Notice, NoticeSource, Phase, Vm, names, network_taint};

/// Cluster Autoscaler's taint of Nodes that are being deleted. Its value is the time of the deletion, in
/// seconds since 1970.
pub(super) const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// Label: cloud load balancers send no traffic to the Node.
const EXCLUDED_FROM_LOAD_BALANCERS: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Annotation: Cluster Autoscaler does not remove the Node while the value is `true`.
const SCALE_DOWN_DISABLED: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";
/// Value of the annotation of a Node with a notice that was cordoned and got the label.
const LABELLED: &str = "cordoned-and-labelled";
/// Value of the taint of an orphan's Node that was not cordoned before.
const CORDONED: &str = "cordoned";

/// The patch of a machine's Node. None if nothing is missing.
pub(super) fn patch(fleet: &Fleet, node: &Node, machine: &Machine) -> Option<Value> {
    let patch = identity(fleet, node, machine).unwrap_or(Value::Null);
    let patch = if machine.counts() { uncordon_adopted(node, patch) } else { patch };
    let patch = if machine.counts() { admit_attached(node, machine, patch) } else { patch };
    let patch = protect_replacement(fleet, node, machine, patch);
    let patch = cordon_interrupted(node, machine, patch);
    cordon(node, machine, patch)
}

/// The cordon and the taint of an orphan's Node, so that no new pods must be evicted when it is deleted. None
/// if the Node has them.
pub(super) fn cordon_orphan(node: &Node) -> Option<Value> {
    if taints(node).any(|taint| taint.key == names::ORPHAN) {
        return None;
    }
    let value = if is_cordoned(node) { "" } else { CORDONED };
    let mut all: Vec<Value> = taints(node).map(|taint| json!(taint)).collect();
    all.push(json!({"key": names::ORPHAN, "value": value, "effect": "NoSchedule"}));
    let version = &node.metadata.resource_version;
    Some(json!({
        "metadata": {"resourceVersion": version, "uid": node.metadata.uid},
        "spec": {"unschedulable": true, "taints": all},
    }))
}

/// Extends the patch to remove the cordon and the taint of an orphan's Node, for the machine that adopted it.
fn uncordon_adopted(node: &Node, patch: Value) -> Value {
    let Some(taint) = taints(node).find(|taint| taint.key == names::ORPHAN) else { return patch };
    let mut patch = remove_taint(node, patch, names::ORPHAN);
    if taint.value.as_deref() == Some(CORDONED) {
        patch["spec"]["unschedulable"] = json!(false);
    }
    patch
}

/// Extends the patch so that the Node takes pods, once its VM is attached to its VPC and firewall group.
fn admit_attached(node: &Node, machine: &Machine, patch: Value) -> Value {
    let is_attached = machine.vm().is_some_and(|vm| vm.attached == Some(true));
    if is_attached && awaits_network(node) { remove_taint(node, patch, names::NETWORK) } else { patch }
}

/// Whether the Node takes no pods until its VM is attached to its VPC and firewall group.
pub(super) fn awaits_network(node: &Node) -> bool {
    taints(node).any(|taint| taint.key == names::NETWORK)
}

/// Extends the patch to remove the taints with the key.
fn remove_taint(node: &Node, mut patch: Value, key: &str) -> Value {
    let mut all = match patch["spec"]["taints"].take() {
        Value::Array(all) => all,
        _ => taints(node).map(|taint| json!(taint)).collect(),
    };
    all.retain(|taint| taint["key"] != key);
    patch["spec"]["taints"] = json!(all);
    // The patch replaces the whole list: concurrent changes by others must not be lost.
    patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
    patch
}

/// Extends the patch so that a Node with a notice gets no pods and no traffic from outside; after a withdrawal, it
/// removes that again.
fn cordon_interrupted(node: &Node, machine: &Machine, mut patch: Value) -> Value {
    let annotations = node.metadata.annotations.as_ref();
    let is_marked = annotations.is_some_and(|all| all.contains_key(names::INTERRUPTION_CORDON));
    if !machine.counts() || !is_marked && machine.notice.is_none() {
        return patch;
    }
    if let (Some(notice), true) = (&machine.notice, is_marked) {
        // Another program uncordoned it.
        if !is_cordoned(node) && is_shown(node, notice) {
            patch["spec"]["unschedulable"] = json!(true);
        }
    } else if is_marked {
        patch["spec"]["unschedulable"] = json!(false);
        patch["metadata"]["annotations"][names::INTERRUPTION_CORDON] = Value::Null;
        if annotations
            .and_then(|all| all.get(names::INTERRUPTION_CORDON))
            .is_some_and(|mark| mark == LABELLED)
        {
            patch["metadata"]["labels"][EXCLUDED_FROM_LOAD_BALANCERS] = Value::Null;
        }
    } else if !is_cordoned(node) {
        patch["spec"]["unschedulable"] = json!(true);
        let labels = node.metadata.labels.as_ref();
        let is_labelled = labels.is_some_and(|all| all.contains_key(EXCLUDED_FROM_LOAD_BALANCERS));
        patch["metadata"]["annotations"][names::INTERRUPTION_CORDON] =
            json!(if is_labelled { CORDONED } else { LABELLED });
        if !is_labelled {
            patch["metadata"]["labels"][EXCLUDED_FROM_LOAD_BALANCERS] = json!("");
        }
    }
    patch
}

/// Whether a source of the notice shows it still. A withdrawal on the Node is recorded a moment later; meanwhile the user
/// may have uncordoned the Node.
fn is_shown(node: &Node, notice: &Notice) -> bool {
    notice.deadlines.keys().any(|source| *source != NoticeSource::Node) || read_notice(node).is_some()
}

/// Extends the patch so that Cluster Autoscaler does not remove the Node of a replacement before the pods of the
/// replaced machine have moved.
fn protect_replacement(fleet: &Fleet, node: &Node, machine: &Machine, mut patch: Value) -> Value {
    let annotations = node.metadata.annotations.as_ref();
    let has = |key: &str| annotations.is_some_and(|all| all.contains_key(key));
    let replaces =
        machine.replaces.as_ref().filter(|_| machine.counts() && fleet.is_needed_replacement(machine));
    match replaces {
        // An annotation of a user stays.
        Some(replaced) if !has(names::REPLACES) && !has(SCALE_DOWN_DISABLED) => {
            patch["metadata"]["annotations"][SCALE_DOWN_DISABLED] = json!("true");
            patch["metadata"]["annotations"][names::REPLACES] = json!(replaced);
        }
        None if has(names::REPLACES) => {
            patch["metadata"]["annotations"][SCALE_DOWN_DISABLED] = Value::Null;
            patch["metadata"]["annotations"][names::REPLACES] = Value::Null;
        }
        _ => {}
    }
    patch
}

/// Extends the patch by the cordon and the taint of a machine that is being deleted. None if the patch is
/// empty.
pub(super) fn cordon(node: &Node, machine: &Machine, mut patch: Value) -> Option<Value> {
    if let Phase::Deleting { since, .. } = &machine.phase {
        // Cluster Autoscaler's taint goes when it restarts
        // (docs/reference/cluster-autoscaler.md#node-objects), and pods would be scheduled on a VM that is
        // being deleted.
        if !is_cordoned(node) {
            patch["spec"]["unschedulable"] = json!(true);
        }
        // The machine is no longer in the target size. Without the taint, Cluster Autoscaler counts its Node
        // as the upcoming one, and adds another.
        if !taints(node).any(|taint| taint.key == TO_BE_DELETED) {
            let all = patch["spec"]["taints"].take();
            let mut all = if all.is_null() { json!(taints(node).collect::<Vec<_>>()) } else { all };
            let value = since.as_second().to_string();
            if let Some(all) = all.as_array_mut() {
                all.push(json!({"key": TO_BE_DELETED, "value": value, "effect": "NoSchedule"}));
            }
            patch["spec"]["taints"] = all;
            // The patch replaces the whole list: concurrent changes by others must not be lost.
            patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
        }
    }
    if patch.is_null() {
        return None;
    }
    // The patch must not apply to a new Node of the same name.
    patch["metadata"]["uid"] = json!(node.metadata.uid);
    Some(patch)
}

/// The missing parts of the Node's identity. None if nothing is missing but a providerID that is unknown yet.
fn identity(fleet: &Fleet, node: &Node, machine: &Machine) -> Option<Value> {
    let text = machine.pool.to_string();
    let pool = fleet.pool(&text)?;
    let group = fleet.group(pool);
    let labels = fleet.node_labels(pool);
    let has = node.metadata.labels.as_ref();
    let missing: BTreeMap<_, _> = labels
        .into_iter()
        .filter(|(key, value)| match has.and_then(|has| has.get(key)) {
            // Another program may set these labels, too, and has the last word.
            Some(own) if is_capacity_type_label(key) => {
                own != value && group.is_some_and(|group| group.labels.contains_key(key))
            }
            own => own != Some(value),
        })
        .collect();
    let annotation = node.metadata.annotations.as_ref().and_then(|all| all.get(names::POOL));
    let first = annotation != Some(&text);
    let has_cloud_controller = group.is_some_and(|group| group.has_cloud_controller);
    let id = machine.vm().and_then(Vm::node_id);
    let id = id.filter(|_| provider_id(node).is_none() && !has_cloud_controller);
    if id.is_none() && !first && missing.is_empty() {
        return None;
    }
    let mut patch = json!({ "metadata": { "labels": missing, "annotations": { names::POOL: text } } });
    if let Some(id) = id {
        patch["spec"]["providerID"] = json!(id);
    }
    // Only once, so that a taint that a user removes stays removed.
    let mut declared = group.map(|group| group.node_taints(pool.id.capacity_type)).unwrap_or_default();
    // The payload of a user may not set the taints.
    declared.extend(machine.vm().filter(|vm| vm.attached == Some(false)).map(|_| network_taint()));
    if first && !declared.is_empty() {
        let is_declared =
            |old: &&Taint| declared.iter().any(|t| t.key == old.key && t.effect.to_string() == old.effect);
        let kept = taints(node).filter(|old| !is_declared(old)).map(|old| json!(old));
        let added = declared
            .iter()
            .map(|t| json!({ "key": t.key, "value": t.value, "effect": t.effect.to_string() }));
        let all: Vec<Value> = kept.chain(added).collect();
        patch["spec"]["taints"] = json!(all);
        // The patch replaces the whole list: concurrent changes by others must not be lost.
        patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
    }
    Some(patch)
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

pub(super) fn provider_id(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.provider_id.as_deref().filter(|id| !id.is_empty())
}

pub(super) fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}
