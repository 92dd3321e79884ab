//! Commands of Cluster Autoscaler.

use super::*;

fn running(hand: &mut Hand, fleet: &mut Fleet, pool: &str, nodes: &[ListedNode]) {
    hand.observe(fleet, &[]);
    hand.increase(fleet, pool, nodes.len() as i32).unwrap();
    hand.ask_all(fleet, &CreationOutcome::Accepted);
    hand.observe(fleet, nodes);
}

#[test]
fn an_increase_is_complete_or_refused() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    assert_eq!(hand.increase(&mut fleet, SMALL, 4).unwrap().len(), 4);
    let refused = hand.increase(&mut fleet, LARGE, 3).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "pool web/ams1/large/on-demand cannot grow by 3: NodeGroup web has 4 of at most 6 machines"
    );
    assert_eq!((target(&fleet, SMALL), target(&fleet, LARGE)), (4, 0));
    hand.increase(&mut fleet, LARGE, 2).unwrap();
    fleet.check_consistency().unwrap();
}

#[test]
fn an_increase_needs_a_known_pool_and_a_positive_delta() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    for delta in [0, -1, i32::MIN] {
        assert!(matches!(hand.increase(&mut fleet, SMALL, delta), Err(Refusal::Delta { .. })));
    }
    assert!(matches!(hand.increase(&mut fleet, SMALL, i32::MAX), Err(Refusal::AboveMax { .. })));
    assert!(matches!(hand.increase(&mut fleet, "web", 1), Err(Refusal::UnknownPool(_))));
    assert_eq!(fleet.machines().count(), 0);
}

#[test]
fn limits_are_the_node_groups_over_its_pools() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    assert_eq!(limits(&fleet, SMALL), (1, 0, 6), "the first pool carries the shortfall");
    assert_eq!(limits(&fleet, LARGE), (0, 0, 6));
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    hand.increase(&mut fleet, LARGE, 1).unwrap();
    assert_eq!(limits(&fleet, SMALL), (0, 2, 5));
    assert_eq!(limits(&fleet, LARGE), (0, 1, 4));
    assert_eq!(limits(&fleet, OTHER), (0, 0, 4));
}

#[test]
fn the_preferred_offer_carries_the_shortfall() {
    let mut groups = groups();
    groups[0].preferred = Some("large".into());
    let fleet = Fleet::restore(groups, records(), Reserved::default());
    assert_eq!(limits(&fleet, SMALL), (0, 0, 6));
    assert_eq!(limits(&fleet, LARGE), (1, 0, 6));
}

#[test]
fn a_decrease_removes_only_unrequested_machines() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.wait(Duration::from_secs(1));
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    fleet.decrease(SMALL, -1).unwrap();
    assert_eq!(target(&fleet, SMALL), 2);
    fleet.decrease(SMALL, -5).unwrap();
    assert_eq!(target(&fleet, SMALL), 1, "limited to the machines without a request");
    assert_eq!(fleet.decrease(SMALL, -1), Ok(vec![]), "no machine is left to cancel");
    assert!(matches!(fleet.decrease(SMALL, 1), Err(Refusal::Delta { .. })));
}

#[test]
fn deleting_twice_counts_once() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let nodes = [node(1, 2), node(2, 2), node(3, 2)];
    running(&mut hand, &mut fleet, SMALL, &nodes);
    let victim = by_node(&nodes[1]);
    assert_eq!(fleet.delete_nodes(SMALL, &[victim.clone(), victim.clone()], hand.now).unwrap().len(), 1);
    assert_eq!(fleet.delete_nodes(SMALL, &[victim], hand.now).unwrap(), []);
    assert_eq!(target(&fleet, SMALL), 2);
    let unwanted: Vec<_> = fleet.machines_to_delete().into_iter().filter_map(Machine::vm).collect();
    assert_eq!(unwanted.len(), 1);
    assert_eq!(unwanted[0].hostname, nodes[1].hostname);
}

#[test]
fn a_batch_with_a_foreign_node_does_nothing() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let foreign = node(9, 2);
    hand.observe(&mut fleet, std::slice::from_ref(&foreign));
    let nodes = [node(1, 2), node(2, 2)];
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    hand.observe(&mut fleet, &[nodes[0].clone(), nodes[1].clone(), foreign.clone()]);
    let request = [by_node(&nodes[0]), by_node(&foreign)];
    let refused = fleet.delete_nodes(SMALL, &request, hand.now).unwrap_err();
    assert!(refused.to_string().contains("k8s-slave-9"), "{refused}");
    assert_eq!(target(&fleet, SMALL), 2);
    let by_name = NodeRef { provider_id: String::new(), name: "k8s-slave-9".into(), fake: false };
    assert!(fleet.delete_nodes(SMALL, &[by_name], hand.now).is_err());
    assert!(
        fleet.delete_nodes(LARGE, &[by_node(&nodes[0])], hand.now).is_err(),
        "the node belongs to another pool"
    );
    assert!(
        fleet
            .delete_nodes(
                SMALL,
                &[NodeRef { provider_id: "aws:///i-1".into(), name: "x".into(), fake: false }],
                hand.now
            )
            .is_err()
    );
}

