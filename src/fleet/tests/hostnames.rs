//! Binding by hostname: VMs of a self-managed cluster.

mod duplicates;
mod without_pending;

use super::*;

const SMALL_SIZE: u64 = 2;

fn fleet() -> Fleet {
    let catalog = Catalog { offers: vec![offer(SMALL_SIZE, "small")] };
    let records = Records { catalog: Some(Arc::new(catalog)), ..Records::default() };
    let settings = FleetSettings { binding: Binding::ByName, ..FleetSettings::default() };
    let mut fleet = Fleet::restore(vec![group("web", 0, 9, &[SMALL])], records, settings);
    Hand::new().observe(&mut fleet, &[]);
    fleet
}

/// A listed VM with the owner marker.
fn marked(hostname: &Hostname, n: u32) -> ListedNode {
    ListedNode { hostname: hostname.clone(), pool: Some(SMALL.parse().unwrap()), ..node(n, SMALL_SIZE) }
}

/// A VM in `GET /vm/pending`.
fn pending(hostname: &Hostname) -> ListedNode {
    ListedNode { hostname: hostname.clone(), id: None, state: VmState::Provisioning, ..node(1, SMALL_SIZE) }
}

fn hostname(fleet: &Fleet) -> Hostname {
    only(fleet).requests.last().unwrap().hostname.clone().unwrap()
}

/// A fleet with one requested machine.
fn requested(outcome: &CreationOutcome) -> (Hand, Fleet) {
    let mut hand = Hand::new();
    let mut fleet = fleet();
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, outcome);
    (hand, fleet)
}

/// Loses the request of the only machine.
fn lose_request(hand: &mut Hand, fleet: &mut Fleet) {
    for _ in 0..3 {
        hand.wait(Duration::from_secs(40));
        hand.observe(fleet, &[]);
        hand.pass(fleet);
    }
    assert_eq!(only(fleet).requests.last().unwrap().outcome, RequestOutcome::Lost);
}

#[test]
fn a_request_has_the_name_of_machine_and_number() {
    let (_, fleet) = requested(&CreationOutcome::Unclear);
    assert_eq!(hostname(&fleet).as_str(), format!("{}-1", only(&fleet).id));
}

#[test]
fn the_longest_hostname_is_a_dns_label() {
    let (mut hand, mut fleet) = requested(&CreationOutcome::Unclear);
    for number in 2..=3 {
        lose_request(&mut hand, &mut fleet);
        for outcome in [CreationOutcome::NotSent, CreationOutcome::Unclear] {
            hand.ask_all(&mut fleet, &outcome);
        }
        assert_eq!(hostname(&fleet).as_str(), format!("{}-{number}", only(&fleet).id));
    }
    lose_request(&mut hand, &mut fleet);
    assert_eq!(fleet.machines_to_request(), [], "there is no further request");
    let id = only(&fleet).id.as_str();
    // Names of NodeGroups have at most 52 characters.
    let longest = hostname(&fleet).as_str().len() + 52 - id.rsplit_once('-').unwrap().0.len();
    assert_eq!(longest, 63);
}

#[test]
fn a_vm_is_bound_to_the_request_of_its_hostname() {
    for outcome in [CreationOutcome::Unclear, CreationOutcome::Accepted] {
        let (hand, mut fleet) = requested(&outcome);
        let vm = marked(&hostname(&fleet), 7);
        hand.observe(&mut fleet, std::slice::from_ref(&vm));
        assert_eq!(only(&fleet).vm().unwrap().id, vm.id);
        assert!(only(&fleet).requests.is_empty());
        fleet.check_consistency().unwrap();
    }
}

#[test]
fn a_pending_vm_is_bound_before_its_uuid_is_known() {
    let (hand, mut fleet) = requested(&CreationOutcome::Unclear);
    let hostname = hostname(&fleet);
    hand.observe(&mut fleet, &[pending(&hostname)]);
    assert_eq!(only(&fleet).vm().unwrap().id, None);
    let vm = marked(&hostname, 7);
    hand.observe(&mut fleet, std::slice::from_ref(&vm));
    assert_eq!(only(&fleet).vm().unwrap().id, vm.id);
}

