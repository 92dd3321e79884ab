//! Shortages of every offer that a NodeGroup has in a datacenter.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::observations::Shortness;
use crate::catalog::{CapacityType, DatacenterId};
use crate::fleet::ids::{NodeGroupName, PoolId};
use crate::fleet::state::Fleet;

impl Fleet {
    /// Derives the shortages again.
    pub(in crate::fleet) fn note_short_datacenters(&mut self, now: Timestamp) {
        let mut short: HashMap<NodeGroupName, BTreeMap<DatacenterId, Shortness>> = HashMap::new();
        for (group, datacenters) in &self.datacenters.pools {
            for (datacenter, pools) in datacenters {
                if let Some(shortness) = self.shortness(pools, now) {
                    short.entry(group.clone()).or_default().insert(datacenter.clone(), shortness);
                }
            }
        }
        if self.transient.datacenters.short != short {
            self.transient.datacenters.short = short;
        }
    }

    /// The shortage of the on-demand pools of a NodeGroup in a datacenter, if all have one.
    fn shortness(&self, pools: &[PoolId], now: Timestamp) -> Option<Shortness> {
        let mut last: Option<Timestamp> = None;
        let mut all_active = true;
        for id in pools.iter().filter(|id| id.capacity_type == CapacityType::OnDemand) {
            let pool = self.pool(&id.to_string())?;
            let stockout = self.shortages.last_stockout(&id.class(pool.offer.size), now)?;
            last = last.max(Some(stockout.at));
            all_active &= stockout.is_active;
        }
        let since = last?;
        Some(if all_active { Shortness::Short } else { Shortness::Trial { since } })
    }
}
