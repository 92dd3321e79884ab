//! Extra VMs limit growth.

use super::*;
use crate::cost::{CostLimit, Usd};

/// NodeGroup `batch`, at most 4 machines, all running.
fn full(hand: &mut Hand, fleet: &mut Fleet) -> Vec<ListedNode> {
    hand.observe(fleet, &[]);
    hand.increase(fleet, OTHER, 4).unwrap();
    hand.ask_all(fleet, &CreationOutcome::Accepted);
    let nodes: Vec<_> = (1..=4).map(|n| node(n, 2)).collect();
    hand.observe(fleet, &nodes);
    nodes
}

fn delete(hand: &Hand, fleet: &mut Fleet, nodes: &[ListedNode]) {
    let victims: Vec<_> = nodes.iter().map(by_node).collect();
    fleet.delete_nodes(OTHER, &victims, hand.now).unwrap();
}

#[test]
fn vms_that_still_exist_leave_only_the_surge_for_growth() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let nodes = full(&mut hand, &mut fleet);
    delete(&hand, &mut fleet, &nodes[..1]);
    assert_eq!(limits(&fleet, OTHER), (0, 3, 4), "one is replaced at once");
    delete(&hand, &mut fleet, &nodes[1..]);
    assert_eq!(limits(&fleet, OTHER), (0, 0, 2), "4 VMs are paid for, and 2 more at most");
    let refused = hand.increase(&mut fleet, OTHER, 3).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "pool batch/ams1/small/on-demand cannot grow by 3: NodeGroup batch may have at most 6 VMs, and has 0 \
         machines and 4 extra VMs (being deleted, orphans, or unexpected nodes); wait for the deletions; delete \
         unexpected nodes at VPSie, or annotate them"
    );
    assert_eq!(fleet.growth_block(OTHER, 3, hand.now).unwrap().reason, "VMS_STILL_PAID");
    hand.increase(&mut fleet, OTHER, 2).unwrap();
    assert_eq!(limits(&fleet, OTHER), (0, 2, 2));
    fleet.check_consistency().unwrap();

    for id in fleet.machines_to_delete().iter().map(|m| m.id.clone()).collect::<Vec<_>>() {
        fleet.deletion_accepted(&id, hand.now);
    }
    for _ in 0..2 {
        hand.observe(&mut fleet, &[]);
    }
    assert_eq!(limits(&fleet, OTHER), (0, 2, 4), "they are gone");
}

#[test]
fn vms_that_still_exist_count_in_the_cost_limit() {
    let mut groups = groups();
    groups[1].cost_limit = CostLimit { monthly: Some(Usd(80.into())), hourly: None };
    let mut hand = Hand::new();
    let mut fleet = Fleet::restore(groups, records(), Reserved::default());
    let nodes = full(&mut hand, &mut fleet);
    delete(&hand, &mut fleet, &nodes[..2]);
    assert_eq!(limits(&fleet, OTHER), (0, 2, 2));
    assert!(matches!(hand.increase(&mut fleet, OTHER, 1), Err(Refusal::AboveCostLimit(_))));
}

#[test]
fn vms_that_still_exist_count_in_the_clusters_maximum() {
    let declared = Declaration { groups: groups(), max_machines: Some(4), ..Declaration::default() };
    let mut hand = Hand::new();
    let mut fleet = Fleet::restore(declared, records(), Reserved::default());
    let nodes = full(&mut hand, &mut fleet);
    delete(&hand, &mut fleet, &nodes);
    assert_eq!((limits(&fleet, SMALL).2, limits(&fleet, OTHER).2), (2, 2));
    assert!(matches!(hand.increase(&mut fleet, SMALL, 3), Err(Refusal::VmsStillPaid { .. })));
}

#[test]
fn an_orphan_counts_until_it_is_gone() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    let nodes = full(&mut hand, &mut fleet);
    let mut records = fleet.records();
    for machine in records.machines.drain(..) {
        let vm = machine.vm().unwrap().clone();
        let kind = UnmanagedKind::Orphan { pool: machine.pool, size: Some(machine.size) };
        let first_seen = hand.now;
        records.unmanaged.push(UnmanagedNode {
            hostname: vm.hostname,
            id: vm.id,
            first_seen,
            kind,
            awaited_by: None,
            request: None,
            abandoned_request: None,
        });
    }
    let mut fleet = Fleet::restore(groups(), records, Reserved::default());
    assert_eq!(limits(&fleet, OTHER), (0, 0, 2));
    hand.observe(&mut fleet, &nodes);
    hand.wait(Duration::from_mins(16));
    hand.pass(&mut fleet);
    assert_eq!(
        (fleet.machines_to_delete().len(), limits(&fleet, OTHER).2),
        (4, 2),
        "to be deleted, and paid for"
    );
    fleet.check_consistency().unwrap();
}

#[test]
fn a_vm_limit_that_waiting_machines_reach_is_no_halt() {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[]);
    let status = GuardStatus { headroom: 2, halt: None, counted: 5, limit: 7, unexplained: 0 };
    fleet.set_guard_status(status.clone());
    hand.increase(&mut fleet, OTHER, 2).unwrap();
    let refused = hand.increase(&mut fleet, OTHER, 1).unwrap_err();
    assert!(matches!(refused, Refusal::AboveVmLimit { counted: 5, waiting: 2, limit: 7, .. }), "{refused}");
    assert_eq!(fleet.growth_block(OTHER, 1, hand.now).unwrap().reason, "VM_LIMIT_REACHED");
    let halt = Halt::UnexplainedNodes(vec![Hostname::new("slave-9")]);
    fleet.set_guard_status(GuardStatus { headroom: 0, halt: Some(halt), ..status });
    assert_eq!(fleet.growth_block(OTHER, 1, hand.now).unwrap().reason, "GROWTH_HALTED");
}

#[test]
fn a_growth_block_has_the_code_of_the_refusals_reason() {
    let declared = |max_machines| Declaration { groups: groups(), max_machines, ..Declaration::default() };
    for (max_machines, delta) in [(None, 1000), (Some(1), 2)] {
        let fleet = Fleet::restore(declared(max_machines), records(), Reserved::default());
        let refusal = fleet.may_grow(OTHER, delta).unwrap_err();
        let block = fleet.growth_block(OTHER, delta, Hand::new().now).unwrap();
        assert_eq!(block.reason.replace('_', ""), refusal.reason().to_uppercase());
    }
}
