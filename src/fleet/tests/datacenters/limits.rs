//! Minimums, skew and deletions.

use super::*;

fn running_world(distribution: Distribution, ams: i32, fra: i32) -> World {
    let mut world = World::new(group_of(0, 20, &["small"], distribution));
    for (datacenter, count) in [(AMS, ams), (FRA, fra)] {
        if count > 0 {
            world.hand.increase(&mut world.fleet, &pool(datacenter, "small"), count).unwrap();
        }
    }
    world.serve();
    assert_eq!((world.running(AMS), world.running(FRA)), (ams as u32, fra as u32));
    world
}

/// The charge of the pool `small`, percent of its price.
fn percent(world: &World, datacenter: &str) -> u32 {
    let pool = world.fleet.pool(&pool(datacenter, "small")).unwrap();
    (world.fleet.placement_charge(pool) * 100.0).round() as u32
}

fn delete(world: &mut World, datacenter: &str, count: usize) -> Result<Vec<Change>, Refusal> {
    let is_here = |machine: &&Machine| machine.pool.datacenter.as_str() == datacenter && machine.counts();
    let node = |machine: &Machine| NodeRef {
        provider_id: machine.instance_id(),
        name: machine.vm().unwrap().hostname.to_string(),
        fake: false,
    };
    let nodes: Vec<NodeRef> = world.fleet.machines().filter(is_here).take(count).map(node).collect();
    world.fleet.delete_nodes(&pool(datacenter, "small"), &nodes, world.hand.now)
}

#[test]
fn the_skew_is_a_minimum_and_no_refusal() {
    let mut world = running_world(balanced(&[AMS, FRA]), 8, 8);
    assert_eq!(world.limits(AMS, "small").0, 6, "half of 16, less the skew of 2");
    delete(&mut world, AMS, 3).unwrap();
    assert_eq!(world.limits(AMS, "small").0, 4, "half of 13 is 6");
    let world = running_world(weighted(&[(AMS, 3), (FRA, 1)]), 9, 3);
    assert_eq!((world.limits(AMS, "small").0, world.limits(FRA, "small").0), (7, 1));
    let world = running_world(primary_backup(&[AMS, FRA]), 4, 0);
    assert_eq!(world.limits(AMS, "small").0, 0, "a backup has no part");
}

#[test]
fn the_minimum_of_a_datacenter_is_a_refusal_of_healthy_nodes() {
    let distribution = Distribution { min_per_datacenter: 2, ..balanced(&[AMS, FRA]) };
    let mut world = running_world(distribution, 3, 3);
    assert_eq!(world.limits(AMS, "small").0, 2);
    delete(&mut world, AMS, 1).unwrap();
    let refusal = delete(&mut world, AMS, 1).unwrap_err();
    assert!(matches!(refusal, Refusal::BelowDatacenterMin { machines: 2, minimum: 2, .. }), "{refusal}");
    assert_eq!(refusal.pool().unwrap().datacenter.as_str(), AMS);
}

#[test]
fn minimums_keep_no_machine_that_never_joins() {
    let distribution = Distribution { min_per_datacenter: 2, ..balanced(&[AMS, FRA]) };
    let mut world = running_world(distribution, 1, 3);
    world.hand.policy.running_when_listed = false;
    world.hand.increase(&mut world.fleet, &pool(AMS, "small"), 2).unwrap();
    world.serve();
    assert_eq!(world.running(AMS), 1);
    assert_eq!(world.limits(AMS, "small"), (1, 3, 10), "only the running machine is kept");
    delete(&mut world, FRA, 1).unwrap();
    delete(&mut world, FRA, 1).unwrap_err();
}

#[test]
fn minimums_keep_no_machine_of_a_suspect_datacenter() {
    let distribution = Distribution { min_per_datacenter: 2, ..balanced(&[AMS, FRA]) };
    let mut world = running_world(distribution, 8, 8);
    world.fleet.note_inactive_datacenters(BTreeSet::from([FRA.into()]), world.hand.now);
    assert_eq!((world.limits(AMS, "small").0, world.limits(FRA, "small").0), (6, 0));
    delete(&mut world, FRA, 8).unwrap();
    assert_eq!(world.limits(FRA, "small"), (0, 0, 0));
}

