mod duplicates;
mod ended;
mod network;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::super::patch::TO_BE_DELETED;
use super::*;
use crate::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use crate::fleet::{
    AutoscalingOptions, Change, DrainState, MaxSpotShare, NodeGroup, PoolId, Records, Reserved, SpotPolicy,
    Taint, TaintEffect, Vm, VmId, names,
};

const POOL: &str = "web/ams1/small/on-demand";
const ID: &str = "vpsie://00000000-0000-4000-8000-000000000001";

fn fleet(phase: Phase, unmanaged: Vec<UnmanagedNode>) -> Fleet {
    let pool: PoolId = POOL.parse().unwrap();
    let offer = Offer {
        size: SizeId(2),
        name: "small".to_owned(),
        identifier: None,
        datacenter: "ams1".into(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 40, pods: 110 },
        monthly: None,
        hourly: None,
    };
    let group = NodeGroup {
        name: "web".into(),
        min: 0,
        max: 3,
        pools: vec![pool.clone()],
        size: None,
        labels: [("team".to_owned(), "web".to_owned())].into(),
        taints: vec![Taint { key: "dedicated".into(), value: "web".into(), effect: TaintEffect::NoSchedule }],
        preferred: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: crate::cost::CostLimit::default(),
        deletion: None,
        node: crate::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
    };
    let machine = Machine {
        id: "web-00000001".into(),
        pool,
        size: SizeId(2),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        phase,
        requests: Vec::new(),
        notice: None,
        replaces: None,
    };
    let records = Records {
        machines: vec![machine],
        unmanaged,
        profiles: Vec::new(),
        request_history: crate::fleet::RequestHistory::default(),
        spot_history: crate::fleet::SpotHistory::default(),
        datacenter_history: crate::fleet::DatacenterHistory::default(),
        catalog: Some(Arc::new(Catalog { offers: vec![offer] })),
        unreadable: 0,
    };
    Fleet::restore(vec![group], records, Reserved::default())
}

fn vm() -> Vm {
    Vm {
        hostname: Hostname::new("slave-1"),
        id: Some(VmId::from("00000000-0000-4000-8000-000000000001")),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    }
}

fn creating() -> Phase {
    Phase::Creating { vm: Some(vm()), since: jiff::Timestamp::UNIX_EPOCH }
}

fn node(provider_id: &str, ready: bool) -> Node {
    serde_json::from_value(json!({
        "metadata": { "name": "slave-1", "resourceVersion": "7", "labels": { "kubernetes.io/os": "linux" } },
        "spec": {
            "providerID": provider_id,
            "taints": [{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }],
        },
        "status": {
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "Unknown" } }],
            "capacity": { "cpu": "2", "memory": "4030456Ki", "ephemeral-storage": "41152812Ki", "pods": "110" },
            "allocatable": { "cpu": "1930m", "memory": "3200Mi", "ephemeral-storage": "37G", "pods": "110" },
        },
    }))
    .unwrap()
}

/// A history without the order of Node and machine.
fn judge(fleet: &Fleet, node: &Node) -> NodeAction {
    judge_after(&History::default(), fleet, node)
}

fn judge_after(history: &History, fleet: &Fleet, node: &Node) -> NodeAction {
    node_action(fleet, history, node, owner_of(fleet, history, node))
}

/// A Node that existed before the machine was recorded.
fn older(node: &Node) -> History {
    let mut history = History::default();
    history.note_records(&Fleet::default());
    history.note_node(node, true);
    history.note_records(&fleet(Phase::Pending, Vec::new()));
    history
}

/// A Node that registered after the machine was recorded.
fn younger(node: &Node) -> History {
    let mut history = History::default();
    history.note_records(&Fleet::default());
    history.note_records(&fleet(Phase::Pending, Vec::new()));
    history.note_node(node, false);
    history
}

