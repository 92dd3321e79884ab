//! Size limits of pools, as Cluster Autoscaler gets them.

use std::collections::HashMap;

use super::datacenters::{Capacity, Distribution};
use super::group::NodeGroup;
use super::ids::{NodeGroupName, PoolId};
use super::state::{Fleet, Pool};
use crate::catalog::CapacityType;

/// Size limits and target size of a pool, as reported to Cluster Autoscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `minSize`.
    pub min: u32,
    /// `maxSize`.
    pub max: u32,
    /// Target size: machines that are not Deleting (invariant 1).
    pub target: u32,
}

/// The limits of many pools. What the pools of a NodeGroup share is computed once.
pub struct PoolLimits<'a> {
    fleet: &'a Fleet,
    groups: HashMap<&'a NodeGroupName, SharedLimits<'a>>,
}

impl<'a> PoolLimits<'a> {
    /// The limits of a pool of the fleet.
    pub fn of(&mut self, pool: &'a Pool) -> Limits {
        let Some(group) = self.fleet.group(pool) else { return self.fleet.undeclared_limits(pool) };
        let shared = || SharedLimits::new(self.fleet, group);
        self.groups.entry(&pool.id.node_group).or_insert_with(shared).of(self.fleet, pool)
    }

    /// The fleet.
    pub(super) fn fleet(&self) -> &'a Fleet {
        self.fleet
    }
}

impl Fleet {
    /// The limits of pools, for a reply about many of them.
    pub fn pool_limits(&self) -> PoolLimits<'_> {
        PoolLimits { fleet: self, groups: HashMap::new() }
    }

    /// Size limits and target size of a pool. Limits hold for the NodeGroup over all its pools, so each pool
    /// may grow or shrink by the rest that the NodeGroup allows.
    ///
    /// The maximum includes replacements that Cluster Autoscaler can take over: it adds nodes up to the maximum, and
    /// they are in the target size already. If several pools of a NodeGroup have some, each of them can add only its own:
    /// Cluster Autoscaler uses one pool in a loop, and would add nodes for which the other pools have replacements.
    ///
    /// Below the NodeGroup's minimum no pool may shrink, and the first pool with headroom carries the shortfall
    /// (for `--enforce-node-group-min-size`). With several datacenters, one pool in each carries a part.
    pub fn limits(&self, pool: &Pool) -> Limits {
        match self.group(pool) {
            Some(group) => SharedLimits::new(self, group).of(self, pool),
            None => self.undeclared_limits(pool),
        }
    }

    fn undeclared_limits(&self, pool: &Pool) -> Limits {
        let target = pool.target;
        let min = if self.lacks_spec(&pool.id.node_group) { target } else { 0 };
        Limits { min, max: target, target }
    }

    /// Headroom of the pool under all limits.
    pub(super) fn pool_headroom(&self, group: &NodeGroup, pool: &Pool) -> u32 {
        SharedHeadroom::new(self, group).of(self, pool)
    }
}

/// Headroom that the pools of a NodeGroup share.
struct SharedHeadroom<'a> {
    group: &'a NodeGroup,
    headroom: u32,
    capacities: Vec<Capacity>,
}

impl<'a> SharedHeadroom<'a> {
    fn new(fleet: &Fleet, group: &'a NodeGroup) -> Self {
        let capacities = |distribution| fleet.capacities(group, distribution);
        Self {
            group,
            headroom: fleet.headroom(group).minimum(),
            capacities: group.distribution.as_ref().map(capacities).unwrap_or_default(),
        }
    }

    fn of(&self, fleet: &Fleet, pool: &Pool) -> u32 {
        if !pool.growable || fleet.limits_unknown.is_some() || fleet.payload_problem_of(&pool.id).is_some() {
            return 0;
        }
        let group = self.group;
        let headroom =
            self.headroom.min(fleet.affordable(group, pool)).min(fleet.share_headroom(group, pool));
        // Limits of one pool come last: they must not reduce the parts of other datacenters.
        fleet
            .datacenter_headroom(group, pool, &self.capacities, headroom)
            .min(fleet.spot_class_headroom(group, pool))
    }
}

