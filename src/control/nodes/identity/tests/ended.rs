//! Nodes whose VM ends, has ended, or is another one.

use super::*;
use crate::fleet::{
    Change, DeletionReason, ListedNode, NodeListing, NodeRole, Policy, RequestOutcome, VmRequest, VmState,
};

/// The record of a VM that was deleted.
fn gone_node(hostname: &str, id: Option<VmId>, machine: &str, first_seen: Timestamp) -> UnmanagedNode {
    let kind = UnmanagedKind::Gone {
        machine: machine.into(),
        pool: POOL.parse().unwrap(),
        size: SizeId(2),
        deleted: true,
        deletion_accepted: true,
    };
    UnmanagedNode::new(Hostname::new(hostname), id, first_seen, kind)
}

#[test]
fn a_node_younger_than_the_end_of_a_vm_belongs_to_another() {
    let gone = gone_node("slave-1", vm().id, "web-00000001", "2026-01-01T00:10:00Z".parse().unwrap());
    let before = fleet(Phase::Pending, Vec::new());
    let fleet = fleet(Phase::Pending, vec![gone]);
    let silent = node("", false);
    let mut was_there = History::default();
    was_there.note_records(&before);
    was_there.note_node(&silent, true);
    was_there.note_records(&fleet);
    assert_eq!(judge_after(&was_there, &fleet, &silent), NodeAction::Delete);
    let mut came_later = History::default();
    came_later.note_records(&before);
    came_later.note_records(&fleet);
    came_later.note_node(&silent, false);
    assert_eq!(judge_after(&came_later, &fleet, &silent), NodeAction::None);
    assert_eq!(judge(&fleet, &merged(&silent, not_ready())), NodeAction::None, "it may be new");
    let mut renamed = made_at(node(ID, false), "2026-01-01T00:09:00Z");
    renamed.metadata.name = Some("ip-10-0-0-7".to_owned());
    assert_eq!(judge(&fleet, &renamed), NodeAction::Delete, "its providerID identifies the VM");
}

#[test]
fn the_hostname_of_a_request_identifies_a_node() {
    for (hostname, want) in [
        ("web-00000001-2", NodeAction::Delete),
        ("web-00000001-x", NodeAction::None),
        ("slave-1", NodeAction::None),
    ] {
        let gone = gone_node(hostname, vm().id, "web-00000001", Timestamp::UNIX_EPOCH);
        let fleet = fleet(Phase::Pending, vec![gone]);
        let mut node = node(&format!("k3s://{hostname}"), true);
        node.metadata.name = Some(hostname.to_owned());
        assert_eq!(judge(&fleet, &node), want, "{hostname}, after a restart");
    }
}

