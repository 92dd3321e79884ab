//! Effects of listings, replies and time limits.

use super::*;

fn asked(hand: &mut Hand, outcome: &CreationOutcome) -> Fleet {
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    hand.ask_all(&mut fleet, outcome);
    fleet
}

fn failure(reason: FailureReason) -> Failure {
    Failure { reason, message: "no".to_owned() }
}

fn live(hand: &mut Hand) -> (Fleet, ListedNode) {
    let mut fleet = asked(hand, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[node(1, 2)]);
    assert!(matches!(only(&fleet).phase, Phase::Running { .. }));
    (fleet, node(1, 2))
}

#[test]
fn no_request_is_sent_before_the_first_listing() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    let id = only(&fleet).id.clone();
    assert_eq!(fleet.record_requests(std::slice::from_ref(&id), hand.now), []);
    hand.observe(&mut fleet, &[]);
    assert_eq!(fleet.record_requests(&[id], hand.now).len(), 1);
}

#[test]
fn a_new_node_is_bound_and_an_old_one_is_not() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[node(7, 2)]);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[node(7, 2)]);
    assert!(matches!(only(&fleet).phase, Phase::Creating { vm: None, .. }));
    hand.observe(&mut fleet, &[node(7, 2), node(8, 2)]);
    assert_eq!(only(&fleet).vm().unwrap().hostname, node(8, 2).hostname);
    assert_eq!(only(&fleet).instance_id(), "vpsie://00000000-0000-4000-8000-000000000008");
}

#[test]
fn a_node_of_another_size_or_of_the_control_plane_is_foreign() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    let control_plane = ListedNode { role: NodeRole::ControlPlane, ..node(2, 2) };
    hand.observe(&mut fleet, &[node(1, 4), control_plane]);
    assert_eq!(only(&fleet).vm(), None);
    assert!(fleet.unmanaged_nodes().all(|s| s.kind == UnmanagedKind::Foreign));
}

#[test]
fn a_request_is_repeated_only_once_it_counts_as_lost() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Unclear);
    hand.wait(Duration::from_secs(90));
    hand.pass(&mut fleet);
    assert!(fleet.machines_to_request().is_empty(), "there was no listing yet");
    hand.observe(&mut fleet, &[]);
    hand.observe(&mut fleet, &[]);
    hand.pass(&mut fleet);
    assert_eq!(fleet.machines_to_request().len(), 1);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    assert_eq!(only(&fleet).requests.len(), 2);
    // Both VMs appear: one is bound, the other is an orphan and is deleted after the grace period.
    hand.observe(&mut fleet, &[node(1, 2), node(2, 2)]);
    let orphan = fleet.unmanaged_nodes().next().unwrap();
    assert!(matches!(&orphan.kind, UnmanagedKind::Orphan { .. }));
    assert_eq!(target(&fleet, OTHER), 1);
    hand.wait(Duration::from_mins(16));
    hand.pass(&mut fleet);
    assert_eq!(fleet.machines_to_delete().len(), 1);
    assert_eq!(target(&fleet, OTHER), 1);
    fleet.check_consistency().unwrap();
}

#[test]
fn an_orphan_is_adopted_before_another_request() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Unclear);
    hand.wait(Duration::from_secs(90));
    hand.observe(&mut fleet, &[]);
    hand.observe(&mut fleet, &[]);
    hand.pass(&mut fleet);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let both = [node(1, 2), node(2, 2)];
    hand.observe(&mut fleet, &both);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.observe(&mut fleet, &both);
    assert!(fleet.machines_to_request().is_empty());
    assert_eq!(fleet.unmanaged_nodes().count(), 0);
    assert_eq!(target(&fleet, SMALL), 1);
    fleet.check_consistency().unwrap();
}

/// A request without a recorded outcome may not have been sent, because the process ended. A machine with an
/// accepted request must not wait ten minutes in its place.
#[test]
fn a_new_node_matches_the_accepted_request() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Unclear);
    let unclear = only(&fleet).id.clone();
    hand.wait(Duration::from_secs(15));
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[node(1, 2)]);
    let waits: Vec<_> = fleet.machines().filter(|m| m.vm().is_none()).map(|m| m.id.clone()).collect();
    assert_eq!(waits, [unclear]);
    // The VM of the other machine may appear as well.
    hand.observe(&mut fleet, &[node(1, 2), node(2, 2)]);
    assert!(fleet.machines().all(|m| m.vm().is_some()));
    assert_eq!(fleet.unmanaged_nodes().count(), 0);
}

