//! What is known of the cluster's Nodes, for whoever needs to know whether a machine's Node is there and ready.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::fleet::{Hostname, ListedNode, MachineId};

/// A Node, as far as others need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact by itself")]
pub struct NodeFacts {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
    /// Whether its condition Ready is True.
    pub ready: bool,
    /// `spec.unschedulable`: it is cordoned.
    pub unschedulable: bool,
    /// The machine it is the Node of, once it is known to be one's.
    pub machine: Option<MachineId>,
    /// Whether its providerID says so, and not only its name or an address.
    pub identified: bool,
    /// Whether its annotation says that a person added the worker.
    pub added_by_hand: bool,
}

/// The Nodes as the last look found them. Kept by [`Nodes`](super::Nodes); cheap to clone and to read.
#[derive(Clone, Debug)]
pub struct NodesView {
    index: Arc<RwLock<Index>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Index {
    listed: bool,
    by_name: BTreeMap<String, NodeFacts>,
    by_machine: BTreeMap<MachineId, String>,
    looked_for: BTreeSet<MachineId>,
}

impl Default for NodesView {
    fn default() -> Self {
        Self { index: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl NodesView {
    /// Whether the Nodes were listed since the process started. Before, that a Node is not here says nothing.
    pub fn listed(&self) -> bool {
        self.read(|index| index.listed)
    }

    /// The Node of a machine. Found also when its name is not its VM's hostname.
    pub fn of(&self, machine: &MachineId) -> Option<NodeFacts> {
        self.read(|index| index.by_name.get(index.by_machine.get(machine)?).cloned())
    }

    /// Every Node that is taken for the machine's: one by its providerID, others by name or address.
    pub fn all_of(&self, machine: &MachineId) -> Vec<NodeFacts> {
        let of = |node: &&NodeFacts| node.machine.as_ref() == Some(machine);
        self.read(|index| index.by_name.values().filter(of).cloned().collect())
    }

    /// Whether every Node was compared with the machine since it is being deleted. Before, that no Node is known to be
    /// the machine's says nothing.
    pub fn looked_for(&self, machine: &MachineId) -> bool {
        self.read(|index| index.looked_for.contains(machine))
    }

    /// Notes the machines that every Node was compared with.
    pub(super) fn note_looked_for(&self, machines: BTreeSet<MachineId>) {
        self.write(|index| {
            index.looked_for = machines;
            false
        });
    }

    /// Whether the machine's Node is there and ready.
    pub fn ready(&self, machine: &MachineId) -> bool {
        self.of(machine).is_some_and(|node| node.ready)
    }

    /// The Nodes of workers that a person added, as their annotations say.
    pub fn added_by_hand(&self) -> BTreeSet<Hostname> {
        let by_hand = |index: &Index| {
            let nodes = index.by_name.values().filter(|node| node.added_by_hand);
            nodes.map(|node| Hostname::new(&node.name)).collect()
        };
        self.read(by_hand)
    }

    /// A Node by its name.
    pub fn named(&self, name: &Hostname) -> Option<NodeFacts> {
        self.read(|index| index.by_name.get(name.as_str()).cloned())
    }

    /// Whether a worker that was there before can become a machine: its Node is ready, and has the VM's
    /// providerID or none. Of a machine without a Node like that, Cluster Autoscaler would have the VM
    /// deleted as one that never came up (docs/reference/cluster-autoscaler.md#long-unregistered), with all
    /// that runs on it.
    pub fn shows(&self, listed: &ListedNode) -> bool {
        let Some(id) = &listed.id else { return false };
        self.named(&listed.hostname).is_some_and(|node| {
            node.ready && node.provider_id.is_none_or(|provider_id| provider_id == id.provider_id())
        })
    }

    /// Counts up whenever something that can be read here changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Notes a Node. Of two Nodes for one machine, the one whose providerID says so is the machine's, or else the
    /// one that was there first.
    pub(super) fn note(&self, facts: NodeFacts) {
        self.write(|index| {
            match index.by_name.get(&facts.name) {
                Some(old) if *old == facts => return false,
                Some(old) if old.machine != facts.machine => drop(index.forget(&facts.name)),
                _ => {}
            }
            if let Some(machine) = &facts.machine {
                let of = index.by_machine.entry(machine.clone()).or_insert_with(|| facts.name.clone());
                if facts.identified {
                    of.clone_from(&facts.name);
                }
            }
            index.by_name.insert(facts.name.clone(), facts);
            true
        });
    }

    /// Whether another Node than this one has the machine's providerID.
    pub(super) fn taken(&self, machine: &MachineId, name: &str) -> bool {
        self.of(machine).is_some_and(|node| node.identified && node.name != name)
    }

    /// Forgets all Nodes but these: they were listed.
    pub(super) fn keep(&self, names: impl Fn(&str) -> bool) {
        self.write(|index| {
            let gone: Vec<_> = index.by_name.keys().filter(|name| !names(name)).cloned().collect();
            for name in &gone {
                index.forget(name);
            }
            let first = !std::mem::replace(&mut index.listed, true);
            first || !gone.is_empty()
        });
    }

    /// Forgets a Node.
    pub(super) fn forget(&self, name: &str) {
        self.write(|index| index.forget(name));
    }

    fn read<R>(&self, f: impl FnOnce(&Index) -> R) -> R {
        f(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, f: impl FnOnce(&mut Index) -> bool) {
        let changed = f(&mut self.index.write().unwrap_or_else(PoisonError::into_inner));
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

impl Index {
    fn forget(&mut self, name: &str) -> bool {
        let Some(old) = self.by_name.remove(name) else { return false };
        if let Some(machine) = old.machine.filter(|id| self.by_machine.get(id).is_some_and(|of| of == name)) {
            // Another Node of the same machine, if there is one, takes its place.
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
        let (a, b) = (MachineId::from("a"), MachineId::from("b"));
        assert!(!view.listed());
        view.note(facts("one", Some("a"), false));
        view.note(facts("two", None, true));
        view.keep(|_| true);
        assert!(view.listed() && !view.ready(&a) && view.of(&b).is_none());
        let count = *changes.borrow();
        view.note(facts("one", Some("a"), false));
        assert_eq!(*changes.borrow(), count, "nothing new");
        view.note(facts("one", Some("a"), true));
        view.note(facts("two", Some("b"), true));
        assert_eq!(*changes.borrow(), count + 2);
        assert!(view.ready(&a) && view.ready(&b));
        view.note(facts("two", None, true));
        view.keep(|name| name != "one");
        assert_eq!((view.of(&a), view.of(&b)), (None, None));
        assert_eq!(view.named(&Hostname::new("two")), Some(facts("two", None, true)));
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
        };
        assert!(!view.shows(&listed), "it has no Node");
        for (ready, provider_id, want) in [
            (true, None, true),
            (false, None, false),
            (true, Some("vpsie://vm-1"), true),
            (true, Some("vpsie://vm-2"), false),
            (true, Some("other://vm-1"), false),
        ] {
            let provider_id = provider_id.map(str::to_owned);
            view.note(NodeFacts { provider_id: provider_id.clone(), ..facts("one", None, ready) });
            assert_eq!(view.shows(&listed), want, "{ready} {provider_id:?}");
        }
        assert!(!view.shows(&ListedNode { id: None, ..listed }), "nothing tells which VM it is");
    }

    #[test]
    fn of_two_nodes_of_a_machine_the_first_is_its_until_it_is_gone() {
        let view = NodesView::default();
        let a = MachineId::from("a");
        view.note(facts("one", Some("a"), true));
        view.note(facts("two", Some("a"), false));
        view.note(NodeFacts { unschedulable: true, ..facts("one", Some("a"), true) });
        assert!(view.ready(&a) && !view.taken(&a, "two"));
        view.note(NodeFacts { identified: true, ..facts("two", Some("a"), false) });
        assert!(!view.ready(&a) && view.taken(&a, "one") && !view.taken(&a, "two"));
        view.forget("two");
        assert_eq!(view.of(&a).map(|node| node.name), Some("one".to_owned()));
    }
}
