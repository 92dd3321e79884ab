//! The owner of a Node, and the action that follows. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use serde_json::Value;

use super::history::{History, Order};
use super::notices::read_notice;
use super::patch::{self, is_cordoned, provider_id};
use super::view::NodeFacts;
use crate::fleet::{
    Fleet, Hostname, Machine, MachineId, PROVIDER_ID_PREFIX, Phase, ProviderId, UnmanagedKind, UnmanagedNode,
    Vm, VmId,
};

/// The action for a Node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NodeAction {
    /// Nothing.
    None,
    /// Merge this patch: providerID, labels, annotation, taints the first time, and the cordon of a machine
    /// that is being deleted.
    Patch(Value),
    /// Record that the Node of the VM registered.
    Register(Hostname),
    /// Delete the Node object: its VM is gone.
    Delete,
    /// Of two VMs that VPSie created for the machine's request, the other one joined: it becomes the machine's VM.
    KeepJoined(MachineId, Hostname),
    /// Another controller set its providerID: adopt it as the machine's Instance id.
    Adopt(MachineId, ProviderId),
    /// Report that its providerID, which cannot be changed, belongs to another VM.
    Contradiction(MachineId, String),
    /// List VPSie's nodes: no VM of the Node is known, machines wait for VMs, and the VM may not be listed
    /// yet.
    ListVms,
}

