//! The division of headroom.

use proptest::prelude::*;

use super::*;

/// Rooms of the pools `small`.
fn rooms(world: &World, datacenters: &[&str]) -> Vec<u32> {
    let room = |name: &&str| {
        let (_, target, max) = world.limits(name, "small");
        max - target
    };
    datacenters.iter().map(room).collect()
}

fn with_machines(group: NodeGroup, machines: &[(&str, u32)]) -> World {
    let mut world = World::new(group);
    for (datacenter, count) in machines {
        for _ in 0..*count {
            let name = MachineId::new(format!("web-{datacenter}-{:08x}", world.created));
            world.created += 1;
            let id = pool(datacenter, "small").parse().unwrap();
            let machine = Machine::new(name, id, SizeId(2), world.hand.now, Phase::Pending);
            world.fleet.apply(&Change::SaveMachine(machine));
        }
    }
    world
}

#[test]
fn balanced_headroom_is_filled_up_from_the_fewest() {
    let rooms_with = |machines: &[(&str, u32)], max| {
        let group = group_of(0, max, &["small"], balanced(&[AMS, FRA, LON]));
        rooms(&with_machines(group, machines), &[AMS, FRA, LON])
    };
    assert_eq!(rooms_with(&[], 9), [3, 3, 3]);
    assert_eq!(rooms_with(&[], 10), [4, 3, 3], "the first one gets the rest");
    assert_eq!(rooms_with(&[(AMS, 5), (FRA, 1)], 12), [1, 2, 3], "each one can grow");
    assert_eq!(rooms_with(&[(AMS, 5), (FRA, 1)], 9), [1, 1, 1]);
    assert_eq!(rooms_with(&[(AMS, 5), (FRA, 1)], 8), [0, 1, 1], "fewer machines than datacenters");
    assert_eq!(rooms_with(&[(AMS, 5), (FRA, 4)], 9), [0, 0, 0]);
}

#[test]
fn weighted_headroom_follows_the_deficits() {
    let rooms_with = |machines: &[(&str, u32)], max| {
        let group = group_of(0, max, &["small"], weighted(&[(AMS, 70), (FRA, 30), (LON, 0)]));
        rooms(&with_machines(group, machines), &[AMS, FRA, LON])
    };
    assert_eq!(rooms_with(&[], 20), [2, 1, 0], "weight 0 never grows");
    assert_eq!(rooms_with(&[(AMS, 7)], 20), [1, 3, 0], "each weight above 0 can grow");
    assert_eq!(rooms_with(&[(AMS, 7), (FRA, 3)], 11), [1, 0, 0], "the last machine");
}

#[test]
fn backups_have_no_headroom_while_the_primary_can_grow() {
    let mut distribution = primary_backup(&[AMS, FRA, LON]);
    let world = World::new(group_of(0, 9, &["small"], distribution.clone()));
    assert_eq!(rooms(&world, &[AMS, FRA, LON]), [9, 0, 0]);
    let mut hand = Hand::new();
    let mut fleet = world.fleet;
    let refusal = hand.increase(&mut fleet, &pool(FRA, "small"), 1).unwrap_err();
    assert!(matches!(
        &refusal,
        Refusal::DatacenterUnavailable { block: DatacenterBlock::Backup { primary }, .. } if primary.as_str() == AMS
    ));
    distribution.min_per_datacenter = 2;
    let world = World::new(group_of(0, 9, &["small"], distribution));
    assert_eq!(rooms(&world, &[AMS, FRA, LON]), [5, 2, 2], "minimums come first");
}

#[test]
fn a_datacenter_without_an_offer_gets_no_headroom() {
    let mut group = group_of(0, 9, &["small"], balanced(&[AMS, FRA]));
    group.pools[1].offer = "unknown".into();
    assert_eq!(rooms(&World::new(group), &[AMS]), [9]);
}

#[test]
fn pools_of_a_datacenter_share_its_part() {
    let world = World::new(group_of(0, 8, &["small", "large"], balanced(&[AMS, FRA])));
    assert_eq!(world.limits(AMS, "small").2, 4);
    assert_eq!(world.limits(AMS, "large").2, 4);
}

