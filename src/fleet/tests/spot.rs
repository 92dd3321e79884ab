//! Spot pools and the share of spot machines.

use proptest::prelude::*;

use super::*;
use crate::cost::{Override, PriceRule, Prices, UsdPerHour};

const SPOT: &str = "web/ams1/small/spot";

fn policy(percent: u32) -> SpotPolicy {
    SpotPolicy {
        max_share: MaxSpotShare::new(percent),
        on_demand_fallback: true,
        grace_period: Duration::from_mins(2),
        allowed_interruption_rate: None,
        taint: None,
    }
}

fn with_spot(min: u32, max: u32, policy: SpotPolicy) -> Declaration {
    let web = NodeGroup { spot: Some(policy), ..group("web", min, max, &[SMALL, SPOT]) };
    vec![web].into()
}

fn spot_fleet(min: u32, max: u32, policy: SpotPolicy) -> Fleet {
    let spot = Offer { capacity_type: CapacityType::Spot, monthly: Some(6.into()), ..offer(2, "small") };
    let catalog = Some(Arc::new(Catalog { offers: vec![offer(2, "small"), spot] }));
    Fleet::restore(
        with_spot(min, max, policy),
        Records { catalog, ..Records::default() },
        Reserved::default(),
    )
}

/// Makes all machines Running.
fn run_all(hand: &mut Hand, fleet: &mut Fleet) -> Vec<ListedNode> {
    // Its number is that of the machine.
    let listed = |machine: &Machine| {
        let number = machine.id.as_str().rsplit('-').next().and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let capacity_type = Some(machine.pool.capacity_type);
        ListedNode { capacity_type, ..node(number.unwrap(), 2) }
    };
    hand.observe(fleet, &[]);
    let mut nodes: Vec<ListedNode> = Vec::new();
    // Until listings show a capacity type, requests of one class are open at a time.
    for _ in 0..2 {
        hand.ask_all(fleet, &CreationOutcome::Accepted);
        let requested = fleet.machines().filter(|m| m.vm().is_some() || !m.requests.is_empty());
        nodes = requested.map(listed).collect();
        hand.observe(fleet, &nodes);
    }
    nodes
}

#[test]
fn a_spot_pool_has_its_own_price_and_labels() {
    let fleet = spot_fleet(0, 9, policy(80));
    let pool = fleet.pool(SPOT).unwrap();
    let price = |pool: &Pool| pool.price.unwrap().monthly(fleet.prices().hours_per_month).0.round();
    assert_eq!((price(pool), price(fleet.pool(SMALL).unwrap())), (6.into(), 20.into()));
    let labels = |pool| fleet.template(fleet.pool(pool).unwrap()).labels.clone();
    for (key, spot, on_demand) in [
        (names::CAPACITY_TYPE, Some("spot"), Some("on-demand")),
        ("karpenter.sh/capacity-type", Some("spot"), Some("on-demand")),
        ("cloud.google.com/gke-spot", Some("true"), None),
    ] {
        assert_eq!(labels(SPOT).get(key).map(String::as_str), spot, "{key}");
        assert_eq!(labels(SMALL).get(key).map(String::as_str), on_demand, "{key}");
    }
}

#[test]
fn a_spot_price_adds_a_spot_pool() {
    let price = Override {
        offer: Some("small".into()),
        datacenter: None,
        capacity_type: CapacityType::Spot,
        rule: PriceRule::Price(UsdPerHour(Decimal::new(1, 2))),
        interruption_rate: None,
    };
    let prices = Arc::new(Prices { overrides: vec![price], ..Prices::default() });
    let settings = FleetSettings { prices, ..FleetSettings::default() };
    let mut fleet = Fleet::restore(with_spot(0, 9, policy(80)), records(), settings);
    assert_eq!(fleet.pool(SPOT).unwrap().price, Some(UsdPerHour(Decimal::new(1, 2))));
    let recorded = fleet.records().catalog.unwrap();
    assert_eq!(recorded, records().catalog.unwrap(), "the record has VPSie's offers only");
    assert!(fleet.update_catalog(Catalog::clone(&recorded)).is_empty());
    let without = Fleet::restore(with_spot(0, 9, policy(80)), fleet.records(), Reserved::default());
    assert!(without.pool(SPOT).is_none(), "there is no spot offer");
    let plain = Fleet::restore(vec![group("web", 0, 9, &[SMALL])], records(), Reserved::default());
    let on_demand = |fleet: &Fleet| fleet.pool(SMALL).unwrap().template.clone();
    assert_eq!(on_demand(&without), on_demand(&plain), "spotConfig changes nothing");
    let policy = SpotPolicy { on_demand_fallback: false, ..policy(80) };
    let strict = Fleet::restore(with_spot(0, 9, policy), records(), Reserved::default());
    assert_eq!(limits(&strict, SMALL), limits(&plain, SMALL));
}