#[test]
fn a_minimum_is_carried_by_the_first_pool_that_can_grow() {
    let distribution = Distribution { min_per_datacenter: 2, ..balanced(&[AMS, FRA]) };
    let mut world = World::new(group_of(0, 20, &["small", "large"], distribution.clone()));
    let minimums = |world: &World| {
        [(AMS, "small"), (AMS, "large"), (FRA, "small"), (FRA, "large")]
            .map(|(at, offer)| world.limits(at, offer).0)
    };
    assert_eq!(minimums(&world), [2, 0, 2, 0]);
    world.fleet.declare(vec![group_of(7, 20, &["small", "large"], distribution)]);
    assert_eq!(minimums(&world), [4, 0, 3, 0], "minimums of datacenters are part of minNodes");
}

#[test]
fn the_shortfall_to_the_minimum_follows_the_strategy() {
    let filled = |distribution: Distribution, min, ams, fra| {
        let mut world = running_world(distribution.clone(), ams, fra);
        world.fleet.declare(vec![group_of(min, 20, &["small"], distribution)]);
        let told: u32 =
            [AMS, FRA].map(|at| world.limits(at, "small")).iter().map(|(min, size, _)| min - size).sum();
        assert!(told <= min - ams as u32 - fra as u32, "{told}");
        for _ in 0..6 {
            world.enforce_minimums();
            world.serve();
        }
        assert_eq!(world.refusals, []);
        (world.running(AMS), world.running(FRA))
    };
    assert_eq!(filled(balanced(&[AMS, FRA]), 8, 0, 0), (4, 4));
    assert_eq!(filled(balanced(&[AMS, FRA]), 9, 5, 1), (5, 4), "the fewest first");
    assert_eq!(filled(weighted(&[(AMS, 3), (FRA, 1)]), 8, 0, 0), (6, 2));
    assert_eq!(filled(weighted(&[(AMS, 3), (FRA, 1)]), 12, 0, 4), (8, 4), "the largest deficit first");
    assert_eq!(filled(primary_backup(&[AMS, FRA]), 6, 1, 0), (6, 0));
}

#[test]
fn healthy_datacenters_carry_the_shortfall_of_a_suspect_one() {
    let world = |distribution: Distribution| {
        let mut world = World::new(group_of(4, 20, &["small"], distribution));
        world.fleet.note_inactive_datacenters(BTreeSet::from([AMS.into()]), world.hand.now);
        [AMS, FRA, LON].map(|at| world.limits(at, "small").0)
    };
    assert_eq!(world(balanced(&[AMS, FRA, LON])), [0, 2, 2]);
    assert_eq!(world(primary_backup(&[AMS, FRA, LON])), [0, 4, 0]);
}

#[test]
fn a_datacenter_that_cannot_grow_carries_no_shortfall() {
    let group = group_of(4, 20, &["large"], balanced(&[AMS, FRA]));
    let mut world = World::new(group.clone());
    let mut catalog = catalog();
    for offer in catalog.offers.iter_mut().filter(|offer| offer.datacenter.as_str() == AMS) {
        offer.monthly = Some(rust_decimal::Decimal::from(1_000_000));
    }
    world.fleet.update_catalog(catalog);
    let cost_limit = crate::cost::CostLimit {
        monthly: Some(crate::cost::Usd(rust_decimal::Decimal::from(1000))),
        ..group.cost_limit
    };
    world.fleet.declare(vec![NodeGroup { cost_limit, ..group }]);
    assert_eq!([AMS, FRA].map(|at| world.limits(at, "large").0), [0, 4]);
}

#[test]
fn a_node_group_without_a_distribution_is_unchanged() {
    let group = NodeGroup { distribution: None, ..group_of(1, 9, &["small", "large"], balanced(&[AMS])) };
    let world = World::new(group);
    assert_eq!((world.limits(AMS, "small"), world.limits(AMS, "large")), ((1, 0, 9), (0, 0, 9)));
    assert!(world.fleet.datacenter_reports(&"web".into()).is_empty());
    assert_eq!(percent(&world, AMS), 0);
}

#[test]
fn the_largest_deficit_places_the_next_machine() {
    let charges = |distribution: Distribution, ams, fra| {
        let world = running_world(distribution, ams, fra);
        [AMS, FRA].map(|at| percent(&world, at))
    };
    assert_eq!(charges(balanced(&[AMS, FRA]), 2, 2), [0, 0]);
    assert_eq!(charges(balanced(&[AMS, FRA]), 2, 1), [10, 0]);
    assert_eq!(charges(weighted(&[(AMS, 70), (FRA, 30)]), 3, 0), [10, 0]);
    assert_eq!(charges(weighted(&[(AMS, 70), (FRA, 30)]), 1, 1), [0, 10]);
    assert_eq!(charges(primary_backup(&[AMS, FRA]), 1, 0), [0, 10]);
}
