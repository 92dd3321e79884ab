//! This program's fleet as the provider of the replay: limits, circuit breakers, interruption rates, prices of
//! options, and replacements are those of `vpsie_autoscaler::fleet`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use vpsie_autoscaler::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use vpsie_autoscaler::cost::{CostLimit, Override, PriceRule, Prices};
use vpsie_autoscaler::fleet::{
    AutoscalingOptions, Change, CreationOutcome, DeclaredNode, Failure, FailureReason, Fleet, FleetSettings,
    Hostname, MachineId, MaxSpotShare, NodeGroup, NodeGroupName, NodeListing, NodeRef, NoticeSource, Phase,
    Policy, PoolId, Records, ReplacementState, Reserved, SpotPolicy, Vm, VmId,
};
use vpsie_autoscaler::placement::{Blocked, ExpansionOption};

use super::NOTICE;
use crate::data::{RESERVED, ReplayPool, ReplayResources};
use crate::expander::resources;

const GROUP: &str = "all";
const DATACENTER: &str = "eu-central-1";
/// Maximum of machines. The replay never reaches it.
const MAX_MACHINES: u32 = 10_000;
/// `--spot-interruption-loss`.
const INTERRUPTION_LOSS: Duration = Duration::from_mins(15);
/// Disk of all plans. Pods request none.
const DISK_GIB: u64 = 100;

/// The fleet, and which node of the replay each machine is.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    fleet: Fleet,
    policy: Policy,
    /// The id of each pool.
    pools: Vec<Arc<str>>,
    machines: HashMap<usize, MachineId>,
    nodes: HashMap<MachineId, usize>,
    named: u32,
}

impl Provider {
    /// A provider with one NodeGroup over all pools. `max_spot` is its `maxSpotPercentage`.
    pub(crate) fn new(pools: &[ReplayPool], max_spot: u32) -> Self {
        let ids: Vec<PoolId> = pools.iter().map(pool_id).collect();
        let on_demand = pools.iter().filter(|pool| pool.spot.is_none());
        let catalog = Catalog { offers: on_demand.zip(1..).map(|(pool, size)| offer(pool, size)).collect() };
        let settings = FleetSettings {
            reserved: Reserved { cpu_millis: RESERVED.0, memory_mib: RESERVED.1, disk_gib: 0 },
            prices: Arc::new(Prices {
                overrides: pools.iter().filter_map(spot_price).collect(),
                ..Prices::default()
            }),
            interruption_loss: INTERRUPTION_LOSS,
            ..FleetSettings::default()
        };
        let records = Records { catalog: Some(Arc::new(catalog)), ..Records::default() };
        let policy = Policy { running_when_listed: false, ..Policy::default() };
        let mut fleet = Fleet::restore(vec![group(ids.clone(), max_spot)], records, settings);
        // Requests need a first listing.
        fleet.observe(&NodeListing::of_nodes(Vec::new(), true), time(0), &policy);
        let pools = ids.iter().map(|id| id.to_string().into()).collect();
        Self { fleet, policy, pools, machines: HashMap::new(), nodes: HashMap::new(), named: 0 }
    }

    /// The rest up to the maximum size of the pool that Cluster Autoscaler sees.
    pub(crate) fn headroom(&self, pool: usize) -> usize {
        let limits = self.fleet.pool(&self.pools[pool]).map(|pool| self.fleet.limits(pool));
        limits.map_or(0, |limits| limits.max.saturating_sub(limits.target) as usize)
    }

    /// Whether Cluster Autoscaler may remove the node: its pool is above its minimum, and it does not have the
    /// annotation `scale-down-disabled`.
    pub(crate) fn may_remove(&self, node: usize) -> bool {
        let machine = self.machines.get(&node).and_then(|id| self.fleet.machine(id));
        machine.is_some_and(|machine| {
            let limits = self.fleet.pool(&machine.pool.to_string()).map(|pool| self.fleet.limits(pool));
            machine.notice.is_none()
                && !self.fleet.is_needed_replacement(machine)
                && limits.is_some_and(|limits| limits.target > limits.min)
        })
    }

