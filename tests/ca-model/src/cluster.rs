//! The cluster of the loop: its interface, and an implementation in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::object::{Node, Pod, SchedulableNode, Taint, schedulable_nodes, schedule_pod};

/// An error of the Kubernetes API.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClusterError(pub String);

/// The operations of the loop on a Kubernetes cluster.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// All Nodes, in a stable order.
    async fn nodes(&self) -> Result<Vec<Node>, ClusterError>;
    /// All pods except succeeded and failed ones, in a stable order.
    async fn pods(&self) -> Result<Vec<Pod>, ClusterError>;
    /// Adds a taint to the node, and cordons the node if `cordon`.
    async fn taint(&self, node: &str, taint: Taint, cordon: bool) -> Result<(), ClusterError>;
    /// Removes the taint and uncordons the node. A node that does not exist is no error.
    async fn untaint(&self, node: &str, key: &str) -> Result<(), ClusterError>;
    /// Evicts a pod. A pod that does not exist is no error.
    async fn evict(&self, namespace: &str, name: &str) -> Result<(), ClusterError>;
}

/// A cluster in memory: objects, a scheduler, and controllers that keep the desired number of pods. Cheap to
/// clone: clones share one cluster.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<(String, String), Pod>,
    workloads: BTreeMap<String, (usize, Pod)>,
    serial: u64,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates or replaces a Node.
    pub fn join(&self, node: Node) {
        self.state().nodes.insert(node.name.clone(), node);
    }

    /// Deletes a Node; the next [`Memory::step`] deletes its pods. Returns true iff the Node existed.
    pub fn leave(&self, name: &str) -> bool {
        self.state().nodes.remove(name).is_some()
    }

    /// Changes a Node. Returns true iff it existed.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Node)) -> bool {
        self.state().nodes.get_mut(name).map(change).is_some()
    }

    /// Sets a workload of `replicas` pods like this one, named `<name>-<number>`. The next [`Memory::step`]
    /// applies it.
    pub fn deploy(&self, name: &str, replicas: usize, pod: Pod) {
        self.state().workloads.insert(name.to_owned(), (replicas, pod));
    }

    /// Runs controllers and scheduler once: deletes pods of missing nodes, creates and deletes pods of
    /// workloads, and binds pending pods to ready nodes that fit.
    pub fn step(&self, now: Timestamp) {
        let state = &mut *self.state();
        let State { nodes, pods, workloads, serial } = state;
        pods.retain(|_, pod| pod.node.as_ref().is_none_or(|node| nodes.contains_key(node)));
        for (name, (replicas, template)) in workloads {
            let existing: Vec<_> = pods
                .keys()
                .filter(|(_, pod)| pod.rsplit_once('-').is_some_and(|(workload, _)| workload == name))
                .cloned()
                .collect();
            // Deletes pending pods before bound ones, and the newest first.
            let mut surplus = existing.clone();
            surplus.sort_by_key(|key| {
                (pods.get(key).is_some_and(|pod| pod.node.is_some()), std::cmp::Reverse(key.clone()))
            });
            for key in surplus.iter().take(existing.len().saturating_sub(*replicas)) {
                pods.remove(key);
            }
            for _ in existing.len()..*replicas {
                *serial += 1;
                let pod =
                    Pod { name: format!("{name}-{serial:06}"), created: now, node: None, ..template.clone() };
                pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
            }
        }
        let bound: Vec<_> = pods.values().filter(|pod| pod.node.is_some()).cloned().collect();
        let mut free_nodes: Vec<SchedulableNode> = schedulable_nodes(nodes.values(), &bound);
        for pod in pods.values_mut().filter(|pod| pod.node.is_none()) {
            let node = free_nodes.iter().find(|node| node.fits(pod)).map(|node| node.name.clone());
            pod.unschedulable = !schedule_pod(&mut free_nodes, pod);
            pod.node = node;
        }
    }

    /// Number of pods without a node.
    pub fn pending(&self) -> usize {
        self.state().pods.values().filter(|pod| pod.node.is_none()).count()
    }

    /// All Nodes.
    pub fn list_nodes(&self) -> Vec<Node> {
        self.state().nodes.values().cloned().collect()
    }

    /// All pods.
    pub fn list_pods(&self) -> Vec<Pod> {
        self.state().pods.values().cloned().collect()
    }
}

#[async_trait]
impl Cluster for Memory {
    async fn nodes(&self) -> Result<Vec<Node>, ClusterError> {
        Ok(self.list_nodes())
    }

    async fn pods(&self) -> Result<Vec<Pod>, ClusterError> {
        Ok(self.list_pods())
    }

    async fn taint(&self, node: &str, taint: Taint, cordon: bool) -> Result<(), ClusterError> {
        let name = node.to_owned();
        if self.edit(node, |node| {
            node.taints.retain(|old| old.key != taint.key);
            node.taints.push(taint);
            node.unschedulable |= cordon;
        }) {
            Ok(())
        } else {
            Err(ClusterError(format!("node {name} not found")))
        }
    }

    async fn untaint(&self, node: &str, key: &str) -> Result<(), ClusterError> {
        self.edit(node, |node| {
            node.taints.retain(|taint| taint.key != key);
            node.unschedulable = false;
        });
        Ok(())
    }

    async fn evict(&self, namespace: &str, name: &str) -> Result<(), ClusterError> {
        self.state().pods.remove(&(namespace.to_owned(), name.to_owned()));
        Ok(())
    }
}
