//! The status of a NodeGroup. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::condition_fact::ConditionFact;
use super::datacenter_status::{datacenter_status, datacenters_healthy};
use super::declared::InvalidGroup;
use super::spot_status::{spot_available, spot_status};
use crate::api::{Condition, NodeGroup, NodeGroupCost, NodeGroupNode, NodeGroupPool, NodeGroupStatus};
use crate::catalog::CapacityType;
use crate::cost::UsdPerHour;
use crate::fleet::{Fleet, Machine, MachineId, Phase, Pool, Refusal, UnmanagedNode, names};

/// Maximum of nodes in `status.nodes`, because the size of an object is limited. VPSieNodes have all of them.
const MAX_NODES: usize = 100;

/// The status of a NodeGroup. `invalid` is the problem of its spec, if there is one.
pub(super) fn status(
    object: &NodeGroup,
    fleet: &Fleet,
    invalid: Option<&InvalidGroup>,
    ready: &dyn Fn(&MachineId) -> bool,
    now: Timestamp,
) -> NodeGroupStatus {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let old = object.status.clone().unwrap_or_default();
    let pools: Vec<&Pool> = fleet.pools().filter(|pool| pool.id.node_group.as_str() == name).collect();
    let machines: Vec<&Machine> = pools.iter().flat_map(|pool| fleet.machines_of(pool)).collect();
    let rows: Vec<NodeGroupPool> = pools.iter().map(|pool| pool_row(fleet, pool, ready)).collect();
    let sum = |of: fn(&NodeGroupPool) -> i32| rows.iter().map(of).sum();
    let grown = machines.iter().map(|machine| machine.created_at).max();
    let shrunk = machines.iter().filter_map(|machine| match machine.phase {
        Phase::Deleting { since, .. } => Some(since),
        _ => None,
    });
    let latest = |old: Option<Time>, new: Option<Timestamp>| old.map(|time| time.0).max(new).map(Time);
    let last_scale_up_time = latest(old.last_scale_up_time, grown);
    let last_scale_down_time = latest(old.last_scale_down_time, shrunk.max());
    let desired_nodes = sum(|row| row.desired_nodes);
    let conditions = Conditions { object, fleet, pools: &pools, machines: &machines, desired_nodes, invalid };
    NodeGroupStatus {
        current_nodes: sum(|row| row.current_nodes),
        desired_nodes,
        ready_nodes: sum(|row| row.ready_nodes),
        vpsie_group_id: old.vpsie_group_id,
        pools: rows,
        nodes: machines.iter().filter_map(|machine| node_row(machine, ready)).take(MAX_NODES).collect(),
        conditions: conditions.all().into_iter().map(|fact| fact.condition(&old.conditions, now)).collect(),
        last_scale_time: last_scale_up_time.clone().max(last_scale_down_time.clone()),
        last_scale_up_time,
        last_scale_down_time,
        cost: Some(cost(fleet, &pools)),
        spot: spot_status(fleet, name, &pools),
        datacenters: datacenter_status(fleet, name, &machines, ready),
        observed_generation: object.metadata.generation,
    }
}

/// The conditions of an unreadable NodeGroup. The rest of its status stays unchanged.
pub(super) fn unreadable(invalid: &InvalidGroup, now: Timestamp) -> Vec<Condition> {
    vec![invalid.fact().condition(&[], now)]
}

impl InvalidGroup {
    /// The consequence of the problem.
    pub(super) fn consequence(&self) -> &'static str {
        if self.has_earlier {
            "its last valid version stays in force"
        } else {
            "it neither grows nor shrinks until it is corrected"
        }
    }

    fn fact(&self) -> ConditionFact {
        let reason = if self.unreadable { "Unreadable" } else { "Invalid" };
        ConditionFact::new("Ready", false, reason, format!("{}; {}", self.message, self.consequence()))
    }
}

/// The cost of its VMs.
fn cost(fleet: &Fleet, pools: &[&Pool]) -> NodeGroupCost {
    let hourly: UsdPerHour = pools.iter().map(|pool| fleet.pool_cost(pool)).sum();
    let monthly = hourly.monthly(fleet.prices().hours_per_month);
    NodeGroupCost {
        hourly: Some(hourly.0.round_dp(4).normalize().to_string()),
        monthly: Some(monthly.0.round_dp(2).normalize().to_string()),
    }
}

