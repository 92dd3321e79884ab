//! NodeGroups with machines in several datacenters, against a toy VPSie and a toy Cluster Autoscaler.

mod breakers;
mod bursts;
mod distribution;
mod flapping;
mod limits;
mod never_joined;
mod scenarios;

use std::collections::BTreeSet;

use super::*;
use crate::catalog::DatacenterId;

const AMS: &str = "ams1";
const FRA: &str = "fra1";
const LON: &str = "lon1";
const OFFERS: [(u64, &str); 3] = [(2, "small"), (3, "medium"), (4, "large")];

fn catalog() -> Catalog {
    let here = |datacenter: &'static str| {
        OFFERS.map(|(size, name)| Offer { datacenter: datacenter.into(), ..offer(size, name) })
    };
    Catalog { offers: [AMS, FRA, LON].into_iter().flat_map(here).collect() }
}

fn pool(datacenter: &str, offer: &str) -> String {
    format!("web/{datacenter}/{offer}/on-demand")
}

fn balanced(datacenters: &[&str]) -> Distribution {
    Distribution {
        datacenters: datacenters.iter().map(|name| DatacenterId::from(*name)).collect(),
        strategy: DatacenterStrategy::Balanced,
        min_per_datacenter: 0,
        max_skew: 2,
        max_price_difference: 10,
    }
}

fn weighted(weights: &[(&str, u32)]) -> Distribution {
    let datacenters: Vec<&str> = weights.iter().map(|(name, _)| *name).collect();
    let weights = weights.iter().map(|(name, weight)| (DatacenterId::from(*name), *weight)).collect();
    Distribution { strategy: DatacenterStrategy::Weighted { weights, step: 3 }, ..balanced(&datacenters) }
}

fn primary_backup(datacenters: &[&str]) -> Distribution {
    Distribution { strategy: DatacenterStrategy::PrimaryBackup, ..balanced(datacenters) }
}

fn group_of(min: u32, max: u32, offers: &[&str], distribution: Distribution) -> NodeGroup {
    let in_datacenter = |datacenter: &DatacenterId| -> Vec<String> {
        offers.iter().map(|offer| pool(datacenter.as_str(), offer)).collect()
    };
    let pools: Vec<String> = distribution.datacenters.iter().flat_map(in_datacenter).collect();
    let pools: Vec<&str> = pools.iter().map(String::as_str).collect();
    NodeGroup { distribution: Some(distribution), ..group("web", min, max, &pools) }
}

/// A toy VPSie, a toy Cluster Autoscaler, and the fleet between them.
struct World {
    hand: Hand,
    fleet: Fleet,
    /// Datacenters and sizes that VPSie refuses.
    refused: BTreeSet<(DatacenterId, SizeId)>,
    /// The reason of these refusals.
    refusal: FailureReason,
    /// Datacenters where VPSie accepts requests and creates nothing.
    silent: BTreeSet<DatacenterId>,
    /// Datacenters where no Node registers.
    unjoined: BTreeSet<DatacenterId>,
    /// Datacenters whose rows listings lack.
    hidden: BTreeSet<DatacenterId>,
    vms: Vec<ListedNode>,
    created: u32,
    /// Pools that Cluster Autoscaler backs off, and until when.
    backoff: BTreeMap<String, Timestamp>,
    /// Refused calls of Cluster Autoscaler.
    refusals: Vec<Refusal>,
    /// Whether similar pools are balanced (`--balance-similar-node-groups`).
    balances: bool,
}

impl World {
    fn new(group: NodeGroup) -> Self {
        let records = Records { catalog: Some(Arc::new(catalog())), ..Records::default() };
        let mut world = Self {
            hand: Hand::new(),
            fleet: Fleet::restore(vec![group], records, Reserved::default()),
            refused: BTreeSet::new(),
            refusal: FailureReason::Stockout,
            silent: BTreeSet::new(),
            unjoined: BTreeSet::new(),
            hidden: BTreeSet::new(),
            vms: Vec::new(),
            created: 0,
            backoff: BTreeMap::new(),
            refusals: Vec::new(),
            balances: true,
        };
        // A worker that existed before: listings show all parts of a class.
        let foreign = ListedNode { hostname: Hostname::new("old-1"), ..node(9999, 9) };
        world.vms.push(foreign);
        world.list();
        world
    }

    fn refuse(&mut self, datacenter: &str, offers: &[&str]) {
        for (size, name) in OFFERS {
            if offers.contains(&name) {
                self.refused.insert((datacenter.into(), SizeId(size)));
            }
        }
    }