    /// Adds the state of the pool to an option, as the gRPC expander does.
    pub(crate) fn describe(&self, pool: usize, option: ExpansionOption, now: u64) -> ExpansionOption {
        let Some(pool) = self.fleet.pool(&self.pools[pool]) else { return option };
        let blocked = self.fleet.growth_block(&pool.text, 1, time(now));
        ExpansionOption {
            pool: pool.text.clone(),
            price: self.fleet.expected_price(pool),
            interruptions: self.fleet.interruption_cost(pool),
            concentration: self.fleet.spot_concentration(pool),
            placement: self.fleet.placement_charge(pool),
            blocked: blocked.map(|block| Blocked { reason: block.reason.into(), message: block.message }),
            position: pool.position.unwrap_or(u32::MAX),
            node_group: Some(pool.id.node_group.clone()),
            replacements: self.fleet.expected_take_overs(pool),
            ..option
        }
    }

    /// The node of a machine.
    pub(crate) fn node_of(&self, id: &MachineId) -> Option<usize> {
        self.nodes.get(id).copied()
    }

    /// Executes `NodeGroupIncreaseSize`. Returns the added and the taken-over machines, or none if the fleet refuses it.
    pub(crate) fn increase(&mut self, pool: usize, count: u64, now: u64) -> Vec<MachineId> {
        let named = &mut self.named;
        let names = &mut |group: &NodeGroupName| next_name(named, group);
        let changes = self.fleet.increase(&self.pools[pool], count as i32, time(now), names);
        changes.map(|changes| changes.iter().filter_map(saved_machine).collect()).unwrap_or_default()
    }

    /// Requests the VM of a machine. Returns true iff the cloud creates it, as the VM of that node.
    pub(crate) fn request(&mut self, id: &MachineId, is_available: bool, node: usize, now: u64) -> bool {
        if self.fleet.record_requests(std::slice::from_ref(id), time(now)).is_empty() {
            return false;
        }
        let outcome = if is_available {
            let hostname = Hostname::new(id.as_str());
            let vm_id = Some(VmId::new(format!("vm-{id}")));
            let vm = Vm {
                hostname,
                id: vm_id,
                addresses: Vec::new(),
                provider_id: None,
                attached: None,
                request: None,
            };
            CreationOutcome::Created(vm)
        } else {
            let message = "no spot capacity".to_owned();
            CreationOutcome::Refused(Failure { reason: FailureReason::Stockout, message })
        };
        self.fleet.record_outcome(id, outcome, time(now), &self.policy);
        if is_available {
            self.machines.insert(node, id.clone());
            self.nodes.insert(id.clone(), node);
        }
        is_available
    }

    /// Cluster Autoscaler deletes the failed machines of the pool.
    pub(crate) fn delete_failed(&mut self, pool: usize, now: u64) {
        let Some(known) = self.fleet.pool(&self.pools[pool]) else { return };
        let failed = self.fleet.machines_of(known).filter(|m| matches!(m.phase, Phase::Failed { .. }));
        let nodes: Vec<NodeRef> = failed
            .map(|m| NodeRef { provider_id: m.id.placeholder(), name: m.id.placeholder(), fake: true })
            .collect();
        if !nodes.is_empty() {
            self.delete(pool, &nodes, now);
        }
    }

    /// Cluster Autoscaler deletes a node that it drained.
    pub(crate) fn scale_down(&mut self, node: usize, pool: usize, now: u64) {
        let Some(id) = self.machines.get(&node).cloned() else { return };
        let vm = self.fleet.machine(&id).and_then(|machine| machine.vm()?.node_id());
        let named = NodeRef { provider_id: vm.unwrap_or_default(), name: id.to_string(), fake: false };
        self.delete(pool, &[named], now);
        self.end_vm(node);
    }

    fn delete(&mut self, pool: usize, nodes: &[NodeRef], now: u64) {
        let deleted = self.fleet.delete_nodes(&self.pools[pool], nodes, time(now));
        debug_assert!(deleted.is_ok(), "{deleted:?}");
    }

    /// The Node of the machine registered. Returns the node that it replaces, if it has no notice itself.
    pub(crate) fn note_registered(&mut self, node: usize, now: u64) -> Option<usize> {
        let machine = self.fleet.machine(self.machines.get(&node)?)?;
        let replaced = machine.replaces.clone();
        let hostname = machine.vm()?.hostname.clone();
        self.fleet.note_registered(&hostname, time(now));
        let replaced = replaced?;
        let is_ready = self.fleet.replacement_state(&replaced) == Some(ReplacementState::Registered);
        self.nodes.get(&replaced).copied().filter(|_| is_ready)
    }

