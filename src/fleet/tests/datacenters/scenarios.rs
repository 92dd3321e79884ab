//! The acceptance scenarios of several datacenters, with loops of Cluster Autoscaler.

use super::*;

#[test]
fn balanced_machines_are_split_evenly() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.run(2, 10);
    assert_eq!((world.running(AMS), world.running(FRA)), (5, 5));
    world.run(4, 18);
    world.run(4, 19);
    world.run(2, 24);
    assert_eq!((world.running(AMS), world.running(FRA)), (10, 10), "one more than the maximum fits nowhere");
    assert_eq!(world.refusals, []);
}

#[test]
fn a_refusing_datacenter_leaves_its_part_to_the_other() {
    let mut world = World::new(group_of(0, 10, &["small"], balanced(&[AMS, FRA])));
    world.refuse(FRA, &["small"]);
    world.run(3, 10);
    assert_eq!((world.running(AMS), world.running(FRA)), (10, 0), "within two loops after the refusal");
    assert_eq!(world.refusals, []);
    assert_eq!(world.state(FRA), "closed", "one offer is a shortage");
}

#[test]
fn weighted_machines_keep_their_proportion() {
    for balances in [true, false] {
        let mut world = World::new(group_of(0, 20, &["small"], weighted(&[(AMS, 70), (FRA, 30)])));
        world.balances = balances;
        world.run(12, 10);
        let (ams, fra) = (world.running(AMS), world.running(FRA));
        assert!(ams + fra == 10 && (6..=8).contains(&ams), "{ams} and {fra}");
        world.run(12, 20);
        let (ams, fra) = (world.running(AMS), world.running(FRA));
        assert!(ams + fra == 20 && (13..=15).contains(&ams), "{ams} and {fra}");
        assert_eq!(world.refusals, []);
    }
}

#[test]
fn a_short_offer_of_the_primary_opens_no_backup() {
    let mut world = World::new(group_of(0, 20, &["small", "medium", "large"], primary_backup(&[AMS, FRA])));
    world.refuse(AMS, &["small"]);
    world.run(5, 6);
    assert_eq!((world.running(AMS), world.running(FRA)), (6, 0));
}

#[test]
fn a_primary_without_capacity_opens_the_backup() {
    let offers = ["small", "medium"];
    let mut world = World::new(group_of(0, 20, &offers, primary_backup(&[AMS, FRA, LON])));
    world.refuse(AMS, &offers);
    world.run(5, 6);
    assert_eq!((world.running(AMS), world.running(FRA), world.running(LON)), (0, 6, 0));
    assert_eq!(world.state(AMS), "open");
    assert!(world.backoff.keys().all(|pool| pool.contains(AMS)), "{:?}", world.backoff);
    world.refuse(FRA, &offers);
    world.run(6, 9);
    assert_eq!(world.running(LON), 3, "backups open in order");
}

#[test]
fn a_single_short_offer_of_the_primary_opens_the_backup() {
    let mut world = World::new(group_of(0, 20, &["small"], primary_backup(&[AMS, FRA])));
    world.refuse(AMS, &["small"]);
    world.run(4, 6);
    assert_eq!((world.running(AMS), world.running(FRA)), (0, 6));
    assert_eq!(world.state(AMS), "closed");
    world.idle(7);
    assert_eq!(world.limits(AMS, "small").2, 1, "one machine is tried while Cluster Autoscaler may back off");
    world.refused.clear();
    world.run(2, 7);
    assert_eq!(world.running(AMS), 1);
    world.run(3, 12);
    assert_eq!((world.running(AMS), world.running(FRA)), (6, 6), "a VM ends the shortage");
}

