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
    assert_eq!(fleet.machines_to_delete().len(), 0, "none is touched");
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
    assert!(fleet.machines_to_delete().is_empty(), "a person may have added it");
    hand.increase(&mut fleet, OTHER, 4).unwrap();
    assert_eq!(limits(&fleet, OTHER), (0, 4, 4));

    fleet.acknowledge(&nodes.iter().map(|node| node.hostname.clone()).collect());
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
    let late = &fleet.ledger().abandoned;
    assert!((10..=25).contains(&late.len()), "{late:?}");
    assert!(late.iter().map(|late| late.count).sum::<u32>() > 100);
    for _ in 0..30 {
        hand.wait(Duration::from_hours(1));
        hand.observe(&mut fleet, &[]);
        hand.pass(&mut fleet);
        let ids: Vec<_> = fleet.machines().map(|m| fake(&m.id)).collect();
        fleet.delete_nodes(OTHER, &ids, hand.now).unwrap();
    }
    assert!(fleet.ledger().abandoned.is_empty());
}

fn fake(machine: &MachineId) -> NodeRef {
    NodeRef { provider_id: machine.placeholder(), name: machine.placeholder(), fake: true }
}