    fn list(&mut self) {
        let is_listed = |vm: &&ListedNode| vm.datacenter.as_ref().is_none_or(|at| !self.hidden.contains(at));
        let nodes: Vec<ListedNode> = self.vms.iter().filter(is_listed).cloned().collect();
        self.hand.observe(&mut self.fleet, &nodes);
    }

    /// VPSie replies to requests, lists its VMs, and deletes the requested VMs. Then time limits apply.
    fn serve(&mut self) {
        for _ in 0..4 {
            let due: Vec<_> = self.fleet.machines_to_request();
            let ids: Vec<MachineId> = due.iter().map(|(id, _)| id.clone()).collect();
            self.fleet.record_requests(&ids, self.hand.now);
            for (id, class) in due {
                let outcome = self.reply(&class);
                self.fleet.record_outcome(&id, outcome, self.hand.now, &self.hand.policy);
            }
            self.list();
        }
        for machine in self.fleet.machines_to_delete().into_iter().cloned().collect::<Vec<_>>() {
            self.fleet.deletion_accepted(&machine.id, self.hand.now);
            let name = machine.vm().map(|vm| vm.hostname.clone());
            self.vms.retain(|vm| Some(&vm.hostname) != name.as_ref());
        }
        self.hand.pass(&mut self.fleet);
    }

    fn reply(&mut self, class: &crate::catalog::MachineClass) -> CreationOutcome {
        if self.refused.contains(&(class.datacenter.clone(), class.size)) {
            let failure = Failure { reason: self.refusal, message: "none left".to_owned() };
            return CreationOutcome::Refused(failure);
        }
        if !self.silent.contains(&class.datacenter) {
            self.created += 1;
            let vm = node(self.created, class.size.0);
            self.vms.push(ListedNode { datacenter: Some(class.datacenter.clone()), ..vm });
        }
        CreationOutcome::Accepted
    }

    /// One loop of Cluster Autoscaler, for pods that need `nodes` nodes of the offer `small` or larger in total.
    fn scale_up(&mut self, nodes: u32) {
        self.remove_failed();
        let present = self.fleet.machines().filter(|machine| machine.counts()).count() as u32;
        let mut needed = nodes.saturating_sub(present);
        let limits = |world: &Self, id: &str| world.fleet.limits(world.fleet.pool(id).unwrap());
        let now = self.hand.now;
        let is_free = |id: &str| self.backoff.get(id).is_none_or(|until| *until <= now);
        let open: Vec<String> = self
            .fleet
            .pools()
            .filter(|pool| is_free(&pool.text) && self.fleet.option_block(pool, 1, now).is_none())
            .filter(|pool| self.fleet.limits(pool).max > self.fleet.limits(pool).target)
            .map(|pool| pool.text.to_string())
            .collect();
        let rank = |id: &&String| {
            let pool = self.fleet.pool(id).unwrap();
            let charge = 1.0 + self.fleet.placement_charge(pool);
            (pool.price.unwrap_or_default().scaled(charge), pool.position)
        };
        let Some(best) = open.iter().min_by_key(rank).cloned() else { return };
        let offer = best.split('/').nth(2).unwrap().to_owned();
        let is_similar = |id: &&String| self.balances && id.split('/').nth(2) == Some(&offer);
        let mut similar: Vec<String> = open.iter().filter(is_similar).cloned().collect();
        if similar.is_empty() {
            similar.push(best);
        }
        let mut plan: BTreeMap<String, u32> = BTreeMap::new();
        while needed > 0 {
            let size = |id: &String| limits(self, id).target + plan.get(id).unwrap_or(&0);
            let has_room = |id: &&String| size(id) < limits(self, id).max;
            let Some(smallest) = similar.iter().filter(has_room).min_by_key(|id| size(id)) else { break };
            *plan.entry(smallest.clone()).or_default() += 1;
            needed -= 1;
        }
        for (id, delta) in plan {
            if let Err(refusal) = self.hand.increase(&mut self.fleet, &id, delta as i32) {
                self.refusals.push(refusal);
                self.backoff.insert(id, now + Duration::from_mins(5));
                break;
            }
        }
    }

    /// Cluster Autoscaler adds machines up to the minimums of pools (`--enforce-node-group-min-size`).
    fn enforce_minimums(&mut self) {
        let all: Vec<(String, Limits)> = {
            let mut limits = self.fleet.pool_limits();
            self.fleet.pools().map(|pool| (pool.text.to_string(), limits.of(pool))).collect()
        };
        for (id, limits) in all {
            let is_free = self.backoff.get(&id).is_none_or(|until| *until <= self.hand.now);
            let delta = limits.min.saturating_sub(limits.target);
            if is_free
                && delta > 0
                && let Err(refusal) = self.hand.increase(&mut self.fleet, &id, delta as i32)
            {
                self.refusals.push(refusal);
            }
        }
    }