fn merged(node: &Node, patch: Value) -> Node {
    let mut value = serde_json::to_value(node).unwrap();
    merge(&mut value, patch);
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

#[test]
fn a_new_node_gets_its_identity_and_then_registers() {
    let fleet = fleet(creating(), Vec::new());
    let bare = node("", true);
    let NodeAction::Patch(patch) = judge(&fleet, &bare) else { panic!("no patch") };
    assert_eq!(patch["spec"]["providerID"], ID);
    assert_eq!(patch["metadata"]["labels"]["team"], "web");
    assert_eq!(patch["metadata"]["annotations"][names::POOL], POOL);
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    let named = merged(&bare, patch);
    assert_eq!(named.spec.as_ref().unwrap().taints.as_ref().unwrap().len(), 2, "its own taint stays");
    assert_eq!(judge(&fleet, &named), NodeAction::Register(vm().hostname));
}

#[test]
fn a_spot_node_gets_the_taint_of_its_capacity_type() {
    let mut fleet = fleet(creating(), Vec::new());
    let mut machine = fleet.machines().next().unwrap().clone();
    machine.pool.capacity_type = CapacityType::Spot;
    let mut group = fleet.node_group(&machine.pool.node_group).unwrap().clone();
    group.pools.push(machine.pool.clone());
    group.spot = Some(SpotPolicy {
        max_share: MaxSpotShare::new(100),
        on_demand_fallback: true,
        grace_period: Duration::from_mins(2),
        allowed_interruption_rate: None,
        taint: Some(TaintEffect::NoSchedule),
    });
    group.taints.clear();
    fleet.declare(vec![group]);
    let spot_taint = json!({"key": names::CAPACITY_TYPE, "value": "spot", "effect": "NoSchedule"});
    let has_spot_taint = |fleet: &Fleet| {
        let NodeAction::Patch(patch) = judge(fleet, &node("", true)) else { panic!("no patch") };
        patch["spec"]["taints"].as_array().is_some_and(|taints| taints.contains(&spot_taint))
    };
    assert!(!has_spot_taint(&fleet), "on demand");
    fleet.apply(&Change::SaveMachine(machine));
    assert!(has_spot_taint(&fleet));
}

#[test]
fn a_replacement_registers_once_its_node_is_ready() {
    let mut replacement = fleet(creating(), Vec::new()).records().machines.remove(0);
    replacement.replaces = Some("web-00000002".into());
    let mut fleet = fleet(creating(), Vec::new());
    fleet.apply(&Change::SaveMachine(replacement));
    for (is_ready, wanted) in [(false, NodeAction::None), (true, NodeAction::Register(vm().hostname))] {
        let bare = node("", is_ready);
        let NodeAction::Patch(patch) = judge(&fleet, &bare) else { panic!("no patch") };
        assert_eq!(judge(&fleet, &merged(&bare, patch)), wanted);
    }
}

#[test]
fn a_label_that_was_lost_is_given_again_and_a_taint_is_not() {
    let fleet = fleet(creating(), Vec::new());
    let bare = node("", true);
    let NodeAction::Patch(patch) = judge(&fleet, &bare) else { panic!("no patch") };
    let mut named = merged(&bare, patch);
    named.metadata.labels.as_mut().unwrap().remove("team");
    named.spec.as_mut().unwrap().taints = None;
    let NodeAction::Patch(patch) = judge(&fleet, &named) else { panic!("no patch") };
    assert_eq!(patch["metadata"]["labels"], json!({ "team": "web" }));
    assert_eq!(patch.get("spec"), None);
}

#[test]
fn adopts_an_unknown_provider_id_of_a_ready_node() {
    let fleet = fleet(creating(), Vec::new());
    let other = node("vpsie://other", true);
    assert_eq!(judge(&fleet, &other), NodeAction::Adopt("web-00000001".into(), "vpsie://other".into()));
    assert_eq!(judge(&fleet, &node("vpsie://other", false)), NodeAction::Delete, "left from another VM");
    let booting = merged(&node("vpsie://other", false), not_ready());
    assert_eq!(judge_after(&younger(&booting), &fleet, &booting), NodeAction::None, "it is new");
    assert_eq!(judge(&fleet, &booting), NodeAction::None, "it may be new");
}

fn not_ready() -> Value {
    json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } })
}

#[test]
fn leaves_the_provider_id_to_a_cloud_controller() {
    let mut fleet = fleet(creating(), Vec::new());
    let groups = fleet.node_group(&"web".into()).cloned().into_iter();
    let groups: Vec<_> = groups.map(|group| NodeGroup { has_cloud_controller: true, ..group }).collect();
    assert_eq!(groups.len(), 1);
    fleet.declare(groups);
    let bare = node("", true);
    let NodeAction::Patch(patch) = judge(&fleet, &bare) else { panic!("no patch") };
    assert_eq!(patch["spec"].get("providerID"), None);
    let labelled = merged(&bare, patch);
    assert_eq!(judge(&fleet, &labelled), NodeAction::None, "it is not registered yet");
    let k3s = node("k3s://slave-1", true);
    assert!(matches!(judge(&fleet, &k3s), NodeAction::Adopt(..)));
}