#[test]
fn deleting_a_gone_node_succeeds() {
    let hand = Hand::new();
    let mut fleet = fleet();
    for id in ["vpsie://machine/web-00000001", "vpsie://00000000-0000-4000-8000-000000000777"] {
        let gone = NodeRef { provider_id: id.into(), name: id.into(), fake: true };
        assert_eq!(fleet.delete_nodes(SMALL, &[gone], hand.now), Ok(vec![]));
    }
}

#[test]
fn deletions_of_healthy_nodes_stop_at_the_minimum() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let nodes = [node(1, 2)];
    running(&mut hand, &mut fleet, SMALL, &nodes);
    let refused = fleet.delete_nodes(SMALL, &[by_node(&nodes[0])], hand.now).unwrap_err();
    assert!(matches!(refused, Refusal::BelowMin { group_min: 1, .. }));
    let fake = NodeRef { fake: true, ..by_node(&nodes[0]) };
    fleet.delete_nodes(SMALL, &[fake], hand.now).unwrap();
    assert_eq!(target(&fleet, SMALL), 0);
}

#[test]
fn the_stale_placeholder_of_a_running_machine_deletes_nothing() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    running(&mut hand, &mut fleet, OTHER, &[node(1, 2)]);
    let placeholder = only(&fleet).id.placeholder();
    let fake = NodeRef { provider_id: placeholder.clone(), name: placeholder.clone(), fake: true };
    assert_eq!(fleet.machine_of(&placeholder, &placeholder), Some(only(&fleet)));
    assert_eq!(fleet.delete_nodes(OTHER, &[fake], hand.now), Ok(vec![]));
    assert_eq!(target(&fleet, OTHER), 1);
}

#[test]
fn a_requested_machine_waits_for_its_vm_before_its_deletion() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Unclear);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    let all: Vec<_> = fleet
        .machines()
        .map(|m| NodeRef { provider_id: m.instance_id(), name: m.instance_id(), fake: true })
        .collect();
    fleet.delete_nodes(OTHER, &all, hand.now).unwrap();
    assert_eq!(target(&fleet, OTHER), 0);
    assert!(matches!(only(&fleet).phase, Phase::Deleting { vm: None, .. }));
    assert_eq!(
        fleet.machines_of(fleet.pool(OTHER).unwrap()).count(),
        0,
        "a Deleting machine without a VM is no instance"
    );
    hand.observe(&mut fleet, &[node(1, 2)]);
    assert_eq!(fleet.machines_to_delete().len(), 1, "the late VM is deleted at once");
}

#[test]
fn a_deleted_node_group_keeps_its_pools_until_they_are_empty() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let nodes = [node(1, 2)];
    running(&mut hand, &mut fleet, OTHER, &nodes);
    fleet.declare(vec![group("web", 0, 6, &[SMALL])]);
    assert_eq!(limits(&fleet, OTHER), (0, 1, 1));
    assert!(fleet.pool(LARGE).is_none());
    assert!(matches!(hand.increase(&mut fleet, OTHER, 1), Err(Refusal::NotGrowable { .. })));
    fleet.check_consistency().unwrap();
    fleet.delete_nodes(OTHER, &[by_node(&nodes[0])], hand.now).unwrap();
    let id = only(&fleet).id.clone();
    fleet.deletion_accepted(&id, hand.now);
    hand.observe(&mut fleet, &[]);
    assert!(fleet.pool(OTHER).is_some());
    hand.observe(&mut fleet, &[]);
    assert!(fleet.pool(OTHER).is_none());
}

#[test]
fn an_offer_that_leaves_the_catalog_stops_growth_only() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    fleet.update_catalog(Catalog { offers: vec![offer(4, "large")] });
    assert_eq!(limits(&fleet, SMALL).2, 0);
    assert_eq!(limits(&fleet, LARGE), (1, 0, 6), "the shortfall moves to a pool that can grow");
    let refused = hand.increase(&mut fleet, SMALL, 1).unwrap_err();
    assert!(refused.to_string().contains("catalog"), "{refused}");
    assert!(fleet.update_catalog(Catalog::default()).is_empty(), "an empty catalog is ignored");
    fleet.check_consistency().unwrap();
}
