//! Check of derived state against the records.

use std::collections::{BTreeMap, BTreeSet};

use super::datacenters::{DatacenterCounts, Datacenters};
use super::record::UnmanagedKind;
use super::spot::CapacityCounts;
use super::state::Fleet;

impl Fleet {
    /// Checks that derived state agrees with the records; the error names the first difference. For tests.
    #[doc(hidden)]
    pub fn check_consistency(&self) -> Result<(), String> {
        for pool in self.pools.values() {
            let members: BTreeSet<_> =
                self.machines.values().filter(|m| m.pool == pool.id).map(|m| m.id.clone()).collect();
            let target = members.iter().filter(|id| self.machines[*id].counts()).count();
            if members != pool.members || target != pool.target as usize {
                return Err(format!(
                    "pool {}: target {} but {target} machines count",
                    pool.text, pool.target
                ));
            }
            if pool.template.allocatable.cpu_millis == 0 || pool.template.labels.is_empty() {
                return Err(format!("pool {}: empty template", pool.text));
            }
        }
        for machine in self.machines.values() {
            if !self.pools.contains_key(machine.pool.to_string().as_str()) {
                return Err(format!("machine {}: its pool {} does not exist", machine.id, machine.pool));
            }
            let Some(vm) = machine.vm() else { continue };
            if self.machine_by_hostname(&vm.hostname).map(|m| &m.id) != Some(&machine.id) {
                return Err(format!("VM {} is bound twice", vm.hostname));
            }
            // An interrupted write may leave the record of an orphan or of a gone VM beside the machine's
            // record until the next listing. A foreign VM never belongs to a machine.
            if self.unmanaged.get(&vm.hostname).is_some_and(|s| s.kind == UnmanagedKind::Foreign) {
                return Err(format!("VM {} belongs to a machine and is foreign", vm.hostname));
            }
        }
        for (group, cost) in self.costs() {
            if self.group_cost(&group) != cost {
                return Err(format!("NodeGroup {group}: costs {cost}, recorded {}", self.group_cost(&group)));
            }
        }
        if self.extra_vms != self.count_extra_vms() {
            return Err(format!("extra VMs {:?}, recorded {:?}", self.count_extra_vms(), self.extra_vms));
        }
        let mut replacements: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (replaced, machine) in self.machines.values().filter_map(|m| Some((m.replaces.clone()?, m))) {
            replacements.entry(replaced).or_default().insert(machine.id.clone());
        }
        if replacements != self.replacements {
            return Err(format!("replacements {replacements:?}, recorded {:?}", self.replacements));
        }
        for (group, target) in &self.group_targets {
            let sum: u32 = self.pools.values().filter(|p| p.id.node_group == *group).map(|p| p.target).sum();
            if sum != *target {
                return Err(format!("NodeGroup {group}: target {target}, its pools have {sum}"));
            }
        }
        for (group, counts) in &self.capacity_counts {
            let mut counted = CapacityCounts::default();
            let machines = self.machines.values().filter(|machine| machine.pool.node_group == *group);
            machines.for_each(|machine| counted.count(machine, true));
            if counted != *counts {
                return Err(format!("NodeGroup {group}: {counts:?}, its machines are {counted:?}"));
            }
        }
        let mut datacenters = Datacenters::default();
        self.machines.values().for_each(|machine| datacenters.count(machine, true));
        let counted = |all: &Datacenters| -> BTreeMap<_, _> {
            let counts = all.counts.iter().map(|(group, counts)| {
                let mut counts = counts.clone();
                counts.retain(|_, counts| *counts != DatacenterCounts::default());
                (group.clone(), counts)
            });
            counts.filter(|(_, counts)| !counts.is_empty()).collect()
        };
        if counted(&datacenters) != counted(&self.datacenters)
            || datacenters.joining != self.datacenters.joining
        {
            return Err(format!("datacenters {:?}, its machines are {datacenters:?}", self.datacenters));
        }
        Ok(())
    }
}
