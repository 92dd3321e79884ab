//! The state of the datacenters of a NodeGroup, for its status and metrics.

use super::breaker::DatacenterBreaker;
use crate::catalog::DatacenterId;
use crate::fleet::ids::{NodeGroupName, PoolId};
use crate::fleet::state::Fleet;

/// A datacenter of a NodeGroup with a distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatacenterReport {
    /// The datacenter.
    pub datacenter: DatacenterId,
    /// Machines that are neither Deleting nor Failed.
    pub machines: u32,
    /// Running machines.
    pub running: u32,
    /// Declared minimum of machines.
    pub minimum: u32,
    /// Its circuit breaker.
    pub breaker: DatacenterBreaker,
    /// Whether all offers of the NodeGroup are or were recently short there, and no VM has ended the shortage.
    pub is_short: bool,
}

impl DatacenterReport {
    /// Number of machines below its minimum.
    pub fn shortfall(&self) -> u32 {
        self.minimum.saturating_sub(self.machines)
    }
}

impl Fleet {
    /// The first growable pool in the datacenter of each NodeGroup with a distribution.
    pub fn first_pools_in(&self, datacenter: &DatacenterId) -> impl Iterator<Item = &PoolId> {
        self.groups.keys().filter_map(|group| self.growable_pools_in(group, datacenter).next())
    }

    /// The datacenters of the NodeGroup, in its order. Empty if it has no distribution.
    pub fn datacenter_reports(&self, name: &NodeGroupName) -> Vec<DatacenterReport> {
        let Some(distribution) = self.node_group(name).and_then(|group| group.distribution.as_ref()) else {
            return Vec::new();
        };
        let counts = self.datacenters.counts.get(name);
        let short = self.transient.datacenters.short.get(name);
        let report = |(at, datacenter): (usize, &DatacenterId)| {
            let counts = counts.and_then(|counts| counts.get(datacenter)).copied().unwrap_or_default();
            DatacenterReport {
                datacenter: datacenter.clone(),
                machines: counts.machines,
                running: counts.running,
                minimum: distribution.minimum(at),
                breaker: self.datacenters.history.breaker(datacenter),
                is_short: short.is_some_and(|short| short.contains_key(datacenter)),
            }
        };
        distribution.datacenters.iter().enumerate().map(report).collect()
    }
}
