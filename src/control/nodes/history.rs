//! The order in which this process observed Nodes and records. Clocks of different hosts are never compared.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use crate::fleet::{Fleet, Hostname, Machine, MachineId, UnmanagedKind};

/// Whether a Node existed before a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The Node was observed before the record.
    Older,
    /// The Node was observed after the record.
    Younger,
    /// Both existed when the process started, or the VM existed before its record.
    Unknown,
}

/// Observations, in steps: each observation of a new record begins a step.
#[derive(Debug, Default)]
pub(super) struct History {
    step: u64,
    initialized: bool,
    /// None: it already had a VM when it was first observed.
    machines: HashMap<MachineId, Option<u64>>,
    /// VMs that are gone.
    gone: HashMap<Hostname, u64>,
    nodes: HashMap<String, SeenNode>,
}

/// A Node object.
#[derive(Debug, Default)]
struct SeenNode {
    first: u64,
    /// The last step in which its kubelet reported.
    last_report: Option<u64>,
    heartbeat_at: Option<Time>,
    /// VPSie listed a VM of its name while the Node existed.
    listed: bool,
    /// Its last known machine.
    machine: Option<MachineId>,
}

impl History {
    /// Observes the records. It must be called before a new Node is observed.
    pub(super) fn note_records(&mut self, fleet: &Fleet) {
        self.machines.retain(|id, _| fleet.machine(id).is_some());
        let gone: HashSet<&Hostname> = fleet
            .unmanaged_nodes()
            .filter(|unmanaged| matches!(unmanaged.kind, UnmanagedKind::Gone { .. }))
            .map(|unmanaged| &unmanaged.hostname)
            .collect();
        self.gone.retain(|hostname, _| gone.contains(hostname));
        let machines: Vec<&Machine> =
            fleet.machines().filter(|machine| !self.machines.contains_key(&machine.id)).collect();
        let ended: Vec<&Hostname> =
            gone.into_iter().filter(|hostname| !self.gone.contains_key(*hostname)).collect();
        let first = !std::mem::replace(&mut self.initialized, true);
        let is_news = !machines.is_empty() || !ended.is_empty();
        if !first && is_news {
            self.step += 1;
        }
        let step = self.step;
        self.gone.extend(ended.into_iter().map(|hostname| (hostname.clone(), step)));
        let since = |machine: &Machine| machine.vm().is_none().then_some(step);
        self.machines.extend(machines.into_iter().map(|machine| (machine.id.clone(), since(machine))));
        if first {
            self.step = 1;
        }
    }

    /// Observes a Node. `initial`: it was in the first list of Nodes.
    pub(super) fn note_node(&mut self, node: &Node, initial: bool) {
        let heartbeat_at = heartbeat(node).cloned();
        // Before the first new record, a Node of the first list may be older or younger than each record.
        let first = if initial && self.step <= 1 { 0 } else { self.step };
        let seen = self.nodes.entry(key(node)).or_insert_with(|| SeenNode {
            first,
            heartbeat_at: heartbeat_at.clone(),
            ..SeenNode::default()
        });
        if heartbeat_at.is_some() && seen.heartbeat_at != heartbeat_at {
            (seen.heartbeat_at, seen.last_report) = (heartbeat_at, Some(self.step));
        }
    }

    /// Records that VPSie lists an unmanaged VM of the Node's name.
    pub(super) fn note_listed(&mut self, node: &Node) {
        self.nodes.entry(key(node)).or_default().listed = true;
    }

    /// Records that it is the Node of the machine.
    pub(super) fn note_machine(&mut self, node: &Node, machine: &MachineId) {
        self.nodes.entry(key(node)).or_default().machine = Some(machine.clone());
    }

    /// Removes all other Nodes.
    pub(super) fn retain_nodes<'a>(&mut self, nodes: impl Iterator<Item = &'a Node>) {
        let kept: HashSet<String> = nodes.map(key).collect();
        self.nodes.retain(|node, _| kept.contains(node));
    }

    /// Removes a Node.
    pub(super) fn forget_node(&mut self, node: &Node) {
        self.nodes.remove(&key(node));
    }

    /// Whether the Node existed before the machine was recorded.
    pub(super) fn order(&self, node: &Node, machine: &MachineId) -> Order {
        self.compare(node, self.machines.get(machine).copied().flatten())
    }

    /// Whether the Node existed before the VM of that name was gone.
    pub(super) fn compare_to_end(&self, node: &Node, hostname: &Hostname) -> Order {
        self.compare(node, self.gone.get(hostname).copied())
    }

    fn compare(&self, node: &Node, record: Option<u64>) -> Order {
        match (self.nodes.get(&key(node)), record) {
            (Some(seen), Some(record)) if seen.first < record => Order::Older,
            (Some(seen), Some(record)) if (seen.first, record) != (0, 0) => Order::Younger,
            _ => Order::Unknown,
        }
    }

    /// Whether the Node was probably left by an earlier VM: it existed before the machine, and no kubelet has
    /// reported since.
    pub(super) fn is_silent(&self, node: &Node, machine: &MachineId) -> bool {
        let Some(record) = self.machines.get(machine).copied().flatten() else { return false };
        self.order(node, machine) == Order::Older
            && self.nodes.get(&key(node)).is_none_or(|seen| {
                !seen.listed && seen.last_report.is_none_or(|last_report| last_report < record)
            })
    }

    /// Whether the Node was matched to the machine before.
    pub(super) fn was_matched(&self, node: &Node, machine: &MachineId) -> bool {
        self.nodes.get(&key(node)).is_some_and(|seen| seen.machine.as_ref() == Some(machine))
    }
}

fn key(node: &Node) -> String {
    node.uid().unwrap_or_else(|| node.name_any())
}

/// The last heartbeat of a ready kubelet, by the kubelet's own clock: only its changes are used.
fn heartbeat(node: &Node) -> Option<&Time> {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    ready.last_heartbeat_time.as_ref()
}