#[test]
fn adopts_the_provider_id_of_another_controller() {
    let mut fleet = fleet(creating(), Vec::new());
    let talos = node("talos://vpsie/10.0.0.9", true);
    let NodeAction::Adopt(machine, id) = judge(&fleet, &talos) else { panic!("not adopted") };
    assert_eq!(fleet.adopt_provider_id(&machine, &id).len(), 1);
    assert_eq!(fleet.machine(&machine).unwrap().instance_id(), "talos://vpsie/10.0.0.9");
    let NodeAction::Patch(patch) = judge(&fleet, &talos) else { panic!("no patch") };
    assert_eq!(patch["metadata"]["labels"]["team"], "web");
    assert_eq!(patch["spec"].get("providerID"), None, "it cannot be changed");
    let NodeAction::Register(..) = judge(&fleet, &merged(&talos, patch)) else { panic!("not registered") };
    assert_eq!(fleet.adopt_provider_id(&machine, &id), [], "once");
}

#[test]
fn adopts_no_provider_id_that_address_or_age_contradict() {
    let talos = node("talos://vpsie/10.0.0.9", true);
    let plain = fleet(creating(), Vec::new());
    assert_eq!(judge_after(&older(&talos), &plain, &talos), NodeAction::None, "left from an earlier VM");
    let mut two = fleet(creating(), Vec::new());
    let mut other = two.records().machines.remove(0);
    let there =
        Vm { hostname: Hostname::new("slave-2"), id: None, addresses: vec![[10, 0, 0, 7].into()], ..vm() };
    (other.id, other.phase) =
        ("web-00000002".into(), Phase::Creating { vm: Some(there), since: Timestamp::UNIX_EPOCH });
    two.apply(&crate::fleet::Change::SaveMachine(other));
    let elsewhere =
        merged(&talos, json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}));
    assert!(matches!(judge(&two, &elsewhere), NodeAction::Contradiction(..)), "it has another VM's address");
}

#[test]
fn the_node_of_a_vm_that_is_gone_is_deleted() {
    let gone = |deleted| UnmanagedNode {
        hostname: Hostname::new("slave-1"),
        id: vm().id,
        first_seen: jiff::Timestamp::UNIX_EPOCH,
        awaited_by: None,
        request: None,
        abandoned_request: None,
        kind: UnmanagedKind::Gone {
            machine: "web-00000001".into(),
            pool: POOL.parse().unwrap(),
            size: SizeId(2),
            deleted,
            deletion_accepted: deleted,
        },
    };
    let after = |deleted| fleet(Phase::Pending, vec![gone(deleted)]);
    assert_eq!(judge(&after(true), &node(ID, true)), NodeAction::Delete);
    assert_eq!(judge(&after(false), &node(ID, false)), NodeAction::Delete);
    assert_eq!(judge(&after(false), &node(ID, true)), NodeAction::None, "its kubelet still speaks");
    assert_eq!(judge(&after(true), &node("vpsie://other", false)), NodeAction::None);
    assert_eq!(judge(&fleet(Phase::Pending, Vec::new()), &node("", false)), NodeAction::None, "foreign");
}

fn made_at(mut node: Node, time: &str) -> Node {
    node.metadata.creation_timestamp = Some(time.parse::<Timestamp>().unwrap().into());
    node
}

#[test]
fn labels_and_taints_do_not_wait_for_the_uuid() {
    let unnamed = Vm { id: None, ..vm() };
    let early = fleet(Phase::Creating { vm: Some(unnamed), since: Timestamp::UNIX_EPOCH }, Vec::new());
    let NodeAction::Patch(patch) = judge(&early, &node("", false)) else { panic!("no patch") };
    assert_eq!(patch["spec"].get("providerID"), None);
    assert_eq!(patch["spec"]["taints"].as_array().unwrap().len(), 2);
    let tainted = merged(&node("", false), patch);
    assert_eq!(judge(&early, &tainted), NodeAction::None);
    let NodeAction::Patch(patch) = judge(&fleet(creating(), Vec::new()), &tainted) else {
        panic!("no patch")
    };
    assert_eq!(patch["spec"], json!({ "providerID": ID }));
}