#[test]
fn a_silent_primary_is_suspect_after_two_machines() {
    let mut world = World::new(group_of(0, 20, &["small"], primary_backup(&[AMS, FRA])));
    world.silent.insert(AMS.into());
    world.run(2, 3);
    assert_eq!(world.state(AMS), "closed");
    for _ in 0..12 {
        world.idle(1);
        world.run(1, 3);
    }
    assert_eq!((world.running(AMS), world.running(FRA)), (0, 3));
    let (_, target, max) = world.limits(AMS, "small");
    assert!(max - target <= 1, "open or half-open");
    // The VMs appear late: no machine waits for them any more.
    world.silent.clear();
    for _ in 0..3 {
        world.created += 1;
        let vm = node(world.created, 2);
        world.vms.push(ListedNode { datacenter: Some(AMS.into()), ..vm });
    }
    world.idle(30);
    assert_eq!(world.running(AMS), 0, "late VMs are deleted");
    let is_late =
        |vm: &ListedNode| vm.datacenter == Some(AMS.into()) && vm.hostname != Hostname::new("old-1");
    assert!(!world.vms.iter().any(is_late), "{:?}", world.vms);
}

#[test]
fn missing_rows_of_a_datacenter_prove_nothing() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.run(2, 8);
    let sizes = |world: &World| [AMS, FRA].map(|at| world.limits(at, "small").1);
    world.hidden.insert(FRA.into());
    world.idle(10);
    assert_eq!(sizes(&world), [4, 4]);
    assert_eq!((world.running(FRA), world.state(FRA)), (4, "open"));
    assert_eq!(world.limits(FRA, "small").2, 4, "maximum = present");
    assert_eq!(world.limits(AMS, "small").2, 16, "the other one gets all headroom");
    assert!(world.fleet.unmanaged_nodes().all(|node| node.kind == UnmanagedKind::Foreign));
    world.hidden.clear();
    world.idle(1);
    assert_eq!(world.state(FRA), "open", "the listing may change again");
    world.idle(3);
    assert_eq!(world.state(FRA), "closed");
    assert_eq!(world.limits(FRA, "small").2, 10);
}

#[test]
fn rows_that_are_missing_for_an_hour_have_vanished() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.run(2, 8);
    world.hidden.insert(FRA.into());
    world.idle(60);
    assert_eq!((world.running(FRA), world.state(FRA)), (4, "open"));
    world.idle(5);
    assert_eq!((world.running(AMS), world.running(FRA)), (4, 0));
    world.idle(3);
    assert_eq!(world.state(FRA), "closed", "no row is missing");
}

#[test]
fn missing_rows_of_all_datacenters_prove_nothing() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.run(2, 8);
    world.hidden.extend([AMS, FRA].map(DatacenterId::from));
    world.idle(90);
    assert_eq!((world.running(AMS), world.running(FRA)), (4, 4));
}

#[test]
fn a_removed_datacenter_keeps_its_protection() {
    for rest in [&[AMS][..], &[AMS, LON]] {
        let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA, LON])));
        world.run(2, 9);
        world.hidden.insert(FRA.into());
        world.idle(2);
        assert_eq!(world.state(FRA), "open");
        let mut group = group_of(0, 20, &["small"], balanced(rest));
        group.distribution = group.distribution.filter(|_| rest.len() > 1);
        world.fleet.declare(vec![group]);
        world.idle(10);
        assert_eq!((world.running(FRA), world.state(FRA)), (3, "open"));
        world.hidden.clear();
        world.idle(4);
        assert_eq!((world.running(FRA), world.state(FRA)), (3, "closed"));
    }
}

#[test]
fn a_datacenter_that_was_removed_before_the_outage_is_protected() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA, LON])));
    world.run(2, 9);
    world.fleet.declare(vec![group_of(0, 20, &["small"], balanced(&[AMS, LON]))]);
    world.hidden.insert(FRA.into());
    world.idle(10);
    assert_eq!((world.running(FRA), world.state(FRA)), (3, "open"));
    let fra = DatacenterId::from(FRA);
    assert!(world.fleet.watched_datacenters().contains(&fra));
    world.idle(60);
    assert_eq!(world.running(FRA), 0);
    assert!(!world.fleet.watched_datacenters().contains(&fra), "it has no machine");
    assert_eq!(world.fleet.datacenter_history(), &DatacenterHistory::default());
}

