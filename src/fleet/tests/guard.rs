//! The runaway guard alone.

use std::collections::BTreeSet;

use super::*;

/// The VM limit of a NodeGroup with `maxNodes` 4: these, a surge of 2, and 1.
const VM_LIMIT: u32 = 7;

/// The maxima of a cluster with the NodeGroup `batch` alone.
fn maxima(max: u32) -> Maxima {
    Maxima { groups: [("batch".into(), max)].into(), cluster: None }
}

fn guard(max: u32) -> Guard {
    let mut guard = Guard::new(PriorRecords::default());
    guard.declare(&maxima(max), &BTreeMap::new());
    guard.observe(&[node(1, 2)], Duration::ZERO);
    guard
}

/// Requests VMs that have this outcome.
fn create(guard: &mut Guard, count: u32, at: Duration, outcome: GuardOutcome) {
    for _ in 0..count {
        let permit = guard.admit(at).unwrap();
        guard.note_outcome(permit, outcome);
    }
}

fn nodes(numbers: std::ops::RangeInclusive<u32>) -> Vec<ListedNode> {
    numbers.map(|n| node(n, 2)).collect()
}

fn mins(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

#[test]
fn counts_no_node_that_was_listed_before_the_first_request() {
    let mut guard = guard(4);
    guard.observe(&nodes(1..=20), mins(1));
    assert_eq!(guard.status(mins(1)).counted, 0, "they were added by hand before the first request");
    create(&mut guard, 4, mins(2), GuardOutcome::Accepted);
    guard.observe(&nodes(1..=24), mins(3));
    let status = guard.status(mins(3));
    assert_eq!((status.counted, status.headroom, status.halt), (4, 3, None));
}

#[test]
fn counts_a_node_added_by_hand_without_a_halt() {
    let mut guard = guard(4);
    create(&mut guard, 1, mins(1), GuardOutcome::Accepted);
    guard.observe(&nodes(1..=3), mins(2));
    let status = guard.status(mins(2));
    assert_eq!((status.counted, status.unexplained, status.halt), (2, 1, None));
    guard.observe(&nodes(1..=5), mins(3));
    let halt = guard.status(mins(3)).halt.unwrap();
    assert_eq!(halt.reason(), "UnexplainedNodes");
    let halt = halt.to_string();
    assert!(
        halt.contains("(k8s-slave-3, k8s-slave-4, k8s-slave-5)") && halt.contains("Delete them"),
        "{halt}"
    );
    guard.note_added_by_hand(&BTreeSet::from([node(4, 2).hostname, node(5, 2).hostname]));
    assert_eq!(guard.status(mins(3)).halt, None);
    guard.observe(&nodes(1..=5), mins(4));
    assert_eq!(guard.status(mins(4)).counted, 2, "the annotation has a lasting effect");
    guard.observe(&nodes(1..=9), mins(90));
    assert_eq!(guard.status(mins(90)).counted, 2, "nodes long after the last request are not its results");
}

#[test]
fn halts_while_deletions_are_overdue() {
    let mut guard = guard(10);
    create(&mut guard, 5, mins(1), GuardOutcome::Accepted);
    guard.observe(&nodes(1..=6), mins(2));
    for n in 2..=4 {
        guard.note_deletion_request(&node(n, 2).hostname, mins(3));
    }
    assert_eq!(guard.status(mins(20)).halt, None);
    let halt = guard.status(mins(33)).halt.unwrap();
    assert_eq!(halt.reason(), "DeletionsOverdue");
    for n in 2..=4 {
        guard.note_deletion(&node(n, 2).hostname);
    }
    guard.observe(&nodes(5..=6), mins(34));
    guard.observe(&nodes(5..=6), mins(35));
    let status = guard.status(mins(35));
    assert_eq!((status.halt, status.counted), (None, 2), "the halt ends without an action");
}

#[test]
fn releases_creations_that_vpsies_counts_disprove() {
    let listed = [node(1, 2)];
    for (counted, until) in [(None, 24 * 60), (Some(1), 60)] {
        let mut guard = guard(4);
        while let Ok(permit) = guard.admit(mins(1)) {
            guard.note_outcome(permit, GuardOutcome::Accepted);
        }
        assert_eq!(guard.status(mins(1)).halt.unwrap().reason(), "TooManyVMs");
        for minute in 2..=until + 1 {
            assert!(guard.status(mins(minute)).halt.is_some(), "{counted:?}: {minute}");
            guard.observe(&listed, mins(minute));
            if let Some(counted) = counted.filter(|_| guard.needs_count(mins(minute))) {
                guard.note_count(counted, &listed, mins(minute));
            }
        }
        assert_eq!(guard.status(mins(until + 1)).halt, None, "{counted:?}");
    }
}

#[test]
fn a_creation_that_made_nothing_does_not_count() {
    let mut guard = guard(4);
    create(&mut guard, 50, mins(1), GuardOutcome::Nothing);
    assert_eq!(guard.status(mins(1)).counted, 0);
}

#[test]
fn a_lowered_maximum_of_one_group_does_not_stop_another() {
    let (web, batch): (NodeGroupName, NodeGroupName) = ("web".into(), "batch".into());
    let mut guard = Guard::new(PriorRecords::default());
    let maxima =
        |web_max| Maxima { groups: [(web.clone(), web_max), (batch.clone(), 4)].into(), cluster: None };
    let vms = |count| BTreeMap::from([(web.clone(), count)]);
    guard.declare(&maxima(50), &vms(0));
    guard.observe(&[], mins(0));
    create(&mut guard, 40, mins(1), GuardOutcome::Accepted);
    guard.observe(&nodes(1..=40), mins(2));
    guard.declare(&maxima(2), &vms(40));
    let status = guard.status(mins(2));
    assert_eq!((status.limit, status.headroom, &status.halt), (44, 4, &None));
    let mut restarted = Guard::new(PriorRecords {
        known: Some(BTreeSet::new()),
        ours: nodes(1..=40).into_iter().map(|node| node.hostname).collect(),
        accepted: 0,
        unclear: 0,
        late: 0,
    });
    restarted.declare(&maxima(2), &vms(40));
    restarted.observe(&nodes(1..=40), mins(0));
    assert_eq!(restarted.status(mins(0)), status);
    restarted.declare(&maxima(2), &vms(1));
    assert_eq!(restarted.status(mins(0)).limit, 11, "a VM limit that fell does not rise again");
}

#[test]
fn a_restart_in_a_scale_up_does_not_halt_growth() {
    let mut guard = Guard::new(PriorRecords { unclear: 4, ..PriorRecords::default() });
    guard.declare(&maxima(4), &BTreeMap::new());
    guard.observe(&[], Duration::ZERO);
    assert_eq!(guard.status(Duration::ZERO).headroom, 3, "each request may have created a VM");
    guard.observe(&[], mins(1));
    assert_eq!(guard.status(mins(1)).headroom, 7, "none of their VMs is listed");
}

fn restarted(late: u32) -> Guard {
    let known = Some(BTreeSet::from([node(1, 2).hostname]));
    let mut guard = Guard::new(PriorRecords { known, late, ..PriorRecords::default() });
    guard.declare(&maxima(4), &BTreeMap::new());
    guard.observe(&nodes(1..=1), Duration::ZERO);
    guard
}

#[test]
fn a_late_vm_counts_long_after_the_last_request() {
    let mut guard = guard(4);
    create(&mut guard, 4, mins(1), GuardOutcome::Accepted);
    guard.observe(&nodes(1..=1), mins(90));
    guard.note_count(1, &nodes(1..=1), mins(90));
    assert_eq!(guard.status(mins(90)).counted, 0, "VPSie's count disproves the creations");
    guard.observe(&nodes(1..=5), mins(240));
    let status = guard.status(mins(240));
    assert_eq!((status.counted, status.unexplained), (4, 0), "they were requested");
}

#[test]
fn late_vms_count_after_a_restart_too() {
    let mut guard = restarted(4);
    assert_eq!(guard.status(mins(0)).counted, 0, "the requests were abandoned");
    guard.observe(&nodes(1..=5), mins(120));
    assert_eq!(guard.status(mins(120)).counted, 4);
}

#[test]
fn lost_replies_of_before_a_restart_do_not_halt_growth() {
    for late in [VM_LIMIT, 3 * VM_LIMIT, u32::MAX] {
        let mut guard = restarted(late);
        assert_eq!(guard.status(mins(0)).headroom, VM_LIMIT, "{late}");
        guard.observe(&nodes(1..=1 + 2 * VM_LIMIT), mins(120));
        assert_eq!(
            guard.status(mins(120)).counted,
            VM_LIMIT,
            "at most as many late VMs as the VM limit are expected"
        );
    }
}

#[test]
fn lost_replies_explain_their_late_vms() {
    let mut guard = guard(4);
    create(&mut guard, 3, mins(1), GuardOutcome::Unclear);
    create(&mut guard, 3, mins(2), GuardOutcome::Accepted);
    assert_eq!(guard.status(mins(3)).counted, 3, "the repeated requests");
    guard.observe(&nodes(1..=7), mins(5));
    let status = guard.status(mins(5));
    assert_eq!((status.counted, status.unexplained, status.halt), (6, 0, None));
    guard.observe(&nodes(1..=8), mins(6));
    assert_eq!(guard.status(mins(6)).unexplained, 1, "a lost reply explains one VM");
}

#[test]
fn a_lost_reply_explains_no_node_after_an_hour() {
    let mut guard = guard(4);
    create(&mut guard, 1, mins(0), GuardOutcome::Unclear);
    guard.observe(&nodes(1..=1), mins(1));
    guard.observe(&nodes(1..=2), mins(180));
    assert_eq!(guard.status(mins(180)).counted, 0, "a user added it, hours later");
}

#[test]
fn a_slow_call_counts_until_its_outcome() {
    for (outcome, counted, unexplained) in
        [(GuardOutcome::Nothing, 0, 1), (GuardOutcome::Accepted, 1, 0), (GuardOutcome::Unclear, 0, 0)]
    {
        let mut guard = guard(4);
        let permit = guard.admit(mins(1)).unwrap();
        guard.observe(&nodes(1..=1), mins(2));
        assert_eq!(guard.status(mins(2)).counted, 1, "{outcome:?}");
        guard.note_outcome(permit, outcome);
        guard.observe(&nodes(1..=1), mins(3));
        assert_eq!(guard.status(mins(3)).counted, counted, "{outcome:?}");
        guard.observe(&nodes(1..=2), mins(4));
        let status = guard.status(mins(4));
        assert_eq!((status.counted, status.unexplained), (1, unexplained), "{outcome:?}");
    }
}

#[test]
fn workers_that_vpsie_counts_count_until_they_are_listed() {
    let mut guard = guard(4);
    create(&mut guard, 3, mins(1), GuardOutcome::Unclear);
    assert!(guard.needs_count(mins(1)), "their VMs may be counted before they are listed");
    guard.note_count(4, &nodes(1..=1), mins(1));
    guard.observe(&nodes(1..=1), mins(3));
    let status = guard.status(mins(3));
    assert_eq!((status.counted, status.halt), (3, None), "the lost replies no longer count, their VMs do");
    guard.observe(&nodes(1..=4), mins(4));
    assert_eq!(guard.status(mins(4)).counted, 3, "each VM counts once");
}

#[test]
fn a_hostname_that_is_used_again_is_another_vm() {
    let mut guard = guard(4);
    create(&mut guard, 1, mins(1), GuardOutcome::Accepted);
    guard.observe(&nodes(1..=2), mins(2));
    guard.note_deletion_request(&node(2, 2).hostname, mins(3));
    guard.note_deletion(&node(2, 2).hostname);
    create(&mut guard, 1, mins(4), GuardOutcome::Accepted);
    let again = ListedNode { id: Some(VmId::new("another")), ..node(2, 2) };
    guard.observe(&[node(1, 2), again], mins(5));
    let status = guard.status(mins(5));
    assert_eq!(status.counted, 1, "the creation has its VM, and the deleted one is gone");
    assert_eq!(guard.status(mins(60)).halt, None, "the deletion of the first is not overdue");
}

#[test]
fn a_hostname_of_an_adopted_worker_that_is_used_again_counts() {
    let adopted = node(2, 2).hostname;
    let known = Some(BTreeSet::from([node(1, 2).hostname, adopted.clone()]));
    let mut guard =
        Guard::new(PriorRecords { known, ours: [adopted.clone()].into(), ..PriorRecords::default() });
    guard.declare(&maxima(4), &BTreeMap::new());
    guard.observe(&nodes(1..=2), mins(0));
    guard.note_deletion_request(&adopted, mins(1));
    guard.note_deletion(&adopted);
    create(&mut guard, 1, mins(2), GuardOutcome::Accepted);
    let again = ListedNode { id: Some(VmId::new("another")), ..node(2, 2) };
    guard.observe(&[node(1, 2), again], mins(3));
    let status = guard.status(mins(3));
    let unseen = nodes(1..=1);
    guard.observe(&unseen, mins(4));
    assert_eq!((status.counted, guard.status(mins(4)).counted), (1, 1), "it counts as a vanished VM");
    assert_eq!(guard.known_before().unwrap().len(), 1);
}

/// A guard after a restart, with the control plane and four requested VMs. Its first listing lacked all
/// workers.
fn restarted_by_an_incomplete_listing() -> (Guard, Vec<ListedNode>) {
    let master = ListedNode { role: NodeRole::ControlPlane, ..node(1, 2) };
    let ours: Vec<ListedNode> = (11..15).map(|n| node(n, 2)).collect();
    let mut guard = Guard::new(PriorRecords {
        known: Some([master.hostname.clone()].into()),
        ours: ours.iter().map(|node| node.hostname.clone()).collect(),
        ..PriorRecords::default()
    });
    guard.declare(&maxima(20), &[("batch".into(), 4)].into());
    guard.observe(std::slice::from_ref(&master), Duration::ZERO);
    (guard, [master].into_iter().chain(ours).collect())
}

#[test]
fn a_restart_during_incomplete_listings_halts_nothing() {
    let (mut guard, mut all) = restarted_by_an_incomplete_listing();
    create(&mut guard, 1, Duration::from_secs(5), GuardOutcome::Accepted);
    all.push(node(20, 2));
    guard.observe(&all, mins(5));
    let status = guard.status(mins(5));
    assert_eq!((status.halt, status.unexplained, status.counted), (None, 0, 5));
    assert!(!guard.known_before().unwrap().contains(&all[1].hostname));
}

#[test]
fn a_restart_during_incomplete_listings_forgets_no_vm() {
    let (mut guard, all) = restarted_by_an_incomplete_listing();
    guard.observe(&all, mins(5));
    assert_eq!(guard.status(mins(5)).counted, 4, "{:?}", guard.known_before());
}