#[test]
fn only_spot_pools_have_the_taint() {
    let taints = |taint, pool: &str| {
        let fleet = spot_fleet(0, 10, SpotPolicy { taint, ..policy(80) });
        fleet.pool(pool).unwrap().template.taints.clone()
    };
    let spot = |effect| Taint { key: names::CAPACITY_TYPE.into(), value: "spot".into(), effect };
    let plain = taints(None, SMALL);
    for effect in [TaintEffect::NoSchedule, TaintEffect::PreferNoSchedule] {
        assert_eq!(taints(Some(effect), SPOT), [plain.clone(), vec![spot(effect)]].concat());
        assert_eq!(taints(Some(effect), SMALL), plain);
    }
    assert_eq!(taints(None, SPOT), plain);
}

#[test]
fn the_grace_period_is_that_of_the_node_group_or_the_default() {
    let mut hand = Hand::new();
    let mut fleet = spot_fleet(0, 10, policy(80));
    fleet.settings.spot.grace_period = Duration::from_secs(40);
    hand.observe(&mut fleet, &[]);
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    let grace = |fleet: &Fleet| fleet.grace_period(fleet.machines().next().unwrap());
    assert_eq!(grace(&fleet), Duration::from_mins(2));
    let mut without = with_spot(0, 10, policy(80));
    without.groups[0].spot = None;
    fleet.declare(without);
    assert_eq!(grace(&fleet), Duration::from_secs(40));
    fleet.settings.spot.grace_period = Duration::from_hours(30);
    assert_eq!(grace(&fleet), MAX_NOTICE);
}

#[test]
fn a_spot_pool_grows_within_the_maximum_share() {
    let mut hand = Hand::new();
    let mut fleet = spot_fleet(0, 10, policy(80));
    assert_eq!(limits(&fleet, SPOT), (0, 0, 0), "the first machine is on demand");
    let refusal = hand.increase(&mut fleet, SPOT, 1).unwrap_err();
    assert_eq!(refusal.reason(), "SpotShareReached");
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert_eq!(limits(&fleet, SPOT), (0, 0, 4));
    assert!(hand.increase(&mut fleet, SPOT, 5).is_err());
    hand.increase(&mut fleet, SPOT, 4).unwrap();
    assert_eq!(limits(&fleet, SPOT).2, 4);
    assert_eq!(fleet.growth_block(SPOT, 1, hand.now).unwrap().reason, "SPOT_SHARE_REACHED");
    fleet.check_consistency().unwrap();
}

#[test]
fn on_demand_machines_stay_while_the_share_requires_them() {
    let mut hand = Hand::new();
    let mut fleet = spot_fleet(0, 10, policy(80));
    hand.increase(&mut fleet, SMALL, 2).unwrap();
    hand.increase(&mut fleet, SPOT, 4).unwrap();
    let nodes = run_all(&mut hand, &mut fleet);
    assert_eq!(limits(&fleet, SMALL), (1, 2, 6));
    let of_pool = |fleet: &Fleet, pool: &str| -> Vec<NodeRef> {
        let machines = fleet.machines_of(fleet.pool(pool).unwrap());
        let hosts: Vec<_> = machines.filter_map(|m| m.vm()).map(|vm| vm.hostname.clone()).collect();
        nodes.iter().filter(|node| hosts.contains(&node.hostname)).map(by_node).collect()
    };
    let on_demand = of_pool(&fleet, SMALL);
    let refusal = fleet.delete_nodes(SMALL, &on_demand, hand.now).unwrap_err();
    assert_eq!(refusal.reason(), "NeededForSpotShare");
    fleet.delete_nodes(SMALL, &on_demand[..1], hand.now).unwrap();
    assert_eq!(limits(&fleet, SMALL).0, 1);
    let spot = of_pool(&fleet, SPOT);
    fleet.delete_nodes(SPOT, &spot, hand.now).unwrap();
    assert_eq!(limits(&fleet, SMALL).0, 0, "no spot machine is left");
}

