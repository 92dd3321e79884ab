//! Nodes that match no open request.

use super::*;

fn asked(hand: &mut Hand, outcome: &CreationOutcome) -> Fleet {
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    hand.ask_all(&mut fleet, outcome);
    fleet
}

#[test]
fn a_node_of_unknown_role_is_bound_once_its_role_is_known() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    let unknown = ListedNode { role: NodeRole::Unknown, ..node(1, 2) };
    hand.observe(&mut fleet, std::slice::from_ref(&unknown));
    assert_eq!(only(&fleet).vm(), None);
    let noted = fleet.unmanaged_nodes().next().unwrap();
    assert_eq!((&noted.kind, noted.awaited_by.as_ref()), (&UnmanagedKind::Foreign, Some(&only(&fleet).pool)));
    assert_eq!(hand.observe(&mut fleet, std::slice::from_ref(&unknown)), [], "nothing new");
    hand.wait(Duration::from_mins(5));
    hand.observe(&mut fleet, &[node(1, 2)]);
    assert_eq!(only(&fleet).vm().unwrap().hostname, unknown.hostname);
    assert_eq!(fleet.unmanaged_nodes().count(), 0);
    fleet.check_consistency().unwrap();
}

#[test]
fn a_node_that_was_noted_before_a_request_is_not_its_result() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    let unknown = ListedNode { role: NodeRole::Unknown, ..node(1, 2) };
    let known = [node(1, 2), node(2, 2)];
    hand.observe(&mut fleet, std::slice::from_ref(&unknown));
    hand.observe(&mut fleet, &[unknown, node(2, 2)]);
    hand.wait(Duration::from_mins(5));
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &known);
    assert_eq!(fleet.machine_at(&known[0].hostname), None);
    assert!(fleet.unmanaged_nodes().all(|unmanaged| unmanaged.kind == UnmanagedKind::Foreign));
}

#[test]
fn unknown_nodes_do_not_add_up_beyond_the_maximum() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    let mut nodes: Vec<ListedNode> = Vec::new();
    for _ in 0..96 {
        let pool = fleet.pool(OTHER).unwrap();
        let room = fleet.limits(pool).max - fleet.limits(pool).target;
        if room > 0 {
            hand.increase(&mut fleet, OTHER, room as i32).unwrap();
        }
        let made = fleet.machines_to_request().len();
        hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
        for _ in 0..made {
            nodes.push(ListedNode { role: NodeRole::Unknown, ..node(nodes.len() as u32 + 1, 2) });
        }
        for _ in 0..15 {
            hand.wait(Duration::from_mins(1));
            hand.observe(&mut fleet, &nodes);
            hand.pass(&mut fleet);
        }
        let failed = fleet.machines().filter(|m| matches!(m.phase, Phase::Failed { .. }));
        let failed: Vec<_> = failed.map(|m| fake(&m.id)).collect();
        fleet.delete_nodes(OTHER, &failed, hand.now).unwrap();
    }
    assert!(nodes.len() <= 4 + surge(4) as usize, "{} VMs of at most 4 machines", nodes.len());
    assert_eq!(fleet.machines_to_delete().len(), 0, "no VM is deleted");
    fleet.check_consistency().unwrap();
}