fn made(at: &str, ready: &str, heartbeat: &str) -> Node {
    let condition = json!({ "type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat });
    serde_json::from_value(json!({
        "metadata": { "name": "slave-1", "uid": "u", "creationTimestamp": at },
        "status": { "conditions": [condition] },
    }))
    .unwrap()
}

/// A fleet whose machine was recorded in second 10.
fn late(phase: Phase) -> Fleet {
    let mut machine = fleet(phase, Vec::new()).records().machines.remove(0);
    machine.created_at = Timestamp::from_second(10).unwrap();
    let mut fleet = fleet(creating(), Vec::new());
    fleet.apply(&Change::SaveMachine(machine));
    fleet
}

fn deleting(reason: DeletionReason) -> Phase {
    Phase::Deleting {
        vm: Some(vm()),
        since: Timestamp::UNIX_EPOCH,
        reason,
        drain: DrainState::Pending,
        accepted_at: None,
    }
}

const FIVE: &str = "1970-01-01T00:00:05Z";
const TWENTY: &str = "1970-01-01T00:00:20Z";

#[test]
fn a_deleting_machine_drains_its_node_of_any_origin() {
    // Left from an earlier VM; or taken over by the kubelet of another VM; or set first by another
    // controller.
    for (node, waits) in [
        (made(FIVE, "True", FIVE), true),
        (Node { spec: node("vpsie://other", true).spec, ..made(FIVE, "True", FIVE) }, false),
        (Node { spec: node("k3s://slave-1", true).spec, ..made(FIVE, "True", FIVE) }, true),
    ] {
        let stays = late(creating());
        let goes = late(deleting(DeletionReason::VPSieNodeDeleted));
        let history = older(&node);
        assert_eq!(facts(&node, owner_of(&stays, &history, &node)).machine.is_none(), waits);
        assert!(facts(&node, owner_of(&goes, &history, &node)).machine.is_some(), "drained");
        let NodeAction::Patch(patch) = judge_after(&history, &goes, &node) else { panic!("no patch") };
        assert_eq!(patch["spec"]["unschedulable"], true);
        assert_eq!(patch["metadata"]["uid"], "u");
        assert!(!matches!(judge_after(&history, &goes, &merged(&node, patch)), NodeAction::Patch(_)), "once");
    }
}

#[test]
fn a_node_of_another_cloud_is_never_deleted() {
    let with = |id: &str| Node { spec: node(id, false).spec, ..made(TWENTY, "Unknown", FIVE) };
    let fleet = late(creating());
    let k3s = with("k3s://slave-1");
    assert_eq!(judge_after(&older(&k3s), &fleet, &k3s), NodeAction::None);
    assert!(matches!(judge(&fleet, &k3s), NodeAction::Adopt(..)));
    assert_eq!(judge(&fleet, &with("vpsie://other")), NodeAction::Delete);
    let unnamed = Phase::Creating { vm: Some(Vm { id: None, ..vm() }), since: Timestamp::UNIX_EPOCH };
    assert_eq!(judge(&late(unnamed), &with("vpsie://other")), NodeAction::None, "it may be its own");
}

#[test]
fn a_node_that_the_next_vm_of_its_name_took_over_is_not_deleted() {
    let gone = gone_node(
        "slave-0",
        Some(VmId::from("00000000-0000-4000-8000-000000000000")),
        "web-00000000",
        Timestamp::from_second(10).unwrap(),
    );
    let fleet = fleet(creating(), vec![gone]);
    let old = |ready| node("vpsie://00000000-0000-4000-8000-000000000000", ready);
    assert!(matches!(judge(&fleet, &old(true)), NodeAction::Contradiction(..)), "pods run on it");
    assert_eq!(judge(&fleet, &old(false)), NodeAction::Delete);
}

#[test]
fn a_new_node_triggers_a_listing_while_a_machine_waits() {
    let mut waiting = late(Phase::Creating { vm: None, since: Timestamp::UNIX_EPOCH });
    assert_eq!(judge(&waiting, &made(TWENTY, "False", FIVE)), NodeAction::None, "nothing was asked for");
    let mut machine = waiting.records().machines.remove(0);
    machine.requests =
        vec![VmRequest { at: machine.created_at, outcome: RequestOutcome::Accepted, hostname: None }];
    waiting.apply(&Change::SaveMachine(machine));
    assert_eq!(judge(&waiting, &made(TWENTY, "False", FIVE)), NodeAction::ListVms);
    let there = made(FIVE, "True", FIVE);
    assert_eq!(judge_after(&older(&there), &waiting, &there), NodeAction::None, "it was there before");
}

#[test]
fn keeps_the_ready_node_of_a_vm_that_was_not_deleted() {
    let mut fleet = fleet(deleting(DeletionReason::ClusterAutoscaler), Vec::new());
    let mut now = Timestamp::UNIX_EPOCH;
    let policy = Policy { running_when_listed: false, ..Policy::default() };
    let master = ListedNode {
        hostname: Hostname::new("master-1"),
        id: Some(VmId::from("m")),
        size: None,
        excluded: std::collections::BTreeSet::new(),
        datacenter: None,
        capacity_type: None,
        role: NodeRole::ControlPlane,
        state: VmState::Running,
        addresses: Vec::new(),
        created_at: None,
        interruption: None,
        attachment: None,
        pool: None,
    };
    let listing = NodeListing::of_nodes(vec![master], true);
    for _ in 0..5 {
        fleet.observe(&listing, now, &policy);
        now += std::time::Duration::from_mins(1);
    }
    // Its drain is held up by a disruption budget; the kubelet reports Ready.
    assert_ne!(judge(&fleet, &node(ID, true)), NodeAction::Delete);
}
