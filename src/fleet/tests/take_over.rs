//! Replacements on their way that Cluster Autoscaler takes over by an increase.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::notices::{LARGE_SPOT, NOTICE, SMALL_POD, SPOT, fleet_with, give, list, replace, run};
use super::*;

/// A fleet of `count` spot machines whose drain began before their replacements in `SMALL` run.
fn draining(hand: &mut Hand, max: u32, count: usize) -> (Fleet, Vec<MachineId>) {
    let mut fleet = fleet_with(max, &[SMALL, SPOT]);
    let ids = run(hand, &mut fleet, SPOT, i32::try_from(count).unwrap());
    for id in &ids {
        give(hand, &mut fleet, id);
        assert_eq!(replace(hand, &mut fleet, id, SMALL_POD).as_deref(), Some(SMALL));
        fleet.retire_interrupted(id, hand.now);
    }
    (fleet, ids)
}

fn available(fleet: &Fleet, pool: &str) -> u32 {
    fleet.available_replacements(fleet.pool(pool).unwrap())
}

fn is_blocked(hand: &Hand, fleet: &Fleet, pool: &str, nodes: u32) -> bool {
    fleet.option_block(fleet.pool(pool).unwrap(), nodes, hand.now).is_some()
}

fn refused() -> CreationOutcome {
    CreationOutcome::Refused(Failure { reason: FailureReason::Stockout, message: "none left".to_owned() })
}

#[test]
fn an_increase_takes_over_replacements_first() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 2);
    assert_eq!((available(&fleet, SMALL), target(&fleet, SMALL)), (2, 2));
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert_eq!((available(&fleet, SMALL), target(&fleet, SMALL)), (1, 2), "one is taken over, none is added");
    hand.increase(&mut fleet, SMALL, 3).unwrap();
    assert_eq!((available(&fleet, SMALL), target(&fleet, SMALL)), (0, 4), "one is taken over, two are added");
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert_eq!(target(&fleet, SMALL), 5, "each is taken over once");
    fleet.check_consistency().unwrap();
}

#[test]
fn the_oldest_replacement_is_taken_over_first() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let ids = run(&mut hand, &mut fleet, SPOT, 2);
    for id in ids.iter().rev() {
        give(&hand, &mut fleet, id);
        replace(&mut hand, &mut fleet, id, SMALL_POD);
        fleet.retire_interrupted(id, hand.now);
        hand.wait(Duration::from_secs(5));
    }
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    let left: Vec<_> = fleet.machines().filter_map(|machine| machine.replaces.clone()).collect();
    assert_eq!(left, ids[..1]);
}

#[test]
fn only_replacements_of_draining_machines_are_taken_over() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    give(&hand, &mut fleet, &id);
    replace(&mut hand, &mut fleet, &id, SMALL_POD);
    assert_eq!(available(&fleet, SMALL), 0, "the pods are still on the machine");
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert_eq!(target(&fleet, SMALL), 2);
    fleet.retire_interrupted(&id, hand.now);
    assert_eq!((available(&fleet, SMALL), available(&fleet, SPOT)), (1, 0));
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    assert_eq!(available(&fleet, SMALL), 1, "requested");
    list(&hand, &mut fleet);
    assert_eq!(available(&fleet, SMALL), 0, "it runs, and Cluster Autoscaler sees its Node");
}

#[test]
fn a_replacement_of_a_gone_machine_can_be_taken_over() {
    let mut hand = Hand::new();
    let (mut fleet, ids) = draining(&mut hand, 9, 1);
    fleet.apply(&Change::DropMachine(ids[0].clone()));
    hand.pass(&mut fleet);
    assert_eq!(available(&fleet, SMALL), 1);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert_eq!((available(&fleet, SMALL), target(&fleet, SMALL)), (0, 1));
}

#[test]
fn a_restart_keeps_take_overs() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 2);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    let restored = fleet_with(9, &[SMALL, SPOT]).reloaded(fleet.records());
    assert_eq!((available(&restored, SMALL), target(&restored, SMALL)), (1, 2));
    restored.check_consistency().unwrap();
}

#[test]
fn the_maximum_includes_replacements_to_take_over() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 2, 2);
    assert_eq!(limits(&fleet, SMALL), (0, 2, 4), "at the maximum of the NodeGroup");
    assert_eq!(limits(&fleet, SPOT).2, 0);
    assert!(matches!(hand.increase(&mut fleet, SMALL, 3), Err(Refusal::AboveMax { delta: 1, .. })));
    assert_eq!(available(&fleet, SMALL), 2, "a refused increase takes nothing over");
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    assert_eq!(limits(&fleet, SMALL), (0, 2, 2));
}