#[test]
fn a_vm_hours_late_is_counted_and_never_touched() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    let pool = only(&fleet).pool.clone();
    let pass = |hand: &mut Hand, fleet: &mut Fleet, nodes: &[ListedNode], minutes: u32| {
        for _ in 0..minutes {
            hand.wait(Duration::from_mins(1));
            hand.observe(fleet, nodes);
            hand.pass(fleet);
        }
    };
    pass(&mut hand, &mut fleet, &[], 12);
    let failed = fake(&only(&fleet).id);
    fleet.delete_nodes(OTHER, &[failed], hand.now).unwrap();
    pass(&mut hand, &mut fleet, &[], 180);
    assert_eq!(fleet.machines().count(), 0, "its record is gone");
    let mut fleet = Fleet::restore(groups(), fleet.records(), Reserved::default());
    let nodes = [node(1, 2), node(2, 2)];
    hand.observe(&mut fleet, &nodes);
    let awaited: Vec<_> =
        fleet.unmanaged_nodes().filter(|unmanaged| unmanaged.awaited_by.is_some()).collect();
    assert_eq!(awaited.len(), 1, "there was one request");
    assert_eq!((&awaited[0].kind, awaited[0].awaited_by.as_ref()), (&UnmanagedKind::Foreign, Some(&pool)));
    pass(&mut hand, &mut fleet, &nodes, 60);
    assert!(fleet.machines_to_delete().is_empty(), "it may have been added by hand");
    hand.increase(&mut fleet, OTHER, 4).unwrap();
    assert_eq!(limits(&fleet, OTHER), (0, 4, 4));

    fleet.note_added_by_hand(&nodes.iter().map(|node| node.hostname.clone()).collect());
    assert!(fleet.unmanaged_nodes().all(|unmanaged| unmanaged.awaited_by.is_none()));
    fleet.check_consistency().unwrap();
}

#[test]
fn late_requests_are_remembered_for_a_day_in_few_entries() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    for _ in 0..60 * 40 {
        hand.observe(&mut fleet, &[]);
        if fleet.pool(OTHER).is_some_and(|pool| fleet.limits(pool).max > pool.target) {
            hand.increase(&mut fleet, OTHER, 1).unwrap();
        }
        hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
        hand.wait(Duration::from_mins(1));
        hand.pass(&mut fleet);
        let failed = fleet.machines().filter(|m| matches!(m.phase, Phase::Failed { .. }));
        let failed: Vec<_> = failed.map(|m| fake(&m.id)).collect();
        fleet.delete_nodes(OTHER, &failed, hand.now).unwrap();
    }
    let late = &fleet.request_history().abandoned;
    assert!((10..=25).contains(&late.len()), "{late:?}");
    assert!(late.iter().map(|late| late.count).sum::<u32>() > 100);
    for _ in 0..30 {
        hand.wait(Duration::from_hours(1));
        hand.observe(&mut fleet, &[]);
        hand.pass(&mut fleet);
        let ids: Vec<_> = fleet.machines().map(|m| fake(&m.id)).collect();
        fleet.delete_nodes(OTHER, &ids, hand.now).unwrap();
    }
    assert!(fleet.request_history().abandoned.is_empty());
}

fn fake(machine: &MachineId) -> NodeRef {
    NodeRef { provider_id: machine.placeholder(), name: machine.placeholder(), fake: true }
}

#[test]
fn binds_no_worker_of_a_person_after_a_listing_without_ids() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    // A worker of another size is added by hand while a machine waits. Then the VM of the machine appears.
    let added = node(7, 4);
    hand.observe(&mut fleet, std::slice::from_ref(&added));
    hand.observe(&mut fleet, &[added.clone(), node(1, 2)]);
    let noted = fleet.unmanaged_node(&added.hostname).unwrap();
    assert_eq!((&noted.kind, noted.first_seen), (&UnmanagedKind::Foreign, hand.now));
    // Weeks later, a machine of that size is requested, and one listing shows no UUIDs (restart; VMs not
    // listed).
    hand.wait(Duration::from_hours(24 * 20));
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let first_seen = fleet.unmanaged_node(&added.hostname).unwrap().first_seen;
    hand.wait(Duration::from_secs(10));
    let without = |node: &ListedNode| ListedNode { id: None, ..node.clone() };
    hand.observe(&mut fleet, &[without(&added), without(&node(1, 2))]);
    let noted = fleet.unmanaged_node(&added.hostname).unwrap().clone();
    hand.wait(Duration::from_secs(10));
    hand.observe(&mut fleet, &[added.clone(), node(1, 2)]);
    assert_eq!(fleet.machine_at(&added.hostname), None, "a worker added by hand is not bound");
    assert_eq!(noted.first_seen, first_seen);
}