#[test]
fn on_demand_grows_only_for_the_share_without_fallback() {
    let mut hand = Hand::new();
    let mut fleet = spot_fleet(0, 20, SpotPolicy { on_demand_fallback: false, ..policy(80) });
    assert_eq!(limits(&fleet, SMALL).2, 1, "the first spot machine needs one");
    hand.increase(&mut fleet, SMALL, 1).unwrap();
    assert_eq!(limits(&fleet, SMALL).2, 1);
    assert_eq!(hand.increase(&mut fleet, SMALL, 1).unwrap_err().reason(), "FallbackDisabled");
    hand.increase(&mut fleet, SPOT, 4).unwrap();
    assert_eq!((limits(&fleet, SMALL).2, limits(&fleet, SPOT).2), (2, 4));
}

#[test]
fn the_first_pool_with_headroom_carries_the_shortfall() {
    let fleet = spot_fleet(3, 9, policy(80));
    assert_eq!((limits(&fleet, SMALL).0, limits(&fleet, SPOT).0), (3, 0));
    let fleet = spot_fleet(3, 9, SpotPolicy { on_demand_fallback: false, ..policy(100) });
    assert_eq!((limits(&fleet, SMALL).0, limits(&fleet, SPOT).0), (0, 3));
}

#[test]
fn adopts_a_worker_of_unknown_capacity_type_as_on_demand() {
    let mut hand = Hand::new();
    let mut fleet = spot_fleet(0, 9, policy(100));
    let mut declared = with_spot(0, 9, policy(100));
    declared.groups[0].adopt = true;
    fleet.declare(declared);
    let worker = ListedNode { capacity_type: None, ..node(1, 2) };
    hand.observe(&mut fleet, std::slice::from_ref(&worker));
    fleet.adopt_workers(&[worker], hand.now, &mut |group| MachineId::new(format!("{group}-1")));
    assert_eq!(only(&fleet).pool.to_string(), SMALL);
    hand.wait(Duration::from_secs(1));
}

proptest! {
    /// The headroom is exact: one machine more would exceed the share.
    #[test]
    fn the_headroom_is_the_largest_that_keeps_the_share(
        percent in 0_u32..=100, spot in 0_u32..300, on_demand in 0_u32..300,
    ) {
        let share = MaxSpotShare::new(percent);
        let headroom = share.headroom(spot, on_demand);
        let is_within = |spot: u32, on_demand: u32| spot <= share.max_spot(spot + on_demand);
        if percent == 100 {
            prop_assert_eq!(headroom, u32::MAX);
        } else if headroom > 0 {
            prop_assert!(is_within(spot + headroom, on_demand));
            prop_assert!(!is_within(spot + headroom + 1, on_demand));
        } else {
            prop_assert!(!is_within(spot + 1, on_demand));
        }
    }

    /// The minimum is exact: one on-demand machine fewer would exceed the share.
    #[test]
    fn the_on_demand_minimum_is_the_smallest_within_the_share(percent in 1_u32..=100, spot in 0_u32..300) {
        let share = MaxSpotShare::new(percent);
        let minimum = share.min_on_demand(spot);
        prop_assert!(spot <= share.max_spot(spot + minimum));
        if minimum > 0 {
            prop_assert!(spot > share.max_spot(spot + minimum - 1));
        }
        prop_assert_eq!(MaxSpotShare::new(0).min_on_demand(spot + 1), u32::MAX);
    }

    /// A command succeeds exactly if it is within the limits of its pool, and the share is within its maximum
    /// after it.
    #[test]
    fn the_share_holds_under_commands(
        percent in 0_u32..=100,
        fallback: bool,
        steps in prop::collection::vec((0_usize..2, -4_i32..8), 1..30),
    ) {
        let mut hand = Hand::new();
        let mut fleet =
            spot_fleet(0, 40, SpotPolicy { on_demand_fallback: fallback, ..policy(percent) });
        let pools = [SMALL, SPOT];
        for (pool, delta) in steps {
            if delta > 0 {
                let before = limits(&fleet, pools[pool]);
                let is_allowed = before.1 + delta as u32 <= before.2;
                let grown = hand.increase(&mut fleet, pools[pool], delta);
                prop_assert_eq!(grown.is_ok(), is_allowed, "{:?}", grown);
            } else {
                let nodes = run_all(&mut hand, &mut fleet);
                let refs: Vec<_> = fleet
                    .machines_of(fleet.pool(pools[pool]).unwrap())
                    .filter_map(|machine| machine.vm().map(|vm| vm.hostname.clone()))
                    .filter_map(|host| nodes.iter().find(|node| node.hostname == host).map(by_node))
                    .take(delta.unsigned_abs() as usize)
                    .collect();
                let before = limits(&fleet, pools[pool]);
                let is_allowed = before.1 - (refs.len() as u32).min(before.1) >= before.0;
                let deleted = fleet.delete_nodes(pools[pool], &refs, hand.now);
                prop_assert_eq!(deleted.is_ok(), is_allowed || refs.is_empty(), "{:?}", deleted);
                let removed: Vec<_> = fleet
                    .machines()
                    .filter(|machine| matches!(machine.phase, Phase::Deleting { .. }))
                    .map(|machine| machine.id.clone())
                    .collect();
                for id in removed {
                    fleet.apply(&Change::DropMachine(id));
                }
            }
            let (spot, on_demand) = (target(&fleet, SPOT), target(&fleet, SMALL));
            prop_assert!(spot <= MaxSpotShare::new(percent).max_spot(spot + on_demand), "{spot} of {on_demand}");
            prop_assert!(fleet.check_consistency().is_ok());
        }
    }
}