    /// Cluster Autoscaler deletes failed machines, and backs off their pools.
    fn remove_failed(&mut self) {
        let is_failed = |machine: &&Machine| matches!(machine.phase, Phase::Failed { .. });
        for machine in self.fleet.machines().filter(is_failed).cloned().collect::<Vec<_>>() {
            let id = machine.id.placeholder();
            let node = NodeRef { provider_id: id.clone(), name: id, fake: true };
            let pool = machine.pool.to_string();
            self.fleet.delete_nodes(&pool, &[node], self.hand.now).unwrap();
            self.backoff.insert(pool, self.hand.now + Duration::from_mins(5));
        }
    }

    /// Loops of ten seconds.
    fn run(&mut self, loops: usize, nodes: u32) {
        for _ in 0..loops {
            self.scale_up(nodes);
            self.serve();
            assert_eq!(self.fleet.check_consistency(), Ok(()));
            self.hand.wait(Duration::from_secs(10));
        }
    }

    /// Cluster Autoscaler deletes so many machines whose Nodes never registered.
    fn end_joining(&mut self, datacenter: &str, count: usize) {
        let is_here = |machine: &&Machine| machine.pool.datacenter.as_str() == datacenter;
        let joining: Vec<Machine> = self.joining().filter(is_here).take(count).cloned().collect();
        assert_eq!(joining.len(), count, "{joining:?}");
        self.delete_unregistered(joining);
    }

    /// Nodes register, except where none does.
    fn register(&mut self) {
        let names: Vec<Hostname> = self
            .joining()
            .filter(|machine| !self.unjoined.contains(&machine.pool.datacenter))
            .filter_map(|machine| Some(machine.vm()?.hostname.clone()))
            .collect();
        for name in names {
            self.fleet.note_registered(&name, self.hand.now);
        }
    }

    /// Cluster Autoscaler deletes the machines whose Nodes did not register within a quarter of an hour.
    fn end_unjoined(&mut self) {
        let is_overdue = |machine: &&Machine| self.hand.now >= machine.created_at + Duration::from_mins(15);
        let overdue: Vec<Machine> = self.joining().filter(is_overdue).cloned().collect();
        self.delete_unregistered(overdue);
    }

    fn joining(&self) -> impl Iterator<Item = &Machine> {
        self.fleet.machines().filter(|machine| matches!(machine.phase, Phase::Creating { vm: Some(_), .. }))
    }

    fn delete_unregistered(&mut self, machines: Vec<Machine>) {
        for machine in machines {
            let id = machine.instance_id();
            let node = NodeRef { provider_id: id.clone(), name: id, fake: true };
            self.fleet.delete_nodes(&machine.pool.to_string(), &[node], self.hand.now).unwrap();
        }
        self.fleet.skip_drains(&mut Vec::new());
    }

    /// Adds machines whose Nodes do not register within a quarter of an hour, and ends them.
    fn never_join(&mut self, pool: &str, count: usize) {
        self.hand.policy.running_when_listed = false;
        self.hand.increase(&mut self.fleet, pool, count as i32).unwrap();
        self.serve();
        self.hand.wait(Duration::from_mins(15));
        self.end_joining(pool.split('/').nth(1).unwrap(), count);
        self.serve();
    }

    /// Minutes without pending pods.
    fn idle(&mut self, minutes: usize) {
        for _ in 0..minutes {
            self.hand.wait(Duration::from_mins(1));
            self.serve();
        }
    }

    /// Running machines in the datacenter.
    fn running(&self, datacenter: &str) -> u32 {
        let is_here = |machine: &&Machine| {
            machine.pool.datacenter.as_str() == datacenter && matches!(machine.phase, Phase::Running { .. })
        };
        self.fleet.machines().filter(is_here).count() as u32
    }

    fn state(&self, datacenter: &str) -> &'static str {
        self.fleet.datacenter_history().state(&datacenter.into()).name()
    }

    fn limits(&self, datacenter: &str, offer: &str) -> (u32, u32, u32) {
        limits(&self.fleet, &pool(datacenter, offer))
    }

    /// Marks the Nodes of these datacenters as not Ready.
    fn set_unready(&mut self, datacenters: &[&str]) {
        let is_unready = |machine: &&Machine| datacenters.contains(&machine.pool.datacenter.as_str());
        let machines = self.fleet.machines().filter(is_unready).map(|machine| machine.id.clone()).collect();
        self.fleet.note_unready_nodes(machines, self.hand.now);
    }
}