#[test]
fn incomplete_listings_abandon_no_request() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    // The VM exists, but its row has no hostname for 70 minutes.
    for _ in 0..140 {
        hand.wait(Duration::from_secs(30));
        hand.observe_cut(&mut fleet, &[node(99, 4)]);
        hand.pass(&mut fleet);
        hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    }
    hand.observe(&mut fleet, &[node(99, 4), node(1, 2)]);
    let kind = fleet.unmanaged_node(&node(1, 2).hostname).map(|s| s.kind.clone());
    assert_ne!(
        kind,
        Some(UnmanagedKind::Foreign),
        "billed, and never deleted: {:?}",
        fleet.request_history()
    );
}

#[test]
fn incomplete_listings_repeat_no_unclear_request() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Unclear);
    for _ in 0..3 {
        hand.wait(Duration::from_secs(30));
        hand.observe_cut(&mut fleet, &[node(99, 4)]);
        hand.pass(&mut fleet);
    }
    assert_eq!(fleet.machines_to_request().len(), 0);
}

#[test]
fn binds_no_worker_of_a_person_after_the_clock_was_ahead() {
    let mut hand = Hand::new();
    let real = hand.now;
    hand.wait(Duration::from_hours(24 * 365));
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    let added = node(7, 4);
    hand.observe(&mut fleet, std::slice::from_ref(&added));
    hand.observe(&mut fleet, &[added.clone(), node(1, 2)]);
    hand.wait(Duration::from_mins(30));
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[added.clone(), node(1, 2)]);
    assert_eq!(fleet.machine_at(&added.hostname), None, "while the clock is ahead");
    hand.now = real;
    hand.observe(&mut fleet, &[added.clone(), node(1, 2)]);
    assert_eq!(fleet.machine_at(&added.hostname), None, "after the clock was corrected");
}

#[test]
fn a_worker_again_is_no_control_plane_in_an_incomplete_listing() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[node(99, 4), node(1, 2)]);
    let id = only(&fleet).id.clone();
    hand.observe_cut(&mut fleet, &[node(99, 4), ListedNode { role: NodeRole::ControlPlane, ..node(1, 2) }]);
    hand.observe_cut(&mut fleet, &[node(99, 4), node(1, 2)]);
    fleet.retire(&id, DeletionReason::ClusterAutoscaler, hand.now);
    hand.pass(&mut fleet);
    assert_eq!(fleet.machines_to_delete().len(), 1, "{:?}", only(&fleet));
}

#[test]
fn incomplete_listings_lose_no_vm_whose_deletion_was_accepted() {
    let mut hand = Hand::new();
    let mut fleet = asked(&mut hand, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[node(99, 4), node(1, 2)]);
    let id = only(&fleet).id.clone();
    fleet.retire(&id, DeletionReason::ClusterAutoscaler, hand.now);
    fleet.deletion_accepted(&id, hand.now);
    // Its row has no hostname for 25 hours: VPSie did not execute the deletion.
    for _ in 0..25 * 4 {
        hand.wait(Duration::from_mins(15));
        hand.observe_cut(&mut fleet, &[node(99, 4)]);
        hand.pass(&mut fleet);
    }
    hand.observe(&mut fleet, &[node(99, 4), node(1, 2)]);
    let kind = fleet.unmanaged_node(&node(1, 2).hostname).map(|s| s.kind.clone());
    assert_ne!(kind, Some(UnmanagedKind::Foreign), "billed, and never deleted");
}

#[test]
fn a_refused_machine_keeps_its_vm_before_a_worker_of_a_person() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[node(99, 4)]);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let id = only(&fleet).id.clone();
    let mut working = fleet.clone();
    let changes = hand.observe(&mut working, &[node(99, 4), node(2, 2)]);
    let deferred = DeferredChanges::new(&changes, [RecordKey::Machine(id.clone())].into());
    changes.iter().filter(|change| !deferred.contains(change)).for_each(|change| fleet.apply(change));
    fleet.share_transient_state(&working);
    hand.wait(Duration::from_mins(10));
    hand.observe(&mut fleet, &[node(1, 2), node(99, 4), node(2, 2)]);
    assert_eq!(fleet.machine_at(&node(1, 2).hostname), None, "it was added by hand ten minutes later");
}
