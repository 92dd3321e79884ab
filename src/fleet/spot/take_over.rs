//! Take-over of replacements by Cluster Autoscaler (docs/designs/spot.md).

use crate::fleet::machine::Machine;
use crate::fleet::state::{Fleet, Pool};

impl Fleet {
    /// Number of replacements of the pool that Cluster Autoscaler can take over.
    pub fn available_replacements(&self, pool: &Pool) -> u32 {
        self.replacements_to_take_over(pool).count() as u32
    }

    /// Number of replacements that Cluster Autoscaler takes over before it adds nodes, if it begins with the pool: those of
    /// all pools of the NodeGroup, because a pool with some can add only its own until the others are taken over.
    pub fn expected_take_overs(&self, pool: &Pool) -> u32 {
        match self.available_replacements(pool) {
            0 => 0,
            _ => self.available_in_group(pool).count() as u32,
        }
    }

    /// Whether Cluster Autoscaler can take over replacements of other pools of the NodeGroup.
    pub(in crate::fleet) fn has_other_replacements(&self, pool: &Pool) -> bool {
        self.available_in_group(pool).any(|replacement| replacement.pool != pool.id)
    }

    /// The replacements that an increase of the pool by `delta` takes over, the oldest first.
    pub(in crate::fleet) fn next_replacements(&self, pool: &Pool, delta: u32) -> Vec<Machine> {
        let mut replacements: Vec<&Machine> = self.replacements_to_take_over(pool).collect();
        replacements.sort_unstable_by_key(|replacement| (replacement.created_at, &replacement.id));
        replacements.into_iter().take(delta as usize).cloned().collect()
    }

    /// The replacements of the pool that Cluster Autoscaler can take over.
    fn replacements_to_take_over<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a Machine> {
        self.available_in_group(pool).filter(|replacement| replacement.pool == pool.id)
    }

    /// Replacements of the pool's NodeGroup that do not run yet, although the drain of the machine that they replace has
    /// begun: its pods are pending. They are in the target size and in every count.
    fn available_in_group<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a Machine> {
        let can_grow = self.group(pool).is_some_and(|group| group.deletion.is_none());
        let ending = self.replacements.iter().filter(move |(replaced, _)| {
            can_grow && self.machines.get(*replaced).is_none_or(|replaced| !replaced.counts())
        });
        let replacements = ending.flat_map(|(_, ids)| ids).filter_map(|id| self.machines.get(id));
        replacements.filter(|replacement| {
            replacement.is_coming_replacement() && replacement.pool.node_group == pool.id.node_group
        })
    }
}
