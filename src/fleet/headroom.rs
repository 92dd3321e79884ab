//! Headroom of NodeGroups: the number of machines that each limit still allows.

use super::extra_vms::{ExtraVms, count_extra_vm, surge};
use super::group::NodeGroup;
use super::guard::{GuardStatus, Maxima};
use super::ids::{NodeGroupName, PoolId};
use super::record::UnmanagedNode;
use super::refusal::Refusal;
use super::state::{Fleet, Pool};
use crate::cost::UsdPerHour;

/// Number of machines that a NodeGroup may still add, by limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Headroom {
    /// Machines up to the maximum of the NodeGroup.
    pub(super) group: u32,
    /// Machines up to the maximum of the cluster.
    pub(super) cluster: u32,
    /// Machines up to the maximum of VMs that are paid for.
    pub(super) paid: u32,
    /// Machines up to the VM limit of the runaway guard.
    pub(super) guard: u32,
}

impl Headroom {
    pub(super) fn minimum(self) -> u32 {
        self.group.min(self.cluster).min(self.paid).min(self.guard)
    }
}

impl Fleet {
    /// Counts all extra VMs from the records.
    pub(super) fn count_extra_vms(&self) -> ExtraVms {
        let mut extra_vms = ExtraVms::new();
        for pool in self.machines.values().filter(|m| m.is_extra_vm()).map(|m| &m.pool) {
            count_extra_vm(&mut extra_vms, pool, true);
        }
        for pool in self.unmanaged.values().filter_map(UnmanagedNode::extra_vm_pool) {
            count_extra_vm(&mut extra_vms, pool, true);
        }
        extra_vms
    }

    /// Sets the status of the runaway guard.
    pub fn set_guard_status(&mut self, status: GuardStatus) {
        self.transient.guard_status = Some(status);
    }

    /// The maxima of NodeGroups and of the cluster.
    pub fn maxima(&self) -> Maxima {
        let groups = self.groups.values().map(|group| (group.name.clone(), group.max)).collect();
        Maxima { groups, cluster: self.max_machines }
    }

    /// The names of the declared NodeGroups.
    pub fn group_names(&self) -> Vec<NodeGroupName> {
        self.groups.keys().cloned().collect()
    }

    /// The last status of the runaway guard. None until the first listing.
    pub fn guard_status(&self) -> Option<&GuardStatus> {
        self.transient.guard_status.as_ref()
    }

    /// Headroom of the runaway guard, less the machines that wait for a VM.
    fn guard_headroom(&self) -> u32 {
        self.transient
            .guard_status
            .as_ref()
            .map_or(u32::MAX, |status| status.headroom.saturating_sub(self.waiting))
    }

    /// Number of extra VMs of the NodeGroup.
    pub(super) fn group_extra_vms(&self, group: &NodeGroupName) -> u32 {
        self.extra_vms.iter().filter(|(pool, _)| pool.node_group == *group).map(|(_, count)| count).sum()
    }

    /// Number of extra VMs of all NodeGroups.
    pub(super) fn total_extra_vms(&self) -> u32 {
        self.extra_vms.values().sum()
    }

    /// The cost of the NodeGroup's extra VMs, as far as prices are known. Without a NodeGroup: of all extra
    /// VMs.
    pub(super) fn extra_vms_cost(&self, group: Option<&NodeGroupName>) -> UsdPerHour {
        let of_group =
            self.extra_vms.iter().filter(|(pool, _)| group.is_none_or(|group| pool.node_group == *group));
        let price = |pool: &PoolId| self.pool(&pool.to_string()).and_then(|pool| pool.price);
        of_group.filter_map(|(pool, count)| Some(price(pool)? * *count)).sum()
    }

    /// The headroom of the NodeGroup, without cost limits.
    pub(super) fn headroom(&self, group: &NodeGroup) -> Headroom {
        let target = self.group_targets.get(&group.name).copied().unwrap_or(0);
        let total = self.total_target();
        let max = self.max_machines;
        let unpaid = |max: u32, paid: u32| max.saturating_add(surge(max)).saturating_sub(paid);
        let in_group = unpaid(group.max, target + self.group_extra_vms(&group.name));
        let in_cluster = max.map_or(u32::MAX, |max| unpaid(max, total + self.total_extra_vms()));
        Headroom {
            group: group.max.saturating_sub(target),
            cluster: max.map_or(u32::MAX, |max| max.saturating_sub(total)),
            paid: in_group.min(in_cluster),
            guard: self.guard_headroom(),
        }
    }

    /// The refusal if the runaway guard leaves too little headroom.
    pub(super) fn guard_refusal(&self, pool: &Pool, delta: u32) -> Refusal {
        let pool = pool.id.clone();
        match &self.transient.guard_status {
            Some(GuardStatus { halt: Some(halt), .. }) => Refusal::Halted { pool, why: halt.to_string() },
            status => Refusal::AboveVmLimit {
                pool,
                delta,
                counted: status.as_ref().map_or(0, |status| status.counted),
                waiting: self.waiting,
                limit: status.as_ref().map_or(0, |status| status.limit),
            },
        }
    }

    /// The refusal if extra VMs leave too little headroom.
    pub(super) fn paid_refusal(&self, pool: &Pool, group: &NodeGroup, delta: u32) -> Refusal {
        let refusal = |whose: String, target: u32, max: u32, extra_vms: u32| Refusal::VmsStillPaid {
            pool: pool.id.clone(),
            delta,
            whose,
            target,
            extra_vms,
            paid_max: max.saturating_add(surge(max)),
        };
        let target = self.group_target(pool);
        let extra_vms = self.group_extra_vms(&group.name);
        let of_group = group.max.saturating_add(surge(group.max)).saturating_sub(target + extra_vms) < delta;
        match self.max_machines {
            Some(max) if !of_group => {
                refusal("the cluster".to_owned(), self.total_target(), max, self.total_extra_vms())
            }
            _ => refusal(format!("NodeGroup {}", group.name), target, group.max, extra_vms),
        }
    }
}
