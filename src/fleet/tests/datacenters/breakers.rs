//! Evidence of outages, and the effects of circuit breakers.

use super::*;

/// A world in which the primary refuses two offers.
fn open_world() -> World {
    let offers = ["small", "medium"];
    let mut world = World::new(group_of(0, 20, &offers, primary_backup(&[AMS, FRA])));
    world.refuse(AMS, &offers);
    world.run(3, 2);
    assert_eq!(world.state(AMS), "open");
    world
}

#[test]
fn a_suspect_datacenter_refuses_growth() {
    let mut world = open_world();
    let refusal = world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 1).unwrap_err();
    let Refusal::DatacenterUnavailable {
        block: DatacenterBlock::Open { outage: Some(outage), until }, ..
    } = &refusal
    else {
        panic!("{refusal}")
    };
    assert_eq!(outage.cause, OutageCause::OffersFailed);
    assert!(until.is_some());
    assert!(refusal.to_string().contains("in datacenter ams1: its circuit breaker is open"), "{refusal}");
}

#[test]
fn waiting_machines_of_a_suspect_datacenter_fail_early() {
    let mut world = World::new(group_of(0, 20, &["small", "large"], balanced(&[AMS, FRA])));
    world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 3).unwrap();
    world.hand.increase(&mut world.fleet, &pool(FRA, "small"), 3).unwrap();
    world.fleet.note_inactive_datacenters(BTreeSet::from([AMS.into()]), world.hand.now);
    let failed: Vec<_> = world
        .fleet
        .machines()
        .filter_map(|machine| match &machine.phase {
            Phase::Failed { failure, .. } => Some((machine.pool.datacenter.to_string(), failure.reason)),
            _ => None,
        })
        .collect();
    assert_eq!(failed, vec![(AMS.to_owned(), FailureReason::DatacenterUnavailable); 3]);
    assert_eq!(FailureReason::DatacenterUnavailable.class(), 1, "Cluster Autoscaler backs off the pool");
}

#[test]
fn an_inactive_datacenter_is_suspect_until_it_is_active_again() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.fleet.note_inactive_datacenters(BTreeSet::from([FRA.into()]), world.hand.now);
    assert_eq!((world.state(AMS), world.state(FRA)), ("closed", "open"));
    world.idle(60);
    assert_eq!(world.state(FRA), "open", "it stays so while VPSie says it");
    world.fleet.note_inactive_datacenters(BTreeSet::new(), world.hand.now);
    world.idle(3);
    assert_eq!(world.state(FRA), "closed");
    let all = [AMS, FRA].map(DatacenterId::from).into();
    world.fleet.note_inactive_datacenters(all, world.hand.now);
    assert_eq!((world.state(AMS), world.state(FRA)), ("closed", "closed"), "a fault of the catalog");
}

#[test]
fn a_restart_keeps_the_state() {
    let world = open_world();
    let group = group_of(0, 20, &["small", "medium"], primary_backup(&[AMS, FRA]));
    let restored = Fleet::restore(vec![group], world.fleet.records(), Reserved::default());
    assert_eq!(restored.datacenter_history(), world.fleet.datacenter_history());
    assert_eq!(limits(&restored, &pool(AMS, "small")).2, 0);
}

#[test]
fn an_observable_outage_outlasts_a_restart_until_it_is_observed() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.run(2, 6);
    world.idle(6);
    world.set_unready(&[FRA]);
    world.idle(2);
    world.set_unready(&[FRA]);
    assert_eq!(world.state(FRA), "open");
    let group = group_of(0, 20, &["small"], balanced(&[AMS, FRA]));
    world.fleet = Fleet::restore(vec![group], world.fleet.records(), Reserved::default());
    world.idle(10);
    assert_eq!(world.state(FRA), "open", "no Node was observed yet");
    world.set_unready(&[]);
    world.idle(3);
    assert_eq!(world.state(FRA), "closed");
}

#[test]
fn failures_in_all_datacenters_open_no_breaker() {
    let offers = ["small", "medium"];
    let mut world = World::new(group_of(0, 20, &offers, balanced(&[AMS, FRA])));
    world.refuse(AMS, &offers);
    world.refuse(FRA, &offers);
    world.run(8, 6);
    assert_eq!((world.state(AMS), world.state(FRA)), ("closed", "closed"));
}