#[test]
fn listings_are_needed_as_long_as_a_vm_may_return() {
    let (mut hand, mut fleet) = requested(&CreationOutcome::Accepted);
    let hostname = hostname(&fleet);
    fleet.retire(&only(&fleet).id.clone(), DeletionReason::NodeGroupDeleted, hand.now);
    assert!(fleet.needs_listings(), "its VM may still be created");
    let vm = marked(&hostname, 1);
    hand.observe(&mut fleet, std::slice::from_ref(&vm));
    let id = only(&fleet).id.clone();
    fleet.deletion_accepted(&id, hand.now);
    let other = ListedNode { role: NodeRole::Unknown, ..node(3, SMALL_SIZE) };
    for _ in 0..3 {
        hand.wait(Duration::from_mins(5));
        hand.observe(&mut fleet, std::slice::from_ref(&other));
    }
    assert_eq!(fleet.machines().count(), 0);
    assert!(fleet.needs_listings(), "VPSie may list it again");
    hand.wait(hand.policy.gone_kept);
    hand.pass(&mut fleet);
    assert!(!fleet.needs_listings());
}

#[test]
fn a_machine_that_never_joined_fails_and_its_vm_is_deleted() {
    let mut hand = Hand::new();
    hand.policy.running_when_listed = false;
    let mut fleet = fleet();
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let hostname = hostname(&fleet);
    let row = marked(&hostname, 1);
    hand.observe(&mut fleet, std::slice::from_ref(&row));
    let id = only(&fleet).id.clone();
    let failure = Failure { reason: FailureReason::JoinTimeout, message: "late".to_owned() };
    assert_eq!(fleet.fail_join(&id, &Hostname::new("web-00000001-9"), failure.clone(), hand.now), []);
    let changes = fleet.fail_join(&id, &hostname, failure.clone(), hand.now);
    assert!(matches!(changes[..], [Change::SaveUnmanaged(_), Change::SaveMachine(_)]), "{changes:?}");
    assert_eq!(fleet.fail_join(&id, &hostname, failure, hand.now), [], "once");
    assert_eq!(target(&fleet, SMALL), 1, "Cluster Autoscaler sees the failure");
    hand.observe(&mut fleet, std::slice::from_ref(&row));
    hand.pass(&mut fleet);
    fleet.check_consistency().unwrap();
    let ends: Vec<_> = fleet.machines().filter(|machine| !machine.counts()).collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!(ends[0].vm().unwrap().id, row.id);
    assert!(fleet.machine(&id).unwrap().vm().is_none());
}

#[test]
fn a_registered_node_is_never_given_up() {
    let (hand, mut fleet) = requested(&CreationOutcome::Accepted);
    let hostname = hostname(&fleet);
    hand.observe(&mut fleet, &[marked(&hostname, 1)]);
    fleet.note_registered(&hostname, hand.now);
    let id = only(&fleet).id.clone();
    let failure = Failure { reason: FailureReason::JoinTimeout, message: String::new() };
    assert_eq!(fleet.fail_join(&id, &hostname, failure, hand.now), []);
}

#[test]
fn an_attachment_is_recorded_once_and_for_all() {
    let (hand, mut fleet) = requested(&CreationOutcome::Accepted);
    let hostname = hostname(&fleet);
    let with = |attachment| ListedNode { attachment, ..marked(&hostname, 1) };
    let failed = Attachment::Failed("no".to_owned());
    for (attachment, recorded) in [
        (None, None),
        (Some(Attachment::Open), Some(false)),
        (Some(failed.clone()), Some(false)),
        (None, Some(false)),
        (Some(Attachment::Done), Some(true)),
        (Some(failed), Some(true)),
    ] {
        hand.observe(&mut fleet, &[with(attachment.clone())]);
        assert_eq!(only(&fleet).vm().unwrap().attached, recorded, "{attachment:?}");
        assert_eq!(fleet.attached_vms().count(), usize::from(recorded == Some(true)));
    }
    let stored = serde_json::to_string(only(&fleet)).unwrap();
    assert_eq!(serde_json::from_str::<Machine>(&stored).unwrap(), *only(&fleet));
}

#[test]
fn a_pending_vm_of_another_program_is_ignored() {
    let (hand, mut fleet) = requested(&CreationOutcome::Unclear);
    hand.observe(&mut fleet, &[pending(&Hostname::new("web-0000000a-1")), pending(&Hostname::new("db"))]);
    assert_eq!((fleet.unmanaged_nodes().count(), only(&fleet).vm()), (0, None));
}