#[test]
fn three_lost_requests_fail_the_machine() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Unclear);
    for _ in 0..3 {
        hand.wait(Duration::from_secs(61));
        hand.observe(&mut fleet, &[]);
        hand.observe(&mut fleet, &[]);
        hand.pass(&mut fleet);
        hand.ask_all(&mut fleet, &CreationOutcome::Unclear);
    }
    assert!(matches!(&only(&fleet).phase, Phase::Failed { failure, .. }
        if failure.reason == FailureReason::CreateTimeout));
    assert_eq!(target(&fleet, OTHER), 1, "a Failed machine counts until it is deleted");
}

#[test]
fn a_shortage_fails_waiting_machines_of_its_size() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, SMALL, 3).unwrap();
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    let first = fleet.machines_to_request()[0].0.clone();
    fleet.record_requests(std::slice::from_ref(&first), hand.now);
    let refused = CreationOutcome::Refused(failure(FailureReason::Stockout));
    fleet.record_outcome(&first, refused, hand.now, &hand.policy);
    let failed = fleet.machines().filter(|m| matches!(m.phase, Phase::Failed { .. })).count();
    assert_eq!(failed, 3);
    assert_eq!(fleet.machines_to_request().len(), 1, "the other size is tried");
}

#[test]
fn an_unavailable_api_is_tried_again_until_time_runs_out() {
    let mut hand = Hand::new();
    let down = CreationOutcome::Unavailable(failure(FailureReason::ApiUnavailable));
    let mut fleet = asked(&mut hand, &down);
    assert_eq!(only(&fleet).phase, Phase::Pending);
    hand.wait(Duration::from_mins(10));
    hand.ask_all(&mut fleet, &down);
    assert!(matches!(only(&fleet).phase, Phase::Failed { .. }));
}

#[test]
fn a_failed_machine_is_deleted_after_its_time() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Refused(failure(FailureReason::Refused)));
    assert_eq!(target(&fleet, OTHER), 1);
    hand.wait(Duration::from_mins(31));
    hand.pass(&mut fleet);
    assert_eq!(fleet.machines().count(), 0);
}

#[test]
fn the_late_vm_of_an_expired_request_is_an_orphan() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    hand.wait(Duration::from_mins(11));
    hand.observe(&mut fleet, &[]);
    hand.observe(&mut fleet, &[]);
    hand.pass(&mut fleet);
    assert!(matches!(only(&fleet).phase, Phase::Failed { .. }));
    hand.observe(&mut fleet, &[node(1, 2)]);
    assert!(matches!(&fleet.unmanaged_nodes().next().unwrap().kind, UnmanagedKind::Orphan { .. }));
}

#[test]
fn a_deletion_is_confirmed_by_two_listings() {
    let mut hand = Hand::new();
    let (mut fleet, vm) = live(&mut hand);
    fleet.delete_nodes(OTHER, &[by_node(&vm)], hand.now).unwrap();
    let id = only(&fleet).id.clone();
    hand.observe(&mut fleet, &[]);
    hand.observe(&mut fleet, &[]);
    assert_eq!(fleet.machines_to_delete().len(), 1, "not accepted yet: absence proves nothing");
    fleet.deletion_accepted(&id, hand.now);
    assert!(fleet.machines_to_delete().is_empty());
    hand.observe(&mut fleet, &[]);
    assert_eq!(fleet.machines().count(), 1);
    hand.observe(&mut fleet, &[]);
    assert_eq!(fleet.machines().count(), 0);
    // It returns: it must still be deleted, and counts in no target size.
    hand.observe(&mut fleet, std::slice::from_ref(&vm));
    assert_eq!(fleet.machines_to_delete().len(), 1);
    assert_eq!(target(&fleet, OTHER), 0);
}

