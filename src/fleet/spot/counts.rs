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
    /// Those of the on-demand machines that have a notice.
    leaving_on_demand: u32,
}

impl CapacityCounts {
    /// On-demand machines that stay: those without a notice.
    pub(super) fn staying_on_demand(&self) -> u32 {
        self.on_demand.saturating_sub(self.leaving_on_demand)
    }

    /// Adds the machine, or subtracts it.
    pub(in crate::fleet) fn count(&mut self, machine: &Machine, more: bool) {
        if !machine.counts() {
            return;
        }
        let change = |count: &mut u32| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        match machine.pool.capacity_type {
            CapacityType::Spot => change(&mut self.spot),
            CapacityType::OnDemand if matches!(machine.phase, Phase::Failed { .. }) => {}
            CapacityType::OnDemand => {
                change(&mut self.on_demand);
                if machine.notice.is_some() {
                    change(&mut self.leaving_on_demand);
                }
            }
        }
    }
}