/// The owner of a Node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Owner<'a> {
    /// A machine: by providerID (`identified`), or by its name or an address.
    Machine { machine: &'a Machine, identified: bool },
    /// A machine by its name, with a providerID of no known VM: another controller was first.
    Adoptable { machine: &'a Machine, found: &'a str },
    /// An orphan.
    Orphan(&'a UnmanagedNode),
    /// A VM that is gone.
    Gone(&'a UnmanagedNode),
    /// It has the name or address of a machine's VM, and the providerID of an unknown VM. That VM is gone:
    /// its kubelet is silent.
    Stale,
    /// It has the name or address of a machine's VM, and the providerID of an unknown VM, and its kubelet
    /// reports. Its pods most likely run on the machine's VM.
    Contradicted { machine: &'a Machine, found: &'a str },
    /// No owner, or none yet.
    Unowned,
}

/// Returns the owner of a Node, by its providerID, which never changes. A Node without providerID belongs to
/// the machine whose VM has its name or, since names may differ a little, one of its addresses.
///
/// Such a Node may be left from an earlier VM of the same name, and the new VM's kubelet will take it over.
/// So a Node that existed before the machine is matched only once a kubelet has reported since. It is not
/// deleted: a kubelet creates its Node only when it starts, and may have done so already. If the machine is
/// being deleted, the Node is cordoned and drained in any case: its pods may run on that VM.
pub(super) fn owner_of<'a>(fleet: &'a Fleet, history: &History, node: &'a Node) -> Owner<'a> {
    let found = provider_id(node);
    if let Some(machine) = found.and_then(|found| fleet.machine_of(found, "")) {
        return Owner::Machine { machine, identified: true };
    }
    let vm = found.and_then(|found| found.strip_prefix(PROVIDER_ID_PREFIX)).map(VmId::from);
    let name = hostname(node);
    let of_id = vm.as_ref().and_then(|vm| fleet.unmanaged_by_vm_id(vm));
    match of_id {
        // Another VM may have the name now, and its kubelet the Node.
        Some(unmanaged) if is_gone(unmanaged) && fleet.machine_at(&name).is_none() => {
            return Owner::Gone(unmanaged);
        }
        Some(unmanaged) if is_orphan(unmanaged) => return Owner::Orphan(unmanaged),
        Some(unmanaged) if !is_gone(unmanaged) => return Owner::Unowned,
        _ => {}
    }
    let Some(machine) = fleet.machine_of_node(&name, &addresses(node)) else {
        return match fleet.unmanaged_node(&name) {
            Some(unmanaged) if is_gone(unmanaged) => Owner::Gone(unmanaged),
            Some(unmanaged) if is_orphan(unmanaged) && vm.is_none() => Owner::Orphan(unmanaged),
            _ => Owner::Unowned,
        };
    };
    let by_name = machine.vm().is_some_and(|vm| vm.hostname == name);
    let goes = !machine.counts();
    let order = history.order(node, &machine.id);
    if !by_name && order == Order::Older {
        return Owner::Unowned;
    }
    match found {
        _ if !goes && history.is_silent(node, &machine.id) && (found.is_none() || vm.is_none()) => {
            Owner::Unowned
        }
        None => Owner::Machine { machine, identified: false },
        Some(found) if vm.is_none() => {
            let sure = by_name && !goes && !is_elsewhere(fleet, node, machine);
            if sure { Owner::Adoptable { machine, found } } else { Owner::Contradicted { machine, found } }
        }
        // A listing will show whether it belongs to the machine's VM.
        Some(_) if !goes && machine.vm().is_none_or(|vm| vm.id.is_none()) => Owner::Unowned,
        Some(_) if is_stale(node, order) => Owner::Stale,
        Some(_) if !goes && !is_ready(node) => Owner::Unowned,
        Some(found) if goes || !by_name || of_id.is_some() => Owner::Contradicted { machine, found },
        Some(found) => Owner::Adoptable { machine, found },
    }
}

fn is_orphan(unmanaged: &UnmanagedNode) -> bool {
    matches!(unmanaged.kind, UnmanagedKind::Orphan { .. })
}

/// Whether another machine's VM has an address of the Node.
fn is_elsewhere(fleet: &Fleet, node: &Node, machine: &Machine) -> bool {
    let other = |vm: &Vm| addresses(node).iter().any(|address| vm.addresses.contains(address));
    fleet.machines().any(|one| one.id != machine.id && one.vm().is_some_and(other))
}

/// Whether no kubelet reports for the Node any more. A Node that is younger than the record may be new and
/// not ready yet. If the order is unknown, only the API server's condition counts.
fn is_stale(node: &Node, order: Order) -> bool {
    match order {
        Order::Older => !is_ready(node),
        Order::Unknown => ready(node).is_none_or(|ready| ready.status == "Unknown"),
        Order::Younger => false,
    }
}

fn is_gone(unmanaged: &UnmanagedNode) -> bool {
    matches!(unmanaged.kind, UnmanagedKind::Gone { .. })
}

/// The part of a Node that other loops need.
pub(super) fn facts(node: &Node, owner: Owner<'_>) -> NodeFacts {
    let (machine, identified) = match owner {
        Owner::Machine { machine, identified } => (Some(machine.id.clone()), identified),
        Owner::Contradicted { machine, .. } | Owner::Adoptable { machine, .. } => {
            (Some(machine.id.clone()), false)
        }
        _ => (None, false),
    };
    NodeFacts {
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        provider_id: provider_id(node).map(str::to_owned),
        ready: takes_pods(node),
        unschedulable: is_cordoned(node),
        machine,
        identified,
        added_by_hand: is_added_by_hand(node),
        notice: read_notice(node),
    }
}

fn is_added_by_hand(node: &Node) -> bool {
    let annotations = node.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(crate::fleet::names::ADDED_BY_HAND))
        .is_some_and(|value| value == "true")
}

/// The action for a Node with that owner.
pub(super) fn node_action(fleet: &Fleet, history: &History, node: &Node, owner: Owner<'_>) -> NodeAction {
    if node.metadata.deletion_timestamp.is_some() {
        return NodeAction::None;
    }
    if let Owner::Machine { machine, identified: false } | Owner::Adoptable { machine, .. } = owner
        && let Some(vm) = fleet.joined_duplicate(machine, &addresses(node))
    {
        return NodeAction::KeepJoined(machine.id.clone(), vm.clone());
    }
    match owner {
        Owner::Machine { machine, .. } => machine_action(fleet, node, machine),
        Owner::Adoptable { machine, found } => NodeAction::Adopt(machine.id.clone(), found.into()),
        Owner::Orphan(_) => patch::cordon_orphan(node).map_or(NodeAction::None, NodeAction::Patch),
        Owner::Gone(unmanaged) if is_over(history, node, unmanaged) => NodeAction::Delete,
        Owner::Stale => NodeAction::Delete,
        Owner::Contradicted { machine, found } => match patch::cordon(node, machine, Value::Null) {
            Some(patch) => NodeAction::Patch(patch),
            None => NodeAction::Contradiction(machine.id.clone(), found.to_owned()),
        },
        Owner::Unowned if is_awaited(fleet, history, node) => NodeAction::ListVms,
        Owner::Unowned | Owner::Gone(_) => NodeAction::None,
    }
}

/// Machines whose VM is listed and has no Node, if this Node registered and matches none of them.
pub(super) fn unmatched<'a>(
    fleet: &'a Fleet,
    history: &History,
    node: &Node,
    has_node: impl Fn(&MachineId) -> bool,
) -> Vec<&'a Machine> {
    let name = hostname(node);
    if fleet.unmanaged_node(&name).is_some() || fleet.machine_at(&name).is_some() {
        return Vec::new();
    }
    let waits = |machine: &&Machine| {
        matches!(machine.phase, Phase::Creating { vm: Some(_), .. })
            && history.order(node, &machine.id) == Order::Younger
            && !has_node(&machine.id)
    };
    fleet.machines().filter(waits).collect()
}

