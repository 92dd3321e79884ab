//! State about datacenters that follows from the declarations and the catalog.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::catalog::DatacenterId;
use crate::fleet::ids::{NodeGroupName, PoolId};
use crate::fleet::state::Fleet;

impl Fleet {
    /// Derives the declared and watched datacenters, and the growable pools of each.
    pub(in crate::fleet) fn derive_datacenters(&mut self) {
        let mut declared = BTreeSet::new();
        let mut pools: HashMap<NodeGroupName, BTreeMap<DatacenterId, Vec<PoolId>>> = HashMap::new();
        for group in self.groups.values() {
            let Some(distribution) = &group.distribution else { continue };
            declared.extend(distribution.datacenters.iter().cloned());
            let by_datacenter = pools.entry(group.name.clone()).or_default();
            let is_growable = |id: &&PoolId| self.pool(&id.to_string()).is_some_and(|pool| pool.growable);
            for id in group.pools.iter().filter(is_growable) {
                by_datacenter.entry(id.datacenter.clone()).or_default().push(id.clone());
            }
        }
        self.datacenters.declared = declared;
        self.datacenters.pools = pools;
        self.derive_watched_datacenters();
    }

    /// Derives the watched datacenters: the declared datacenters, and the datacenters that lost their distribution and still
    /// have machines. The second kind keeps its protection against missing rows.
    pub(super) fn derive_watched_datacenters(&mut self) {
        let mut watched = self.datacenters.declared.clone();
        for (group, counts) in &self.datacenters.counts {
            let is_distributed = self.groups.get(group).is_some_and(|group| group.distribution.is_some());
            let has_health = |datacenter: &DatacenterId| {
                is_distributed || self.datacenters.history.0.contains_key(datacenter)
            };
            let with_machines = counts.iter().filter(|(_, counts)| counts.machines > 0);
            watched.extend(with_machines.map(|(at, _)| at).filter(|at| has_health(at)).cloned());
        }
        if self.datacenters.watched != watched {
            self.datacenters.watched = watched;
        }
    }
}
