//! The maximum share of spot machines while machines have notices.

use proptest::prelude::*;

use super::notices::{LARGE_SPOT, NOTICE, SMALL_POD, SPOT, fleet_with, give, list, replace};
use super::*;

/// A NodeGroup with this maximum share of spot machines.
fn fleet_with_share(percent: u32, fallback: bool) -> Fleet {
    let mut fleet = fleet_with(30, &[SMALL, LARGE, SPOT, LARGE_SPOT]);
    let group = fleet.groups.values().next().unwrap().clone();
    let policy = group.spot.unwrap();
    let share = MaxSpotShare::new(percent);
    let policy = SpotPolicy { max_share: share, on_demand_fallback: fallback, ..policy };
    fleet.declare(vec![NodeGroup { spot: Some(policy), ..group }]);
    fleet
}

/// Makes all machines Running.
fn run_all(hand: &Hand, fleet: &mut Fleet) {
    hand.observe(fleet, &[]);
    // Requests of one class are open at a time.
    for _ in 0..4 {
        hand.ask_all(fleet, &CreationOutcome::Accepted);
        list(hand, fleet);
    }
}

/// Spot machines, and on-demand machines without a notice.
fn counts(fleet: &Fleet) -> (u32, u32) {
    let machines = || fleet.machines().filter(|machine| machine.counts());
    let of = |capacity_type| move |machine: &&Machine| machine.pool.capacity_type == capacity_type;
    let stays = |m: &&Machine| m.notice.is_none() && !matches!(m.phase, Phase::Failed { .. });
    let spot = machines().filter(of(CapacityType::Spot)).count();
    (spot as u32, machines().filter(of(CapacityType::OnDemand)).filter(stays).count() as u32)
}

#[test]
fn spot_does_not_grow_beside_machines_that_leave() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with_share(50, true);
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    run_all(&hand, &mut fleet);
    assert_eq!(limits(&fleet, SPOT).2, 2);
    let id = fleet.machines().next().unwrap().id.clone();
    give(&hand, &mut fleet, &id);
    assert_eq!(limits(&fleet, SPOT).2, 1, "one on-demand machine stays");
    assert_eq!(hand.increase(&mut fleet, SPOT, 2).unwrap_err().reason(), "SpotShareReached");
    hand.increase(&mut fleet, SPOT, 1).unwrap();
    fleet.withdraw_notice(&id, NoticeSource::Node);
    assert_eq!(limits(&fleet, SPOT).2, 2);
}

#[test]
fn machines_that_leave_do_not_permit_deletions() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with_share(50, true);
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    hand.increase(&mut fleet, SPOT, 1).unwrap();
    run_all(&hand, &mut fleet);
    let on_demand: Vec<_> =
        fleet.machines().filter(|machine| machine.pool.to_string() == SMALL).cloned().collect();
    assert_eq!(limits(&fleet, SMALL).0, 1);
    give(&hand, &mut fleet, &on_demand[0].id);
    assert_eq!(limits(&fleet, SMALL).0, 2);
    let node = NodeRef {
        provider_id: on_demand[1].instance_id(),
        name: on_demand[1].vm().unwrap().hostname.to_string(),
        fake: false,
    };
    let refusal = fleet.delete_nodes(SMALL, &[node], hand.now).unwrap_err();
    assert_eq!(refusal.reason(), "NeededForSpotShare");
}

#[test]
fn leaving_on_demand_machines_make_room_without_fallback() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with_share(50, false);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    run_all(&hand, &mut fleet);
    assert_eq!(limits(&fleet, SMALL).2, 1);
    let id = fleet.machines().next().unwrap().id.clone();
    give(&hand, &mut fleet, &id);
    assert_eq!(limits(&fleet, SMALL).2, 2);
}

proptest! {
    /// After spot pools have grown, spot machines are within the share of the machines without a notice.
    #[test]
    fn spot_grows_within_the_share_of_machines_that_stay(
        percent in 0_u32..=99,
        steps in prop::collection::vec((0_u8..7, 0_usize..12, 1_i32..4), 1..40),
    ) {
        let mut hand = Hand::new();
        let mut fleet = fleet_with_share(percent, true);
        hand.increase(&mut fleet, SMALL, 3).unwrap();
        run_all(&hand, &mut fleet);
        for (step, which, delta) in steps {
            let ids: Vec<_> = fleet.machines().map(|machine| machine.id.clone()).collect();
            let Some(id) = ids.get(which % ids.len().max(1)) else { break };
            match step {
                0 | 1 => drop(fleet.record_notice(id, NoticeSource::Node, hand.now + NOTICE, hand.now)),
                2 => drop(fleet.withdraw_notice(id, NoticeSource::Node)),
                3 => drop(replace(&mut hand, &mut fleet, id, SMALL_POD)),
                4 => drop(fleet.retire_interrupted(id, hand.now)),
                5 => run_all(&hand, &mut fleet),
                _ => {
                    let pool = [SMALL, SPOT, LARGE, LARGE_SPOT][which % 4];
                    let before = limits(&fleet, pool);
                    let grown = hand.increase(&mut fleet, pool, delta);
                    if grown.is_ok() && limits(&fleet, pool).1 > before.1 && pool.ends_with("/spot") {
                        let (spot, on_demand) = counts(&fleet);
                        let max = MaxSpotShare::new(percent).max_spot(spot + on_demand);
                        prop_assert!(spot <= max, "{} of {}", spot, on_demand);
                    }
                }
            }
            hand.wait(Duration::from_secs(5));
            hand.pass(&mut fleet);
            prop_assert_eq!(fleet.check_consistency(), Ok(()));
        }
    }
}