mod breaker {
    use super::*;

    const OTHER_SPOT: &str = "batch/ams1/small/spot";
    const MAX_OPEN: Duration = Duration::from_hours(4);

    /// Two NodeGroups with pools of one spot class, and no limit but the circuit breaker.
    fn fleet() -> Fleet {
        let mut fleet = spot_fleet(0, 20, policy(100));
        let batch = NodeGroup { spot: Some(policy(100)), ..group("batch", 0, 20, &[OTHER, OTHER_SPOT]) };
        let mut declared = with_spot(0, 20, policy(100));
        declared.groups.push(batch);
        fleet.declare(declared);
        fleet
    }

    fn stockout() -> CreationOutcome {
        CreationOutcome::Refused(Failure { reason: FailureReason::Stockout, message: "none left".to_owned() })
    }

    fn headroom(fleet: &Fleet, pool: &str) -> u32 {
        let (_, target, max) = limits(fleet, pool);
        max - target
    }

    fn fail_one(hand: &mut Hand, fleet: &mut Fleet) {
        hand.observe(fleet, &[]);
        hand.increase(fleet, SPOT, 1).unwrap();
        hand.ask_all(fleet, &stockout());
        remove_failed(hand, fleet);
    }

    fn remove_failed(hand: &Hand, fleet: &mut Fleet) {
        for id in fleet.machines().map(|machine| machine.id.clone()).collect::<Vec<_>>() {
            fleet.retire(&id, DeletionReason::FailedExpired, hand.now);
        }
        hand.observe(fleet, &[]);
    }

    /// Waits until all pools have headroom for the next attempt, and returns the time.
    fn wait_until_half_open(hand: &mut Hand, fleet: &mut Fleet) -> Duration {
        let start = hand.now;
        while headroom(fleet, SPOT) == 0 {
            hand.wait(Duration::from_secs(10));
            hand.pass(fleet);
            assert!(hand.now.duration_since(start).unsigned_abs() <= MAX_OPEN);
        }
        hand.now.duration_since(start).unsigned_abs()
    }

    #[test]
    fn a_refusal_closes_all_pools_of_the_class() {
        let mut hand = Hand::new();
        let mut fleet = fleet();
        hand.observe(&mut fleet, &[]);
        hand.increase(&mut fleet, SPOT, 3).unwrap();
        let before = headroom(&fleet, SMALL);
        hand.ask_all(&mut fleet, &stockout());
        for pool in [SPOT, OTHER_SPOT] {
            assert_eq!(headroom(&fleet, pool), 0, "{pool}");
            assert_eq!(fleet.growth_block(pool, 1, hand.now).unwrap().reason, "SPOT_UNAVAILABLE");
        }
        assert_eq!(headroom(&fleet, SMALL), before, "on-demand pools grow at once");
        assert_eq!(hand.increase(&mut fleet, SPOT, 1).unwrap_err().reason(), "SpotUnavailable");
        let restored = Fleet::restore(with_spot(0, 20, policy(100)), fleet.records(), Reserved::default());
        assert_eq!(headroom(&restored, SPOT), 0, "the state survives a restart");
    }