    /// Records the notice of a node.
    pub(crate) fn record_notice(&mut self, node: usize, now: u64) {
        if let Some(id) = self.machines.get(&node) {
            self.fleet.record_notice(&id.clone(), NoticeSource::Node, time(now + NOTICE), time(now));
        }
    }

    /// Adds a replacement for the pods of a node with a notice. Returns it with its pool; None if there is one, or
    /// no pool can grow.
    pub(crate) fn replace(
        &mut self,
        node: usize,
        needed: ReplayResources,
        now: u64,
    ) -> Option<(MachineId, usize)> {
        let id = self.machines.get(&node)?.clone();
        let named = &mut self.named;
        let names = &mut |group: &NodeGroupName| next_name(named, group);
        let changes = self.fleet.replace_machine(&id, resources(needed), time(now), names);
        let added = changes.iter().find_map(saved_machine)?;
        let pool = self.fleet.machine(&added)?.pool.to_string();
        Some((added, self.pools.iter().position(|id| **id == *pool)?))
    }

    /// Whether the node with a notice has no replacement, and a further one may be tried.
    pub(crate) fn lacks_replacement(&self, node: usize) -> bool {
        self.machines
            .get(&node)
            .is_some_and(|id| self.fleet.replacement_state(id) == Some(ReplacementState::Missing))
    }

    /// Begins the drain of a node with a notice.
    pub(crate) fn begin_drain(&mut self, node: usize, now: u64) {
        if let Some(id) = self.machines.get(&node) {
            self.fleet.retire_interrupted(&id.clone(), time(now));
        }
    }

    /// The VM of the node is gone.
    pub(crate) fn end_vm(&mut self, node: usize) {
        if let Some(id) = self.machines.remove(&node) {
            self.nodes.remove(&id);
            self.fleet.apply(&Change::DropMachine(id));
        }
    }

    /// Time passes: circuit breakers, interruption rates and notices.
    pub(crate) fn apply_deadlines(&mut self, now: u64) {
        let named = &mut self.named;
        let names = &mut |group: &NodeGroupName| next_name(named, group);
        self.fleet.apply_deadlines(time(now), &self.policy, names);
    }

    #[cfg(test)]
    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }
}

fn pool_id(pool: &ReplayPool) -> PoolId {
    let capacity_type = if pool.spot.is_some() { CapacityType::Spot } else { CapacityType::OnDemand };
    let offer = pool.id.as_str().into();
    PoolId { node_group: GROUP.into(), datacenter: DATACENTER.into(), offer, capacity_type }
}

fn offer(pool: &ReplayPool, size: u64) -> Offer {
    Offer {
        size: SizeId(size),
        name: pool.id.clone(),
        identifier: None,
        datacenter: DATACENTER.into(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources { disk_gib: DISK_GIB, ..resources(pool.capacity) },
        monthly: None,
        hourly: Some(pool.price.0),
    }
}

/// The entry of the price file for a spot pool.
fn spot_price(pool: &ReplayPool) -> Option<Override> {
    let rate = pool.spot?;
    Some(Override {
        offer: Some(pool.id.as_str().into()),
        datacenter: None,
        capacity_type: CapacityType::Spot,
        rule: PriceRule::Price(pool.price),
        interruption_rate: Some(rate),
    })
}

fn group(pools: Vec<PoolId>, max_spot: u32) -> NodeGroup {
    NodeGroup {
        name: GROUP.into(),
        min: 0,
        max: MAX_MACHINES,
        pools,
        size: None,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        preferred: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: CostLimit::default(),
        deletion: None,
        node: DeclaredNode::default(),
        spot: Some(SpotPolicy {
            max_share: MaxSpotShare::new(max_spot),
            on_demand_fallback: true,
            grace_period: Duration::from_secs(NOTICE),
            allowed_interruption_rate: None,
            taint: None,
        }),
        has_cloud_controller: false,
        distribution: None,
    }
}

fn saved_machine(change: &Change) -> Option<MachineId> {
    match change {
        Change::SaveMachine(machine) => Some(machine.id.clone()),
        _ => None,
    }
}

fn next_name(named: &mut u32, group: &NodeGroupName) -> MachineId {
    *named += 1;
    MachineId::new(format!("{group}-{named:08x}"))
}

/// The time of the fleet at a second of the replay.
fn time(second: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + second)
}