#[test]
fn a_machine_from_before_the_outage_is_no_failed_attempt() {
    let offers = ["small", "medium"];
    let mut world = World::new(group_of(0, 20, &offers, primary_backup(&[AMS, FRA])));
    world.silent.insert(AMS.into());
    world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 1).unwrap();
    world.serve();
    world.silent.clear();
    world.refuse(AMS, &offers);
    world.hand.wait(Duration::from_mins(3));
    world.run(3, 4);
    assert_eq!(world.state(AMS), "open");
    world.idle(8);
    assert_eq!(world.state(AMS), "half_open", "its timeout is not the result of an attempt");
    let failed = |machine: &&Machine| matches!(machine.phase, Phase::Failed { .. });
    assert_eq!(world.fleet.machines().filter(failed).count(), 1);
}

#[test]
fn half_open_datacenters_have_one_machine_on_its_way() {
    let mut world = open_world();
    world.refused.clear();
    world.idle(6);
    assert_eq!(world.state(AMS), "half_open");
    world.silent.insert(AMS.into());
    world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 1).unwrap();
    assert_eq!((world.limits(AMS, "small").2, world.limits(AMS, "medium").2), (1, 0));
    let refusal = world.hand.increase(&mut world.fleet, &pool(AMS, "medium"), 1).unwrap_err();
    assert!(matches!(refusal, Refusal::DatacenterUnavailable { block: DatacenterBlock::HalfOpen, .. }));
    assert_eq!(world.limits(FRA, "small").2, 19, "the other one gets the rest");
}

#[test]
fn an_attempt_succeeds_once_its_node_is_ready() {
    let mut world = open_world();
    world.refused.clear();
    world.idle(6);
    world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 1).unwrap();
    world.set_unready(&[AMS]);
    world.serve();
    world.set_unready(&[AMS]);
    assert_eq!((world.state(AMS), world.running(AMS)), ("half_open", 1));
    assert_eq!((world.limits(AMS, "small").2, world.limits(AMS, "medium").2), (1, 0), "it is still tried");
    world.hand.increase(&mut world.fleet, &pool(AMS, "medium"), 1).unwrap_err();
    world.hand.wait(Duration::from_secs(1));
    world.set_unready(&[]);
    assert_eq!(world.state(AMS), "closed");
}

#[test]
fn stragglers_of_a_burst_open_nothing_again() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.run(2, 2);
    world.hand.policy.running_when_listed = false;
    world.hand.wait(Duration::from_mins(10));
    for at in [AMS, FRA] {
        world.hand.increase(&mut world.fleet, &pool(at, "small"), 5).unwrap();
    }
    world.serve();
    world.hand.wait(Duration::from_mins(15));
    world.end_joining(AMS, 2);
    assert_eq!(world.state(AMS), "open", "two machines of a burst are two machines");
    world.end_joining(FRA, 2);
    assert_eq!((world.state(AMS), world.state(FRA)), ("closed", "closed"), "no datacenter can join");
    world.idle(3);
    for at in [AMS, FRA] {
        world.end_joining(at, 3);
        world.idle(3);
        assert_eq!((world.state(AMS), world.state(FRA)), ("closed", "closed"), "they were counted");
    }
}

#[test]
fn machines_of_a_burst_of_which_one_joined_are_no_outage() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.hand.policy.running_when_listed = false;
    world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 4).unwrap();
    world.serve();
    let first = world.vms.iter().find(|vm| vm.hostname != Hostname::new("old-1")).unwrap().hostname.clone();
    world.fleet.note_registered(&first, world.hand.now);
    world.hand.wait(Duration::from_mins(15));
    world.end_joining(AMS, 3);
    assert_eq!((world.state(AMS), world.running(AMS)), ("closed", 1));
    world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 2).unwrap();
    world.serve();
    world.hand.wait(Duration::from_mins(15));
    world.end_joining(AMS, 2);
    assert_eq!(world.state(AMS), "open", "two later ones are two in a row");
}

#[test]
fn a_clock_that_was_ahead_opens_nothing_for_long() {
    let mut world = World::new(group_of(0, 20, &["small", "medium"], primary_backup(&[AMS, FRA])));
    world.hand.wait(Duration::from_hours(100));
    world.refuse(AMS, &["small", "medium"]);
    world.run(3, 2);
    assert_eq!(world.state(AMS), "open");
    world.hand.now -= jiff::SignedDuration::from_hours(100);
    world.idle(4);
    assert_eq!(world.state(AMS), "half_open");
}