#[test]
fn pools_with_replacements_add_no_nodes_in_place_of_each_other() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(20, &[SMALL, LARGE, SPOT]);
    let ids = run(&mut hand, &mut fleet, SPOT, 4);
    for (number, id) in ids.iter().enumerate() {
        give(&hand, &mut fleet, id);
        let needed = if number == 3 { Resources { cpu_millis: 3000, ..SMALL_POD } } else { SMALL_POD };
        replace(&mut hand, &mut fleet, id, needed);
        fleet.retire_interrupted(id, hand.now);
    }
    assert_eq!((available(&fleet, SMALL), available(&fleet, LARGE)), (3, 1));
    assert_eq!((limits(&fleet, SMALL), limits(&fleet, LARGE)), ((0, 3, 6), (0, 1, 2)));
    assert_eq!(limits(&fleet, SPOT).2, 0, "its circuit breaker is open");
    let expected = |pool| fleet.expected_take_overs(fleet.pool(pool).unwrap());
    assert_eq!((expected(SMALL), expected(LARGE), expected(SPOT)), (4, 4, 0));
    hand.increase(&mut fleet, SMALL, 3).unwrap();
    assert_eq!((limits(&fleet, SMALL), limits(&fleet, LARGE)), ((0, 3, 17), (0, 1, 16)));
}

#[test]
fn the_minimum_is_not_raised_by_replacements() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 1);
    let old = fleet.groups.values().next().unwrap().clone();
    let groups = vec![NodeGroup { min: 4, ..old }];
    fleet.declare(Declaration { groups, max_machines: Some(2), ..Declaration::default() });
    assert_eq!(limits(&fleet, SMALL), (2, 1, 3), "an increase to the minimum would take it over");
}

#[test]
fn cost_limits_do_not_count_replacements_twice() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 1);
    let old = fleet.groups.values().next().unwrap().clone();
    let cost_limit = crate::cost::CostLimit { monthly: Some(crate::cost::Usd(25.into())), hourly: None };
    fleet.declare(vec![NodeGroup { cost_limit, ..old }]);
    let (_, target, max) = limits(&fleet, SMALL);
    assert!(target == 1 && max == 2, "the interrupted machine is paid for: {max}");
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert!(matches!(hand.increase(&mut fleet, SMALL, 1), Err(Refusal::AboveCostLimit(_))));
}

#[test]
fn a_taken_over_replacement_fails_like_a_scale_up() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 2);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    hand.ask_all(&mut fleet, &refused());
    let failed: Vec<_> = fleet.machines().filter(|m| matches!(m.phase, Phase::Failed { .. })).collect();
    assert_eq!(failed.len(), 1, "the other one is removed without a trace in Cluster Autoscaler");
    assert_eq!((failed[0].replaces.as_ref(), target(&fleet, SMALL)), (None, 1));
}

#[test]
fn a_taken_over_replacement_can_be_decreased() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 2);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    fleet.decrease(SMALL, -2).unwrap();
    assert_eq!(
        (available(&fleet, SMALL), target(&fleet, SMALL)),
        (1, 1),
        "the other one belongs to no scale-up"
    );
}

#[test]
fn a_withdrawn_notice_keeps_a_taken_over_replacement() {
    let mut hand = Hand::new();
    let (mut fleet, ids) = draining(&mut hand, 9, 1);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    fleet.withdraw_notice(&ids[0], NoticeSource::Node);
    assert_eq!(target(&fleet, SMALL), 1);
}

#[test]
fn a_pool_without_headroom_offers_replacements_only() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 2, 2);
    // Cluster Autoscaler adds no more nodes than the maximum allows, so the last one is a take-over, too.
    assert!(!is_blocked(&hand, &fleet, SMALL, 2) && !is_blocked(&hand, &fleet, SMALL, 3));
    assert!(is_blocked(&hand, &fleet, SPOT, 1));
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    assert!(is_blocked(&hand, &fleet, SMALL, 1));
}

#[test]
fn a_shortage_blocks_growth_beyond_replacements() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 1);
    let failure = Failure { reason: FailureReason::Stockout, message: "none left".to_owned() };
    let phase = Phase::Failed { failure, at: hand.now };
    let size = SizeId(2);
    fleet.shortages.record(&Machine::new("web-short".into(), SMALL.parse().unwrap(), size, hand.now, phase));
    assert!(fleet.growth_block(SMALL, 1, hand.now).is_some());
    assert!(!is_blocked(&hand, &fleet, SMALL, 1));
    assert!(is_blocked(&hand, &fleet, SMALL, 2));
}

#[test]
fn a_deleting_node_group_offers_no_take_over() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 1);
    let old = fleet.groups.values().next().unwrap().clone();
    fleet.declare(vec![NodeGroup { deletion: Some(DeletionPolicy::WhenEmpty), ..old }]);
    assert_eq!(available(&fleet, SMALL), 0);
    hand.increase(&mut fleet, SMALL, 1).unwrap_err();
    fleet.declare(Vec::new());
    assert_eq!(available(&fleet, SMALL), 0);
    hand.increase(&mut fleet, SMALL, 1).unwrap_err();
}

