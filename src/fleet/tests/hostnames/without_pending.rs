//! Listings without the VMs that are not created yet.

use super::*;

fn observe(hand: &Hand, fleet: &mut Fleet, nodes: &[ListedNode], pending: PendingVms) {
    let other = ListedNode { role: NodeRole::Unknown, ..node(99, SMALL_SIZE) };
    let nodes: Vec<_> = nodes.iter().cloned().chain([other]).collect();
    fleet.observe(&NodeListing { pending, ..complete(&nodes) }, hand.now, &hand.policy);
}

/// Time passes with listings without the machine's VM.
fn pass(hand: &mut Hand, fleet: &mut Fleet, minutes: u32, pending: PendingVms) {
    for _ in 0..2 * minutes {
        hand.wait(Duration::from_secs(30));
        observe(hand, fleet, &[], pending);
        hand.pass(fleet);
    }
}

#[test]
fn growth_is_allowed() {
    let records = Records {
        catalog: Some(Arc::new(Catalog { offers: vec![offer(SMALL_SIZE, "small")] })),
        ..Records::default()
    };
    let settings = FleetSettings { binding: Binding::ByName, ..FleetSettings::default() };
    let mut fleet = Fleet::restore(vec![group("web", 0, 9, &[SMALL])], records, settings);
    let mut hand = Hand::new();
    observe(&hand, &mut fleet, &[], PendingVms::Unknown);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let vm = marked(&hostname(&fleet), 1);
    observe(&hand, &mut fleet, std::slice::from_ref(&vm), PendingVms::Unknown);
    assert_eq!(only(&fleet).vm().unwrap().id, vm.id);
}

#[test]
fn repeat_no_request_while_its_vm_may_be_pending() {
    for outcome in [CreationOutcome::Unclear, CreationOutcome::Accepted] {
        let (mut hand, mut fleet) = requested(&outcome);
        pass(&mut hand, &mut fleet, 120, PendingVms::Unknown);
        assert!(!only(&fleet).needs_request(), "{outcome:?}");
        assert_eq!(only(&fleet).requests.len(), 1);
        pass(&mut hand, &mut fleet, 2, PendingVms::Listed);
        assert_eq!(only(&fleet).requests.iter().filter(|r| r.outcome != RequestOutcome::Lost).count(), 0);
    }
}

#[test]
fn repeat_a_request_after_the_timeout_without_such_a_list() {
    let (mut hand, mut fleet) = requested(&CreationOutcome::Unclear);
    pass(&mut hand, &mut fleet, 9, PendingVms::Unsupported);
    assert_eq!(only(&fleet).requests[0].outcome, RequestOutcome::Unclear);
    pass(&mut hand, &mut fleet, 1, PendingVms::Unsupported);
    assert_eq!(only(&fleet).requests[0].outcome, RequestOutcome::Lost);
}

#[test]
fn end_only_vms_that_were_created() {
    for pending in [PendingVms::Unknown, PendingVms::Unsupported] {
        let (mut hand, mut fleet) = requested(&CreationOutcome::Accepted);
        let hostname = hostname(&fleet);
        observe(&hand, &mut fleet, &[super::pending(&hostname)], PendingVms::Listed);
        pass(&mut hand, &mut fleet, 10, pending);
        assert!(only(&fleet).vm().is_some_and(|vm| vm.id.is_none()), "it may be created later");
        observe(&hand, &mut fleet, &[marked(&hostname, 1)], pending);
        pass(&mut hand, &mut fleet, 10, pending);
        assert_eq!(fleet.machines().count(), 0, "it vanished");
    }
}
