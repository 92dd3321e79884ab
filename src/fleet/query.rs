//! Queries. They read memory and change nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;

use super::group::NodeGroup;
use super::ids::{Hostname, MachineId, NodeGroupName, PLACEHOLDER_PREFIX, PROVIDER_ID_PREFIX, PoolId, VmId};
use super::machine::{Machine, Phase, Vm};
use super::policy::Binding;
use super::record::UnmanagedNode;
use super::spot::MAX_NOTICE;
use super::state::{Fleet, Pool};
use super::template::Template;
use crate::catalog::{CapacityType, Catalog};
use crate::cost::UsdPerHour;

/// Size limits and target size of a pool, as reported to Cluster Autoscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `minSize`.
    pub min: u32,
    /// `maxSize`.
    pub max: u32,
    /// Target size: machines that are not Deleting (invariant 1).
    pub target: u32,
}

/// A cost limit, and the cost that counts against it.
pub(super) struct Budget {
    /// `NodeGroup <name>` or `the cluster`.
    pub(super) whose: String,
    pub(super) cost: UsdPerHour,
    pub(super) limit: UsdPerHour,
}

impl Fleet {
    /// The method of binding VMs to machines.
    pub fn binding(&self) -> Binding {
        self.settings.binding
    }

    /// All pools, in a stable order.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values()
    }

    /// A pool by its id, as text.
    pub fn pool(&self, id: &str) -> Option<&Pool> {
        self.pools.get(id)
    }

    /// The problem of the payload of the NodeGroup. While it has one, it adds no machines.
    pub fn payload_problem(&self, group: &NodeGroupName) -> Option<&str> {
        self.transient.payload_problems.get(group).map(AsRef::as_ref)
    }

    /// Whether these are the known problems of payloads.
    pub fn has_payload_problems(&self, problems: &BTreeMap<NodeGroupName, Arc<str>>) -> bool {
        self.transient.payload_problems == *problems
    }

    /// A declared NodeGroup by its name.
    pub fn node_group(&self, name: &NodeGroupName) -> Option<&NodeGroup> {
        self.groups.get(name)
    }

    /// Assumed time from a notice without a deadline to the interruption of the machine.
    pub fn grace_period(&self, machine: &Machine) -> Duration {
        let spot = self.node_group(&machine.pool.node_group).and_then(|group| group.spot);
        spot.map_or(self.spot_defaults().grace_period, |spot| spot.grace_period).min(MAX_NOTICE)
    }

    /// The NodeGroup of a pool. None if it was deleted and only machines are left.
    pub fn group(&self, pool: &Pool) -> Option<&NodeGroup> {
        self.groups.get(&pool.id.node_group)
    }

    /// Size limits and target size of a pool. Limits hold for the NodeGroup over all its pools, so each pool
    /// may grow or shrink by the rest that the NodeGroup allows.
    ///
    /// The maximum includes replacements that Cluster Autoscaler can take over: it adds nodes up to the maximum, and
    /// they are in the target size already. If several pools of a NodeGroup have some, each of them can add only its own:
    /// Cluster Autoscaler uses one pool in a loop, and would add nodes for which the other pools have replacements.
    ///
    /// Below the NodeGroup's minimum no pool may shrink, and the first pool with headroom carries the shortfall
    /// (for `--enforce-node-group-min-size`).
    pub fn limits(&self, pool: &Pool) -> Limits {
        let target = pool.target;
        let Some(group) = self.group(pool) else {
            let min = if self.lacks_spec(&pool.id.node_group) { target } else { 0 };
            return Limits { min, max: target, target };
        };
        let group_target = self.group_target(pool);
        let headroom = self.pool_headroom(group, pool);
        let above_min = group_target.saturating_sub(group.minimum());
        let removable =
            self.removable_within_share(group, pool).min(self.removable_in_datacenter(group, pool));
        let kept = target.saturating_sub(above_min.min(removable));
        let min = match self.carried_shortfall(group, pool) {
            0 => kept,
            shortfall => kept.max(target + shortfall.min(headroom)),
        };
        let max = target
            + match self.available_replacements(pool) {
                0 => headroom,
                available if self.has_other_replacements(pool) => available,
                available => available + headroom,
            };
        Limits { min: min.min(max), max, target }
    }

    /// Headroom of the pool under all limits.
    pub(super) fn pool_headroom(&self, group: &NodeGroup, pool: &Pool) -> u32 {
        if !pool.growable || self.limits_unknown.is_some() || self.payload_problem(&group.name).is_some() {
            return 0;
        }
        let headroom = self.headroom(group).minimum();
        let headroom = headroom.min(self.affordable(group, pool)).min(self.share_headroom(group, pool));
        // Limits of one pool come last: they must not reduce the parts of other datacenters.
        self.datacenter_headroom(group, pool, headroom).min(self.spot_class_headroom(group, pool))
    }

    /// Number of machines of the pool that the cost limits still allow.
    pub(super) fn affordable(&self, group: &NodeGroup, pool: &Pool) -> u32 {
        let within = |budget: Budget| {
            let price = pool.price?.0;
            (budget.limit - budget.cost).0.max(Decimal::ZERO).checked_div(price)?.floor().to_u32()
        };
        self.budgets(group).map(|budget| within(budget).unwrap_or(0)).min().unwrap_or(u32::MAX)
    }

    /// The cost limits of the NodeGroup and of all machines. Empty if none is set.
    pub(super) fn budgets(&self, group: &NodeGroup) -> impl Iterator<Item = Budget> {
        let hours = self.prices().hours_per_month;
        let own = group.cost_limit.rate(hours).map(|limit| Budget {
            whose: format!("NodeGroup {}", group.name),
            cost: self.group_cost(&group.name) + self.extra_vms_cost(Some(&group.name)),
            limit,
        });
        let all = self.cost_limit().rate(hours).map(|limit| Budget {
            whose: "the cluster".to_owned(),
            cost: self.total_cost() + self.extra_vms_cost(None),
            limit,
        });
        own.into_iter().chain(all)
    }

    /// Cost of the pool's VMs, as far as its price is known. A machine costs from the first listing of its VM
    /// until the VM is gone.
    pub fn pool_cost(&self, pool: &Pool) -> UsdPerHour {
        let paid = self.machines_of(pool).filter(|machine| machine.vm().is_some()).count();
        pool.price.unwrap_or_default() * paid as u32
    }

    /// Cost of the machines of a NodeGroup that are not Deleting, as far as their prices are known.
    pub fn group_cost(&self, group: &NodeGroupName) -> UsdPerHour {
        self.group_costs.get(group).copied().unwrap_or_default()
    }

    /// Cost of all machines that are not Deleting, as far as their prices are known.
    pub fn total_cost(&self) -> UsdPerHour {
        self.group_costs.values().copied().sum()
    }

    /// The shortfall that the pool adds to its minimum: that of the NodeGroup to its own minimum, that of on-demand machines
    /// to the number that its spot machines require, or that of the pool's datacenter. The first pool with headroom carries
    /// it; pools of the preferred offer come first. Shortfalls of datacenters are part of that of the NodeGroup.
    fn carried_shortfall(&self, group: &NodeGroup, pool: &Pool) -> u32 {
        let of_group = group.minimum().saturating_sub(self.group_target(pool));
        let of_on_demand = self.on_demand_shortfall(group);
        let of_datacenter = self.datacenter_shortfall(group, &pool.id.datacenter);
        if of_group == 0 && of_on_demand == 0 && of_datacenter == 0 {
            return 0;
        }
        let carries = |shortfall: u32, of: Option<CapacityType>| {
            shortfall > 0 && self.is_first_to_grow(group, pool, group.pools.iter(), of)
        };
        let in_datacenter = self.growable_pools_in(&group.name, &pool.id.datacenter);
        let of_datacenter = if of_datacenter > 0 && self.is_first_to_grow(group, pool, in_datacenter, None) {
            of_datacenter
        } else {
            0
        };
        let elsewhere = self.datacenter_shortfalls(group).saturating_sub(of_datacenter);
        let of_group = if carries(of_group, None) { of_group.saturating_sub(elsewhere) } else { 0 };
        let of_on_demand = if carries(of_on_demand, Some(CapacityType::OnDemand)) { of_on_demand } else { 0 };
        of_group.max(of_on_demand).max(of_datacenter)
    }

    /// Whether the pool is the first of these that has headroom; pools of the preferred offer come first.
    fn is_first_to_grow<'a>(
        &self,
        group: &NodeGroup,
        pool: &Pool,
        mut pools: impl Iterator<Item = &'a PoolId> + Clone,
        of: Option<CapacityType>,
    ) -> bool {
        let can_carry = |id: &&PoolId| {
            of.is_none_or(|of| id.capacity_type == of)
                && self.pool(&id.to_string()).is_some_and(|pool| self.pool_headroom(group, pool) > 0)
        };
        // Most pools that cannot carry it need no search.
        if !can_carry(&&pool.id) {
            return false;
        }
        let preferred = group.preferred.as_ref();
        let preferred = preferred
            .and_then(|preferred| pools.clone().filter(|id| id.offer == *preferred).find(|id| can_carry(id)));
        preferred.or_else(|| pools.find(|id| can_carry(id))) == Some(&pool.id)
    }

    /// Number of machines of the pool's NodeGroup that are not Deleting, over all its pools.
    pub fn group_target(&self, pool: &Pool) -> u32 {
        self.group_targets.get(&pool.id.node_group).copied().unwrap_or(0)
    }

    /// The pool's machines that Cluster Autoscaler gets, in a stable order: all but Deleting machines without
    /// a VM.
    pub fn machines_of<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a Machine> {
        let members = pool.members.iter().filter_map(|id| self.machines.get(id));
        members.filter(|m| !matches!(m.phase, Phase::Deleting { vm: None, .. }))
    }

    /// Every machine.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values()
    }

    /// A machine by its name.
    pub fn machine(&self, id: &MachineId) -> Option<&Machine> {
        self.machines.get(id)
    }

    /// The machine whose VM has the hostname.
    pub fn machine_at(&self, hostname: &Hostname) -> Option<&Machine> {
        self.machine_by_hostname(hostname)
    }

    /// The machine of a Node: by its VM's hostname, else by an address that only that VM has together with a
    /// matching name. An address alone is no identity: another site can have the same private addresses.
    pub fn machine_of_node(&self, name: &Hostname, addresses: &[IpAddr]) -> Option<&Machine> {
        if let Some(machine) = self.machine_by_hostname(name) {
            return Some(machine);
        }
        // The Node has the name of another listed VM, and belongs to it.
        if self.unmanaged.contains_key(name) {
            return None;
        }
        let mut found = addresses.iter().filter_map(|address| self.machine_by_address(address));
        let first = found.next()?;
        let fits = first.vm().is_some_and(|vm| is_named_after(name, vm));
        (fits && found.all(|other| other.id == first.id)).then_some(first)
    }

    /// Listed nodes that belong to no machine.
    pub fn unmanaged_nodes(&self) -> impl Iterator<Item = &UnmanagedNode> {
        self.unmanaged.values()
    }

    /// The unmanaged node with the hostname.
    pub fn unmanaged_node(&self, hostname: &Hostname) -> Option<&UnmanagedNode> {
        self.unmanaged.get(hostname)
    }

    /// The last good catalog.
    pub fn catalog(&self) -> Option<&Arc<Catalog>> {
        self.catalog.as_ref()
    }

    /// The machine of a node: by provider id, or by Instance id for fake nodes. The Node's name decides only
    /// while the Node has no providerID, or while the machine has none that could contradict it.
    pub fn machine_of(&self, provider_id: &str, name: &str) -> Option<&Machine> {
        if let Some(id) = provider_id.strip_prefix(PLACEHOLDER_PREFIX) {
            return self.machines.get(id);
        }
        if let Some(machine) = self.machine_by_provider_id(provider_id) {
            return Some(machine);
        }
        let vm = provider_id.strip_prefix(PROVIDER_ID_PREFIX);
        if let Some(machine) = vm.and_then(|vm| self.machine_by_vm(&VmId::from(vm))) {
            return Some(machine);
        }
        let machine = self.machine_by_hostname(&Hostname::new(name))?;
        let has_none = vm.is_some() && machine.vm().is_some_and(|vm| vm.node_id().is_none());
        (provider_id.is_empty() || has_none).then_some(machine)
    }

    /// The template of the pool: the Node that it would add. Never empty. The same `Arc` until it changes.
    pub fn template(&self, pool: &Pool) -> Arc<Template> {
        Arc::clone(&pool.template)
    }
}

/// Whether a Node has the name of the VM without its domain, or the name of one of its IPv4 addresses
/// (`ip-10-0-0-7`).
fn is_named_after(name: &Hostname, vm: &Vm) -> bool {
    let label = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    if label(name.as_str()) == label(vm.hostname.as_str()) {
        return true;
    }
    let numbers: Vec<&str> = name.as_str().split(|c: char| !c.is_ascii_digit()).collect();
    vm.addresses.iter().any(|address| {
        let IpAddr::V4(address) = address else { return false };
        let octets = address.octets().map(|octet| octet.to_string());
        numbers.windows(octets.len()).any(|window| window == octets)
    })
}