#[test]
fn an_ignored_deletion_is_requested_again() {
    let mut hand = Hand::new();
    let (mut fleet, vm) = live(&mut hand);
    fleet.delete_nodes(OTHER, &[by_node(&vm)], hand.now).unwrap();
    let id = only(&fleet).id.clone();
    fleet.deletion_accepted(&id, hand.now);
    hand.wait(Duration::from_mins(1));
    hand.observe(&mut fleet, std::slice::from_ref(&vm));
    assert!(fleet.machines_to_delete().is_empty());
    hand.wait(Duration::from_mins(3));
    hand.observe(&mut fleet, std::slice::from_ref(&vm));
    assert_eq!(fleet.machines_to_delete().len(), 1);
}

#[test]
fn a_missing_vm_ends_after_a_time_and_is_recognized_later() {
    let mut hand = Hand::new();
    let (mut fleet, vm) = live(&mut hand);
    let control_plane = ListedNode { role: NodeRole::ControlPlane, ..node(100, 2) };
    for _ in 0..5 {
        hand.observe(&mut fleet, &[]);
        hand.wait(Duration::from_mins(2));
    }
    assert_eq!(target(&fleet, OTHER), 1, "an empty listing proves nothing");
    hand.observe(&mut fleet, std::slice::from_ref(&vm));
    for _ in 0..3 {
        assert_eq!(target(&fleet, OTHER), 1);
        hand.observe(&mut fleet, std::slice::from_ref(&control_plane));
        hand.wait(Duration::from_mins(2));
    }
    assert_eq!(target(&fleet, OTHER), 0);
    hand.observe(&mut fleet, &[control_plane, vm]);
    assert_eq!(target(&fleet, OTHER), 1, "the machine is in its pool again");
    fleet.check_consistency().unwrap();
}

#[test]
fn ends_no_machine_by_incomplete_listings() {
    let mut hand = Hand::new();
    let (mut fleet, vm) = live(&mut hand);
    let control_plane = ListedNode { role: NodeRole::ControlPlane, ..node(100, 2) };
    for _ in 0..5 {
        hand.observe_cut(&mut fleet, std::slice::from_ref(&control_plane));
        hand.wait(Duration::from_mins(2));
    }
    hand.observe(&mut fleet, std::slice::from_ref(&control_plane));
    assert_eq!(target(&fleet, OTHER), 1, "the incomplete listings do not count");
    hand.observe(&mut fleet, &[control_plane, vm.clone()]);
    fleet.delete_nodes(OTHER, &[by_node(&vm)], hand.now).unwrap();
    let id = only(&fleet).id.clone();
    fleet.deletion_accepted(&id, hand.now);
    for _ in 0..2 {
        hand.observe_cut(&mut fleet, &[]);
    }
    assert_eq!(fleet.machines().count(), 0, "an accepted deletion is confirmed");
}

#[test]
fn requests_nothing_before_the_first_complete_listing() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let requests = |fleet: &mut Fleet, hand: &Hand| {
        let wanted: Vec<_> = fleet.machines_to_request().into_iter().map(|(id, _)| id).collect();
        fleet.record_requests(&wanted, hand.now).len()
    };
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.observe_cut(&mut fleet, &[]);
    assert_eq!(requests(&mut fleet, &hand), 0);
    hand.observe(&mut fleet, &[node(7, 2)]);
    assert_eq!(requests(&mut fleet, &hand), 1);

    let request_history =
        RequestHistory { known_before: Some([node(7, 2).hostname].into()), ..RequestHistory::default() };
    let mut restarted =
        Fleet::restore(groups(), Records { request_history, ..records() }, FleetSettings::default());
    hand.increase(&mut restarted, SMALL, 1).unwrap();
    hand.observe_cut(&mut restarted, &[]);
    assert_eq!(requests(&mut restarted, &hand), 1, "the nodes from before the first request are recorded");
}

#[test]
fn keeps_a_node_that_is_not_listed_in_the_control_plane() {
    let mut hand = Hand::new();
    let (mut fleet, vm) = live(&mut hand);
    let id = only(&fleet).id.clone();
    hand.observe(&mut fleet, &[ListedNode { role: NodeRole::ControlPlane, ..vm }, node(8, 2)]);
    hand.observe_cut(&mut fleet, &[node(8, 2)]);
    assert!(fleet.is_control_plane(fleet.machine(&id).unwrap()));
    hand.observe(&mut fleet, &[node(8, 2)]);
    assert!(!fleet.is_control_plane(fleet.machine(&id).unwrap()));
}

