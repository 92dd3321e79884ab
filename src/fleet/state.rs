//! The fleet in memory: its records, and state derived from them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::datacenters::Datacenters;
use super::extra_vms::{ExtraVms, count_extra_vm};
use super::group::{Declaration, NodeGroup};
use super::ids::{Hostname, MachineId, NodeGroupName, PoolId, ProviderId, VmId};
use super::machine::Machine;
use super::policy::Policy;
use super::record::{Change, Records, UnmanagedNode};
use super::request_history::RequestHistory;
use super::shortages::Shortages;
use super::size_profile::SizeProfile;
use super::spot::{CapacityCounts, SpotDefaults, SpotHistory};
use super::template::{FleetSettings, Reserved, Template};
use super::transient::{Shared, TransientState};
use crate::catalog::{Catalog, Offer, SizeId};
use crate::cost::{CostLimit, Prices, Rates, UsdPerHour};

/// The fleet in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    pub(super) groups: BTreeMap<NodeGroupName, NodeGroup>,
    pub(super) pools: BTreeMap<Arc<str>, Pool>,
    pub(super) machines: BTreeMap<MachineId, Machine>,
    pub(super) unmanaged: BTreeMap<Hostname, UnmanagedNode>,
    pub(super) profiles: BTreeMap<SizeId, SizeProfile>,
    /// Offers of VPSie, and spot offers that the operator's prices add.
    pub(super) catalog: Option<Arc<Catalog>>,
    /// The catalog as read from VPSie, and as recorded.
    recorded_catalog: Option<Arc<Catalog>>,
    pub(super) max_machines: Option<u32>,
    create_timeout: Option<Duration>,
    pub(super) limits_unknown: Option<Arc<str>>,
    without_spec: BTreeSet<NodeGroupName>,
    pub(super) group_targets: HashMap<NodeGroupName, u32>,
    pub(super) capacity_counts: HashMap<NodeGroupName, CapacityCounts>,
    pub(super) group_costs: HashMap<NodeGroupName, UsdPerHour>,
    pub(super) extra_vms: ExtraVms,
    pub(super) request_history: RequestHistory,
    pub(super) spot_history: SpotHistory,
    pub(super) datacenters: Datacenters,
    /// Number of machines that wait for a request.
    pub(super) waiting: u32,
    /// The replacements of each machine.
    pub(super) replacements: BTreeMap<MachineId, BTreeSet<MachineId>>,
    pub(super) shortages: Shortages,
    /// NodeGroups with a spot pool whose offer is in the catalog.
    pub(super) spot_groups: BTreeSet<NodeGroupName>,
    pub(super) rates: Rates,
    cost_limit: CostLimit,
    by_vm: HashMap<VmId, MachineId>,
    by_hostname: HashMap<Hostname, MachineId>,
    /// Two VMs can be listed with one address.
    by_address: HashMap<IpAddr, BTreeSet<MachineId>>,
    /// By the providerID that another controller set on their Nodes.
    by_provider_id: HashMap<ProviderId, MachineId>,
    unmanaged_by_vm: HashMap<VmId, Hostname>,
    pub(super) settings: FleetSettings,
    pub(super) transient: Shared<TransientState>,
    unreadable: u32,
}

/// A pool: a node group of Cluster Autoscaler.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its id as text.
    pub text: Arc<str>,
    /// Its offer. The pool keeps it while machines need it, even if the catalog no longer has it.
    pub offer: Offer,
    /// Its position among the pools of its NodeGroup, from 0. None if the NodeGroup does not list it.
    pub position: Option<u32>,
    /// Whether the NodeGroup lists it and the catalog has its offer.
    pub growable: bool,
    /// Price of a machine of this pool. None if it is unknown.
    pub price: Option<UsdPerHour>,
    pub(super) template: Arc<Template>,
    pub(super) members: BTreeSet<MachineId>,
    pub(super) target: u32,
}

impl Fleet {
    /// Restores the fleet from its records and declarations.
    pub fn restore(
        declared: impl Into<Declaration>,
        records: Records,
        settings: impl Into<FleetSettings>,
    ) -> Self {
        let Declaration { groups, max_machines, cost_limit, create_timeout, limits_unknown, without_spec } =
            declared.into();
        let mut fleet = Self {
            groups: by_name(groups),
            max_machines,
            cost_limit,
            create_timeout,
            limits_unknown,
            without_spec,
            settings: settings.into(),
            ..Self::default()
        };
        fleet.load_records(records);
        fleet
    }

