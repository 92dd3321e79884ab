//! Machines by datacenter.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::catalog::DatacenterId;
use crate::fleet::age::{TOLERANCE, age};
use crate::fleet::ids::MachineId;
use crate::fleet::machine::{Machine, Phase};

/// Machines of a NodeGroup in a datacenter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::fleet) struct DatacenterCounts {
    /// Neither Deleting nor Failed.
    pub(in crate::fleet) machines: u32,
    /// Running.
    pub(in crate::fleet) running: u32,
}

impl DatacenterCounts {
    pub(super) fn count(&mut self, machine: &Machine, more: bool) {
        let add = |count: &mut u32| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        match machine.phase {
            Phase::Pending | Phase::Creating { .. } => add(&mut self.machines),
            Phase::Running { .. } => {
                add(&mut self.machines);
                add(&mut self.running);
            }
            Phase::Failed { .. } | Phase::Deleting { .. } => {}
        }
    }
}

/// Machines of each datacenter, by the time of their creation. A machine counts twice while its record is replaced.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::fleet) struct MachinesByCreation(BTreeMap<DatacenterId, BTreeMap<(Timestamp, MachineId), u32>>);

impl MachinesByCreation {
    pub(super) fn count(&mut self, machine: &Machine, more: bool) {
        let key = (machine.created_at, machine.id.clone());
        if more {
            *self.0.entry(machine.pool.datacenter.clone()).or_default().entry(key).or_default() += 1;
        } else if let Some(machines) = self.0.get_mut(&machine.pool.datacenter) {
            match machines.get_mut(&key) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(machines.remove(&key)),
            }
            if machines.is_empty() {
                self.0.remove(&machine.pool.datacenter);
            }
        }
    }

    /// Number of machines of the datacenter that were created since then.
    pub(super) fn count_since(&self, datacenter: &DatacenterId, since: Timestamp) -> u32 {
        let Some(machines) = self.0.get(datacenter) else { return 0 };
        machines.keys().rev().take_while(|(at, _)| is_since(*at, since)).count() as u32
    }
}

/// Whether a machine was created since then, by clocks of two leaders.
pub(super) fn is_since(created_at: Timestamp, since: Timestamp) -> bool {
    age(created_at, since) < TOLERANCE
}