#[test]
fn the_same_name_with_another_uuid_is_another_vm() {
    let mut hand = Hand::new();
    let (mut fleet, vm) = live(&mut hand);
    let other = ListedNode { id: node(2, 2).id, ..vm };
    for _ in 0..3 {
        hand.observe(&mut fleet, std::slice::from_ref(&other));
        hand.wait(Duration::from_mins(2));
    }
    hand.observe(&mut fleet, std::slice::from_ref(&other));
    assert_eq!(target(&fleet, OTHER), 0);
    let unmanaged = fleet.unmanaged_nodes().next().unwrap();
    assert_eq!((&unmanaged.id, &unmanaged.kind), (&other.id, &UnmanagedKind::Foreign));
}

#[test]
fn one_size_is_requested_at_a_time_while_sizes_are_hidden() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let hidden = ListedNode { size: None, ..node(1, 2) };
    hand.observe(&mut fleet, std::slice::from_ref(&hidden));
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    hand.increase(&mut fleet, LARGE, 2).unwrap();
    assert!(fleet.machines_to_request().iter().all(|(_, class)| class.size == SizeId(2)));
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    assert!(fleet.machines_to_request().is_empty(), "the other size waits for the first to be bound");
    let more = [hidden, ListedNode { size: None, ..node(2, 2) }, ListedNode { size: None, ..node(3, 2) }];
    hand.observe(&mut fleet, &more);
    assert_eq!(fleet.machines_to_request().len(), 2);
    assert!(fleet.machines_to_request().iter().all(|(_, class)| class.size == SizeId(4)));
}

#[test]
fn a_vm_that_could_be_of_two_sizes_is_not_guessed() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[node(7, 2)]);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[node(7, 2), ListedNode { size: None, ..node(1, 2) }]);
    assert!(fleet.machines().all(|m| m.vm().is_none()));
    let unmanaged = fleet.unmanaged_node(&node(1, 2).hostname).unwrap();
    assert!(matches!(&unmanaged.kind, UnmanagedKind::Orphan { size: None, .. }));
}

#[test]
fn one_size_is_requested_at_a_time_before_the_first_worker() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    hand.increase(&mut fleet, LARGE, 2).unwrap();
    assert_eq!(fleet.machines_to_request().len(), 2);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[node(1, 2), node(2, 2)]);
    assert_eq!(fleet.machines_to_request().len(), 2, "the other two machines are requested");
}

#[test]
fn a_crash_in_a_request_is_an_unclear_request() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    let id = only(&fleet).id.clone();
    fleet.record_requests(&[id], hand.now);
    let mut fleet = Fleet::restore(groups(), fleet.records(), Reserved::default());
    assert!(fleet.machines_to_request().is_empty());
    hand.observe(&mut fleet, &[node(1, 2)]);
    assert!(only(&fleet).vm().is_some(), "the VM was created before the crash, for the machine");
}

#[test]
fn a_vm_is_bound_once_its_size_is_known() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[node(7, 2)]);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let hidden = |n| ListedNode { size: None, ..node(n, 2) };
    hand.observe(&mut fleet, &[node(7, 2), hidden(1), hidden(2), hidden(3)]);
    let shown = [node(7, 2), node(1, 4), node(2, 2), node(3, 2)];
    hand.observe(&mut fleet, &shown);
    let bound = |n| fleet.machine_at(&node(n, 2).hostname).map(|m| m.size);
    assert_eq!((bound(1), bound(2), bound(3)), (Some(SizeId(4)), Some(SizeId(2)), None));
    let left = fleet.unmanaged_node(&node(3, 2).hostname).unwrap();
    assert!(
        matches!(left.kind, UnmanagedKind::Orphan { size: Some(SizeId(2)), .. }),
        "never foreign: {left:?}"
    );
    assert_eq!(fleet.unmanaged_nodes().count(), 2, "the orphan and the foreign node");
    fleet.check_consistency().unwrap();
}

