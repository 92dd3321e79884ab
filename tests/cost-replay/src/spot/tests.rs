//! Spot policies on small markets.

use rust_decimal::Decimal;
use vpsie_autoscaler::cost::{InterruptionRate, UsdPerHour};
use vpsie_autoscaler::fleet::BreakerState;

use super::*;
use crate::data::{Pod, ReplayPool, ReplayResources};
use crate::expander::Expander;
use crate::replay::{ReplayConditions, ReplayCost, replay_with};

const HOUR: u64 = 3600;

pub(super) fn zone(available: f64, interruptions_per_hour: f64) -> Zone {
    Zone { available, interruptions_per_hour }
}

fn pool(id: &str, cents: i64, is_spot: bool) -> ReplayPool {
    let capacity = ReplayResources { cpu: 2000, memory: 4096, pods: 110 };
    let allocatable = ReplayResources { cpu: 1900, memory: 3584, pods: 110 };
    ReplayPool {
        id: id.into(),
        capacity,
        allocatable,
        price: UsdPerHour(Decimal::new(cents, 2)),
        spot: is_spot.then(|| InterruptionRate::percent_a_month(12.5)),
    }
}

/// One plan, on demand and spot.
pub(super) fn pools() -> Vec<ReplayPool> {
    vec![pool("a", 100, false), pool("a", 30, true)]
}

/// Two plans, on demand and spot.
fn two_plans() -> Vec<ReplayPool> {
    vec![pool("a", 100, false), pool("b", 101, false), pool("a", 30, true), pool("b", 31, true)]
}

/// Pods of a size for one node, that arrive at the same time.
fn pods(count: usize, duration: u64) -> Vec<Pod> {
    let pod = |index: usize| Pod {
        name: format!("p{index}"),
        size: ReplayResources { cpu: 1500, memory: 1000, pods: 1 },
        class: 0,
        arrival: 1,
        duration,
    };
    (0..count).map(pod).collect()
}

fn run(
    kind: SpotPolicyKind,
    pools: &[ReplayPool],
    zones: &[Zone],
    pods: &[Pod],
    conditions: ReplayConditions,
    seed: u64,
) -> ReplayCost {
    let spot = SpotRun::new(kind, pools, zones, conditions.boot, seed);
    replay_with(pods, pools, Expander::Ours, conditions, seed, Some(spot))
}

/// A seed with which the spot pool is not available for the first hours.
fn scarce_seed(zones: &[Zone]) -> u64 {
    let is_scarce = |seed: &u64| {
        let market = SpotMarket::new(&pools(), zones, *seed);
        let next = market.changes().next().map(|(_, at)| at);
        !market.is_available(1) && next.is_some_and(|at| at > 4 * HOUR)
    };
    (0..1000).find(is_scarce).unwrap()
}

/// A seed with which the spot pool is available for 20 to 60 minutes, and then not for hours.
fn interrupted_seed(zones: &[Zone]) -> u64 {
    let is_interrupted = |seed: &u64| {
        let mut market = SpotMarket::new(&pools(), zones, *seed);
        let first = market.changes().next().unwrap().1;
        let is_available = market.is_available(1);
        let again = market.switch(1).unwrap();
        is_available && (1200..3600).contains(&first) && again > first + 4 * HOUR
    };
    (0..100_000).find(is_interrupted).unwrap()
}

const RARE: [Zone; 1] = [Zone { available: 0.1, interruptions_per_hour: 1.0 }];

#[test]
fn all_policies_use_an_available_spot_pool() {
    for kind in [SpotPolicyKind::CheapestSpot, SpotPolicyKind::Backoff, SpotPolicyKind::Ours(100)] {
        let cost = run(kind, &pools(), &[], &pods(3, HOUR), ReplayConditions::DEFAULT, 1);
        assert_eq!((cost.spot.spot_time, cost.spot.interruptions), (cost.spot.vm_time, 0), "{kind:?}");
        assert!((cost.usd - 3.0 * 0.3 * (HOUR + 120) as f64 / 3600.0).abs() < 0.01, "{kind:?}: {}", cost.usd);
    }
}

