//! Adoption of existing workers, for NodeGroups that opt in.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::command::Names;
use super::ids::PoolId;
use super::listing::{ListedNode, NodeRole};
use super::machine::{Machine, Phase, Vm};
use super::record::{Change, UnmanagedKind};
use super::state::Fleet;
use crate::catalog::MachineClass;

impl Fleet {
    /// Makes machines of foreign workers, for NodeGroups with `adopt`. A worker is adopted if its class
    /// belongs to exactly one such NodeGroup with headroom below its maximum. Adopted machines are drained
    /// and deleted like others.
    pub fn adopt_workers(&mut self, nodes: &[ListedNode], now: Timestamp, names: Names<'_>) -> Vec<Change> {
        let mut changes = Vec::new();
        let adopting_pools = self.adopting_pools();
        if adopting_pools.is_empty() {
            return changes;
        }
        for node in nodes.iter().filter(|node| node.role == NodeRole::Worker && node.id.is_some()) {
            // A worker whose capacity type VPSie does not show is adopted as on demand.
            let capacity_type = node.capacity_type.unwrap_or_default();
            let can_be = |class: &MachineClass| {
                node.size.is_some() && node.can_be(class) && class.capacity_type == capacity_type
            };
            let mut fits = adopting_pools.iter().filter(|(class, _)| can_be(class));
            let (Some((class, Some(pool))), None) = (fits.next(), fits.next()) else { continue };
            let foreign =
                self.unmanaged.get(&node.hostname).is_some_and(|s| s.kind == UnmanagedKind::Foreign);
            if !foreign || self.adoption_headroom(pool, node) == 0 {
                continue;
            }
            let machine = Machine {
                id: self.unused_name(&pool.node_group, names),
                pool: pool.clone(),
                size: class.size,
                created_at: now,
                // Running once its Node registered.
                phase: Phase::Creating { vm: Some(Vm::listed(node)), since: now },
                requests: Vec::new(),
                notice: None,
                replaces: None,
            };
            self.push_change(&mut changes, Change::SaveMachine(machine));
            self.push_change(&mut changes, Change::DropUnmanaged(node.hostname.clone()));
        }
        changes
    }

    /// The pool that adopts workers of a class. None if several NodeGroups would: they share a VPSie group,
    /// so the NodeGroup of a worker is unknown.
    fn adopting_pools(&self) -> BTreeMap<MachineClass, Option<PoolId>> {
        let mut adopting_pools: BTreeMap<MachineClass, Option<PoolId>> = BTreeMap::new();
        for group in self.groups.values().filter(|group| group.adopt) {
            for id in &group.pools {
                let Some(pool) = self.pool(&id.to_string()).filter(|pool| pool.growable) else { continue };
                let taker =
                    adopting_pools.entry(id.class(pool.offer.size)).or_insert_with(|| Some(id.clone()));
                if taker.as_ref().is_some_and(|first| first.node_group != id.node_group) {
                    *taker = None;
                }
            }
        }
        adopting_pools
    }

    /// Number of workers that may be adopted. A worker that counts as paid for already takes no additional
    /// headroom.
    fn adoption_headroom(&self, pool: &PoolId, node: &ListedNode) -> u32 {
        let Some(group) = self.groups.get(&pool.node_group) else { return 0 };
        let headroom = self.headroom(group);
        let counted = self.unmanaged.get(&node.hostname).is_some_and(|s| s.awaited_by.is_some());
        let paid = headroom.paid.saturating_add(u32::from(counted));
        let spot = self.pool(&pool.to_string()).map_or(0, |pool| self.spot_headroom(group, pool));
        headroom.group.min(headroom.cluster).min(paid).min(spot)
    }
}