#[test]
fn a_node_of_another_name_is_matched_by_its_address() {
    let there = Vm { addresses: vec![[10, 0, 0, 7].into()], ..vm() };
    let fleet = fleet(Phase::Creating { vm: Some(there), since: Timestamp::UNIX_EPOCH }, Vec::new());
    let mut renamed = node("", true);
    renamed.metadata.name = Some("ip-10-0-0-7".to_owned());
    assert_eq!(judge(&fleet, &renamed), NodeAction::None, "no address yet");
    let addresses =
        json!([{"type": "Hostname", "address": "10.0.0.9"}, {"type": "InternalIP", "address": "10.0.0.7"}]);
    renamed.status.as_mut().unwrap().addresses = serde_json::from_value(addresses).unwrap();
    let NodeAction::Patch(patch) = judge(&fleet, &renamed) else { panic!("no patch") };
    assert_eq!(patch["spec"]["providerID"], ID);
    let NodeAction::Register(hostname) = judge(&fleet, &merged(&renamed, patch)) else { panic!("no") };
    assert_eq!(hostname, vm().hostname, "the VM's, not the Node's");
}

#[test]
fn matches_no_node_by_the_address_alone() {
    let there = Vm { addresses: vec![[10, 0, 0, 7].into()], ..vm() };
    let fleet = fleet(Phase::Creating { vm: Some(there), since: Timestamp::UNIX_EPOCH }, Vec::new());
    let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}});
    let named = |name: &str| {
        let mut node = merged(&node("", true), addresses.clone());
        node.metadata.name = Some(name.to_owned());
        node
    };
    for edge in [named("edge-1"), named("ip-10-0-0-70")] {
        assert_eq!(judge_after(&younger(&edge), &fleet, &edge), NodeAction::None);
    }
    for fits in [named("slave-1.example.com"), named("ip-10-0-0-7.internal")] {
        assert!(matches!(judge_after(&younger(&fits), &fleet, &fits), NodeAction::Patch(_)));
        assert_eq!(
            judge_after(&older(&fits), &fleet, &fits),
            NodeAction::None,
            "it was there before the machine"
        );
    }
}

fn beat(node: &Node, time: &str) -> Node {
    merged(
        node,
        json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": time}
        ]}}),
    )
}

#[test]
fn claims_an_earlier_node_once_its_kubelet_reports() {
    let fleet = fleet(creating(), Vec::new());
    let old = beat(&node("", true), "2026-01-01T00:00:00Z");
    let mut history = older(&old);
    assert_eq!(judge_after(&history, &fleet, &old), NodeAction::None);
    history.note_node(&node("", false), false);
    history.note_node(&old, false);
    assert_eq!(judge_after(&history, &fleet, &old), NodeAction::None, "the API server's action is no report");
    let speaks = beat(&old, "2025-01-01T00:00:00Z");
    history.note_node(&speaks, false);
    assert!(
        matches!(judge_after(&history, &fleet, &speaks), NodeAction::Patch(_)),
        "independent of its clock"
    );
    let mut anew = node("", false);
    anew.metadata.uid = Some("another".to_owned());
    history.note_node(&anew, false);
    assert!(matches!(judge_after(&history, &fleet, &anew), NodeAction::Patch(_)), "it registered since");
}

#[test]
fn claims_a_new_node_whatever_the_clocks_say() {
    for (node_time, machine_time) in [("2026-01-01T00:00:00Z", 4_000_000_000), ("2030-01-01T00:00:00Z", 0)] {
        let mut machine = fleet(creating(), Vec::new()).records().machines.remove(0);
        machine.created_at = Timestamp::from_second(machine_time).unwrap();
        let mut fleet = fleet(creating(), Vec::new());
        fleet.apply(&Change::SaveMachine(machine));
        let new = made_at(beat(&node("", true), node_time), node_time);
        assert!(matches!(judge(&fleet, &new), NodeAction::Patch(_)), "after a restart");
        assert!(matches!(judge_after(&younger(&new), &fleet, &new), NodeAction::Patch(_)));
    }
}

