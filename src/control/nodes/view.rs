//! A shared view of the cluster's Nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::fleet::{Hostname, ListedNode, MachineId, ReportedInterruption};

/// The part of a Node that other loops need.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact by itself")]
pub struct NodeFacts {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
    /// Whether its condition Ready is True, and its VM is attached to its VPC and firewall group.
    pub ready: bool,
    /// `spec.unschedulable`: it is cordoned.
    pub unschedulable: bool,
    /// Its machine, once it is known.
    pub machine: Option<MachineId>,
    /// Whether its providerID identifies the machine, and not only its name or an address.
    pub identified: bool,
    /// Whether it is annotated as added by hand.
    pub added_by_hand: bool,
    /// The notice of the interruption of its VM.
    pub notice: Option<ReportedInterruption>,
}

/// The last known Nodes. [`Nodes`](super::Nodes) updates it. Cheap to clone and to read.
#[derive(Clone, Debug)]
pub struct NodesView {
    index: Arc<RwLock<NodeIndex>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct NodeIndex {
    listed: bool,
    by_name: BTreeMap<String, NodeFacts>,
    by_machine: BTreeMap<MachineId, String>,
    compared: BTreeSet<MachineId>,
    /// Nodes with a notice.
    noticed: BTreeSet<String>,
}

impl Default for NodesView {
    fn default() -> Self {
        Self { index: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl NodesView {
    /// Whether the Nodes were listed since the process started. Before that, a missing Node proves nothing.
    pub fn has_listed(&self) -> bool {
        self.read(|index| index.listed)
    }

    /// The Node of a machine, also if its name differs from its VM's hostname.
    pub fn node_of(&self, machine: &MachineId) -> Option<NodeFacts> {
        self.read(|index| index.by_name.get(index.by_machine.get(machine)?).cloned())
    }

    /// All Nodes that are matched to the machine: by providerID, name or address.
    pub fn nodes_of(&self, machine: &MachineId) -> Vec<NodeFacts> {
        let of = |node: &&NodeFacts| node.machine.as_ref() == Some(machine);
        self.read(|index| index.by_name.values().filter(of).cloned().collect())
    }

    /// Whether every Node was compared with the machine since its deletion began. Before that, a missing Node
    /// proves nothing.
    pub fn was_compared(&self, machine: &MachineId) -> bool {
        self.read(|index| index.compared.contains(machine))
    }

    /// Sets the machines that every Node was compared with.
    pub(super) fn set_compared(&self, machines: BTreeSet<MachineId>) {
        self.write(|index| {
            index.compared = machines;
            false
        });
    }

    /// Whether the machine has a ready Node.
    pub fn is_ready(&self, machine: &MachineId) -> bool {
        self.node_of(machine).is_some_and(|node| node.ready)
    }

    /// Number of Nodes that are not Ready, and of all Nodes.
    pub(super) fn count_unready(&self) -> (usize, usize) {
        self.read(|index| {
            let unready = index.by_name.values().filter(|node| !node.ready).count();
            (unready, index.by_name.len())
        })
    }

    /// The Nodes that are annotated as added by hand.
    pub fn added_by_hand(&self) -> BTreeSet<Hostname> {
        let by_hand = |index: &NodeIndex| {
            let nodes = index.by_name.values().filter(|node| node.added_by_hand);
            nodes.map(|node| Hostname::new(&node.name)).collect()
        };
        self.read(by_hand)
    }

    /// The Nodes with a notice.
    pub fn nodes_with_notice(&self) -> Vec<NodeFacts> {
        self.read(|index| index.noticed.iter().filter_map(|name| index.by_name.get(name)).cloned().collect())
    }

    /// A Node by its name.
    pub fn node_named(&self, name: &Hostname) -> Option<NodeFacts> {
        self.read(|index| index.by_name.get(name.as_str()).cloned())
    }

    /// Whether an existing worker can become a machine: its Node is ready, and has the VM's providerID or
    /// none. Without such a Node, Cluster Autoscaler would delete the VM as unregistered
    /// (docs/reference/cluster-autoscaler.md#long-unregistered), with all its pods.
    pub fn identifies(&self, listed: &ListedNode) -> bool {
        let Some(id) = &listed.id else { return false };
        self.node_named(&listed.hostname).is_some_and(|node| {
            node.ready && node.provider_id.is_none_or(|provider_id| provider_id == id.provider_id())
        })
    }

    /// A counter of changes of this view.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Sets a Node. Of two Nodes of one machine, the Node with its providerID is the machine's, else the
    /// older one.
    pub(super) fn set_node(&self, facts: NodeFacts) {
        self.write(|index| {
            match index.by_name.get(&facts.name) {
                Some(old) if *old == facts => return false,
                Some(old) if old.machine != facts.machine => drop(index.remove_node(&facts.name)),
                _ => {}
            }
            if let Some(machine) = &facts.machine {
                let of = index.by_machine.entry(machine.clone()).or_insert_with(|| facts.name.clone());
                if facts.identified {
                    of.clone_from(&facts.name);
                }
            }
            if facts.notice.is_some() {
                index.noticed.insert(facts.name.clone());
            } else {
                index.noticed.remove(&facts.name);
            }
            index.by_name.insert(facts.name.clone(), facts);
            true
        });
    }

    /// Whether another Node has the machine's providerID.
    pub(super) fn has_other_node(&self, machine: &MachineId, name: &str) -> bool {
        self.node_of(machine).is_some_and(|node| node.identified && node.name != name)
    }

    /// Removes all other Nodes, after a list.
    pub(super) fn retain_nodes(&self, names: impl Fn(&str) -> bool) {
        self.write(|index| {
            let gone: Vec<_> = index.by_name.keys().filter(|name| !names(name)).cloned().collect();
            for name in &gone {
                index.remove_node(name);
            }
            let first = !std::mem::replace(&mut index.listed, true);
            first || !gone.is_empty()
        });
    }

    /// Removes a Node.
    pub(super) fn forget_node(&self, name: &str) {
        self.write(|index| index.remove_node(name));
    }

    fn read<R>(&self, f: impl FnOnce(&NodeIndex) -> R) -> R {
        f(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, f: impl FnOnce(&mut NodeIndex) -> bool) {
        let changed = f(&mut self.index.write().unwrap_or_else(PoisonError::into_inner));
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

impl NodeIndex {
    fn remove_node(&mut self, name: &str) -> bool {
        self.noticed.remove(name);
        let Some(old) = self.by_name.remove(name) else { return false };
        if let Some(machine) = old.machine.filter(|id| self.by_machine.get(id).is_some_and(|of| of == name)) {
            // Another Node of the same machine replaces it, if there is one.
            match self.by_name.values().find(|other| other.machine.as_ref() == Some(&machine)) {
                Some(other) => self.by_machine.insert(machine, other.name.clone()),
                None => self.by_machine.remove(&machine),
            };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CapacityType;
    use crate::fleet::{NodeRole, VmState};

    fn facts(name: &str, machine: Option<&str>, ready: bool) -> NodeFacts {
        NodeFacts {
            notice: None,
            name: name.to_owned(),
            uid: format!("uid of {name}"),
            provider_id: None,
            ready,
            unschedulable: false,
            machine: machine.map(MachineId::from),
            identified: false,
            added_by_hand: false,
        }
    }

    #[test]
    fn nodes_are_found_by_machine_until_they_are_gone() {
        let view = NodesView::default();
        let changes = view.changes();
        let a = MachineId::from("a");
        let b = MachineId::from("b");
        assert!(!view.has_listed());
        view.set_node(facts("one", Some("a"), false));
        view.set_node(facts("two", None, true));
        view.retain_nodes(|_| true);
        assert!(view.has_listed() && !view.is_ready(&a) && view.node_of(&b).is_none());
        let count = *changes.borrow();
        view.set_node(facts("one", Some("a"), false));
        assert_eq!(*changes.borrow(), count, "nothing new");
        view.set_node(facts("one", Some("a"), true));
        view.set_node(facts("two", Some("b"), true));
        assert_eq!(*changes.borrow(), count + 2);
        assert!(view.is_ready(&a) && view.is_ready(&b));
        view.set_node(facts("two", None, true));
        view.retain_nodes(|name| name != "one");
        assert_eq!((view.node_of(&a), view.node_of(&b)), (None, None));
        assert_eq!(view.node_named(&Hostname::new("two")), Some(facts("two", None, true)));
    }

    #[test]
    fn a_worker_is_shown_by_a_ready_node_that_is_of_no_other_vm() {
        let view = NodesView::default();
        let listed = ListedNode {
            hostname: Hostname::new("one"),
            id: Some("vm-1".into()),
            addresses: Vec::new(),
            role: NodeRole::Worker,
            size: None,
            excluded: std::collections::BTreeSet::new(),
            datacenter: Some("ams1".into()),
            capacity_type: Some(CapacityType::OnDemand),
            state: VmState::Running,
            created_at: None,
            interruption: None,
            attachment: None,
            pool: None,
        };
        assert!(!view.identifies(&listed), "it has no Node");
        for (ready, provider_id, want) in [
            (true, None, true),
            (false, None, false),
            (true, Some("vpsie://vm-1"), true),
            (true, Some("vpsie://vm-2"), false),
            (true, Some("other://vm-1"), false),
        ] {
            let provider_id = provider_id.map(str::to_owned);
            view.set_node(NodeFacts { provider_id: provider_id.clone(), ..facts("one", None, ready) });
            assert_eq!(view.identifies(&listed), want, "{ready} {provider_id:?}");
        }
        assert!(!view.identifies(&ListedNode { id: None, ..listed }), "its VM is unknown");
    }

    #[test]
    fn the_first_of_two_nodes_belongs_to_the_machine() {
        let view = NodesView::default();
        let a = MachineId::from("a");
        view.set_node(facts("one", Some("a"), true));
        view.set_node(facts("two", Some("a"), false));
        view.set_node(NodeFacts { unschedulable: true, ..facts("one", Some("a"), true) });
        assert!(view.is_ready(&a) && !view.has_other_node(&a, "two"));
        view.set_node(NodeFacts { identified: true, ..facts("two", Some("a"), false) });
        assert!(!view.is_ready(&a) && view.has_other_node(&a, "one") && !view.has_other_node(&a, "two"));
        view.forget_node("two");
        assert_eq!(view.node_of(&a).map(|node| node.name), Some("one".to_owned()));
    }
}
