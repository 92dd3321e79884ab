//! The drain gate: a VM is deleted only if its Node is drained, or there is none.

use super::*;

const MACHINE: &str = "batch-00000001";

/// A fleet whose cluster has an API server.
fn begin() -> (Hand, Fleet) {
    let mut hand = Hand::new();
    hand.policy.running_when_listed = false;
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[node(9, 4)]);
    (hand, fleet)
}

/// A requested machine.
fn asked(hand: &mut Hand, fleet: &mut Fleet) {
    hand.increase(fleet, OTHER, 1).unwrap();
    hand.ask_all(fleet, &CreationOutcome::Accepted);
}

fn fake(id: String) -> NodeRef {
    NodeRef { provider_id: id.clone(), name: id, fake: true }
}

/// Checks that the only machine waits for a drain, that its VM may be deleted once there is no Node, and not
/// after a Node registers late.
fn is_gated(fleet: &mut Fleet) {
    let machine = only(fleet).clone();
    assert!(matches!(machine.phase, Phase::Deleting { vm: Some(_), drain: DrainState::Pending, .. }));
    assert!(fleet.machines_to_delete().is_empty(), "its Node is not drained yet");
    fleet.note_drain(&machine.id, DrainState::NoNode);
    assert_eq!(fleet.machines_to_delete().len(), 1, "there is no Node");
    fleet.note_drain(&machine.id, DrainState::Pending);
    assert!(fleet.machines_to_delete().is_empty(), "a Node registered");
    fleet.note_drain(&machine.id, DrainState::Done);
    assert_eq!(fleet.machines_to_delete().len(), 1, "it is drained");
    assert_eq!(
        fleet.note_drain(&machine.id, DrainState::Pending),
        [],
        "a completed drain does not become pending again"
    );
    fleet.check_consistency().unwrap();
}

#[test]
fn drains_before_it_deletes_an_orphan() {
    let (mut hand, mut fleet) = begin();
    let pool = OTHER.parse().unwrap();
    let kind = UnmanagedKind::Orphan { pool, size: Some(SizeId(2)) };
    let hostname = node(1, 2).hostname;
    let id = node(1, 2).id;
    fleet.apply(&Change::SaveUnmanaged(UnmanagedNode {
        hostname,
        id,
        first_seen: hand.now,
        kind,
        awaited_by: None,
        request: None,
        abandoned_request: None,
    }));
    hand.wait(Duration::from_mins(16));
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    hand.pass(&mut fleet);
    is_gated(&mut fleet);
}

#[test]
fn drains_before_it_deletes_a_returned_vm() {
    let (hand, mut fleet) = begin();
    let kind = UnmanagedKind::Gone {
        machine: MACHINE.into(),
        pool: OTHER.parse().unwrap(),
        size: SizeId(2),
        deleted: true,
        deletion_accepted: true,
    };
    let hostname = node(1, 2).hostname;
    let id = node(1, 2).id;
    fleet.apply(&Change::SaveUnmanaged(UnmanagedNode {
        hostname,
        id,
        first_seen: hand.now,
        kind,
        awaited_by: None,
        request: None,
        abandoned_request: None,
    }));
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    is_gated(&mut fleet);
}

#[test]
fn drains_before_it_deletes_the_late_vm_of_a_deleted_machine() {
    let (mut hand, mut fleet) = begin();
    asked(&mut hand, &mut fleet);
    fleet.delete_nodes(OTHER, &[fake(only(&fleet).instance_id())], hand.now).unwrap();
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    is_gated(&mut fleet);
}

#[test]
fn drains_before_it_deletes_the_late_vm_of_a_failed_machine() {
    let (mut hand, mut fleet) = begin();
    asked(&mut hand, &mut fleet);
    for _ in 0..3 {
        hand.wait(Duration::from_mins(11));
        hand.observe(&mut fleet, &[node(9, 4)]);
        hand.pass(&mut fleet);
    }
    assert!(matches!(only(&fleet).phase, Phase::Failed { .. }));
    hand.wait(Duration::from_mins(20));
    hand.pass(&mut fleet);
    assert_eq!(only(&fleet).phase.name(), "Deleting", "FailedExpired");
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    is_gated(&mut fleet);
}