#[test]
fn matches_the_node_of_an_adopted_worker_at_once() {
    let mut history = History::default();
    let there = node("", true);
    history.note_records(&Fleet::default());
    history.note_node(&there, true);
    let fleet = fleet(creating(), Vec::new());
    history.note_records(&fleet);
    assert!(matches!(judge_after(&history, &fleet, &there), NodeAction::Patch(_)));
}

#[test]
fn claims_the_node_of_an_adopted_orphan_at_once() {
    let there = node("", true);
    let mut history = older(&there);
    history.note_listed(&there);
    assert!(matches!(judge_after(&history, &fleet(creating(), Vec::new()), &there), NodeAction::Patch(_)));
}

fn orphan() -> UnmanagedNode {
    let kind = UnmanagedKind::Orphan { pool: POOL.parse().unwrap(), size: Some(SizeId(2)) };
    UnmanagedNode::new(Hostname::new("slave-1"), vm().id, Timestamp::UNIX_EPOCH, kind)
}

#[test]
fn cordons_the_node_of_an_orphan_until_it_is_adopted() {
    let aside = fleet(Phase::Pending, vec![orphan()]);
    for cordoned in [false, true] {
        let bare = merged(&node("", true), json!({ "spec": { "unschedulable": cordoned } }));
        let NodeAction::Patch(patch) = judge(&aside, &bare) else { panic!("no patch") };
        assert_eq!(
            (&patch["spec"]["unschedulable"], &patch["metadata"]["resourceVersion"]),
            (&json!(true), &json!("7"))
        );
        let apart = merged(&bare, patch);
        let of = |node: &Node| node.spec.as_ref().unwrap().taints.clone().unwrap();
        assert_eq!(of(&apart).last().map(|taint| taint.key.as_str()), Some(names::ORPHAN));
        assert_eq!(judge(&aside, &apart), NodeAction::None, "once");
        let NodeAction::Patch(patch) = judge(&fleet(creating(), Vec::new()), &apart) else {
            panic!("no patch")
        };
        let adopted = merged(&apart, patch);
        assert!(of(&adopted).iter().all(|taint| taint.key != names::ORPHAN));
        assert_eq!(adopted.spec.as_ref().unwrap().unschedulable, Some(cordoned), "as it was before");
        assert_eq!(adopted.spec.as_ref().unwrap().provider_id.as_deref(), Some(ID));
    }
}

#[test]
fn names_the_machines_that_a_new_node_does_not_match() {
    let waits = fleet(creating(), Vec::new());
    let mut other = node("", true);
    other.metadata.name = Some("worker-x".to_owned());
    let count = |history: &History, has: bool| unmatched(&waits, history, &other, |_| has).len();
    assert_eq!((count(&younger(&other), false), count(&younger(&other), true)), (1, 0));
    assert_eq!(count(&older(&other), false), 0, "it was there before");
    assert!(
        unmatched(&waits, &younger(&node("", true)), &node("", true), |_| false).is_empty(),
        "it is its own"
    );
}

#[test]
fn the_node_of_a_deleting_machine_is_cordoned_and_tainted() {
    let deleting = |drain: DrainState| Phase::Deleting {
        vm: Some(vm()),
        since: Timestamp::UNIX_EPOCH,
        reason: crate::fleet::DeletionReason::ClusterAutoscaler,
        drain,
        accepted_at: None,
    };
    let named = {
        let NodeAction::Patch(patch) = judge(&fleet(creating(), Vec::new()), &node("", true)) else {
            panic!("no")
        };
        merged(&node("", true), patch)
    };
    for drain in [DrainState::Done, DrainState::Pending] {
        let fleet = fleet(deleting(drain), Vec::new());
        let NodeAction::Patch(patch) = judge(&fleet, &named) else { panic!("no patch") };
        let taint = json!({"key": TO_BE_DELETED, "value": "0", "effect": "NoSchedule"});
        assert_eq!(patch["spec"]["unschedulable"], true);
        let taints = patch["spec"]["taints"].as_array().unwrap();
        let count = named.spec.as_ref().unwrap().taints.as_ref().unwrap().len();
        assert_eq!((taints.len(), taints.last()), (count + 1, Some(&taint)));
        assert!(!matches!(judge(&fleet, &merged(&named, patch)), NodeAction::Patch(_)), "once");
    }
}
