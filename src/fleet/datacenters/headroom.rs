//! Headroom, minimums and refusals by datacenter.

use std::collections::BTreeMap;

use super::block::DatacenterBlock;
use super::breaker::DatacenterState;
use super::counts::DatacenterCounts;
use super::distribution::{Capacity, DatacenterStrategy, Distribution};
use super::index::Datacenters;
use super::observations::Shortness;
use crate::catalog::DatacenterId;
use crate::fleet::group::NodeGroup;
use crate::fleet::ids::{NodeGroupName, PoolId};
use crate::fleet::refusal::Refusal;
use crate::fleet::state::{Fleet, Pool};

impl Fleet {
    /// The present situation of each datacenter of the distribution.
    pub(in crate::fleet) fn capacities(
        &self,
        group: &NodeGroup,
        distribution: &Distribution,
    ) -> Vec<Capacity> {
        let with_limits = |limit: &dyn Fn(&DatacenterId, usize) -> u32| -> Vec<Capacity> {
            let datacenters = distribution.datacenters.iter().enumerate();
            let capacity = |(at, datacenter): (usize, &DatacenterId)| Capacity {
                machines: self.machines_in(&group.name, datacenter),
                limit: limit(datacenter, at),
                minimum: distribution.minimum(at),
            };
            datacenters.map(capacity).collect()
        };
        let limit = |datacenter: &DatacenterId, at: usize| {
            if distribution.weight(at) == 0
                || !self.has_growable_pool(&group.name, datacenter)
                || self.stopped_payload(&group.name, datacenter).is_some()
            {
                return 0;
            }
            self.health_limit(datacenter)
        };
        let short = self.transient.datacenters.short.get(&group.name);
        let limit_if_short = |datacenter: &DatacenterId, at: usize| {
            limit(datacenter, at).min(self.shortage_limit(short, datacenter))
        };
        let capacities = with_limits(&limit_if_short);
        // If every datacenter is short, the shortages do not move the headroom.
        if capacities.iter().any(|capacity| capacity.limit > 0) { capacities } else { with_limits(&limit) }
    }

    fn shortage_limit(
        &self,
        short: Option<&BTreeMap<DatacenterId, Shortness>>,
        datacenter: &DatacenterId,
    ) -> u32 {
        match short.and_then(|short| short.get(datacenter)) {
            None => u32::MAX,
            Some(Shortness::Short) => 0,
            Some(Shortness::Trial { since }) => {
                1_u32.saturating_sub(self.datacenters.joining.count_since(datacenter, *since))
            }
        }
    }

    /// Number of machines that the health of the datacenter allows to add.
    pub(in crate::fleet) fn health_limit(&self, datacenter: &DatacenterId) -> u32 {
        match self.datacenters.history.state(datacenter) {
            DatacenterState::Closed { .. } => u32::MAX,
            DatacenterState::Open { .. } => 0,
            DatacenterState::HalfOpen { since } => {
                // A Running machine is tried as well: its Node is not Ready, because that would close the breaker.
                let Datacenters { joining, running, .. } = &self.datacenters;
                let tried = joining.count_since(datacenter, since) + running.count_since(datacenter, since);
                1_u32.saturating_sub(tried)
            }
        }
    }

    /// Machines of the NodeGroup in the datacenter that are neither Deleting nor Failed.
    pub(super) fn machines_in(&self, group: &NodeGroupName, datacenter: &DatacenterId) -> u32 {
        self.counts_in(group, datacenter).machines
    }

    fn counts_in(&self, group: &NodeGroupName, datacenter: &DatacenterId) -> DatacenterCounts {
        let counts = self.datacenters.counts.get(group).and_then(|counts| counts.get(datacenter));
        counts.copied().unwrap_or_default()
    }

    fn has_growable_pool(&self, group: &NodeGroupName, datacenter: &DatacenterId) -> bool {
        self.growable_pools_in(group, datacenter).next().is_some()
    }

    /// Growable pools of the NodeGroup in the datacenter, in its order.
    pub(in crate::fleet) fn growable_pools_in(
        &self,
        group: &NodeGroupName,
        datacenter: &DatacenterId,
    ) -> impl Iterator<Item = &PoolId> + Clone {
        let pools = self.datacenters.pools.get(group).and_then(|pools| pools.get(datacenter));
        pools.map_or(&[][..], Vec::as_slice).iter()
    }

    /// The part of `headroom` that belongs to the pool's datacenter. `headroom` is the pool's under all other limits,
    /// `capacities` are those of its NodeGroup.
    pub(in crate::fleet) fn datacenter_headroom(
        &self,
        group: &NodeGroup,
        pool: &Pool,
        capacities: &[Capacity],
        headroom: u32,
    ) -> u32 {
        let healthy = headroom.min(self.health_limit(&pool.id.datacenter));
        let Some(distribution) = group.distribution.as_ref().filter(|_| healthy > 0) else { return healthy };
        let Some(at) = distribution.position(&pool.id.datacenter) else { return 0 };
        distribution.divide(capacities, headroom)[at]
    }