#[test]
fn drains_before_it_deletes_the_second_vm_of_a_gone_machine() {
    let (mut hand, mut fleet) = begin();
    asked(&mut hand, &mut fleet);
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    fleet.note_registered(&node(1, 2).hostname, hand.now);
    // The first reply was lost, and the machine was requested again.
    let mut machine = only(&fleet).clone();
    hand.wait(Duration::from_secs(1));
    machine.requests = vec![VmRequest { at: hand.now, outcome: RequestOutcome::Accepted, hostname: None }];
    fleet.apply(&Change::SaveMachine(machine));
    for _ in 0..4 {
        hand.wait(Duration::from_mins(1));
        hand.observe(&mut fleet, &[node(9, 4)]);
    }
    assert!(matches!(only(&fleet).phase, Phase::Deleting { reason: DeletionReason::VMGone, .. }));
    hand.observe(&mut fleet, &[node(2, 2), node(9, 4)]);
    is_gated(&mut fleet);
}

#[test]
fn drains_before_it_deletes_an_unregistered_vm() {
    let (mut hand, mut fleet) = begin();
    asked(&mut hand, &mut fleet);
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    // Cluster Autoscaler deletes the instance when its Node registers.
    fleet.delete_nodes(OTHER, &[fake(only(&fleet).instance_id())], hand.now).unwrap();
    is_gated(&mut fleet);
}

#[test]
fn drains_before_it_deletes_a_placeholder_whose_node_registered() {
    let (mut hand, mut fleet) = begin();
    asked(&mut hand, &mut fleet);
    let placeholder = only(&fleet).instance_id();
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    fleet.delete_nodes(OTHER, &[fake(placeholder)], hand.now).unwrap();
    is_gated(&mut fleet);
}

#[test]
fn drains_before_it_deletes_a_vm_that_a_person_deletes() {
    for reason in [DeletionReason::VPSieNodeDeleted, DeletionReason::NodeGroupDeleted] {
        let (mut hand, mut fleet) = begin();
        asked(&mut hand, &mut fleet);
        hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
        fleet.retire(&only(&fleet).id.clone(), reason, hand.now);
        is_gated(&mut fleet);
    }
}

#[test]
fn drains_nothing_that_cluster_autoscaler_has_drained() {
    let (mut hand, mut fleet) = begin();
    asked(&mut hand, &mut fleet);
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    fleet.note_registered(&node(1, 2).hostname, hand.now);
    fleet.delete_nodes(OTHER, &[by_node(&node(1, 2))], hand.now).unwrap();
    assert_eq!(fleet.machines_to_delete().len(), 1);
}

#[test]
fn drains_nothing_without_an_api_server() {
    let (mut hand, mut fleet) = begin();
    asked(&mut hand, &mut fleet);
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    fleet.delete_nodes(OTHER, &[fake(only(&fleet).instance_id())], hand.now).unwrap();
    hand.policy.running_when_listed = true;
    hand.pass(&mut fleet);
    assert_eq!(fleet.machines_to_delete().len(), 1);
}

#[test]
fn stores_a_drain_as_earlier_releases_do() {
    let (mut hand, mut fleet) = begin();
    asked(&mut hand, &mut fleet);
    hand.observe(&mut fleet, &[node(1, 2), node(9, 4)]);
    fleet.retire(&only(&fleet).id.clone(), DeletionReason::VPSieNodeDeleted, hand.now);
    for (state, stored, read) in [
        (DrainState::Pending, true, DrainState::Pending),
        (DrainState::NoNode, true, DrainState::Pending),
        (DrainState::Done, false, DrainState::Done),
    ] {
        let mut machine = only(&fleet).clone();
        let Phase::Deleting { drain, .. } = &mut machine.phase else { panic!("not Deleting") };
        *drain = state;
        let text = serde_json::to_value(&machine).unwrap();
        assert_eq!(text["phase"]["drain"], stored, "{state:?}");
        let again: Machine = serde_json::from_value(text).unwrap();
        assert!(matches!(again.phase, Phase::Deleting { drain, .. } if drain == read), "{state:?}");
    }
}

#[test]
fn deletes_a_running_machine_without_uuid() {
    let (mut hand, mut fleet) = begin();
    hand.policy.running_when_listed = true;
    asked(&mut hand, &mut fleet);
    let unnamed = ListedNode { id: None, ..node(1, 2) };
    hand.observe(&mut fleet, &[unnamed, node(9, 4)]);
    assert!(matches!(only(&fleet).phase, Phase::Running { .. }));
    fleet.delete_nodes(OTHER, &[fake(only(&fleet).instance_id())], hand.now).unwrap();
    assert_eq!(only(&fleet).phase.name(), "Deleting");
}