fn distributions() -> impl Strategy<Value = Distribution> {
    let strategy = prop_oneof![
        Just(DatacenterStrategy::Balanced),
        Just(DatacenterStrategy::PrimaryBackup),
        (prop::collection::vec(0_u32..100, 3), 1_u32..8).prop_map(|(mut weights, step)| {
            weights[0] += 1;
            let weights = [AMS, FRA, LON].into_iter().map(DatacenterId::from).zip(weights).collect();
            DatacenterStrategy::Weighted { weights, step }
        }),
    ];
    (strategy, 0_u32..3, 0_u32..3).prop_map(|(strategy, min_per_datacenter, max_skew)| Distribution {
        strategy,
        min_per_datacenter,
        max_skew,
        ..balanced(&[AMS, FRA, LON])
    })
}

proptest! {
    /// The parts of the datacenters are disjoint: together they are at most the headroom, and a plan of Cluster
    /// Autoscaler within all of them is never refused.
    #[test]
    fn a_plan_within_the_parts_is_never_refused(
        distribution in distributions(),
        machines in prop::collection::vec(0_u32..6, 3),
        min in 0_u32..30,
        max in 0_u32..30,
        at in 0_usize..3,
        shares in prop::collection::vec(0_u32..=100, 3),
    ) {
        let names = [AMS, FRA, LON];
        let machines: Vec<(&str, u32)> = names.into_iter().zip(machines).collect();
        let group = group_of(min.min(max), max.max(6), &["small", "large"], distribution);
        let mut world = with_machines(group, &machines);
        let total: u32 = machines.iter().map(|(_, count)| count).sum();
        let parts = rooms(&world, &names);
        prop_assert!(parts.iter().sum::<u32>() <= max.max(6).saturating_sub(total), "{:?}", parts);
        let limits: Vec<_> = world.fleet.pools().map(|pool| world.fleet.limits(pool)).collect();
        prop_assert!(limits.iter().all(|limits| limits.min <= limits.max && limits.target <= limits.max));
        // A replacement that Cluster Autoscaler can take over.
        let name = MachineId::new("web-replacement");
        let id = pool(names[at], "large").parse().unwrap();
        let machine = Machine::new(name, id, SizeId(4), world.hand.now, Phase::Pending);
        let mut replaced = world.fleet.clone();
        replaced.apply(&Change::SaveMachine(Machine { replaces: Some(MachineId::new("web-gone")), ..machine }));
        for pool in replaced.pools() {
            let limits = replaced.limits(pool);
            prop_assert!(limits.min <= limits.max && limits.target <= limits.max, "{} {limits:?}", pool.text);
        }
        for ((name, part), share) in names.iter().zip(parts).zip(shares) {
            let delta = part * share / 100;
            if delta > 0 {
                let increased = world.hand.increase(&mut world.fleet, &pool(name, "small"), delta as i32);
                prop_assert!(increased.is_ok(), "{:?}", increased);
            }
        }
    }

    /// The minimums tell Cluster Autoscaler to add what is lacking and no more, and it gets there.
    #[test]
    fn minimums_tell_what_is_lacking(
        distribution in distributions(),
        machines in prop::collection::vec(0_u32..6, 3),
        min in 0_u32..30,
        max in 0_u32..30,
    ) {
        let machines: Vec<(&str, u32)> = [AMS, FRA, LON].into_iter().zip(machines).collect();
        let (min, max) = (min.min(max), max.max(6));
        let mut world = with_machines(group_of(min, max, &["small", "large"], distribution), &machines);
        let total = |world: &World| world.fleet.machines().count() as u32;
        let lacking = |world: &World| -> u32 {
            world.fleet.datacenter_reports(&"web".into()).iter().map(DatacenterReport::shortfall).sum()
        };
        let is_possible = total(&world) + lacking(&world) <= max;
        for _ in 0..40 {
            let limits: Vec<Limits> = world.fleet.pools().map(|pool| world.fleet.limits(pool)).collect();
            let told: u32 = limits.iter().map(|limits| limits.min.saturating_sub(limits.target)).sum();
            let wanted = min.saturating_sub(total(&world)).max(lacking(&world));
            prop_assert!(told <= wanted, "{} of {}: {:?}", told, wanted, limits);
            let mut shared = world.fleet.pool_limits();
            let at_once: Vec<Limits> = world.fleet.pools().map(|pool| shared.of(pool)).collect();
            prop_assert_eq!(at_once, limits);
            world.enforce_minimums();
        }
        prop_assert_eq!(&world.refusals, &[]);
        prop_assert!(total(&world) >= min && (!is_possible || lacking(&world) == 0), "{:?}", total(&world));
    }
}