/// What the pools of a NodeGroup share in their limits.
struct SharedLimits<'a> {
    headroom: SharedHeadroom<'a>,
    /// Machines that can be removed within the minimum of the NodeGroup.
    above_min: u32,
    /// The shortfalls that pools add to their minimums. Usually none.
    carried: HashMap<&'a PoolId, u32>,
}

impl<'a> SharedLimits<'a> {
    fn new(fleet: &'a Fleet, group: &'a NodeGroup) -> Self {
        let target = fleet.target_of(&group.name);
        let mut limits = Self {
            headroom: SharedHeadroom::new(fleet, group),
            above_min: target.saturating_sub(group.minimum()),
            carried: HashMap::new(),
        };
        let of_group = group.minimum().saturating_sub(target);
        match &group.distribution {
            Some(distribution) => limits.carry_in_datacenters(fleet, distribution, of_group),
            None if of_group > 0 => {
                let first = limits.first_to_grow(fleet, group.pools.iter(), None);
                limits.carry(first, of_group);
            }
            None => {}
        }
        let of_on_demand = fleet.on_demand_shortfall(group);
        if of_on_demand > 0 {
            let first = limits.first_to_grow(fleet, group.pools.iter(), Some(CapacityType::OnDemand));
            limits.carry(first, of_on_demand);
        }
        limits
    }

    /// One pool in each datacenter carries the shortfall to the minimum of the datacenter, and the part that the strategy
    /// gives the datacenter of the shortfall to the minimum of the NodeGroup.
    fn carry_in_datacenters(&mut self, fleet: &'a Fleet, distribution: &Distribution, of_group: u32) {
        let group = self.headroom.group;
        let datacenters = || distribution.datacenters.iter();
        let own: Vec<u32> = datacenters().map(|at| fleet.datacenter_shortfall(group, at)).collect();
        if of_group == 0 && own.iter().all(|shortfall| *shortfall == 0) {
            return;
        }
        let first = |at| self.first_to_grow(fleet, fleet.growable_pools_in(&group.name, at), None);
        let pools: Vec<Option<&'a PoolId>> = datacenters().map(first).collect();
        let mut capacities = self.headroom.capacities.clone();
        for (capacity, _) in capacities.iter_mut().zip(&pools).filter(|(_, pool)| pool.is_none()) {
            capacity.limit = 0;
        }
        let parts = distribution.place(&capacities, of_group);
        for ((pool, part), own) in pools.into_iter().zip(parts).zip(own) {
            self.carry(pool, part.max(own));
        }
    }

    fn carry(&mut self, pool: Option<&'a PoolId>, shortfall: u32) {
        if let Some(pool) = pool.filter(|_| shortfall > 0) {
            let carried = self.carried.entry(pool).or_default();
            *carried = shortfall.max(*carried);
        }
    }

    /// The first of these pools that has headroom; pools of the preferred offer come first.
    fn first_to_grow(
        &self,
        fleet: &Fleet,
        mut pools: impl Iterator<Item = &'a PoolId> + Clone,
        of: Option<CapacityType>,
    ) -> Option<&'a PoolId> {
        let can_carry = |id: &&PoolId| {
            of.is_none_or(|of| id.capacity_type == of)
                && fleet.pool(&id.to_string()).is_some_and(|pool| self.headroom.of(fleet, pool) > 0)
        };
        let preferred = self.headroom.group.preferred.as_ref();
        let preferred = preferred
            .and_then(|preferred| pools.clone().filter(|id| id.offer == *preferred).find(|id| can_carry(id)));
        preferred.or_else(|| pools.find(|id| can_carry(id)))
    }

    fn of(&self, fleet: &Fleet, pool: &Pool) -> Limits {
        let group = self.headroom.group;
        let target = pool.target;
        let headroom = self.headroom.of(fleet, pool);
        let removable =
            fleet.removable_within_share(group, pool).min(fleet.removable_in_datacenter(group, pool));
        let kept = target.saturating_sub(self.above_min.min(removable));
        let min = match self.carried.get(&pool.id) {
            None => kept,
            Some(shortfall) => kept.max(target + (*shortfall).min(headroom)),
        };
        let max = target
            + match fleet.available_replacements(pool) {
                0 => headroom,
                available if fleet.has_other_replacements(pool) => available,
                available => available + headroom,
            };
        Limits { min: min.min(max), max, target }
    }
}