#[test]
fn cheapest_spot_waits_for_capacity() {
    let seed = scarce_seed(&RARE);
    let cost =
        run(SpotPolicyKind::CheapestSpot, &pools(), &RARE, &pods(1, HOUR), ReplayConditions::DEFAULT, seed);
    assert_eq!(cost.spot.spot_time, cost.spot.vm_time);
    assert!(cost.waits[0] > 4 * HOUR, "{:?}", cost.waits);
    assert!(cost.spot.refused > 4 * HOUR / 10 - 10, "each loop: {}", cost.spot.refused);
}

#[test]
fn backoff_falls_back_to_on_demand() {
    let seed = scarce_seed(&RARE);
    for kind in [SpotPolicyKind::Backoff, SpotPolicyKind::Ours(100)] {
        let cost = run(kind, &pools(), &RARE, &pods(2, HOUR), ReplayConditions::DEFAULT, seed);
        assert_eq!((cost.spot.spot_time, cost.spot.refused), (0, 1), "{kind:?}");
        assert_eq!(cost.waits, [139, 139], "{kind:?}: one loop later");
    }
}

#[test]
fn an_interruption_kills_pods_after_the_notice() {
    let seed = interrupted_seed(&RARE);
    let cost =
        run(SpotPolicyKind::Backoff, &pools(), &RARE, &pods(2, 2 * HOUR), ReplayConditions::DEFAULT, seed);
    let off = SpotMarket::new(&pools(), &RARE, seed).changes().next().unwrap().1;
    assert_eq!((cost.spot.interruptions, cost.spot.killed, cost.spot.moved), (2, 2, 0));
    // They started at 130 s and ended with their VMs.
    assert_eq!(cost.spot.lost, 2 * (off + NOTICE - 130));
    // The scale-up on demand, after an attempt on spot.
    assert!((2 * 130..=2 * 150).contains(&cost.spot.pending), "{}", cost.spot.pending);
}

#[test]
fn a_vm_has_a_life_of_its_own() {
    let mut pools = pools();
    pools[1].spot = Some(InterruptionRate::per_hour(1.0));
    let first = SpotMarket::new(&pools, &[], 1).next_life(1).unwrap();
    let cost =
        run(SpotPolicyKind::Backoff, &pools, &[], &pods(1, first + HOUR), ReplayConditions::DEFAULT, 1);
    assert!(cost.spot.interruptions >= 1 && cost.spot.refused == 0, "{:?}", cost.spot);
    // Requested at 10 s, started at 130 s.
    assert!(cost.spot.lost >= first + 10 + NOTICE - 130, "{:?}", cost.spot);
}

#[test]
fn ours_moves_pods_before_the_end_of_the_vm() {
    let seed = interrupted_seed(&RARE);
    let off = SpotMarket::new(&pools(), &RARE, seed).changes().next().unwrap().1;
    let ours = |boot: u64| {
        let conditions = ReplayConditions { boot, ..ReplayConditions::DEFAULT };
        run(SpotPolicyKind::Ours(100), &pools(), &RARE, &pods(2, 2 * HOUR), conditions, seed)
    };
    let cost = ours(60);
    assert_eq!((cost.spot.interruptions, cost.spot.killed, cost.spot.moved), (2, 0, 2));
    assert_eq!(cost.spot.pending, 0, "replacements were ready");
    assert_eq!(cost.spot.lost, 2 * (off + 60 - 70));
    let cost = ours(120);
    assert_eq!((cost.spot.killed, cost.spot.moved), (0, 2));
    assert_eq!(cost.spot.pending, 2 * DRAIN_TIME, "from the drain until the replacements are ready");
}

