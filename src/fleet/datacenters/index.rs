//! The part of the fleet's state about datacenters.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::counts::{DatacenterCounts, MachinesByCreation};
use super::history::DatacenterHistory;
use crate::catalog::DatacenterId;
use crate::fleet::ids::{NodeGroupName, PoolId};
use crate::fleet::machine::{Machine, Phase};

/// Datacenters in the fleet: their record, and state derived from other records and the declarations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::fleet) struct Datacenters {
    /// The record of their health.
    pub(in crate::fleet) history: DatacenterHistory,
    /// Machines of each NodeGroup by datacenter.
    pub(in crate::fleet) counts: HashMap<NodeGroupName, BTreeMap<DatacenterId, DatacenterCounts>>,
    /// Pending and Creating machines.
    pub(in crate::fleet) joining: MachinesByCreation,
    /// Running machines.
    pub(in crate::fleet) running: MachinesByCreation,
    /// Datacenters of distributions.
    pub(in crate::fleet) declared: BTreeSet<DatacenterId>,
    /// These, and others that lost their distribution and still have machines. Only they have a health.
    pub(in crate::fleet) watched: BTreeSet<DatacenterId>,
    /// Growable pools of NodeGroups with a distribution, in the order of the NodeGroup.
    pub(in crate::fleet) pools: HashMap<NodeGroupName, BTreeMap<DatacenterId, Vec<PoolId>>>,
}

impl Datacenters {
    /// Adds the machine to the counts, or subtracts it.
    pub(in crate::fleet) fn count(&mut self, machine: &Machine, more: bool) {
        let group = self.counts.entry(machine.pool.node_group.clone()).or_default();
        group.entry(machine.pool.datacenter.clone()).or_default().count(machine, more);
        match machine.phase {
            Phase::Pending | Phase::Creating { .. } => self.joining.count(machine, more),
            Phase::Running { .. } => self.running.count(machine, more),
            Phase::Failed { .. } | Phase::Deleting { .. } => {}
        }
    }
}