    /// A fleet with records that were read again, and with the declarations and transient state of this one.
    pub fn reloaded(&self, records: Records) -> Self {
        let mut fleet = Self {
            groups: self.groups.clone(),
            max_machines: self.max_machines,
            cost_limit: self.cost_limit,
            create_timeout: self.create_timeout,
            limits_unknown: self.limits_unknown.clone(),
            without_spec: self.without_spec.clone(),
            settings: self.settings.clone(),
            shortages: self.shortages.clone(),
            transient: self.transient.clone(),
            pools: self.pools.clone(),
            ..Self::default()
        };
        for pool in fleet.pools.values_mut() {
            pool.members.clear();
            pool.target = 0;
        }
        fleet.load_records(records);
        fleet
    }

    /// Copies the transient state of the writer's fleet. No [`Change`] has it.
    pub fn share_transient_state(&mut self, writer: &Self) {
        self.transient = writer.transient.clone();
    }

    fn load_records(&mut self, records: Records) {
        self.profiles = records.profiles.into_iter().collect();
        self.set_catalog(records.catalog);
        self.unreadable = records.unreadable;
        self.request_history = records.request_history;
        self.spot_history = records.spot_history;
        self.datacenters.history = records.datacenter_history;
        for unmanaged in records.unmanaged {
            self.apply(&Change::SaveUnmanaged(unmanaged));
        }
        for machine in records.machines {
            self.apply(&Change::SaveMachine(machine));
        }
        self.derive_pools();
    }

    /// All its records.
    pub fn records(&self) -> Records {
        Records {
            machines: self.machines.values().cloned().collect(),
            unmanaged: self.unmanaged.values().cloned().collect(),
            profiles: self.profiles.iter().map(|(size, profile)| (*size, profile.clone())).collect(),
            request_history: self.request_history.clone(),
            spot_history: self.spot_history.clone(),
            datacenter_history: self.datacenters.history.clone(),
            catalog: self.recorded_catalog.clone(),
            unreadable: self.unreadable,
        }
    }

    /// Number of records that this version cannot read. They stay unchanged.
    pub fn unreadable_records(&self) -> u32 {
        self.unreadable
    }

    /// Replaces the declarations. Machines of a removed NodeGroup stay, in pools that cannot grow.
    pub fn declare(&mut self, declared: impl Into<Declaration>) {
        let Declaration { groups, max_machines, cost_limit, create_timeout, limits_unknown, without_spec } =
            declared.into();
        self.limits_unknown = limits_unknown;
        self.without_spec = without_spec;
        self.groups = by_name(groups);
        self.max_machines = max_machines;
        self.cost_limit = cost_limit;
        self.create_timeout = create_timeout;
        self.derive_pools();
    }

    /// Replaces the catalog. An empty one is ignored: it is a fault of VPSie, and would remove every pool.
    pub fn update_catalog(&mut self, catalog: Catalog) -> Vec<Change> {
        if catalog.offers.is_empty() || self.recorded_catalog.as_deref() == Some(&catalog) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        self.push_change(&mut changes, Change::SaveCatalog(Arc::new(catalog)));
        changes
    }

    /// Replaces the recorded catalog, and adds the spot offers of the operator's prices.
    fn set_catalog(&mut self, recorded: Option<Arc<Catalog>>) {
        let add_spot = |catalog: &Arc<Catalog>| match self.settings.prices.added_spot_offers(catalog) {
            spot if spot.is_empty() => Arc::clone(catalog),
            spot => Arc::new(Catalog { offers: catalog.offers.iter().cloned().chain(spot).collect() }),
        };
        self.catalog = recorded.as_ref().map(add_spot);
        self.recorded_catalog = recorded;
    }