#[test]
fn replacements_are_of_another_spot_class_if_it_is_cheaper() {
    let zones = [zone(0.1, 1.0), zone(0.999, 0.001)];
    let is_split = |seed: &u64| {
        let market = SpotMarket::new(&two_plans(), &zones, *seed);
        let next: Vec<u64> = market.changes().map(|(_, at)| at).collect();
        market.is_available(2)
            && market.is_available(3)
            && (1200..3600).contains(&next[0])
            && next[1] > 9 * HOUR
    };
    let seed = (0..100_000).find(is_split).unwrap();
    let cost = run(
        SpotPolicyKind::Ours(100),
        &two_plans(),
        &zones,
        &pods(1, 2 * HOUR),
        ReplayConditions { boot: 60, ..ReplayConditions::DEFAULT },
        seed,
    );
    assert_eq!((cost.spot.interruptions, cost.spot.moved, cost.nodes), (1, 1, 2));
    assert_eq!(cost.spot.spot_time, cost.spot.vm_time, "no node on demand");
}

#[test]
fn the_maximum_share_limits_spot_machines() {
    let cost = run(SpotPolicyKind::Ours(80), &pools(), &[], &pods(10, HOUR), ReplayConditions::DEFAULT, 1);
    assert_eq!(cost.spot.spot_time, 0, "the first scale-up of an empty NodeGroup is on demand");
    let mut later = pods(10, 4 * HOUR);
    later.iter_mut().skip(2).for_each(|pod| pod.arrival = HOUR);
    let cost = run(SpotPolicyKind::Ours(80), &pools(), &[], &later, ReplayConditions::DEFAULT, 1);
    let share = cost.spot.spot_time as f64 / cost.spot.vm_time as f64;
    assert!((0.6..0.8).contains(&share), "8 of 10 later: {share}");
}

#[test]
fn the_breaker_opens_longer_after_each_refusal() {
    let mut provider = Provider::new(&pools(), 100);
    let mut now = 100;
    let mut open = Vec::new();
    for _ in 0..3 {
        let machines = provider.increase(1, 1, now);
        assert!(!provider.request(&machines[0], false, 0, now));
        provider.delete_failed(1, now);
        assert_eq!((provider.headroom(1), provider.headroom(0) > 0), (0, true));
        let since = now;
        while provider.headroom(1) == 0 {
            now += 10;
            provider.apply_deadlines(now);
        }
        assert_eq!(provider.headroom(1), 1, "half-open");
        open.push(now - since);
    }
    assert_eq!(open, [300, 600, 1200]);
    let breaker = provider.fleet().spot_history().classes().next().unwrap().breaker;
    assert!(matches!(breaker.state, BreakerState::HalfOpen { .. }));
}

#[test]
fn the_price_of_a_spot_pool_grows_with_its_interruptions() {
    let mut provider = Provider::new(&pools(), 100);
    let price = |provider: &Provider| {
        let pool = provider.fleet().pools().find(|pool| pool.text.ends_with("/spot")).unwrap();
        provider.fleet().expected_price(pool).unwrap().to_f64()
    };
    let before = price(&provider);
    assert!(before > 0.3 && before < 0.301, "{before}");
    for node in 0..5 {
        let now = 100 + HOUR * node as u64;
        let machines = provider.increase(1, 1, now);
        provider.request(&machines[0], true, node, now);
        provider.record_notice(node, now + 600);
    }
    assert!(price(&provider) > before + 0.0001, "{}", price(&provider));
}

#[test]
fn the_same_seed_has_the_same_results_for_all_policies() {
    let zones = [zone(0.6, 2.0)];
    for kind in [SpotPolicyKind::CheapestSpot, SpotPolicyKind::Backoff, SpotPolicyKind::Ours(80)] {
        let result = || {
            let cost = run(kind, &two_plans(), &zones, &pods(6, 2 * HOUR), ReplayConditions::DEFAULT, 5);
            (cost.usd.to_bits(), cost.waits, cost.spot.lost, cost.spot.interruptions)
        };
        assert_eq!(result(), result(), "{kind:?}");
    }
}
