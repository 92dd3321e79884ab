//! The maximum share of spot machines in a NodeGroup, as a limit of its pools: it limits growth, and deletions
//! of on-demand machines. No machine is deleted because of it. On-demand machines with a notice do not count for growth
//! and deletions: spot machines must be within the share of the machines that stay.

use super::counts::CapacityCounts;
use super::policy::SpotPolicy;
use crate::catalog::CapacityType;
use crate::fleet::group::NodeGroup;
use crate::fleet::ids::NodeGroupName;
use crate::fleet::refusal::Refusal;
use crate::fleet::state::{Fleet, Pool};

impl Fleet {
    pub(super) fn capacity_counts(&self, group: &NodeGroupName) -> CapacityCounts {
        self.capacity_counts.get(group).copied().unwrap_or_default()
    }

    /// Share of spot machines in the NodeGroup, 0 to 1.
    pub fn spot_share(&self, group: &NodeGroupName) -> f64 {
        let CapacityCounts { spot, on_demand, .. } = self.capacity_counts(group);
        f64::from(spot) / f64::from((spot + on_demand).max(1))
    }

    /// The spot policy of a NodeGroup. None while it has no spot machines, and the catalog no spot offer for it.
    fn spot_policy(&self, group: &NodeGroup) -> Option<SpotPolicy> {
        group.spot.filter(|_| self.has_spot_offer(&group.name) || self.capacity_counts(&group.name).spot > 0)
    }

    /// Headroom of the pool under the spot policy of its NodeGroup.
    pub(in crate::fleet) fn spot_headroom(&self, group: &NodeGroup, pool: &Pool) -> u32 {
        self.share_headroom(group, pool).min(self.spot_class_headroom(group, pool))
    }

    /// Headroom of the spot pool's class. Unlimited for an on-demand pool.
    pub(in crate::fleet) fn spot_class_headroom(&self, group: &NodeGroup, pool: &Pool) -> u32 {
        match (self.spot_policy(group), pool.id.capacity_type) {
            (Some(policy), CapacityType::Spot) => self.class_headroom(pool, &policy).0,
            _ => u32::MAX,
        }
    }

    /// Headroom of the pools of one capacity type together under the spot policy of the NodeGroup.
    pub(in crate::fleet) fn share_headroom(&self, group: &NodeGroup, pool: &Pool) -> u32 {
        let Some(policy) = self.spot_policy(group) else { return u32::MAX };
        let counts = self.capacity_counts(&group.name);
        let spot = counts.spot;
        let on_demand = counts.staying_on_demand();
        match pool.id.capacity_type {
            CapacityType::Spot => policy.max_share.headroom(spot, on_demand),
            CapacityType::OnDemand if policy.on_demand_fallback => u32::MAX,
            CapacityType::OnDemand => {
                policy.max_share.min_on_demand(spot.saturating_add(1)).saturating_sub(on_demand)
            }
        }
    }

    /// Number of the pool's machines that can be removed within the maximum share of spot machines.
    pub(in crate::fleet) fn removable_within_share(&self, group: &NodeGroup, pool: &Pool) -> u32 {
        match (self.spot_policy(group), pool.id.capacity_type) {
            (Some(policy), CapacityType::OnDemand) if group.deletion.is_none() => {
                let counts = self.capacity_counts(&group.name);
                counts.staying_on_demand().saturating_sub(policy.max_share.min_on_demand(counts.spot))
            }
            _ => u32::MAX,
        }
    }

    /// Number of on-demand machines that the NodeGroup lacks for its spot machines.
    pub(in crate::fleet) fn on_demand_shortfall(&self, group: &NodeGroup) -> u32 {
        let Some(policy) = self.spot_policy(group).filter(|_| group.deletion.is_none()) else { return 0 };
        let CapacityCounts { spot, on_demand, .. } = self.capacity_counts(&group.name);
        match policy.max_share.min_on_demand(spot) {
            u32::MAX => 0,
            required => required.saturating_sub(on_demand),
        }
    }

    /// Refuses growth beyond the headroom of the spot policy.
    pub(in crate::fleet) fn check_spot_policy(
        &self,
        group: &NodeGroup,
        pool: &Pool,
        delta: u32,
    ) -> Result<(), Refusal> {
        let Some(policy) = self.spot_policy(group) else { return Ok(()) };
        if self.spot_headroom(group, pool) >= delta {
            return Ok(());
        }
        if pool.id.capacity_type == CapacityType::Spot
            && let (headroom, Some(block)) = self.class_headroom(pool, &policy)
            && headroom < delta
        {
            return Err(Refusal::SpotUnavailable { pool: pool.id.clone(), delta, block });
        }
        let counts = self.capacity_counts(&group.name);
        let spot = counts.spot;
        let on_demand = counts.staying_on_demand();
        let pool = pool.id.clone();
        let percent = policy.max_share.percent();
        Err(match pool.capacity_type {
            CapacityType::Spot => Refusal::AboveSpotShare { pool, delta, spot, on_demand, percent },
            CapacityType::OnDemand => Refusal::FallbackDisabled { pool, delta, spot, on_demand, percent },
        })
    }

    /// Refuses deletions of healthy nodes after which the share of spot machines would exceed its maximum.
    pub(in crate::fleet) fn check_share_after_deletion(
        &self,
        pool: &Pool,
        healthy: u32,
    ) -> Result<(), Refusal> {
        let Some(group) = self.group(pool) else { return Ok(()) };
        if self.removable_within_share(group, pool) >= healthy {
            return Ok(());
        }
        let counts = self.capacity_counts(&group.name);
        let spot = counts.spot;
        let on_demand = counts.staying_on_demand();
        let percent = group.spot.map_or(0, |policy| policy.max_share.percent());
        Err(Refusal::NeededForSpotShare { pool: pool.id.clone(), healthy, spot, on_demand, percent })
    }
}