#[test]
fn an_orphan_of_unknown_size_is_deleted() {
    let mut hand = Hand::new();
    let kind = UnmanagedKind::Orphan { pool: "gone/ams1/odd/on-demand".parse().unwrap(), size: None };
    let vm = node(1, 2);
    let unmanaged = UnmanagedNode {
        hostname: vm.hostname,
        id: vm.id,
        first_seen: hand.now,
        kind,
        awaited_by: None,
        request: None,
        abandoned_request: None,
    };
    let mut fleet =
        Fleet::restore(groups(), Records { unmanaged: vec![unmanaged], ..records() }, Reserved::default());
    hand.wait(Duration::from_mins(16));
    hand.pass(&mut fleet);
    assert_eq!(fleet.machines_to_delete().len(), 1);
    fleet.check_consistency().unwrap();
}

#[test]
fn a_request_in_flight_never_counts_as_lost() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    let id = only(&fleet).id.clone();
    fleet.record_requests(std::slice::from_ref(&id), hand.now);
    // The records were read again after a failed write.
    let mut fleet = Fleet::restore(groups(), fleet.records(), Reserved::default());
    fleet.set_in_flight([id.clone()]);
    for _ in 0..5 {
        hand.wait(Duration::from_mins(1));
        hand.observe(&mut fleet, &[]);
        hand.pass(&mut fleet);
    }
    assert!(fleet.machines_to_request().is_empty());
    fleet.set_in_flight([]);
    for _ in 0..3 {
        hand.pass(&mut fleet);
        hand.observe(&mut fleet, &[]);
    }
    assert_eq!(fleet.machines_to_request(), [(id, SMALL.parse::<PoolId>().unwrap().class(SizeId(2)))]);
}

#[test]
fn an_unavailable_size_does_not_delay_another() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    hand.wait(Duration::from_secs(1));
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    assert!(
        fleet.machines_to_request().iter().all(|(_, class)| class.size == SizeId(2)),
        "one size at a time, the oldest first"
    );
    let others = fleet.machines_to_request_where(|class| class.size != SizeId(2));
    assert_eq!(others.iter().map(|(_, class)| class.size).collect::<Vec<_>>(), [SizeId(4)]);
}

#[test]
fn a_pool_that_only_one_machine_holds_keeps_its_offer() {
    let mut hand = Hand::new();
    let (mut fleet, vm) = live(&mut hand);
    fleet.declare(Vec::new());
    let catalog = Catalog { offers: vec![offer(4, "large")] };
    fleet.update_catalog(catalog);
    let before = fleet.pool(OTHER).unwrap().offer.clone();
    assert_eq!(before, offer(2, "small"));
    fleet.delete_nodes(OTHER, &[by_node(&vm)], hand.now).unwrap();
    assert_eq!(fleet.pool(OTHER).unwrap().offer, before);
    fleet.check_consistency().unwrap();
}

#[test]
fn a_name_that_is_no_label_does_not_become_one() {
    let catalog = Catalog { offers: vec![Offer { name: "2 vCPU / 4 GB".to_owned(), ..offer(2, "small") }] };
    let pool = "web/ams1/2/on-demand";
    let records = Records { catalog: Some(Arc::new(catalog)), ..Records::default() };
    let fleet = Fleet::restore(vec![group("web", 0, 1, &[pool])], records, Reserved::default());
    let labels = &fleet.template(fleet.pool(pool).unwrap()).labels;
    assert_eq!(labels["node.kubernetes.io/instance-type"], "2");
    assert!(labels.values().all(|value| is_label_value(value)));
}

#[test]
fn binds_no_node_to_a_size_that_its_resources_exclude() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[node(7, 2)]);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    // The request is overdue: a node of unknown size would go to the newer request.
    hand.wait(Duration::from_mins(5));
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let alike = ListedNode { size: None, excluded: [SizeId(4)].into(), ..node(1, 2) };
    hand.observe(&mut fleet, &[node(7, 2), alike.clone()]);
    hand.observe(&mut fleet, &[node(7, 2), alike, node(2, 4)]);
    let bound = |n| fleet.machine_at(&node(n, 2).hostname).map(|m| m.size);
    assert_eq!((bound(1), bound(2)), (Some(SizeId(2)), Some(SizeId(4))));
}