#[test]
fn a_machine_is_requested_again_by_another_name() {
    let (mut hand, mut fleet) = requested(&CreationOutcome::Unclear);
    let first = hostname(&fleet);
    lose_request(&mut hand, &mut fleet);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    assert_eq!(hostname(&fleet).as_str(), format!("{}-2", only(&fleet).id));
    assert_ne!(hostname(&fleet), first);
}

#[test]
fn the_late_vm_of_a_lost_request_is_deleted() {
    let (mut hand, mut fleet) = requested(&CreationOutcome::Unclear);
    let first = hostname(&fleet);
    lose_request(&mut hand, &mut fleet);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    let second = hostname(&fleet);
    hand.observe(&mut fleet, &[marked(&first, 1), marked(&second, 2)]);
    hand.pass(&mut fleet);
    let machines: Vec<_> =
        fleet.machines().map(|m| (m.phase.name(), m.vm().unwrap().hostname.clone())).collect();
    assert_eq!(machines.len(), 2);
    assert!(machines.contains(&("Running", second)), "{machines:?}");
    assert!(machines.contains(&("Deleting", first)), "{machines:?}");
    assert_eq!(target(&fleet, SMALL), 1);
}

#[test]
fn an_orphan_is_not_adopted() {
    let (hand, mut fleet) = requested(&CreationOutcome::NotSent);
    hand.observe(&mut fleet, &[marked(&Hostname::new("web-0000000b-1"), 3)]);
    assert_eq!(only(&fleet).vm(), None);
    assert_eq!(fleet.unmanaged_nodes().count(), 1);
}

#[test]
fn an_orphan_of_an_unknown_machine_has_a_grace_period() {
    let (mut hand, mut fleet) = requested(&CreationOutcome::NotSent);
    let orphan = marked(&Hostname::new("web-0000000b-1"), 3);
    for _ in 0..2 {
        hand.observe(&mut fleet, std::slice::from_ref(&orphan));
        hand.pass(&mut fleet);
        assert_eq!(fleet.unmanaged_nodes().count(), 1, "the records may be lost");
        hand.wait(hand.policy.orphan_grace / 2);
    }
    hand.pass(&mut fleet);
    let is_its_end = |m: &Machine| m.vm().is_some_and(|vm| vm.hostname == orphan.hostname) && !m.counts();
    assert!(fleet.machines().any(is_its_end));
}

#[test]
fn a_listing_of_vms_of_others_proves_that_the_last_vm_is_gone() {
    for has_rows in [false, true] {
        let (mut hand, mut fleet) = requested(&CreationOutcome::Accepted);
        let row = marked(&hostname(&fleet), 1);
        hand.observe(&mut fleet, &[row]);
        for _ in 0..3 {
            hand.wait(hand.policy.vanish_after);
            let listing = NodeListing { has_rows, ..complete(&[]) };
            fleet.observe(&listing, hand.now, &hand.policy);
        }
        assert_eq!(fleet.machines().count(), usize::from(!has_rows));
    }
}

mod a_vm_without_the_marker {
    use super::*;

    fn unmarked(hostname: &Hostname) -> ListedNode {
        ListedNode { role: NodeRole::Unknown, pool: None, ..marked(hostname, 9) }
    }

    #[test]
    fn is_not_bound() {
        let (hand, mut fleet) = requested(&CreationOutcome::Unclear);
        let hostname = hostname(&fleet);
        hand.observe(&mut fleet, &[unmarked(&hostname)]);
        assert_eq!(only(&fleet).vm(), None);
        assert_eq!(fleet.unmanaged_node(&hostname).unwrap().kind, UnmanagedKind::Foreign);
    }

    #[test]
    fn revives_no_vm_that_is_gone() {
        let (mut hand, mut fleet) = requested(&CreationOutcome::Accepted);
        let hostname = hostname(&fleet);
        hand.observe(&mut fleet, &[marked(&hostname, 1), marked(&Hostname::new("web-0000000b-1"), 2)]);
        for _ in 0..5 {
            hand.wait(hand.policy.vanish_after);
            hand.observe(&mut fleet, &[marked(&Hostname::new("web-0000000b-1"), 2)]);
        }
        let gone = fleet.unmanaged_node(&hostname).unwrap().clone();
        assert!(matches!(gone.kind, UnmanagedKind::Gone { .. }), "{gone:?}");
        let row = ListedNode { id: None, ..unmarked(&hostname) };
        hand.observe(&mut fleet, &[row]);
        assert_eq!(fleet.unmanaged_node(&hostname), Some(&gone));
        assert_eq!(fleet.machine_by_hostname(&hostname), None);
    }

