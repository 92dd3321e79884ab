//! What can be asked of the fleet without changing it. All from memory.

use super::{Fleet, Machine, NodeGroup, Pool, Template};

/// Sizes that Cluster Autoscaler is told for a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `minSize`.
    pub min: u32,
    /// `maxSize`.
    pub max: u32,
    /// Target size: machines that are not Deleting (invariant 1).
    pub target: u32,
}

impl Fleet {
    /// The pools that Cluster Autoscaler may know, in a stable order.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values()
    }

    /// A pool by its id, as text.
    pub fn pool(&self, id: &str) -> Option<&Pool> {
        self.pools.get(id)
    }

    /// The NodeGroup of a pool. None when it was deleted and only machines remain.
    pub fn group(&self, pool: &Pool) -> Option<&NodeGroup> {
        self.groups.get(&pool.id.node_group)
    }

    /// Sizes of a pool.
    pub fn limits(&self, pool: &Pool) -> Limits {
        let _ = pool;
        Limits { min: 0, max: 0, target: 0 }
    }

    /// The pool's machines, Deleting ones too, in a stable order.
    pub fn machines_of<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a Machine> {
        pool.members.iter().filter_map(|id| self.machines.get(id))
    }

    /// The machine of a node: by provider id (or Instance id, of fake nodes), else by the Node's name.
    pub fn machine_of(&self, provider_id: &str, name: &str) -> Option<&Machine> {
        let _ = (provider_id, name);
        None
    }

    /// The Node that the pool would add. Never empty.
    pub fn template(&self, pool: &Pool) -> Template {
        let _ = pool;
        todo!()
    }
}
