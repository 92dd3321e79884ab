//! Queries. They read memory and change nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;

use super::group::NodeGroup;
use super::ids::{Hostname, MachineId, NodeGroupName, PLACEHOLDER_PREFIX, PROVIDER_ID_PREFIX, VmId};
use super::machine::{Machine, Phase, Vm};
use super::policy::Binding;
use super::record::{UnmanagedKind, UnmanagedNode};
use super::spot::MAX_NOTICE;
use super::state::{Fleet, Pool};
use super::template::Template;
use crate::catalog::Catalog;
use crate::cost::UsdPerHour;

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

    /// Number of machines of the pool's NodeGroup that are not Deleting, over all its pools.
    pub fn group_target(&self, pool: &Pool) -> u32 {
        self.target_of(&pool.id.node_group)
    }

    /// Number of machines of the NodeGroup that are not Deleting.
    pub(super) fn target_of(&self, group: &NodeGroupName) -> u32 {
        self.group_targets.get(group).copied().unwrap_or(0)
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

    /// VMs of machines that are attached to the network of their NodeGroup.
    pub fn attached_vms(&self) -> impl Iterator<Item = &VmId> {
        let vms = self.machines.values().filter_map(Machine::vm).filter(|vm| vm.attached == Some(true));
        vms.filter_map(|vm| vm.id.as_ref())
    }

    /// Whether VPSie's listings still matter: there are machines, or VMs that are or were of machines and may return.
    pub fn needs_listings(&self) -> bool {
        let is_own = |unmanaged: &UnmanagedNode| match unmanaged.kind {
            UnmanagedKind::Orphan { .. } | UnmanagedKind::Gone { .. } => true,
            UnmanagedKind::Foreign => false,
        };
        !self.machines.is_empty() || self.unmanaged.values().any(is_own)
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