fn pool_row(fleet: &Fleet, pool: &Pool, ready: &dyn Fn(&MachineId) -> bool) -> NodeGroupPool {
    let machines: Vec<&Machine> = fleet.machines_of(pool).collect();
    let count =
        |which: &dyn Fn(&Machine) -> bool| machines.iter().filter(|machine| which(machine)).count() as i32;
    NodeGroupPool {
        id: pool.text.to_string(),
        desired_nodes: count(&Machine::counts),
        current_nodes: count(&|machine| machine.vm().is_some()),
        ready_nodes: count(&|machine| machine.counts() && is_ready(machine, ready)),
        failed_nodes: count(&|machine| matches!(machine.phase, Phase::Failed { .. })),
    }
}

fn is_ready(machine: &Machine, ready: &dyn Fn(&MachineId) -> bool) -> bool {
    machine.vm().is_some() && ready(&machine.id)
}

fn node_row(machine: &Machine, ready: &dyn Fn(&MachineId) -> bool) -> Option<NodeGroupNode> {
    let vm = machine.vm()?;
    let since = match machine.phase {
        Phase::Running { since, .. } if is_ready(machine, ready) => Some(Time(since)),
        _ => None,
    };
    Some(NodeGroupNode {
        node_name: vm.hostname.to_string(),
        vps_id: 0,
        instance_type: machine.pool.offer.to_string(),
        status: machine.phase.name().to_owned(),
        created_at: Some(Time(machine.created_at)),
        ready_at: since,
        ip_address: vm.addresses.first().map(ToString::to_string),
    })
}

struct Conditions<'a> {
    object: &'a NodeGroup,
    fleet: &'a Fleet,
    pools: &'a [&'a Pool],
    machines: &'a [&'a Machine],
    desired_nodes: i32,
    invalid: Option<&'a InvalidGroup>,
}

