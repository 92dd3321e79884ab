use std::sync::Arc;

use super::*;
use crate::catalog::{Catalog, Offer};
use crate::fleet::{
    AutoscalingOptions, NodeGroup, PoolId, Records, Reserved, SizeId, Taint, TaintEffect, Vm, VmId,
};

const POOL: &str = "web/ams1/small/on-demand";
const ID: &str = "vpsie://00000000-0000-4000-8000-000000000001";

fn fleet(phase: Phase, strangers: Vec<Stranger>) -> Fleet {
    let pool: PoolId = POOL.parse().unwrap();
    let offer = Offer {
        size: SizeId(2),
        name: "small".to_owned(),
        identifier: None,
        datacenter: "ams1".into(),
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
        deletion: None,
    };
    let machine = Machine {
        id: "web-00000001".into(),
        pool,
        size: SizeId(2),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        phase,
        asks: Vec::new(),
    };
    let records = Records {
        machines: vec![machine],
        strangers,
        learned: Vec::new(),
        catalog: Some(Arc::new(Catalog { offers: vec![offer] })),
    };
    Fleet::restore(vec![group], records, Reserved::default())
}

fn vm() -> Vm {
    Vm {
        hostname: Hostname::new("slave-1"),
        id: Some(VmId::from("00000000-0000-4000-8000-000000000001")),
        addresses: Vec::new(),
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

fn judge(fleet: &Fleet, node: &Node) -> Verdict {
    verdict(fleet, node, owner(fleet, node))
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
    let Verdict::Patch(patch) = judge(&fleet, &bare) else { panic!("no patch") };
    assert_eq!(patch["spec"]["providerID"], ID);
    assert_eq!(patch["metadata"]["labels"]["team"], "web");
    assert_eq!(patch["metadata"]["annotations"][names::POOL], POOL);
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    let named = merged(&bare, patch);
    assert_eq!(named.spec.as_ref().unwrap().taints.as_ref().unwrap().len(), 2, "its own taint stays");
    let Verdict::Register(hostname, Some(shows)) = judge(&fleet, &named) else { panic!("not registered") };
    assert_eq!(hostname, vm().hostname);
    assert_eq!((shows.allocatable.cpu_millis, shows.allocatable.memory_mib), (1930, 3200));
    assert_eq!((shows.capacity.memory_mib, shows.allocatable.disk_gib), (3935, 34));
}

#[test]
fn a_label_that_was_lost_is_given_again_and_a_taint_is_not() {
    let fleet = fleet(creating(), Vec::new());
    let bare = node("", true);
    let Verdict::Patch(patch) = judge(&fleet, &bare) else { panic!("no patch") };
    let mut named = merged(&bare, patch);
    named.metadata.labels.as_mut().unwrap().remove("team");
    named.spec.as_mut().unwrap().taints = None;
    let Verdict::Patch(patch) = judge(&fleet, &named) else { panic!("no patch") };
    assert_eq!(patch["metadata"]["labels"], json!({ "team": "web" }));
    assert_eq!(patch.get("spec"), None);
}

#[test]
fn a_node_of_another_vm_is_left_while_it_is_ready() {
    let fleet = fleet(creating(), Vec::new());
    assert!(matches!(judge(&fleet, &node("vpsie://other", true)), Verdict::Contradiction(_)));
    assert_eq!(judge(&fleet, &node("vpsie://other", false)), Verdict::Delete);
}

#[test]
fn the_node_of_a_vm_that_is_gone_is_deleted() {
    let gone = |deleted| Stranger {
        hostname: Hostname::new("slave-1"),
        id: vm().id,
        first_seen: jiff::Timestamp::UNIX_EPOCH,
        kind: StrangerKind::Gone {
            machine: "web-00000001".into(),
            pool: POOL.parse().unwrap(),
            size: SizeId(2),
            deleted,
        },
    };
    let after = |deleted| fleet(Phase::Pending, vec![gone(deleted)]);
    let mut renamed = node(ID, false);
    renamed.metadata.name = Some("ip-10-0-0-9".to_owned());
    assert_eq!(judge(&after(false), &renamed), Verdict::Delete, "by its providerID");
    assert_eq!(judge(&after(true), &node(ID, true)), Verdict::Delete);
    assert_eq!(judge(&after(false), &node(ID, false)), Verdict::Delete);
    assert_eq!(judge(&after(false), &node(ID, true)), Verdict::Leave, "its kubelet still speaks");
    assert_eq!(judge(&after(true), &node("vpsie://other", false)), Verdict::Leave);
    assert_eq!(judge(&fleet(Phase::Pending, Vec::new()), &node("", false)), Verdict::Leave, "foreign");
}

const FIVE: &str = "1970-01-01T00:00:05Z";

/// A machine since second 10, and its Node.
fn late(change: impl FnOnce(&mut Machine), node: &Value) -> Verdict {
    let at = |second| Timestamp::from_second(second).unwrap();
    let mut fleet = fleet(creating(), Vec::new());
    let mut machine = fleet.machines().next().unwrap().clone();
    machine.created_at = at(10);
    change(&mut machine);
    fleet.apply(&crate::fleet::Change::SaveMachine(machine));
    let node: Node = serde_json::from_value(node.clone()).unwrap();
    judge(&fleet, &node)
}

fn without_id(machine: &mut Machine) {
    machine.phase = Phase::Creating { vm: Some(Vm { id: None, ..vm() }), since: jiff::Timestamp::UNIX_EPOCH };
}

fn made(at: &str, ready: &str, heartbeat: &str) -> Value {
    json!({
        "metadata": { "name": "slave-1", "uid": "u", "creationTimestamp": at },
        "status": { "conditions": [{ "type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat }] },
    })
}

#[test]
fn a_node_that_was_there_before_is_claimed_once_its_kubelet_speaks() {
    let own = |_: &mut Machine| ();
    for (node, claimed) in [
        (made("1970-01-01T00:00:10Z", "False", FIVE), true),
        (made(FIVE, "False", "1970-01-01T00:00:20Z"), false),
        (made(FIVE, "Unknown", FIVE), false),
        // Its kubelet may be dead, and nobody have noticed.
        (made(FIVE, "True", FIVE), false),
        (made(FIVE, "True", "1970-01-01T00:00:20Z"), true),
    ] {
        let verdict = late(own, &node);
        assert_eq!(matches!(verdict, Verdict::Patch(_)), claimed, "{node} {verdict:?}");
        assert!(claimed || verdict == Verdict::Leave, "{node} {verdict:?}");
    }
}

#[test]
fn labels_and_taints_do_not_wait_for_the_uuid() {
    let node = made("1970-01-01T00:00:20Z", "True", FIVE);
    let Verdict::Patch(patch) = late(without_id, &node) else { panic!("no patch") };
    assert_eq!(patch["metadata"]["labels"]["team"], "web");
    assert_eq!(patch["spec"].get("providerID"), None);
    let mut named = node.clone();
    merge(&mut named, patch);
    assert_eq!(late(without_id, &named), Verdict::Leave, "no second patch, and not registered");
    let Verdict::Patch(patch) = late(|_| (), &named) else { panic!("no patch") };
    assert_eq!(patch["spec"], json!({ "providerID": ID }), "the rest it has");
    merge(&mut named, patch);
    assert!(matches!(late(|_| (), &named), Verdict::Register(..)));
}

#[test]
fn a_node_with_another_name_is_known_by_its_address() {
    let mut node = made("1970-01-01T00:00:20Z", "True", FIVE);
    node["metadata"]["name"] = json!("ip-10-0-0-9");
    node["status"]["addresses"] = json!([{ "type": "InternalIP", "address": "10.0.0.9" }]);
    let addressed = |machine: &mut Machine| {
        let vm = Vm { addresses: vec!["10.0.0.9".parse().unwrap()], ..vm() };
        machine.phase = Phase::Creating { vm: Some(vm), since: jiff::Timestamp::UNIX_EPOCH };
    };
    let Verdict::Patch(patch) = late(addressed, &node) else { panic!("no patch") };
    merge(&mut node, patch);
    let Verdict::Register(hostname, _) = late(addressed, &node) else { panic!("not registered") };
    assert_eq!(hostname, vm().hostname, "the VM's, not the Node's");
    node["status"]["addresses"] = json!([]);
    assert!(matches!(late(addressed, &node), Verdict::Register(..)), "by its providerID now");
}

#[test]
fn a_node_of_another_cloud_is_never_deleted() {
    let mut node = made("1970-01-01T00:00:20Z", "False", FIVE);
    node["spec"] = json!({ "providerID": "k3s://slave-1" });
    assert_eq!(late(|_| (), &node), Verdict::Contradiction("k3s://slave-1".to_owned()));
    node["spec"] = json!({ "providerID": "vpsie://other" });
    assert_eq!(late(|_| (), &node), Verdict::Delete);
    assert_eq!(late(without_id, &node), Verdict::Leave, "it may be its own");
}

#[test]
fn what_is_being_deleted_stays_cordoned() {
    let deleting = |machine: &mut Machine| {
        machine.phase = Phase::Deleting {
            vm: Some(vm()),
            since: jiff::Timestamp::UNIX_EPOCH,
            reason: crate::fleet::DeletionReason::ClusterAutoscaler,
            drain: false,
            accepted_at: None,
        };
    };
    let mut node = made("1970-01-01T00:00:20Z", "True", FIVE);
    let Verdict::Patch(patch) = late(deleting, &node) else { panic!("no patch") };
    merge(&mut node, patch);
    assert_eq!(node["spec"]["unschedulable"], true);
    assert_eq!(late(deleting, &node), Verdict::Leave);
    node["spec"]["unschedulable"] = json!(null);
    let Verdict::Patch(patch) = late(deleting, &node) else { panic!("no patch") };
    assert_eq!(patch, json!({ "metadata": { "uid": "u" }, "spec": { "unschedulable": true } }));
}

#[test]
fn a_new_node_is_worth_a_listing_while_a_machine_waits_for_its_vm() {
    use crate::fleet::{Ask, AskOutcome};
    let asked = |machine: &mut Machine| {
        machine.phase = Phase::Creating { vm: None, since: jiff::Timestamp::UNIX_EPOCH };
        let at = Timestamp::from_second(10).unwrap();
        machine.asks = vec![Ask { at, outcome: AskOutcome::Accepted }];
    };
    assert_eq!(late(asked, &made("1970-01-01T00:00:20Z", "False", FIVE)), Verdict::Unknown);
    assert_eq!(late(asked, &made(FIVE, "True", FIVE)), Verdict::Leave, "it was there before");
    let pending = |machine: &mut Machine| machine.phase = Phase::Pending;
    assert_eq!(late(pending, &made("1970-01-01T00:00:20Z", "False", FIVE)), Verdict::Leave);
}

#[test]
fn a_node_that_took_a_name_after_its_vm_was_gone_is_left() {
    let gone = Stranger {
        hostname: Hostname::new("slave-1"),
        id: vm().id,
        first_seen: Timestamp::from_second(10).unwrap(),
        kind: StrangerKind::Gone {
            machine: "web-00000001".into(),
            pool: POOL.parse().unwrap(),
            size: SizeId(2),
            deleted: true,
        },
    };
    let fleet = fleet(Phase::Pending, vec![gone]);
    let read = |node: Value| serde_json::from_value::<Node>(node).unwrap();
    assert_eq!(judge(&fleet, &read(made("1970-01-01T00:00:20Z", "False", FIVE))), Verdict::Leave);
    assert_eq!(judge(&fleet, &read(made(FIVE, "True", FIVE))), Verdict::Leave);
    assert_eq!(judge(&fleet, &read(made(FIVE, "Unknown", FIVE))), Verdict::Delete);
}
