//! Two VMs of one request, of which the Node shows the one that joined.

use std::net::IpAddr;

use super::*;

fn at(n: u8, node: ListedNode) -> ListedNode {
    ListedNode { addresses: vec![IpAddr::from([198, 18, 0, n])], ..node }
}

/// A joining machine with the first of two VMs, and the listing: the second VM has a name of its own.
fn joining() -> (Hand, Fleet, [ListedNode; 2]) {
    let mut hand = Hand::new();
    hand.policy.running_when_listed = false;
    let mut fleet = fleet();
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let hostname = hostname(&fleet);
    let second = marked(&hostname, 2);
    let second = ListedNode { hostname: hostname.duplicate(second.id.as_ref().unwrap()), ..second };
    let rows = [at(1, marked(&hostname, 1)), at(2, second)];
    hand.observe(&mut fleet, &rows);
    (hand, fleet, rows)
}

/// Ends of VMs, by UUID.
fn deleted(fleet: &Fleet) -> Vec<VmId> {
    let ends = fleet.machines().filter(|machine| !machine.counts());
    ends.filter_map(|machine| machine.vm()?.id.clone()).collect()
}

fn joined(fleet: &Fleet, node: [u8; 4]) -> Option<Hostname> {
    let machine = fleet.machines().find(|machine| machine.counts()).unwrap();
    fleet.joined_duplicate(machine, &[IpAddr::from([10, 0, 0, 1]), node.into()]).cloned()
}

fn keeper(fleet: &Fleet) -> &Machine {
    fleet.machines().find(|machine| machine.counts()).unwrap()
}

#[test]
fn both_live_until_the_node_registers() {
    let (mut hand, mut fleet, rows) = joining();
    for _ in 0..3 {
        hand.wait(Duration::from_mins(5));
        hand.observe(&mut fleet, &rows);
        hand.pass(&mut fleet);
        assert_eq!(deleted(&fleet), []);
    }
    let hostname = rows[0].hostname.clone();
    fleet.note_registered(&hostname, hand.now);
    hand.pass(&mut fleet);
    assert_eq!(deleted(&fleet), [rows[1].id.clone().unwrap()], "the older VM is kept");
}

#[test]
fn the_vm_that_joined_is_kept() {
    let (mut hand, mut fleet, rows) = joining();
    let [first, second] = rows.clone().map(|row| row.id.unwrap());
    assert_eq!(joined(&fleet, [198, 18, 0, 1]), None, "the first one joined");
    let name = joined(&fleet, [198, 18, 0, 2]).unwrap();
    let id = keeper(&fleet).id.clone();
    let changes = fleet.keep_joined(&id, &name, hand.now);
    assert!(
        matches!(changes[..], [Change::SaveUnmanaged(_), Change::SaveMachine(_), Change::DropUnmanaged(_)]),
        "{changes:?}"
    );
    assert_eq!(fleet.keep_joined(&id, &name, hand.now), [], "once");
    let hostname = rows[0].hostname.clone();
    for _ in 0..3 {
        hand.wait(Duration::from_mins(5));
        hand.observe(&mut fleet, &rows);
        fleet.note_registered(&hostname, hand.now);
        hand.pass(&mut fleet);
        fleet.check_consistency().unwrap();
        assert_eq!(deleted(&fleet), std::slice::from_ref(&first));
        let vm = keeper(&fleet).vm().unwrap();
        assert_eq!((&vm.id, &vm.hostname), (&Some(second.clone()), &hostname));
    }
}

#[test]
fn an_interrupted_change_ends_neither_vm() {
    let (mut hand, fleet, rows) = joining();
    let name = joined(&fleet, [198, 18, 0, 2]).unwrap();
    let id = keeper(&fleet).id.clone();
    let changes = fleet.clone().keep_joined(&id, &name, hand.now);
    for written in 1..=changes.len() {
        let mut fleet = fleet.clone();
        changes[..written].iter().for_each(|change| fleet.apply(change));
        hand.pass(&mut fleet);
        hand.observe(&mut fleet, &rows);
        hand.pass(&mut fleet);
        fleet.check_consistency().unwrap();
        assert_eq!(deleted(&fleet), [], "{written}");
        assert!(matches!(keeper(&fleet).phase, Phase::Creating { vm: Some(_), .. }));
    }
}

#[test]
fn without_addresses_the_older_vm_is_kept() {
    let (hand, mut fleet, rows) = joining();
    assert_eq!(joined(&fleet, [198, 18, 0, 3]), None, "another address");
    hand.observe(&mut fleet, &[rows[0].clone(), ListedNode { addresses: Vec::new(), ..rows[1].clone() }]);
    assert_eq!(joined(&fleet, [198, 18, 0, 2]), None);
    let (_, fleet, _) = {
        let (hand, mut fleet, rows) = joining();
        fleet.note_registered(&rows[0].hostname, hand.now);
        (hand, fleet, rows)
    };
    assert_eq!(joined(&fleet, [198, 18, 0, 2]), None, "it is registered");
}

#[test]
fn the_older_vm_that_is_listed_later_can_join() {
    let (hand, mut fleet, [first, second]) = joining();
    let hostname = first.hostname.clone();
    // The machine has the second VM, as if it was listed first.
    let mut machine = keeper(&fleet).clone();
    machine.phase = Phase::Creating { vm: Some(Vm::listed(&at(2, marked(&hostname, 2)))), since: hand.now };
    fleet.apply(&Change::DropUnmanaged(second.hostname.clone()));
    fleet.apply(&Change::SaveMachine(machine));
    for _ in 0..2 {
        hand.observe(&mut fleet, &[first.clone(), second.clone()]);
    }
    let name = joined(&fleet, [198, 18, 0, 1]).unwrap();
    assert_eq!(name, hostname.duplicate(first.id.as_ref().unwrap()));
    fleet.keep_joined(&keeper(&fleet).id.clone(), &name, hand.now);
    assert_eq!(keeper(&fleet).vm().unwrap().id, first.id);
    fleet.check_consistency().unwrap();
}

#[test]
fn both_are_deleted_if_none_joins() {
    let (mut hand, mut fleet, rows) = joining();
    let failure = Failure { reason: FailureReason::JoinTimeout, message: String::new() };
    fleet.fail_join(&keeper(&fleet).id.clone(), &rows[0].hostname, failure, hand.now);
    hand.observe(&mut fleet, &rows);
    hand.pass(&mut fleet);
    assert_eq!(deleted(&fleet).len(), 2);
}