impl Conditions<'_> {
    fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    fn all(&self) -> Vec<ConditionFact> {
        let mut facts = vec![self.ready(), self.scaling(), self.error(), self.at_min(), self.at_max()];
        facts.extend(self.payload_valid());
        facts.extend([self.growth_halted(), self.unexpected_nodes()]);
        if self.object.metadata.deletion_timestamp.is_none() {
            facts.extend(spot_available(self.fleet, self.name(), self.pools));
            facts.extend(datacenters_healthy(self.fleet, self.name()));
        }
        facts.extend(self.deleting());
        facts
    }

    fn ready(&self) -> ConditionFact {
        let fact = |holds, reason, message: String| ConditionFact::new("Ready", holds, reason, message);
        if let Some(invalid) = self.invalid {
            return invalid.fact();
        }
        let missing: Vec<&str> = self.object.spec.offering_ids.iter().map(String::as_str).collect();
        let is_growable = |pool: &&&Pool| pool.growable && pool.id.capacity_type == CapacityType::OnDemand;
        let growable: Vec<_> = self.pools.iter().filter(is_growable).collect();
        let known: BTreeSet<_> = self.pools.iter().map(|pool| pool.id.offer.as_str()).collect();
        if self.object.metadata.deletion_timestamp.is_some() {
            return fact(false, "Deleting", "the NodeGroup is being deleted and does not grow".to_owned());
        }
        if growable.is_empty() {
            let what = if known.is_empty() { missing } else { known.into_iter().collect() };
            let message = format!("VPSie's catalog has none of the NodeGroup's offers: {}", what.join(", "));
            return fact(false, "NoOffer", message);
        }
        let message = match missing.len().saturating_sub(growable.len()) {
            0 => String::new(),
            _ if !self.object.spec.allow_mixed_instances => String::new(),
            some => format!("offers of the NodeGroup that VPSie's catalog lacks: {some}"),
        };
        fact(true, "Serving", message)
    }

    /// Whether its VMs can join the cluster. None for a managed cluster.
    fn payload_valid(&self) -> Option<ConditionFact> {
        self.object.spec.self_managed.as_ref()?;
        let problem = self.fleet.payload_problem(&self.name().into());
        let message =
            problem.map(|why| format!("{why}; the NodeGroup adds no machines until that is corrected"));
        let reason = if problem.is_some() { "PayloadInvalid" } else { "Rendered" };
        Some(ConditionFact::new("PayloadValid", problem.is_none(), reason, message.unwrap_or_default()))
    }

    fn scaling(&self) -> ConditionFact {
        let count = |which: fn(&Phase) -> bool| self.machines.iter().filter(|m| which(&m.phase)).count();
        let up = count(|phase| matches!(phase, Phase::Pending | Phase::Creating { .. }));
        let down = count(|phase| matches!(phase, Phase::Deleting { .. }));
        match (up, down) {
            (0, 0) => ConditionFact::new("Scaling", false, "Settled", ""),
            (up, 0) => ConditionFact::new("Scaling", true, "Up", format!("machines being created: {up}")),
            (0, down) => {
                ConditionFact::new("Scaling", true, "Down", format!("machines being deleted: {down}"))
            }
            (up, down) => ConditionFact::new(
                "Scaling",
                true,
                "UpAndDown",
                format!("machines being created: {up}, being deleted: {down}"),
            ),
        }
    }

    fn error(&self) -> ConditionFact {
        let failed = self.machines.iter().filter_map(|machine| match &machine.phase {
            Phase::Failed { failure, at } => Some((at, failure)),
            _ => None,
        });
        match failed.max_by_key(|(at, _)| **at) {
            Some((_, failure)) => {
                ConditionFact::new("Error", true, failure.reason.code(), failure.message.clone())
            }
            None => ConditionFact::new("Error", false, "None", ""),
        }
    }

    fn at_min(&self) -> ConditionFact {
        let min = self.object.spec.min_nodes;
        let holds = self.desired_nodes <= min;
        ConditionFact::new("AtMinCapacity", holds, if holds { "MinimumReached" } else { "AboveMinimum" }, "")
    }

    fn at_max(&self) -> ConditionFact {
        if self.desired_nodes >= self.object.spec.max_nodes {
            return ConditionFact::new(
                "AtMaxCapacity",
                true,
                "MaximumReached",
                "the NodeGroup has maxNodes machines; raise maxNodes to add more",
            );
        }
        let mut limits = self.fleet.pool_limits();
        let left = self.pools.iter().filter(|pool| pool.growable).any(|pool| {
            let limits = limits.of(pool);
            limits.max > limits.target
        });
        if self.pools.iter().any(|pool| pool.growable) && !left {
            let growable = self.pools.iter().filter(|pool| pool.growable);
            let mut refusals = growable.filter_map(|pool| self.fleet.may_grow(&pool.text, 1).err());
            if let Some(refusal) = refusals.find(|why| !matches!(why, Refusal::AboveClusterMax { .. })) {
                return ConditionFact::new("AtMaxCapacity", true, refusal.reason(), refusal.to_string());
            }
            let message = "the NodeGroups have maxClusterWorkers machines; raise maxClusterWorkers of the \
                           AutoscalerConfig to add more";
            return ConditionFact::new("AtMaxCapacity", true, "ClusterMaximumReached", message);
        }
        ConditionFact::new("AtMaxCapacity", false, "BelowMaximum", "")
    }

    fn growth_halted(&self) -> ConditionFact {
        if let Some(halt) = self.fleet.guard_status().and_then(|status| status.halt.as_ref()) {
            return ConditionFact::new("GrowthHalted", true, halt.reason(), halt.to_string());
        }
        ConditionFact::new("GrowthHalted", false, "None", "")
    }

    fn unexpected_nodes(&self) -> ConditionFact {
        let name = self.name();
        let awaited = |unmanaged: &&UnmanagedNode| {
            unmanaged.awaited_by.as_ref().is_some_and(|pool| pool.node_group.as_str() == name)
        };
        let mut nodes: Vec<&str> =
            self.fleet.unmanaged_nodes().filter(awaited).map(|s| s.hostname.as_str()).collect();
        let count = nodes.len();
        nodes.truncate(5);
        if count == 0 {
            return ConditionFact::new("UnexpectedNodes", false, "None", "");
        }
        let message = format!(
            "{count} unexpected nodes ({}) appeared while requests were open or lost, and match none of them; \
             they count as paid for; delete them at VPSie, or annotate the Nodes that a user added with {}=true",
            nodes.join(", "),
            names::ADDED_BY_HAND
        );
        ConditionFact::new("UnexpectedNodes", true, "CountedAsPaid", message)
    }

    fn deleting(&self) -> Option<ConditionFact> {
        self.object.metadata.deletion_timestamp.as_ref()?;
        let left = self.machines.len();
        let how = match self.object.spec.deletion_policy {
            crate::api::DeletionPolicy::WhenEmpty => {
                "they stay until Cluster Autoscaler finds them unneeded; set deletionPolicy to Drain to remove \
                 them now"
            }
            crate::api::DeletionPolicy::Drain => "their Nodes are drained and their VMs deleted",
        };
        Some(ConditionFact::new("Deleting", true, "MachinesLeft", format!("{left} machines left: {how}")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::catalog::{Catalog, Offer, Resources, SizeId};
    use crate::fleet::{
        Change, Declaration, DeletionReason, Failure, FailureReason, Hostname, Records, RequestOutcome,
        Reserved, SpotDefaults, UnmanagedKind, Vm, VmRequest,
    };
    use crate::validation::check_node_group;

    fn time() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn object(max: i32) -> NodeGroup {
        serde_json::from_value(json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
            "metadata": {"name": "web", "generation": 4},
            "spec": {
                "minNodes": 0, "maxNodes": max, "datacenterID": "ams1", "resourceIdentifier": "c-1",
                "offeringIDs": ["small", "large"],
            },
        }))
        .unwrap()
    }

    fn machine(n: u8, phase: Phase) -> Machine {
        Machine {
            id: format!("web-{n:08x}").as_str().into(),
            pool: "web/ams1/small/on-demand".parse().unwrap(),
            size: SizeId(2),
            created_at: time(),
            phase,
            requests: vec![VmRequest { at: time(), outcome: RequestOutcome::Lost, hostname: None }],
            notice: None,
            replaces: None,
        }
    }

    fn vm(n: u8) -> Vm {
        Vm {
            hostname: Hostname::new(&format!("slave-{n}")),
            id: None,
            addresses: vec![[10, 0, 0, n].into()],
            provider_id: None,
            attached: None,
            request: None,
        }
    }

    fn fleet(object: &NodeGroup, machines: Vec<Machine>, max_machines: Option<u32>) -> Fleet {
        let offer = Offer {
            size: SizeId(2),
            name: "small".to_owned(),
            identifier: None,
            datacenter: "ams1".into(),
            capacity_type: CapacityType::OnDemand,
            resources: Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 40, pods: 110 },
            monthly: Some(20.into()),
            hourly: None,
        };
        let groups = vec![check_node_group(object, SpotDefaults::default()).unwrap().group];
        let records = Records {
            machines,
            catalog: Some(Arc::new(Catalog { offers: vec![offer] })),
            ..Records::default()
        };
        Fleet::restore(
            Declaration { groups, max_machines, ..Declaration::default() },
            records,
            Reserved::default(),
        )
    }

    fn condition<'a>(status: &'a NodeGroupStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        (&found.status, &found.reason, &found.message)
    }

    #[test]
    fn status_counts_machines_and_describes_scaling() {
        let failure = Failure { reason: FailureReason::Stockout, message: "no room in ams1".to_owned() };
        let object = object(4);
        let deleting = Phase::Deleting {
            vm: Some(vm(4)),
            since: time(),
            reason: DeletionReason::ClusterAutoscaler,
            drain: crate::fleet::DrainState::Done,
            accepted_at: None,
        };
        let fleet = fleet(
            &object,
            vec![
                machine(1, Phase::Running { vm: vm(1), since: time() }),
                machine(2, Phase::Running { vm: vm(2), since: time() }),
                machine(3, Phase::Failed { failure, at: time() }),
                machine(4, deleting),
                machine(5, Phase::Pending),
            ],
            None,
        );
        let ready = |id: &MachineId| id.as_str() != "web-00000002";
        let status = status(&object, &fleet, None, &ready, time());
        assert_eq!((status.desired_nodes, status.current_nodes, status.ready_nodes), (4, 3, 1));
        assert_eq!(status.pools.len(), 1, "VPSie never had the other offer");
        assert_eq!((status.pools[0].failed_nodes, status.observed_generation), (1, Some(4)));
        assert_eq!(status.nodes.len(), 3);
        let cost = status.cost.clone().unwrap();
        assert_eq!((cost.hourly.as_deref(), cost.monthly.as_deref()), (Some("0.0822"), Some("60")));
        assert_eq!(status.nodes[0].ip_address.as_deref(), Some("10.0.0.1"));
        assert_eq!(
            condition(&status, "Ready"),
            ("True", "Serving", "offers of the NodeGroup that VPSie's catalog lacks: 1")
        );
        assert_eq!(
            condition(&status, "Scaling"),
            ("True", "UpAndDown", "machines being created: 1, being deleted: 1")
        );
        assert_eq!(condition(&status, "Error"), ("True", "STOCKOUT", "no room in ams1"));
        assert_eq!(condition(&status, "AtMaxCapacity").1, "MaximumReached");
        assert_eq!(condition(&status, "AtMinCapacity").0, "False");
        assert_eq!(status.last_scale_time, Some(Time(time())));
    }

    #[test]
    fn unexpected_nodes_are_a_condition_of_their_own() {
        let object = object(4);
        let unmanaged = UnmanagedNode {
            hostname: Hostname::new("slave-9"),
            id: None,
            first_seen: time(),
            kind: UnmanagedKind::Foreign,
            awaited_by: Some("web/ams1/small/on-demand".parse().unwrap()),
            request: None,
            abandoned_request: None,
        };
        let mut fleet = fleet(&object, Vec::new(), None);
        let before = status(&object, &fleet, None, &|_| true, time());
        assert_eq!(condition(&before, "UnexpectedNodes"), ("False", "None", ""));
        fleet.apply(&Change::SaveUnmanaged(unmanaged));
        let status = status(&object, &fleet, None, &|_| true, time());
        assert_eq!(condition(&status, "GrowthHalted"), ("False", "None", ""), "nothing is halted");
        let (holds, reason, message) = condition(&status, "UnexpectedNodes");
        assert_eq!((holds, reason), ("True", "CountedAsPaid"));
        assert!(message.starts_with("1 unexpected nodes (slave-9) appeared"), "{message}");
    }

    #[test]
    fn an_unknown_price_is_the_reason_under_a_cost_limit() {
        let mut object = object(4);
        object.spec.cost_limit = serde_json::from_value(json!({"hourly": "1"})).unwrap();
        let mut fleet = fleet(&object, Vec::new(), None);
        let mut catalog = Catalog::clone(fleet.catalog().unwrap());
        catalog.offers[0].monthly = None;
        fleet.update_catalog(catalog);
        let status = status(&object, &fleet, None, &|_| true, time());
        assert_eq!(condition(&status, "AtMaxCapacity").1, "PriceUnknown");
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut object = object(4);
        let fleet = fleet(&object, Vec::new(), Some(0));
        let first = status(&object, &fleet, None, &|_| false, time());
        assert_eq!(condition(&first, "AtMaxCapacity").1, "ClusterMaximumReached");
        object.status = Some(first.clone());
        let later = time() + std::time::Duration::from_mins(1);
        assert_eq!(status(&object, &fleet, None, &|_| false, later), first, "nothing to write");
        let bad = InvalidGroup { unreadable: false, message: "spec.x: is bad".to_owned(), has_earlier: true };
        let invalid = status(&object, &fleet, Some(&bad), &|_| false, later);
        let ready = &invalid.conditions[0];
        assert_eq!((ready.status.as_str(), ready.last_transition_time.clone()), ("False", Some(Time(later))));
        assert_eq!(ready.message, "spec.x: is bad; its last valid version stays in force");
    }

    #[test]
    fn the_status_of_a_deleted_node_group_names_its_machines() {
        let mut object = object(4);
        object.metadata.deletion_timestamp = Some(Time(time()));
        let fleet = fleet(&object, vec![machine(1, Phase::Running { vm: vm(1), since: time() })], None);
        let status = status(&object, &fleet, None, &|_| true, time());
        assert_eq!(condition(&status, "Ready").1, "Deleting");
        assert!(condition(&status, "Deleting").2.starts_with("1 machines left: they stay until"));
    }
}
