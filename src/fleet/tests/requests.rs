//! Requests that an interrupted write leaves in two records.

use super::properties::by_kind;
use super::*;

/// The fleets after each interruption of a write, in the orders of both kinds of stores.
fn interrupted(before: &Fleet, changes: &[Change]) -> Vec<Fleet> {
    let mut fleets = Vec::new();
    for order in [changes.to_vec(), by_kind(changes.to_vec())] {
        for written in 0..=order.len() {
            let mut fleet = before.clone();
            order[..written].iter().for_each(|change| fleet.apply(change));
            fleets.push(Fleet::restore(groups(), fleet.records(), Reserved::default()));
        }
    }
    fleets
}

/// A failed machine whose request may still create a VM.
fn failed(hand: &mut Hand) -> Fleet {
    let mut fleet = fleet();
    hand.observe(&mut fleet, &[node(99, 4)]);
    hand.increase(&mut fleet, OTHER, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    for _ in 0..12 {
        hand.wait(Duration::from_mins(1));
        hand.observe(&mut fleet, &[node(99, 4)]);
        hand.pass(&mut fleet);
    }
    let failure = Failure { reason: FailureReason::Refused, message: String::new() };
    hand.ask_all(&mut fleet, &CreationOutcome::Refused(failure));
    assert!(matches!(only(&fleet).phase, Phase::Failed { .. }), "{:?}", only(&fleet));
    assert_eq!(only(&fleet).requests.len(), 1);
    fleet
}

fn assert_foreign(fleet: &Fleet, node: &ListedNode) {
    let unmanaged = fleet.unmanaged_node(&node.hostname);
    assert_eq!(unmanaged.map(|unmanaged| &unmanaged.kind), Some(&UnmanagedKind::Foreign), "{fleet:?}");
}

#[test]
fn a_crash_while_an_orphan_is_recorded_frees_no_request() {
    let mut hand = Hand::new();
    let before = failed(&mut hand);
    let changes = hand.observe(&mut before.clone(), &[node(99, 4), node(1, 2)]);
    for mut fleet in interrupted(&before, &changes) {
        hand.observe(&mut fleet, &[node(99, 4), node(1, 2), node(7, 2)]);
        assert_foreign(&fleet, &node(7, 2));
        assert!(fleet.machines().all(|machine| machine.requests.is_empty()), "{:?}", only(&fleet));
    }
}

#[test]
fn a_corrected_request_keeps_its_own_name() {
    let hand = Hand::new();
    let id: MachineId = "web-00000001".into();
    let used = hand.now;
    let request = RequestRef { machine: id.clone(), at: used };
    let ListedNode { hostname, id: vm_id, .. } = node(1, 2);
    let vm = Vm {
        hostname,
        id: vm_id,
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: Some(request),
    };
    let later = used + Duration::from_mins(5);
    let machine = Machine {
        id,
        pool: SMALL.parse().unwrap(),
        size: SizeId(2),
        created_at: used,
        phase: Phase::Running { vm, since: used },
        requests: vec![VmRequest { at: later, outcome: RequestOutcome::Lost, hostname: None }],
        notice: None,
        replaces: None,
    };
    let mut fleet =
        Fleet::restore(groups(), Records { machines: vec![machine], ..records() }, Reserved::default());
    // The clock is set back to the time of the first request.
    hand.observe(&mut fleet, &[node(1, 2)]);
    hand.observe(&mut fleet, &[node(1, 2), node(2, 2)]);
    let late = fleet.unmanaged_node(&node(2, 2).hostname).map(|unmanaged| &unmanaged.kind);
    assert!(matches!(late, Some(UnmanagedKind::Orphan { .. })), "{late:?}");
}

#[test]
fn a_crash_during_an_adoption_frees_no_request() {
    let mut hand = Hand::new();
    let mut before = failed(&mut hand);
    hand.increase(&mut before, OTHER, 1).unwrap();
    let changes = hand.observe(&mut before.clone(), &[node(99, 4), node(1, 2)]);
    for mut fleet in interrupted(&before, &changes) {
        hand.observe(&mut fleet, &[node(99, 4), node(1, 2), node(7, 2)]);
        assert_foreign(&fleet, &node(7, 2));
        assert!(fleet.machine_at(&node(1, 2).hostname).is_some());
    }
}

#[test]
fn a_crash_while_an_orphan_is_removed_frees_no_request() {
    let mut hand = Hand::new();
    let mut before = failed(&mut hand);
    let changes = hand.observe(&mut before, &[node(99, 4), node(1, 2)]);
    // The record of the machine keeps the request.
    let kept = changes.iter().find(|change| matches!(change, Change::SaveMachine(_))).unwrap().record();
    let mut fleet = failed(&mut Hand::new());
    changes.iter().filter(|change| change.record() != kept).for_each(|change| fleet.apply(change));
    hand.wait(Duration::from_mins(20));
    let changes = hand.pass(&mut fleet.clone());
    for mut fleet in interrupted(&fleet, &changes) {
        hand.observe(&mut fleet, &[node(99, 4), node(1, 2), node(7, 2)]);
        assert_foreign(&fleet, &node(7, 2));
    }
}

#[test]
fn a_crash_while_a_request_is_abandoned_counts_it_once() {
    let mut hand = Hand::new();
    hand.policy.failed_ttl = Duration::from_hours(9);
    let mut before = failed(&mut hand);
    for _ in 0..30 {
        hand.observe(&mut before, &[node(99, 4)]);
    }
    hand.wait(Duration::from_hours(1));
    let changes = hand.pass(&mut before.clone());
    for mut fleet in interrupted(&before, &changes) {
        for _ in 0..31 {
            hand.observe(&mut fleet, &[node(99, 4)]);
            hand.pass(&mut fleet);
        }
        let late: u32 = fleet.request_history().abandoned.iter().map(|late| late.count).sum();
        assert_eq!(late, 1, "{:?}", fleet.request_history());
    }
}

#[test]
fn a_crash_while_a_late_node_is_recorded_counts_one_node() {
    let mut hand = Hand::new();
    let mut before = failed(&mut hand);
    for _ in 0..31 {
        hand.wait(Duration::from_mins(2));
        hand.observe(&mut before, &[node(99, 4)]);
        hand.pass(&mut before);
    }
    assert_eq!(before.request_history().abandoned.len(), 1);
    let changes = hand.observe(&mut before.clone(), &[node(99, 4), node(1, 2)]);
    for mut fleet in interrupted(&before, &changes) {
        hand.observe(&mut fleet, &[node(99, 4), node(1, 2), node(7, 2)]);
        assert_foreign(&fleet, &node(7, 2));
        let awaited = fleet.unmanaged_nodes().filter(|unmanaged| unmanaged.awaited_by.is_some());
        let awaited: Vec<_> = awaited.map(|unmanaged| unmanaged.hostname.as_str()).collect();
        assert_eq!(awaited, ["k8s-slave-1"]);
    }
}
