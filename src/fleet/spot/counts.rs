//! Machines of a NodeGroup by capacity type.

use crate::catalog::CapacityType;
use crate::fleet::machine::{Machine, Phase};

/// Machines of a NodeGroup that are not Deleting, by capacity type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::fleet) struct CapacityCounts {
    /// Spot machines, with Failed ones.
    pub(in crate::fleet) spot: u32,
    /// On-demand machines without Failed ones, which are deleted soon.
    pub(in crate::fleet) on_demand: u32,
}

impl CapacityCounts {
    /// Adds the machine, or subtracts it.
    pub(in crate::fleet) fn count(&mut self, machine: &Machine, more: bool) {
        if !machine.counts() {
            return;
        }
        let count = match machine.pool.capacity_type {
            CapacityType::Spot => &mut self.spot,
            CapacityType::OnDemand if matches!(machine.phase, Phase::Failed { .. }) => return,
            CapacityType::OnDemand => &mut self.on_demand,
        };
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
    }
}
