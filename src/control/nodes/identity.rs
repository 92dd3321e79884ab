//! Whose a Node is, and what is to be done about it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use serde_json::{Value, json};

use super::view::NodeFacts;
use crate::fleet::{
    Fleet, Hostname, Machine, PROVIDER_ID_PREFIX, Phase, Stranger, StrangerKind, VmId, names, node_labels,
};

/// Cluster Autoscaler's taint of Nodes that are being deleted. Its value is since when, in seconds since 1970.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What is to be done about a Node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing.
    Leave,
    /// Merge this into it: its providerID, labels, annotation, on the first time its taints, and the cordon of
    /// what is being deleted.
    Patch(Value),
    /// Note that the Node of the VM registered.
    Register(Hostname),
    /// Delete the object: its VM is gone.
    Delete,
    /// Its providerID, which cannot be changed, is another VM's.
    Contradiction(String),
    /// Nobody knows it, and machines wait for VMs: it may be one's that was not listed yet.
    Unknown,
}

/// Whose a Node is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Owner<'a> {
    /// A machine's. By providerID, which is `identified`, or else by its name or an address.
    Machine { machine: &'a Machine, identified: bool },
    /// That of a VM that is gone.
    Gone(&'a Stranger),
    /// It has the name of a machine's VM, or its address, and the providerID of a VM that nobody knows. That VM
    /// is gone: its kubelet is silent.
    Leftover,
    /// The same, and its kubelet speaks; or the providerID is none of ours. What runs on it runs on the machine's
    /// VM, most likely.
    Contradicted { machine: &'a Machine, found: &'a str },
    /// Nobody's, or nobody's yet.
    Nobody,
}

/// Whose a Node is: what its providerID says, for that never changes. A Node without one is that of the machine
/// whose VM has its name or, as names may differ, one of its addresses.
///
/// Such a Node may be left from an earlier VM of the same name, and the new VM's kubelet will take it over. So one
/// that is older than the machine is claimed only once a kubelet has said Ready since the machine is there. It is
/// not deleted: a kubelet makes its Node only when it starts, and may have done so already. With a machine that is
/// being deleted the Node goes in any case, cordoned and drained: what runs on it may run on that VM.
pub(super) fn owner<'a>(fleet: &'a Fleet, node: &'a Node) -> Owner<'a> {
    let found = provider_id(node);
    if let Some(machine) = found.and_then(|found| fleet.machine_of(found, "")) {
        return Owner::Machine { machine, identified: true };
    }
    let vm = found.and_then(|found| found.strip_prefix(PROVIDER_ID_PREFIX)).map(VmId::from);
    let name = hostname(node);
    match vm.as_ref().and_then(|vm| fleet.stranger_by_vm(vm)) {
        // Another VM may have the name since, and its kubelet the Node.
        Some(stranger) if is_gone(stranger) && fleet.machine_at(&name).is_none() => {
            return Owner::Gone(stranger);
        }
        Some(stranger) if !is_gone(stranger) => return Owner::Nobody,
        _ => {}
    }
    let Some(machine) = fleet.machine_of_node(&name, &addresses(node)) else {
        return fleet.stranger(&name).filter(|stranger| is_gone(stranger)).map_or(Owner::Nobody, Owner::Gone);
    };
    let goes = matches!(machine.phase, Phase::Deleting { .. });
    let silent = is_older(node, machine.created_at) && !spoke_since(node, machine.created_at);
    match found {
        None if silent && !goes => Owner::Nobody,
        None => Owner::Machine { machine, identified: false },
        Some(found) if vm.is_none() => Owner::Contradicted { machine, found },
        // A listing will tell whether it is its VM's.
        Some(_) if !goes && machine.vm().is_none_or(|vm| vm.id.is_none()) => Owner::Nobody,
        Some(_) if !is_ready(node) => Owner::Leftover,
        Some(found) => Owner::Contradicted { machine, found },
    }
}

fn is_gone(stranger: &Stranger) -> bool {
    matches!(stranger.kind, StrangerKind::Gone { .. })
}

/// A Node as others need to know it.
pub(super) fn facts(node: &Node, owner: Owner<'_>) -> NodeFacts {
    let (machine, identified) = match owner {
        Owner::Machine { machine, identified } => (Some(machine.id.clone()), identified),
        Owner::Contradicted { machine, .. } => (Some(machine.id.clone()), false),
        _ => (None, false),
    };
    NodeFacts {
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        provider_id: provider_id(node).map(str::to_owned),
        ready: is_ready(node),
        unschedulable: is_cordoned(node),
        machine,
        identified,
    }
}

/// What is to be done about a Node with that owner.
pub(super) fn verdict(fleet: &Fleet, node: &Node, owner: Owner<'_>) -> Verdict {
    if node.metadata.deletion_timestamp.is_some() {
        return Verdict::Leave;
    }
    match owner {
        Owner::Machine { machine, .. } => of_machine(fleet, node, machine),
        Owner::Gone(stranger) if is_over(node, stranger) => Verdict::Delete,
        Owner::Leftover => Verdict::Delete,
        Owner::Contradicted { machine, found } => match cordon(node, machine, Value::Null) {
            Some(patch) => Verdict::Patch(patch),
            None => Verdict::Contradiction(found.to_owned()),
        },
        Owner::Nobody if is_awaited(fleet, node) => Verdict::Unknown,
        Owner::Nobody | Owner::Gone(_) => Verdict::Leave,
    }
}

fn of_machine(fleet: &Fleet, node: &Node, machine: &Machine) -> Verdict {
    if let Some(patch) = patch(fleet, node, machine) {
        return Verdict::Patch(patch);
    }
    // Until its UUID is known the Node lacks its providerID, and Cluster Autoscaler takes it for none.
    let Some(vm) = machine.vm().filter(|vm| vm.id.is_some()) else { return Verdict::Leave };
    if matches!(machine.phase, Phase::Creating { .. }) {
        return Verdict::Register(vm.hostname.clone());
    }
    Verdict::Leave
}

/// What is to be merged into a machine's Node. None when it lacks nothing.
fn patch(fleet: &Fleet, node: &Node, machine: &Machine) -> Option<Value> {
    cordon(node, machine, identity(fleet, node, machine).unwrap_or(Value::Null))
}

/// The patch, with the cordon and the taint that the Node lacks if its machine is being deleted. None when there is
/// neither.
fn cordon(node: &Node, machine: &Machine, mut patch: Value) -> Option<Value> {
    if let Phase::Deleting { since, .. } = &machine.phase {
        // Cluster Autoscaler's taint goes when it restarts (contract §3.10), and pods would land on a VM that goes.
        if !is_cordoned(node) {
            patch["spec"]["unschedulable"] = json!(true);
        }
        // The machine does not count in the target any more. Without the taint, Cluster Autoscaler takes its Node
        // for the one that is to come, and asks for another.
        if !taints(node).any(|taint| taint.key == TO_BE_DELETED) {
            let all = patch["spec"]["taints"].take();
            let mut all = if all.is_null() { json!(taints(node).collect::<Vec<_>>()) } else { all };
            let value = since.as_second().to_string();
            if let Some(all) = all.as_array_mut() {
                all.push(json!({"key": TO_BE_DELETED, "value": value, "effect": "NoSchedule"}));
            }
            patch["spec"]["taints"] = all;
            // The list is written whole: nobody else's change to it may be lost.
            patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
        }
    }
    if patch.is_null() {
        return None;
    }
    // A Node that was made anew meanwhile is another one.
    patch["metadata"]["uid"] = json!(node.metadata.uid);
    Some(patch)
}

/// What the Node lacks of its identity. None when it lacks nothing, but for a providerID that is not known.
fn identity(fleet: &Fleet, node: &Node, machine: &Machine) -> Option<Value> {
    let text = machine.pool.to_string();
    let pool = fleet.pool(&text)?;
    let group = fleet.group(pool);
    let labels: BTreeMap<String, String> = node_labels(group, &pool.id, &pool.offer);
    let has = node.metadata.labels.as_ref();
    let missing: BTreeMap<_, _> =
        labels.into_iter().filter(|(key, value)| has.and_then(|has| has.get(key)) != Some(value)).collect();
    let annotation = node.metadata.annotations.as_ref().and_then(|all| all.get(names::POOL));
    let first = annotation != Some(&text);
    let id = machine.vm().and_then(|vm| vm.id.as_ref()).filter(|_| provider_id(node).is_none());
    if id.is_none() && !first && missing.is_empty() {
        return None;
    }
    let mut patch = json!({ "metadata": { "labels": missing, "annotations": { names::POOL: text } } });
    if let Some(id) = id {
        patch["spec"]["providerID"] = json!(id.provider_id());
    }
    // Once only, so that a taint that somebody takes away stays away.
    if let Some(group) = group.filter(|group| first && !group.taints.is_empty()) {
        let mut all: Vec<Value> = taints(node)
            .filter(|old| {
                !group.taints.iter().any(|t| t.key == old.key && t.effect.to_string() == old.effect)
            })
            .map(|old| json!(old))
            .collect();
        all.extend(
            group
                .taints
                .iter()
                .map(|t| json!({ "key": t.key, "value": t.value, "effect": t.effect.to_string() })),
        );
        patch["spec"]["taints"] = json!(all);
        // The list is written whole: nobody else's change to it may be lost.
        patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
    }
    Some(patch)
}

/// Whether the Node of a VM that is gone is to go, too. A VM that nobody deleted counts as gone only if its kubelet
/// is silent as well. So does one that only the name tells; and a Node that is younger than the end of that VM is
/// another's, which took the name and was not listed yet.
fn is_over(node: &Node, stranger: &Stranger) -> bool {
    let StrangerKind::Gone { deleted, .. } = stranger.kind else { return false };
    match (provider_id(node), &stranger.id) {
        (Some(found), Some(id)) => found == id.provider_id() && (deleted || !is_ready(node)),
        (Some(found), None) if !found.starts_with(PROVIDER_ID_PREFIX) => false,
        _ => is_older(node, stranger.first_seen) && !is_ready(node),
    }
}

/// Whether it may be the Node of a VM that was asked for and is not listed yet.
fn is_awaited(fleet: &Fleet, node: &Node) -> bool {
    provider_id(node).is_none()
        && fleet.stranger(&hostname(node)).is_none()
        && fleet.machine_at(&hostname(node)).is_none()
        && fleet.machines().any(|machine| {
            let asked = machine.asks.first().map(|ask| ask.at);
            machine.vm().is_none() && asked.is_some_and(|at| !is_older(node, at))
        })
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

fn hostname(node: &Node) -> Hostname {
    Hostname::new(node.metadata.name.as_deref().unwrap_or_default())
}

fn addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let own = all.filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"));
    own.filter_map(|address| address.address.parse().ok()).collect()
}

/// Whether the object was made before. By whole seconds, as Kubernetes has them.
fn is_older(node: &Node, than: Timestamp) -> bool {
    node.metadata.creation_timestamp.as_ref().is_some_and(|made| made.0.as_second() < than.as_second())
}

/// Whether its kubelet said since then that it is ready.
fn spoke_since(node: &Node, when: Timestamp) -> bool {
    let beat = ready(node)
        .filter(|ready| ready.status == "True")
        .and_then(|ready| ready.last_heartbeat_time.as_ref());
    beat.is_some_and(|beat| beat.0.as_second() >= when.as_second())
}

fn provider_id(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.provider_id.as_deref().filter(|id| !id.is_empty())
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == "Ready")
}

fn is_ready(node: &Node) -> bool {
    ready(node).is_some_and(|ready| ready.status == "True")
}

fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}

#[cfg(test)]
mod tests;