/// Minimum, target size and maximum of the pool, without hidden replacements, and the number of its instances.
fn visible(hand: &Hand, fleet: &Fleet, pool: &str) -> ((u32, u32, u32), usize) {
    let pool = fleet.pool(pool).unwrap();
    let visibility = Visibility::BesideOthers(hand.now);
    let limits = fleet.visible_limits(pool, visibility);
    let instances = fleet.visible_machines(pool, visibility).filter(|machine| machine.counts());
    ((limits.min, limits.target, limits.max), instances.count())
}

#[test]
fn a_pool_of_replacements_is_empty_until_they_are_taken_over() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 4, 2);
    assert_eq!(limits(&fleet, SMALL), (0, 2, 6));
    assert_eq!(visible(&hand, &fleet, SMALL), ((0, 0, 4), 0), "two of them, and two more up to the maximum");
    let all = fleet.visible_limits(fleet.pool(SMALL).unwrap(), Visibility::All);
    assert_eq!((all.min, all.target, all.max), limits(&fleet, SMALL));
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert_eq!(visible(&hand, &fleet, SMALL), ((0, 2, 5), 2), "beside a machine of Cluster Autoscaler");
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert_eq!((visible(&hand, &fleet, SMALL), target(&fleet, SMALL)), (((0, 2, 4), 2), 2));
}

#[test]
fn an_increase_at_the_maximum_takes_over_hidden_replacements() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 2, 2);
    assert_eq!(visible(&hand, &fleet, SMALL), ((0, 0, 2), 0));
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    assert_eq!((visible(&hand, &fleet, SMALL), target(&fleet, SMALL)), (((0, 2, 2), 2), 2));
}

#[test]
fn a_replacement_beside_other_machines_is_visible() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SPOT, 1).remove(0);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    give(&hand, &mut fleet, &id);
    replace(&mut hand, &mut fleet, &id, SMALL_POD);
    assert_eq!(visible(&hand, &fleet, SMALL).1, 2);
}

#[test]
fn a_replacement_in_the_same_pool_is_hidden_from_the_drain_on() {
    let mut hand = Hand::new();
    let mut fleet = fleet_with(9, &[SMALL, SPOT]);
    let id = run(&mut hand, &mut fleet, SMALL, 1).remove(0);
    give(&hand, &mut fleet, &id);
    fleet.declare(vec![group("web", 0, 9, &[SMALL])]);
    assert_eq!(replace(&mut hand, &mut fleet, &id, SMALL_POD).as_deref(), Some(SMALL));
    assert_eq!(visible(&hand, &fleet, SMALL).1, 2);
    fleet.retire_interrupted(&id, hand.now);
    assert_eq!(visible(&hand, &fleet, SMALL).1, 0);
    let pool = fleet.pool(SMALL).unwrap();
    let listed: Vec<_> = fleet.visible_machines(pool, Visibility::BesideOthers(hand.now)).collect();
    assert_eq!(listed.len(), 1, "the machine that is being deleted has a VM: {listed:?}");
}

#[test]
fn a_hidden_replacement_is_visible_once_its_node_is_ready() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 1);
    hand.ask_all(&mut fleet, &CreationOutcome::Accepted);
    assert_eq!(visible(&hand, &fleet, SMALL).1, 0);
    list(&hand, &mut fleet);
    assert_eq!(visible(&hand, &fleet, SMALL).1, 1);
}

#[test]
fn a_replacement_without_a_ready_node_is_hidden_for_ten_minutes() {
    let mut hand = Hand::new();
    let (fleet, _) = draining(&mut hand, 9, 1);
    hand.wait(Duration::from_secs(599));
    assert_eq!(visible(&hand, &fleet, SMALL).1, 0);
    hand.wait(Duration::from_secs(1));
    assert_eq!(visible(&hand, &fleet, SMALL), ((0, 1, 10), 1), "Cluster Autoscaler can remove its VM");
}

#[test]
fn calls_about_a_hidden_replacement_are_answered() {
    let mut hand = Hand::new();
    let (mut fleet, _) = draining(&mut hand, 9, 1);
    let replacement = fleet.machines().find(|machine| machine.replaces.is_some()).unwrap().clone();
    let id = replacement.instance_id();
    assert_eq!(fleet.machine_of(&id, &id).map(|machine| &machine.id), Some(&replacement.id));
    assert!(fleet.decrease(SMALL, -1).unwrap().is_empty(), "it belongs to no scale-up");
    assert_eq!(visible(&hand, &fleet, SMALL).1, 0);
    let unregistered = NodeRef { provider_id: id.clone(), name: id, fake: true };
    fleet.delete_nodes(SMALL, &[unregistered], hand.now).unwrap();
    assert_eq!((target(&fleet, SMALL), visible(&hand, &fleet, SMALL).0.1), (0, 0));
}