    /// Applies one durable change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::SaveMachine(machine) => self.save_machine(machine.clone()),
            Change::DropMachine(id) => self.drop_machine(id),
            Change::SaveUnmanaged(unmanaged) => {
                self.forget_unmanaged_vm(&unmanaged.hostname);
                self.count_unmanaged(unmanaged, true);
                if let Some(id) = &unmanaged.id {
                    self.unmanaged_by_vm.insert(id.clone(), unmanaged.hostname.clone());
                }
                if let Some(old) = self.unmanaged.insert(unmanaged.hostname.clone(), unmanaged.clone()) {
                    self.count_unmanaged(&old, false);
                }
            }
            Change::DropUnmanaged(hostname) => {
                self.forget_unmanaged_vm(hostname);
                if let Some(old) = self.unmanaged.remove(hostname) {
                    self.count_unmanaged(&old, false);
                }
            }
            Change::SaveProfile(size, profile) => {
                self.profiles.insert(*size, profile.clone());
                self.derive_pools();
            }
            Change::SaveRequestHistory(history) => self.request_history = history.clone(),
            Change::SaveSpotHistory(history) => self.spot_history = history.clone(),
            Change::SaveDatacenterHistory(history) => self.datacenters.history = history.clone(),
            Change::SaveCatalog(catalog) => {
                self.set_catalog(Some(Arc::clone(catalog)));
                self.derive_pools();
            }
        }
    }

    /// Applies a change and appends it to `changes`, for the store. The failure of a machine also changes the records of
    /// its spot class and of its datacenter, and that of a replacement the machine that it replaces.
    pub(super) fn push_change(&mut self, changes: &mut Vec<Change>, change: Change) {
        let spot_history = self.spot_history_after(&change).map(Change::SaveSpotHistory);
        let datacenters = self.datacenter_history_after(&change).map(Change::SaveDatacenterHistory);
        let failed = match &change {
            Change::SaveMachine(machine) if machine.is_failed_replacement() => Some(machine.clone()),
            _ => None,
        };
        for change in [Some(change), spot_history, datacenters].into_iter().flatten() {
            self.apply(&change);
            changes.push(change);
        }
        if let Some(failed) = failed {
            self.note_failed_replacement(changes, &failed);
        }
    }

    /// The machine of the VM with this UUID.
    pub fn machine_by_vm(&self, id: &VmId) -> Option<&Machine> {
        self.machines.get(self.by_vm.get(id)?)
    }

    /// The machine of the VM with this hostname.
    pub fn machine_by_hostname(&self, hostname: &Hostname) -> Option<&Machine> {
        self.machines.get(self.by_hostname.get(hostname)?)
    }

    /// The machine whose VM alone has the address.
    pub(super) fn machine_by_address(&self, address: &IpAddr) -> Option<&Machine> {
        let machines = self.by_address.get(address)?;
        machines.first().filter(|_| machines.len() == 1).and_then(|id| self.machines.get(id))
    }

    /// The machine whose Node has a providerID that another controller gave it.
    pub(super) fn machine_by_provider_id(&self, provider_id: &str) -> Option<&Machine> {
        self.machines.get(self.by_provider_id.get(provider_id)?)
    }

    /// The unmanaged node with that UUID.
    pub fn unmanaged_by_vm_id(&self, id: &VmId) -> Option<&UnmanagedNode> {
        self.unmanaged.get(self.unmanaged_by_vm.get(id)?)
    }

    fn forget_unmanaged_vm(&mut self, hostname: &Hostname) {
        let Some(id) = self.unmanaged.get(hostname).and_then(|unmanaged| unmanaged.id.as_ref()) else {
            return;
        };
        if self.unmanaged_by_vm.get(id) == Some(hostname) {
            self.unmanaged_by_vm.remove(id);
        }
    }

    /// Whether the NodeGroup has no valid spec, so that it neither grows nor shrinks.
    pub fn lacks_spec(&self, group: &NodeGroupName) -> bool {
        self.without_spec.contains(group)
    }

    /// The create timeout that the cluster sets.
    pub fn declared_create_timeout(&self) -> Option<Duration> {
        self.create_timeout
    }

    /// Maximum time until VPSie accepts a machine's request, and from then until its VM is listed.
    pub(super) fn create_timeout(&self, policy: &Policy) -> Duration {
        self.create_timeout.unwrap_or(policy.create_timeout)
    }

    /// Prices of offers.
    pub fn prices(&self) -> &Prices {
        &self.settings.prices
    }

    /// Reserved resources of Nodes, until real Nodes show them.
    pub fn reserved(&self) -> Reserved {
        self.settings.reserved
    }

    /// Spot settings of NodeGroups that do not set their own.
    pub fn spot_defaults(&self) -> SpotDefaults {
        self.settings.spot
    }

    /// Marginal prices of cores and memory over the offers of all pools.
    pub fn rates(&self) -> Rates {
        self.rates
    }

    /// Cost limit of all machines together.
    pub(super) fn cost_limit(&self) -> CostLimit {
        self.cost_limit.strictest(self.settings.cost_limit)
    }

    /// Number of machines of all NodeGroups that are not Deleting.
    pub fn total_target(&self) -> u32 {
        self.group_targets.values().sum()
    }

    fn save_machine(&mut self, machine: Machine) {
        self.shortages.record(&machine);
        let text = machine.pool.to_string();
        // The pool comes first: if only this machine keeps it, its removal would lose its offer and price.
        if !self.pools.contains_key(text.as_str()) {
            let text: Arc<str> = text.as_str().into();
            let pool = self.derive_pool(&machine.pool, text.clone(), Some(machine.size));
            self.pools.insert(text, pool);
        }
        if let Some(pool) = self.pools.get_mut(text.as_str()) {
            pool.members.insert(machine.id.clone());
            if machine.counts() {
                pool.target += 1;
                *self.group_targets.entry(machine.pool.node_group.clone()).or_default() += 1;
                let cost = self.group_costs.entry(machine.pool.node_group.clone()).or_default();
                *cost = *cost + pool.price.unwrap_or_default();
            }
        }
        self.count_machine(&machine, true);
        if let Some(old) = self.machines.remove(&machine.id) {
            self.remove_derived(&old, old.pool != machine.pool);
        }
        if let Some(replaced) = &machine.replaces {
            self.replacements.entry(replaced.clone()).or_default().insert(machine.id.clone());
        }
        if let Some(vm) = machine.vm() {
            self.by_hostname.insert(vm.hostname.clone(), machine.id.clone());
            if let Some(id) = &vm.id {
                self.by_vm.insert(id.clone(), machine.id.clone());
            }
            for address in &vm.addresses {
                self.by_address.entry(*address).or_default().insert(machine.id.clone());
            }
            if let Some(provider_id) = &vm.provider_id {
                self.by_provider_id.insert(provider_id.clone(), machine.id.clone());
            }
        }
        self.machines.insert(machine.id.clone(), machine);
    }

    fn drop_machine(&mut self, id: &MachineId) {
        if let Some(machine) = self.machines.remove(id) {
            self.remove_derived(&machine, true);
        }
    }

    /// Removes a machine from derived state, and from its pool's members if it `leaves` the pool.
    fn remove_derived(&mut self, machine: &Machine, leaves: bool) {
        self.count_machine(machine, false);
        if let Some(replaced) = &machine.replaces
            && let Some(replacements) = self.replacements.get_mut(replaced)
        {
            replacements.remove(&machine.id);
            if replacements.is_empty() {
                self.replacements.remove(replaced);
            }
        }
        if let Some(vm) = machine.vm() {
            self.by_hostname.remove(&vm.hostname);
            if let Some(id) = &vm.id {
                self.by_vm.remove(id);
            }
            for address in &vm.addresses {
                if let Some(machines) = self.by_address.get_mut(address) {
                    machines.remove(&machine.id);
                    if machines.is_empty() {
                        self.by_address.remove(address);
                    }
                }
            }
            if let Some(provider_id) = &vm.provider_id {
                self.by_provider_id.remove(provider_id);
            }
        }
        if machine.counts()
            && let Some(target) = self.group_targets.get_mut(&machine.pool.node_group)
        {
            *target -= 1;
        }
        let text = machine.pool.to_string();
        if let Some(pool) = self.pools.get_mut(text.as_str()) {
            pool.target -= u32::from(machine.counts());
            if machine.counts()
                && let Some(cost) = self.group_costs.get_mut(&machine.pool.node_group)
            {
                *cost = *cost - pool.price.unwrap_or_default();
            }
            if leaves {
                pool.members.remove(&machine.id);
            }
            // An undeclared pool lasts as long as its machines (invariant 8).
            if pool.members.is_empty() && !self.declares(&machine.pool) {
                self.pools.remove(text.as_str());
            }
        }
    }

    fn count_machine(&mut self, machine: &Machine, more: bool) {
        if machine.is_extra_vm() {
            count_extra_vm(&mut self.extra_vms, &machine.pool, more);
        }
        self.capacity_counts.entry(machine.pool.node_group.clone()).or_default().count(machine, more);
        self.datacenters.count(machine, more);
        if machine.needs_request() {
            self.waiting = if more { self.waiting + 1 } else { self.waiting.saturating_sub(1) };
        }
    }

    fn count_unmanaged(&mut self, unmanaged: &UnmanagedNode, more: bool) {
        if let Some(pool) = unmanaged.extra_vm_pool() {
            count_extra_vm(&mut self.extra_vms, pool, more);
        }
    }

    fn declares(&self, pool: &PoolId) -> bool {
        self.groups.get(&pool.node_group).is_some_and(|group| group.pools.contains(pool))
    }
}

fn by_name(groups: Vec<NodeGroup>) -> BTreeMap<NodeGroupName, NodeGroup> {
    groups.into_iter().map(|group| (group.name.clone(), group)).collect()
}