fn machine_action(fleet: &Fleet, node: &Node, machine: &Machine) -> NodeAction {
    if let Some(patch) = patch::patch(fleet, node, machine) {
        return NodeAction::Patch(patch);
    }
    // Until the VM's UUID is known, the Node has no providerID, and Cluster Autoscaler does not count it.
    let Some(vm) = machine.vm().filter(|vm| vm.node_id().is_some()) else { return NodeAction::None };
    // Its cloud controller has not set the providerID yet.
    if provider_id(node).is_none() {
        return NodeAction::None;
    }
    // Cluster Autoscaler can take over a replacement until its Node takes pods.
    let is_awaited = machine.replaces.is_some() && !takes_pods(node);
    if matches!(machine.phase, Phase::Creating { .. }) && !is_awaited {
        return NodeAction::Register(vm.hostname.clone());
    }
    NodeAction::None
}

/// Whether the Node of a gone VM must be deleted. If VPSie did not accept the deletion of the VM, or only the
/// name identifies it, its kubelet must be silent as well: listings may lack a VM that runs. A Node that
/// appeared after the end of that VM belongs to a new VM of the same name that is not listed yet.
fn is_over(history: &History, node: &Node, unmanaged: &UnmanagedNode) -> bool {
    let UnmanagedKind::Gone { deletion_accepted, machine, .. } = &unmanaged.kind else { return false };
    match (provider_id(node), &unmanaged.id) {
        (Some(found), Some(id)) if found == id.provider_id() => *deletion_accepted || !is_ready(node),
        // No other VM ever has the hostname of a request. Another controller set the providerID.
        (Some(found), _) if !found.starts_with(PROVIDER_ID_PREFIX) && is_of_request(unmanaged, machine) => {
            *deletion_accepted || !is_ready(node)
        }
        _ if history.was_matched(node, machine) => !is_ready(node),
        (Some(_), Some(_)) => false,
        (Some(found), None) if !found.starts_with(PROVIDER_ID_PREFIX) => false,
        _ => is_stale(node, history.compare_to_end(node, &unmanaged.hostname)),
    }
}

/// Whether vpsie-autoscaler chose the hostname: `<machine>-<number of the request>`.
fn is_of_request(unmanaged: &UnmanagedNode, machine: &MachineId) -> bool {
    let rest = unmanaged.hostname.as_str().strip_prefix(machine.as_str());
    let number = rest.and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Whether it may be the Node of a VM that was requested and is not listed yet.
fn is_awaited(fleet: &Fleet, history: &History, node: &Node) -> bool {
    provider_id(node).is_none()
        && fleet.unmanaged_node(&hostname(node)).is_none()
        && fleet.machine_at(&hostname(node)).is_none()
        && fleet.machines().any(|machine| {
            machine.vm().is_none()
                && !machine.requests.is_empty()
                && history.order(node, &machine.id) != Order::Older
        })
}

fn hostname(node: &Node) -> Hostname {
    Hostname::new(node.metadata.name.as_deref().unwrap_or_default())
}

fn addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let own = all.filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"));
    own.filter_map(|address| address.address.parse().ok()).collect()
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == "Ready")
}

/// Whether it is Ready, and its VM is attached to its network.
fn takes_pods(node: &Node) -> bool {
    is_ready(node) && !patch::awaits_network(node)
}

fn is_ready(node: &Node) -> bool {
    ready(node).is_some_and(|ready| ready.status == "True")
}

#[cfg(test)]
mod tests;