    #[test]
    fn the_open_time_doubles_with_each_failure() {
        let mut hand = Hand::new();
        let mut fleet = fleet();
        let mut waits = Vec::new();
        for _ in 0..8 {
            fail_one(&mut hand, &mut fleet);
            waits.push(wait_until_half_open(&mut hand, &mut fleet).as_secs() / 60);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 240, 240]);
        hand.wait(Duration::from_hours(25));
        fail_one(&mut hand, &mut fleet);
        assert_eq!(wait_until_half_open(&mut hand, &mut fleet).as_secs() / 60, 5, "a day without a failure");
    }

    #[test]
    fn one_machine_is_tried_until_it_has_lived() {
        let mut hand = Hand::new();
        let mut fleet = fleet();
        fail_one(&mut hand, &mut fleet);
        wait_until_half_open(&mut hand, &mut fleet);
        assert_eq!((headroom(&fleet, SPOT), headroom(&fleet, OTHER_SPOT)), (1, 1));
        assert_eq!(hand.increase(&mut fleet, SPOT, 2).unwrap_err().reason(), "SpotUnavailable");
        hand.increase(&mut fleet, OTHER_SPOT, 1).unwrap();
        assert_eq!((headroom(&fleet, SPOT), headroom(&fleet, OTHER_SPOT)), (0, 0), "one for both pools");
        let nodes = run_all(&mut hand, &mut fleet);
        hand.wait(Duration::from_mins(14));
        hand.observe(&mut fleet, &nodes);
        hand.pass(&mut fleet);
        assert_eq!(headroom(&fleet, SPOT), 0);
        hand.wait(Duration::from_mins(2));
        hand.pass(&mut fleet);
        assert_eq!(headroom(&fleet, SPOT), 20);
    }

    #[test]
    fn a_lost_attempt_opens_again_for_longer() {
        let mut hand = Hand::new();
        let mut fleet = fleet();
        fail_one(&mut hand, &mut fleet);
        wait_until_half_open(&mut hand, &mut fleet);
        hand.increase(&mut fleet, SPOT, 1).unwrap();
        run_all(&mut hand, &mut fleet);
        let foreign = ListedNode { capacity_type: Some(CapacityType::OnDemand), ..node(77, 9) };
        for _ in 0..5 {
            hand.wait(Duration::from_mins(1));
            hand.observe(&mut fleet, std::slice::from_ref(&foreign));
        }
        assert_eq!(fleet.machines().count(), 0, "the VM vanished");
        assert_eq!(headroom(&fleet, SPOT), 0);
        assert!(wait_until_half_open(&mut hand, &mut fleet) >= Duration::from_mins(9));
    }

    #[test]
    fn an_account_without_quota_does_not_close_the_class() {
        let mut hand = Hand::new();
        let mut fleet = fleet();
        hand.observe(&mut fleet, &[]);
        hand.increase(&mut fleet, SPOT, 1).unwrap();
        let failure = Failure { reason: FailureReason::QuotaExceeded, message: "quota".to_owned() };
        hand.ask_all(&mut fleet, &CreationOutcome::Refused(failure));
        assert!(fleet.spot_history().classes().next().is_none());
    }

    #[test]
    fn a_clock_that_was_ahead_closes_nothing_for_long() {
        let mut hand = Hand::new();
        let mut fleet = fleet();
        hand.wait(Duration::from_hours(100));
        fail_one(&mut hand, &mut fleet);
        hand.now -= jiff::SignedDuration::from_hours(100);
        hand.pass(&mut fleet);
        assert!(wait_until_half_open(&mut hand, &mut fleet) <= Duration::from_mins(6));
    }

    proptest! {
        /// Between two openings of a class lies at least the open time of the first, and spot machines are added
        /// only while the circuit breaker is closed, or one at a time.
        #[test]
        fn a_class_does_not_flap(steps in prop::collection::vec((0_u8..4, 1_u64..40), 1..80)) {
            let mut hand = Hand::new();
            let mut fleet = fleet();
            hand.observe(&mut fleet, &[]);
            let mut openings: Vec<Timestamp> = Vec::new();
            for (step, minutes) in steps {
                match step {
                    0 => {
                        let room = headroom(&fleet, SPOT);
                        let is_closed = fleet.breaker_state(fleet.pool(SPOT).unwrap()) == Some(BreakerState::Closed);
                        prop_assert!(is_closed || room <= 1);
                        if room > 0 {
                            hand.increase(&mut fleet, SPOT, 1).unwrap();
                        }
                    }
                    1 => hand.ask_all(&mut fleet, &stockout()),
                    2 => drop(run_all(&mut hand, &mut fleet)),
                    _ => remove_failed(&hand, &mut fleet),
                }
                for _ in 0..minutes {
                    hand.wait(Duration::from_mins(1));
                    hand.pass(&mut fleet);
                }
                let last = fleet.spot_history().classes().next().and_then(|class| class.breaker.last_failure);
                openings.extend(last.map(|last| last.at).filter(|at| openings.last() != Some(at)));
                prop_assert!(fleet.check_consistency().is_ok());
            }
            for pair in openings.windows(2) {
                prop_assert!(pair[1].duration_since(pair[0]).unsigned_abs() >= Duration::from_mins(5));
            }
        }
    }
}