#[test]
fn takes_no_blocked_drain_for_a_deletion() {
    let mut hand = Hand::new();
    let (mut fleet, worker) = live(&mut hand);
    hand.policy.running_when_listed = false;
    let id = only(&fleet).id.clone();
    fleet.retire(&id, DeletionReason::VPSieNodeDeleted, hand.now);
    let master = ListedNode { role: NodeRole::ControlPlane, ..node(99, 2) };
    hand.observe(&mut fleet, &[master.clone(), worker.clone()]);
    for _ in 0..5 {
        hand.wait(Duration::from_mins(1));
        hand.observe(&mut fleet, std::slice::from_ref(&master));
    }
    let kind = fleet.unmanaged_node(&worker.hostname).map(|s| s.kind.clone());
    assert!(
        !matches!(kind, Some(UnmanagedKind::Gone { deletion_accepted: true, .. })),
        "VPSie was never asked: {kind:?}"
    );
}

/// Applies the changes like a store that refuses the record of this machine: its dependent changes wait.
fn apply_without(fleet: &mut Fleet, changes: &[Change], refused: &MachineId) {
    let deferred = DeferredChanges::new(changes, [RecordKey::Machine(refused.clone())].into());
    for change in changes.iter().filter(|change| !deferred.contains(change)) {
        fleet.apply(change);
    }
}

#[test]
fn abandons_no_request_twice_while_a_machine_is_refused() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    let id = only(&fleet).id.clone();
    for _ in 0..40 {
        hand.wait(Duration::from_mins(1));
        hand.observe(&mut fleet, &[node(99, 4)]);
        hand.pass(&mut fleet);
    }
    // The machine has failed; its requests are kept for an hour.
    hand.wait(Duration::from_mins(61));
    for _ in 0..10 {
        let mut working = fleet.clone();
        hand.wait(Duration::from_secs(10));
        let changes = hand.pass(&mut working);
        apply_without(&mut fleet, &changes, &id);
    }
    let late: u32 = fleet.request_history().abandoned.iter().map(|late| late.count).sum();
    assert!(late <= 1, "{late} late requests of one, machine {:?}", fleet.machine(&id));
}

#[test]
fn a_refused_machine_takes_no_worker_of_a_person() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    let id = only(&fleet).id.clone();
    for _ in 0..12 {
        hand.wait(Duration::from_mins(1));
        hand.observe(&mut fleet, &[node(99, 4)]);
        hand.pass(&mut fleet);
        if matches!(only(&fleet).phase, Phase::Failed { .. }) {
            break;
        }
        hand.ask_all(&mut fleet, &CreationOutcome::Refused(failure(FailureReason::Refused)));
    }
    assert!(matches!(only(&fleet).phase, Phase::Failed { .. }), "{:?}", only(&fleet));
    assert_eq!(only(&fleet).requests.len(), 1);
    let list = |fleet: &mut Fleet, nodes: &[ListedNode]| {
        let mut working = fleet.clone();
        let changes = hand.observe(&mut working, nodes);
        apply_without(fleet, &changes, &id);
    };
    // The late VM of the only request, then a worker that is added by hand.
    list(&mut fleet, &[node(99, 4), node(1, 2)]);
    list(&mut fleet, &[node(99, 4), node(1, 2), node(7, 2)]);
    let kind = fleet.unmanaged_node(&node(7, 2).hostname).map(|s| s.kind.clone());
    assert_eq!(kind, Some(UnmanagedKind::Foreign));
}

#[test]
fn never_deletes_a_vm_that_is_listed_as_control_plane() {
    let mut hand = Hand::new();
    let (mut fleet, worker) = live(&mut hand);
    hand.observe(&mut fleet, &[ListedNode { role: NodeRole::ControlPlane, ..worker }]);
    let id = only(&fleet).id.clone();
    fleet.retire(&id, DeletionReason::FailedExpired, hand.now);
    hand.pass(&mut fleet);
    assert_eq!(fleet.machines_to_delete().len(), 0);
}