    /// Number of the pool's machines that can be removed within the minimum and the skew of its datacenter. All, unless its
    /// circuit breaker is closed: Cluster Autoscaler removes no dead machine at a minimum.
    pub(in crate::fleet) fn removable_in_datacenter(&self, group: &NodeGroup, pool: &Pool) -> u32 {
        let Some(distribution) = group.distribution.as_ref().filter(|_| group.deletion.is_none()) else {
            return u32::MAX;
        };
        let Some(at) = distribution.position(&pool.id.datacenter) else { return u32::MAX };
        let machines = |datacenter: &DatacenterId| self.machines_in(&group.name, datacenter);
        let total = distribution.datacenters.iter().map(machines).sum();
        self.removable_above(group, &pool.id.datacenter, distribution.floor(at, total))
    }

    /// Number of machines that can be removed from the datacenter above a floor. Only Running machines count towards the floor,
    /// so that it keeps no machine that never joins.
    fn removable_above(&self, group: &NodeGroup, datacenter: &DatacenterId, floor: u32) -> u32 {
        if !self.datacenters.history.state(datacenter).is_closed() {
            return u32::MAX;
        }
        let counts = self.counts_in(&group.name, datacenter);
        counts.machines.saturating_sub(floor.min(counts.running))
    }

    /// Number of machines below the minimum of the datacenter that its health allows to add: none while its circuit breaker is
    /// open, one while it is half-open.
    pub(in crate::fleet) fn datacenter_shortfall(&self, group: &NodeGroup, datacenter: &DatacenterId) -> u32 {
        let Some(distribution) = group.distribution.as_ref().filter(|_| group.deletion.is_none()) else {
            return 0;
        };
        let Some(at) = distribution.position(datacenter) else { return 0 };
        let lacking = distribution.minimum(at).saturating_sub(self.machines_in(&group.name, datacenter));
        match self.datacenters.history.state(datacenter) {
            DatacenterState::Closed { .. } => lacking,
            DatacenterState::Open { .. } => 0,
            DatacenterState::HalfOpen { .. } => lacking.min(1),
        }
    }

    /// The reason why the datacenter cannot add `delta` machines. Parts of the headroom are no reason: a view of Cluster
    /// Autoscaler can be some seconds old, and a refusal would cost it a backoff of five minutes.
    fn datacenter_block(&self, group: &NodeGroup, pool: &Pool, delta: u32) -> Option<DatacenterBlock> {
        let datacenter = &pool.id.datacenter;
        if self.health_limit(datacenter) < delta {
            let breaker = self.datacenters.history.breaker(datacenter);
            return Some(match breaker.state {
                DatacenterState::Open { until, .. } => DatacenterBlock::Open { outage: breaker.last, until },
                DatacenterState::Closed { .. } | DatacenterState::HalfOpen { .. } => {
                    DatacenterBlock::HalfOpen
                }
            });
        }
        let distribution = group.distribution.as_ref()?;
        let at = distribution.position(datacenter)?;
        if distribution.weight(at) == 0 {
            return Some(DatacenterBlock::NoWeight);
        }
        if distribution.strategy != DatacenterStrategy::PrimaryBackup
            || self.datacenter_shortfall(group, datacenter) >= delta
        {
            return None;
        }
        let capacities = self.capacities(group, distribution);
        let primary = capacities[..at].iter().position(|capacity| capacity.limit == u32::MAX)?;
        Some(DatacenterBlock::Backup { primary: distribution.datacenters[primary].clone() })
    }

    /// Refuses growth that the health of the datacenter, or its place in the distribution, does not allow.
    pub(in crate::fleet) fn check_datacenter(
        &self,
        group: &NodeGroup,
        pool: &Pool,
        delta: u32,
    ) -> Result<(), Refusal> {
        match self.datacenter_block(group, pool, delta) {
            None => Ok(()),
            Some(block) => Err(Refusal::DatacenterUnavailable { pool: pool.id.clone(), delta, block }),
        }
    }

    /// Refuses deletions of healthy nodes below the minimum of their datacenter. In a suspect datacenter, all deletions are
    /// carried out.
    pub(in crate::fleet) fn check_datacenter_minimum(
        &self,
        pool: &Pool,
        deleted: u32,
        healthy: u32,
    ) -> Result<(), Refusal> {
        let Some(group) = self.group(pool).filter(|group| group.deletion.is_none()) else { return Ok(()) };
        let datacenter = &pool.id.datacenter;
        let Some(distribution) = &group.distribution else { return Ok(()) };
        let Some(at) = distribution.position(datacenter) else { return Ok(()) };
        let minimum = distribution.minimum(at);
        if healthy == 0 || deleted <= self.removable_above(group, datacenter, minimum) {
            return Ok(());
        }
        let machines = self.machines_in(&group.name, datacenter);
        Err(Refusal::BelowDatacenterMin { pool: pool.id.clone(), healthy, machines, minimum })
    }

    /// Fraction of the price that is charged for a machine of the pool because the next machine of the NodeGroup belongs in
    /// another datacenter.
    pub fn placement_charge(&self, pool: &Pool) -> f64 {
        let charge = || {
            let group = self.group(pool)?;
            let distribution = group.distribution.as_ref()?;
            let at = distribution.position(&pool.id.datacenter)?;
            let capacities = self.capacities(group, distribution);
            let parts = distribution.divide(&capacities, self.headroom(group).minimum());
            let is_next = distribution.is_next(at, &capacities, &parts);
            (!is_next).then(|| f64::from(distribution.max_price_difference) / 100.0)
        };
        charge().unwrap_or(0.0)
    }
}