mod interruptions {
    use super::*;
    use crate::cost::InterruptionRate;

    fn percent(rate: InterruptionRate) -> f64 {
        rate.to_percent_a_month()
    }

    fn observed(interruptions: u32, machines: usize, days: u64) -> Interruptions {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut seen = Interruptions::new(start);
        for hour in 1..=days * 24 {
            let now = start + Duration::from_hours(hour);
            seen.add_running_time(now, std::iter::repeat_n(start, machines));
            if hour <= interruptions.into() {
                seen.record(now);
            }
        }
        seen
    }

    #[test]
    fn one_event_in_a_young_pool_proves_nothing() {
        let prior = InterruptionRate::percent_a_month(5.0);
        let young = observed(1, 1, 1);
        assert!(percent(young.rate(prior)) < 12.0, "{}", young.rate(prior));
        assert!(percent(young.certain_rate(prior)) < 5.0, "{}", young.certain_rate(prior));
    }

    #[test]
    fn a_quiet_week_changes_little() {
        let prior = InterruptionRate::percent_a_month(5.0);
        let quiet = observed(0, 10, 7);
        let rate = percent(quiet.rate(prior));
        assert!(rate > 4.0 && rate < 5.0, "{rate}");
    }

    #[test]
    fn many_events_are_certain() {
        let prior = InterruptionRate::percent_a_month(5.0);
        let bad = observed(20, 10, 7);
        assert!(percent(bad.certain_rate(prior)) > 20.0, "{}", bad.certain_rate(prior));
        assert!(bad.certain_rate(prior) < bad.rate(prior));
    }

    #[test]
    fn a_class_above_the_allowed_rate_does_not_grow() {
        let allowed = Some(InterruptionRate::percent_a_month(20.0));
        let strict = SpotPolicy { allowed_interruption_rate: allowed, ..policy(100) };
        let mut fleet = spot_fleet(0, 40, strict);
        fleet.settings.interruption_loss = Duration::from_mins(15);
        let mut hand = Hand::new();
        hand.observe(&mut fleet, &[]);
        let foreign = node(77, 9);
        for _ in 0..20 {
            if hand.increase(&mut fleet, SPOT, 1).is_err() {
                break;
            }
            run_all(&mut hand, &mut fleet);
            for _ in 0..30 {
                hand.wait(Duration::from_mins(1));
                hand.observe(&mut fleet, std::slice::from_ref(&foreign));
            }
            hand.pass(&mut fleet);
        }
        let pool = fleet.pool(SPOT).unwrap();
        assert_eq!(fleet.breaker_state(pool), Some(BreakerState::Closed));
        assert!(matches!(fleet.spot_block(pool), Some(SpotBlock::AboveAllowedRate { .. })));
        assert!(fleet.expected_price(pool) > pool.price);
        assert_eq!(limits(&fleet, SMALL).2, 40, "on-demand pools grow");
    }

    proptest! {
        /// Rates are positive numbers, and the certain rate is below the expected one.
        #[test]
        fn rates_are_ordered(interruptions in 0_u32..100, machines in 0_usize..50, prior in 0.01_f64..100.0) {
            let seen = observed(interruptions, machines, 2);
            let prior = InterruptionRate::percent_a_month(prior);
            let (rate, certain) = (percent(seen.rate(prior)), percent(seen.certain_rate(prior)));
            prop_assert!(certain.is_finite() && certain >= 0.0 && rate.is_finite() && certain <= rate);
        }
    }
}