    #[test]
    fn gives_its_uuid_to_no_machine() {
        let (hand, mut fleet) = requested(&CreationOutcome::Unclear);
        let hostname = hostname(&fleet);
        hand.observe(&mut fleet, &[pending(&hostname)]);
        hand.observe(&mut fleet, &[unmarked(&hostname)]);
        assert_eq!(only(&fleet).vm().unwrap().id, None);
    }
}

#[test]
fn the_form_of_the_texts_of_a_row_does_not_matter() {
    let (hand, mut fleet) = requested(&CreationOutcome::Unclear);
    let upper = |node: ListedNode| {
        let datacenter = node.datacenter.map(|id| id.as_str().to_uppercase().as_str().into());
        ListedNode { datacenter, ..node }
    };
    let hostname = hostname(&fleet);
    let row = ListedNode { datacenter: Some("ams1".into()), ..pending(&hostname) };
    hand.observe(&mut fleet, &[ListedNode { datacenter: Some("ams2".into()), ..row.clone() }]);
    assert_eq!(only(&fleet).vm(), None, "another datacenter");
    hand.observe(&mut fleet, &[upper(row)]);
    assert!(only(&fleet).vm().is_some());

    let (hand, mut fleet) = requested(&CreationOutcome::Unclear);
    let row = ListedNode { datacenter: Some("Amsterdam 1".into()), ..marked(&self::hostname(&fleet), 7) };
    hand.observe(&mut fleet, &[row]);
    assert!(only(&fleet).vm().is_some());
}

#[test]
fn a_second_vm_of_a_hostname_is_deleted() {
    let (mut hand, mut fleet) = requested(&CreationOutcome::Accepted);
    let hostname = hostname(&fleet);
    let (first, second) = (marked(&hostname, 1), marked(&hostname, 2));
    hand.observe(&mut fleet, std::slice::from_ref(&first));
    for _ in 0..3 {
        hand.observe(&mut fleet, &[first.clone(), second.clone()]);
        hand.pass(&mut fleet);
        fleet.check_consistency().unwrap();
    }
    let ends: Vec<_> = fleet.machines().filter(|m| !m.counts()).collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    let vm = ends[0].vm().unwrap();
    assert_eq!((&vm.id, &vm.hostname), (&second.id, &hostname.duplicate(second.id.as_ref().unwrap())));
    assert_eq!((target(&fleet, SMALL), fleet.unmanaged_nodes().count()), (1, 0));
    assert_eq!(fleet.machine_by_hostname(&hostname).unwrap().vm().unwrap().id, first.id);
}

#[test]
fn the_vm_of_a_reply_is_bound_at_once() {
    for listed_first in [false, true] {
        let mut hand = Hand::new();
        let mut fleet = fleet();
        hand.increase(&mut fleet, SMALL, 1).unwrap();
        let id = only(&fleet).id.clone();
        fleet.record_requests(std::slice::from_ref(&id), hand.now);
        let row = marked(&hostname(&fleet), 1);
        if listed_first {
            hand.observe(&mut fleet, std::slice::from_ref(&row));
        }
        let vm = Vm::listed(&row);
        fleet.record_outcome(&id, CreationOutcome::Created(vm.clone()), hand.now, &hand.policy);
        assert_eq!(only(&fleet).vm().map(|bound| &bound.id), Some(&vm.id));
        assert!(only(&fleet).requests.is_empty());
        hand.observe(&mut fleet, &[row]);
        assert_eq!(fleet.unmanaged_nodes().count(), 0);
        fleet.check_consistency().unwrap();
    }
}

#[test]
fn the_vm_of_a_retired_machine_is_deleted() {
    let (hand, mut fleet) = requested(&CreationOutcome::Accepted);
    let hostname = hostname(&fleet);
    let id = only(&fleet).id.clone();
    assert_eq!(fleet.joining_hostnames().count(), 1);
    fleet.retire(&id, DeletionReason::VPSieNodeDeleted, hand.now);
    assert_eq!(fleet.joining_hostnames().count(), 0, "its credential is no longer needed");
    hand.observe(&mut fleet, &[marked(&hostname, 4)]);
    assert!(matches!(&only(&fleet).phase, Phase::Deleting { vm: Some(vm), .. } if vm.hostname == hostname));
}