/// Cluster Autoscaler sees all machines of the pool's target size, or none of them; then each is a replacement that
/// does not run. The number of nodes that the pool can add is the same.
fn check_visible(hand: &Hand, fleet: &Fleet, pool: &str) -> Result<(), TestCaseError> {
    let ((min, target, max), instances) = visible(hand, fleet, pool);
    let all = limits(fleet, pool);
    prop_assert_eq!(instances, target as usize);
    prop_assert_eq!(max - target, all.2 - all.1);
    prop_assert!(min <= max && all.0 - min <= all.1 - target);
    let counted: Vec<_> = fleet.machines().filter(|m| m.counts() && m.pool.to_string() == pool).collect();
    let on_its_way =
        |m: &Machine| m.replaces.is_some() && matches!(m.phase, Phase::Pending | Phase::Creating { .. });
    if target != all.1 {
        prop_assert_eq!(target, 0);
        prop_assert!(counted.iter().all(|m| on_its_way(m)), "{:?}", counted);
    }
    Ok(())
}

proptest! {
    /// An increase within the reported maximum is accepted; it grows the target by `delta` less the replacements that it
    /// takes over, and each is taken over at most once.
    #[test]
    fn an_increase_adds_machines_beyond_take_overs(
        steps in prop::collection::vec((0_u8..9, 0_usize..6, 1_u32..4, 0_u64..60), 1..60),
    ) {
        let mut hand = Hand::new();
        let pools = [SMALL, LARGE, SPOT, LARGE_SPOT];
        let mut fleet = fleet_with(6, &pools);
        run(&mut hand, &mut fleet, SPOT, 3);
        let mut taken = BTreeSet::new();
        for (step, which, delta, seconds) in steps {
            let ids: Vec<_> = fleet.machines().map(|machine| machine.id.clone()).collect();
            let Some(id) = ids.get(which % ids.len().max(1)) else { break };
            match step {
                0 => drop(fleet.record_notice(id, NoticeSource::Node, hand.now + NOTICE, hand.now)),
                1 => drop(replace(&mut hand, &mut fleet, id, SMALL_POD)),
                2 => drop(fleet.withdraw_notice(id, NoticeSource::Node)),
                3 => drop(fleet.retire_interrupted(id, hand.now)),
                4 => hand.ask_all(&mut fleet, &CreationOutcome::Accepted),
                5 => list(&hand, &mut fleet),
                6 => hand.ask_all(&mut fleet, &refused()),
                7 => drop(fleet.decrease(pools[which % 4], -1)),
                _ => {
                    let pool = pools[which % 4];
                    let before = fleet.clone();
                    let seen = visible(&hand, &before, pool).0.1;
                    let (limits, free) = (before.limits(before.pool(pool).unwrap()), available(&before, pool));
                    let result = hand.increase(&mut fleet, pool, i32::try_from(delta).unwrap());
                    prop_assert!(result.is_ok() || limits.target + delta > limits.max, "within the maximum");
                    let mut others = pools.iter().filter(|other| **other != pool);
                    if free == 0 || others.all(|other| available(&before, other) == 0) {
                        prop_assert!(result.is_err() || limits.target + delta <= limits.max);
                    }
                    let used = if result.is_ok() { free.min(delta) } else { 0 };
                    let added = if result.is_ok() { delta - used } else { 0 };
                    prop_assert_eq!(target(&fleet, pool), limits.target + added);
                    prop_assert_eq!(available(&fleet, pool), free - used);
                    if seen < limits.target && result.is_ok() {
                        prop_assert!(visible(&hand, &fleet, pool).0.1 >= seen + delta, "all nodes of the increase");
                    }
                    for old in before.machines().filter(|m| m.replaces.is_some()) {
                        let new = fleet.machine(&old.id).unwrap();
                        if new.replaces.is_none() {
                            prop_assert!(taken.insert(old.id.clone()), "{} is taken over twice", old.id);
                            prop_assert_eq!(&new.pool.to_string(), pool);
                        }
                    }
                }
            }
            hand.wait(Duration::from_secs(seconds));
            hand.pass(&mut fleet);
            prop_assert_eq!(fleet.check_consistency(), Ok(()));
            for pool in pools {
                check_visible(&hand, &fleet, pool)?;
            }
            let reloaded = fleet_with(6, &pools).reloaded(fleet.records());
            prop_assert_eq!(reloaded.check_consistency(), Ok(()));
        }
    }
}
