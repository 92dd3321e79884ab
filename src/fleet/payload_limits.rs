//! Growth that the payloads of NodeGroups allow.

use std::collections::BTreeSet;

use super::ids::{NodeGroupName, PoolId};
use super::payloads::PayloadFindings;
use super::state::Fleet;
use crate::catalog::DatacenterId;

impl Fleet {
    /// Sets what is known of payloads.
    pub fn set_payload_findings(&mut self, findings: PayloadFindings) {
        self.transient.payloads = findings;
    }

    /// Whether this is what is known of payloads.
    pub fn has_payload_findings(&self, findings: &PayloadFindings) -> bool {
        self.transient.payloads == *findings
    }

    /// The problem of the payload of the NodeGroup. While it has one, it adds no machines.
    pub fn payload_problem(&self, group: &NodeGroupName) -> Option<&str> {
        self.transient.payloads.problems.get(group).map(AsRef::as_ref)
    }

    /// The datacenters in which the NodeGroup adds no machines because its payload never joins there, with the reason.
    pub fn stopped_datacenters(
        &self,
        group: &NodeGroupName,
    ) -> impl Iterator<Item = (&DatacenterId, &str)> + use<'_> {
        let stopped = self.transient.payloads.stopped.get(group);
        stopped.into_iter().flatten().map(|(datacenter, why)| (datacenter, why.as_ref()))
    }

    /// The problem of the payload in the datacenter of the pool.
    pub(super) fn payload_problem_of(&self, pool: &PoolId) -> Option<&str> {
        self.payload_problem(&pool.node_group)
            .or_else(|| self.stopped_payload(&pool.node_group, &pool.datacenter))
    }

    /// The reason if the payload of the NodeGroup is stopped in the datacenter.
    pub(super) fn stopped_payload(&self, group: &NodeGroupName, datacenter: &DatacenterId) -> Option<&str> {
        let stopped = self.transient.payloads.stopped.get(group)?;
        stopped.get(datacenter).map(AsRef::as_ref)
    }

    /// The datacenters with a pool of the NodeGroup that can grow by the declarations and the catalog.
    pub fn growable_datacenters(&self, group: &NodeGroupName) -> BTreeSet<&DatacenterId> {
        let Some(group) = self.node_group(group) else { return BTreeSet::new() };
        let can_grow = |id: &&PoolId| {
            self.pool(&id.to_string()).is_some_and(|pool| pool.growable)
                && group
                    .distribution
                    .as_ref()
                    .is_none_or(|distribution| distribution.can_grow(&id.datacenter))
        };
        group.pools.iter().filter(can_grow).map(|id| &id.datacenter).collect()
    }
}