#[test]
fn a_single_missing_vm_has_vanished() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.run(2, 6);
    let gone = world.vms.iter().position(|vm| vm.datacenter == Some(FRA.into())).unwrap();
    world.vms.remove(gone);
    world.idle(6);
    assert_eq!((world.running(AMS), world.running(FRA), world.state(FRA)), (3, 2, "closed"));
}

#[test]
fn the_only_vm_of_a_datacenter_vanishes_after_ten_minutes() {
    for (hides, minutes) in [(&[FRA][..], 10), (&[AMS, FRA][..], 60)] {
        let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
        world.run(2, 2);
        assert_eq!((world.running(AMS), world.running(FRA)), (1, 1));
        // A listing without any row proves nothing.
        let foreign = ListedNode { hostname: Hostname::new("old-2"), datacenter: None, ..node(9998, 9) };
        world.vms.push(foreign);
        world.hidden.extend(hides.iter().map(|at| DatacenterId::from(*at)));
        world.idle(minutes);
        assert_eq!((world.running(FRA), world.state(FRA)), (1, "closed"));
        world.hidden.clear();
        world.idle(1);
        world.hidden.extend(hides.iter().map(|at| DatacenterId::from(*at)));
        world.idle(minutes);
        assert_eq!(world.running(FRA), 1, "the time begins again");
        world.idle(5);
        assert_eq!(world.running(FRA), 0, "it is never kept for ever");
    }
}

#[test]
fn nodes_that_are_not_ready_together_open_the_breaker() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.run(2, 8);
    world.set_unready(&[FRA]);
    world.idle(2);
    world.set_unready(&[FRA]);
    assert_eq!(world.state(FRA), "closed", "new Nodes are not Ready at first");
    world.idle(6);
    world.set_unready(&[FRA]);
    assert_eq!(world.state(FRA), "open");
    assert_eq!((world.limits(FRA, "small"), world.limits(AMS, "small").2), ((0, 4, 4), 16));
    world.run(2, 12);
    assert_eq!((world.running(AMS), world.running(FRA)), (8, 4), "the others grow");
    world.set_unready(&[]);
    world.idle(3);
    assert_eq!(world.state(FRA), "closed");
}

#[test]
fn nodes_of_all_datacenters_that_are_not_ready_are_no_outage() {
    let mut world = World::new(group_of(0, 20, &["small"], balanced(&[AMS, FRA])));
    world.run(2, 8);
    world.idle(6);
    world.set_unready(&[AMS, FRA]);
    world.idle(6);
    world.set_unready(&[AMS, FRA]);
    assert_eq!((world.state(AMS), world.state(FRA)), ("closed", "closed"));
}

#[test]
fn an_outage_ends_with_an_attempt() {
    let offers = ["small", "medium"];
    let mut world = World::new(group_of(0, 20, &offers, primary_backup(&[AMS, FRA])));
    world.refuse(AMS, &offers);
    world.run(4, 2);
    assert_eq!((world.state(AMS), world.running(FRA)), ("open", 2));
    world.idle(6);
    assert_eq!(world.state(AMS), "half_open");
    assert_eq!(world.limits(AMS, "small").2, 1);
    world.run(3, 5);
    assert_eq!((world.state(AMS), world.running(AMS)), ("open", 0), "the attempt failed");
    assert_eq!(world.running(FRA), 5, "pods did not wait for it");
    let DatacenterState::Open { since, until: Some(until) } =
        world.fleet.datacenter_history().state(&AMS.into())
    else {
        panic!("open without an attempt")
    };
    assert_eq!(until.duration_since(since).unsigned_abs(), Duration::from_mins(4), "twice as long");
    world.refused.clear();
    world.idle(6);
    world.run(3, 7);
    assert_eq!((world.state(AMS), world.running(AMS) + world.running(FRA)), ("closed", 7));
    assert_eq!(world.running(FRA), 6, "one machine was tried, the other one did not wait");
}

