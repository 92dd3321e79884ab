//! Machines that never join: a fault of a datacenter, or of a payload.

use super::*;

const BATCH: &str = "batch/ams1/small/on-demand";

/// A world in which each NodeGroup can have machines in both datacenters. `web` has as many running ones in each.
fn two_groups(running: u32) -> World {
    let mut world = World::new(group_of(0, 20, &["small"], primary_backup(&[AMS, FRA])));
    let distribution = Some(balanced(&[AMS, FRA]));
    let batch = NodeGroup { distribution, ..group("batch", 0, 20, &[BATCH, "batch/fra1/small/on-demand"]) };
    world.fleet.declare(vec![group_of(0, 20, &["small"], balanced(&[AMS, FRA])), batch]);
    if running > 0 {
        for at in [AMS, FRA] {
            world.hand.increase(&mut world.fleet, &pool(at, "small"), running as i32).unwrap();
        }
        world.serve();
    }
    world.hand.wait(Duration::from_mins(10));
    world
}

fn findings(proven: &[&str]) -> PayloadFindings {
    let proven = proven.iter().map(|name| NodeGroupName::from(*name)).collect();
    PayloadFindings { proven: Some(proven), ..PayloadFindings::default() }
}

#[test]
fn machines_that_never_join_anywhere_are_no_outage() {
    let mut world = two_groups(1);
    world.never_join(&pool(AMS, "small"), 2);
    assert_eq!((world.state(AMS), world.state(FRA)), ("open", "closed"), "the other one may be well");
    world.never_join(&pool(FRA, "small"), 2);
    assert_eq!((world.state(AMS), world.state(FRA)), ("closed", "closed"), "the payload is broken");
}

#[test]
fn a_node_group_that_never_joined_accuses_no_datacenter() {
    let mut world = two_groups(0);
    for _ in 0..3 {
        world.never_join(&pool(AMS, "small"), 3);
        assert_eq!(world.state(AMS), "closed");
        assert_eq!(limits(&world.fleet, BATCH).2, 10, "other NodeGroups grow");
    }
}

#[test]
fn two_node_groups_that_never_joined_accuse_a_datacenter() {
    let mut world = two_groups(0);
    world.never_join(&pool(AMS, "small"), 1);
    assert_eq!(world.state(AMS), "closed");
    world.never_join(BATCH, 1);
    assert_eq!(world.state(AMS), "open");
}

#[test]
fn a_new_payload_accuses_no_datacenter_until_it_joined() {
    let mut world = two_groups(1);
    world.fleet.set_payload_findings(findings(&[]));
    world.never_join(&pool(AMS, "small"), 3);
    assert_eq!(world.state(AMS), "closed", "its running machines have an earlier payload");
    world.fleet.set_payload_findings(findings(&["web"]));
    world.idle(1);
    assert_eq!(world.state(AMS), "open", "the payload joined elsewhere meanwhile");
}

#[test]
fn a_broken_payload_does_not_keep_a_datacenter_suspect() {
    let mut world = two_groups(0);
    world.refuse(AMS, &["small", "medium"]);
    let group = group_of(0, 20, &["small", "medium"], balanced(&[AMS, FRA]));
    let batch = world.fleet.node_group(&"batch".into()).cloned().unwrap();
    world.fleet.declare(vec![group, batch]);
    for offer in ["small", "medium"] {
        world.hand.increase(&mut world.fleet, &pool(AMS, offer), 1).unwrap();
    }
    world.serve();
    assert_eq!(world.state(AMS), "open");
    world.refused.clear();
    world.idle(3);
    assert_eq!(world.state(AMS), "half_open");
    world.never_join(&pool(AMS, "small"), 1);
    assert_eq!(world.state(AMS), "half_open", "another NodeGroup can try");
    world.hand.policy.running_when_listed = true;
    world.hand.increase(&mut world.fleet, BATCH, 1).unwrap();
    world.serve();
    assert_eq!(world.state(AMS), "closed");
}

#[test]
fn a_stopped_payload_leaves_its_headroom_to_other_datacenters() {
    let mut world = two_groups(0);
    let stopped = [(AMS.into(), Arc::from("it never joins there"))].into();
    let findings = PayloadFindings { stopped: [("web".into(), stopped)].into(), ..findings(&[]) };
    world.fleet.set_payload_findings(findings);
    assert_eq!((world.limits(AMS, "small").2, world.limits(FRA, "small").2), (0, 20));
    assert_eq!(limits(&world.fleet, BATCH).2, 10, "the payload of another NodeGroup");
    let refusal = world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 1).unwrap_err();
    assert!(refusal.to_string().contains("could not join the cluster: it never joins there"), "{refusal}");
    world.hand.increase(&mut world.fleet, &pool(FRA, "small"), 20).unwrap();
}