#[test]
fn the_minimum_of_a_dead_datacenter_is_not_enforced() {
    let distribution = Distribution { min_per_datacenter: 2, ..balanced(&[AMS, FRA]) };
    let mut world = World::new(group_of(0, 20, &["small"], distribution));
    world.run(2, 6);
    world.vms.retain(|vm| vm.datacenter != Some(FRA.into()) || vm.hostname == Hostname::new("old-1"));
    world.idle(8);
    assert_eq!(world.state(FRA), "open");
    assert_eq!((world.limits(FRA, "small"), world.limits(AMS, "small").0), ((0, 3, 3), 2));
    let report = &world.fleet.datacenter_reports(&"web".into())[1];
    assert_eq!((report.minimum, report.shortfall()), (2, 0));
    // Cluster Autoscaler removes the dead Nodes.
    let dead: Vec<NodeRef> = world
        .fleet
        .machines()
        .filter(|machine| machine.pool.datacenter.as_str() == FRA)
        .map(|machine| NodeRef {
            provider_id: machine.instance_id(),
            name: machine.vm().unwrap().hostname.to_string(),
            fake: false,
        })
        .collect();
    world.fleet.delete_nodes(&pool(FRA, "small"), &dead, world.hand.now).unwrap();
    assert_eq!(world.limits(FRA, "small"), (0, 0, 0), "nothing is tried there");
    assert_eq!(world.fleet.datacenter_reports(&"web".into())[1].shortfall(), 2);
    world.idle(6);
    assert_eq!(world.state(FRA), "closed", "no row is missing");
    assert_eq!(world.limits(FRA, "small").0, 2, "the minimum is restored");
}

#[test]
fn the_minimum_is_restored_without_pending_pods() {
    let offers = ["small", "medium"];
    let distribution = Distribution { min_per_datacenter: 2, ..balanced(&[AMS, FRA]) };
    let mut world = World::new(group_of(0, 20, &offers, distribution));
    world.refuse(AMS, &offers);
    world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 1).unwrap();
    world.hand.increase(&mut world.fleet, &pool(AMS, "medium"), 1).unwrap();
    let loops = |world: &mut World, minutes: usize| {
        for _ in 0..minutes {
            world.remove_failed();
            world.enforce_minimums();
            world.idle(1);
        }
    };
    loops(&mut world, 1);
    assert_eq!((world.state(AMS), world.running(FRA)), ("open", 2));
    world.remove_failed();
    assert_eq!(world.limits(AMS, "small"), (0, 0, 0), "nothing is tried there");
    world.idle(3);
    assert_eq!(world.state(AMS), "half_open");
    assert_eq!(world.limits(AMS, "small"), (0, 0, 0), "all offers are short");
    world.idle(3);
    assert_eq!((world.limits(AMS, "small"), world.limits(AMS, "medium")), ((1, 0, 1), (0, 0, 1)));
    world.backoff.clear();
    loops(&mut world, 1);
    world.remove_failed();
    assert_eq!((world.state(AMS), world.limits(AMS, "small")), ("open", (0, 0, 0)), "the attempt failed");
    world.refused.clear();
    loops(&mut world, 12);
    assert_eq!((world.state(AMS), world.running(AMS), world.running(FRA)), ("closed", 2, 2));
    assert_eq!(world.refusals, []);
}

#[test]
fn a_quota_is_no_outage() {
    let offers = ["small", "medium"];
    let mut world = World::new(group_of(0, 20, &offers, balanced(&[AMS, FRA])));
    world.refusal = FailureReason::QuotaExceeded;
    world.refuse(AMS, &offers);
    world.refuse(FRA, &offers);
    world.run(4, 6);
    assert_eq!((world.state(AMS), world.state(FRA)), ("closed", "closed"));
    assert_eq!(world.fleet.datacenter_history(), &DatacenterHistory::default());
}
