use rust_decimal::Decimal;
use vpsie_autoscaler::cost::UsdPerHour;

use crate::bound::bounds;
use crate::data::{Pod, ReplayPool, ReplayResources, Trace};
use crate::expander::Expander;
use crate::replay::{ReplayConditions, replay};

const HOUR: u64 = 3600;

fn pool(id: &str, cpu: u64, cents: i64) -> ReplayPool {
    let capacity = ReplayResources { cpu, memory: cpu * 2, pods: 110 };
    ReplayPool {
        id: id.into(),
        capacity,
        allocatable: capacity,
        price: UsdPerHour(Decimal::new(cents, 2)),
        spot: None,
    }
}

/// A trace of pods of (cpu, arrival, duration), each with its own class.
fn trace(pods: &[(u64, u64, u64)]) -> Trace {
    let size = |cpu: u64| ReplayResources { cpu, memory: cpu, pods: 1 };
    let pod = |(class, (cpu, arrival, duration)): (usize, &(u64, u64, u64))| Pod {
        name: format!("p{class}"),
        size: size(*cpu),
        class,
        arrival: *arrival,
        duration: *duration,
    };
    Trace {
        name: "t".into(),
        pods: pods.iter().enumerate().map(pod).collect(),
        classes: pods.iter().map(|(cpu, ..)| size(*cpu)).collect(),
    }
}

#[test]
fn a_node_is_paid_from_its_request() {
    let trace = trace(&[(2000, 5, HOUR)]);
    let pools = [pool("a", 2000, 100)];
    let cost = replay(&trace.pods, &pools, Expander::LeastWaste, ReplayConditions::DEFAULT, 0);
    assert_eq!(cost.waits, [125]);
    let hours = (HOUR + 120) as f64 / 3600.0;
    assert!((cost.usd - hours).abs() < 1e-9, "{}", cost.usd);
    assert!((cost.usd_started_hours - 2.0).abs() < 1e-9);
    assert!((cost.booting - 120.0 / 3600.0).abs() < 1e-9);
}

#[test]
fn an_empty_node_is_removed_after_the_unneeded_time() {
    // The first pod's node is empty for longer than all delays while the second one runs.
    let trace = trace(&[(2000, 0, 600), (2000, 0, 5 * HOUR)]);
    let cost =
        replay(&trace.pods, &[pool("a", 2000, 100)], Expander::LeastWaste, ReplayConditions::DEFAULT, 0);
    let empty = cost.empty * 3600.0;
    assert!((600.0..=630.0).contains(&empty), "{empty}");
}

#[test]
fn pods_of_an_underused_node_move_to_other_nodes() {
    // When the long pods are alone on two nodes, one of them is drained.
    let trace = trace(&[(1500, 0, 600), (500, 0, 5 * HOUR), (1500, 0, 600), (500, 0, 5 * HOUR)]);
    let cost =
        replay(&trace.pods, &[pool("a", 2000, 100)], Expander::LeastWaste, ReplayConditions::DEFAULT, 0);
    assert_eq!((cost.evictions, cost.waits.len()), (1, 4));
    assert!(cost.usd < 6.0, "{}", cost.usd);
}

#[test]
fn the_packed_bound_does_not_divide_pods() {
    // Three pods of 60 % of a node for an hour: 1.8 nodes in fractions, 3 whole ones.
    let trace = trace(&[(6000, 0, HOUR), (6000, 0, HOUR), (6000, 0, HOUR)]);
    let bounds = bounds(&trace, &[pool("a", 10_000, 100)]).unwrap();
    assert!((bounds.fractional - 1.8).abs() < 1e-6, "{bounds:?}");
    assert!(bounds.packed > 2.99 && bounds.packed < 3.0 + 1e-6, "{bounds:?}");
}

#[test]
fn no_expander_costs_less_than_the_bound() {
    let pods: Vec<_> = (0..60).map(|i| (500 + i * 631 % 3500, i * 97, 400 + i * 389 % 5000)).collect();
    let trace = trace(&pods);
    let pools = [pool("a", 2000, 9), pool("b", 4000, 16), pool("c", 8000, 33)];
    let bound = bounds(&trace, &pools).unwrap();
    assert!(bound.packed >= bound.fractional);
    for expander in Expander::ALL {
        let conditions = ReplayConditions { boot: 0, ..ReplayConditions::PROMPT };
        assert!(
            replay(&trace.pods, &pools, expander, conditions, 1).usd > bound.packed,
            "{}",
            expander.name()
        );
    }
}

#[test]
fn the_same_seed_has_the_same_results() {
    let pods: Vec<_> = (0..40).map(|i| (500 + i * 631 % 3500, i * 97, 400 + i * 389 % 5000)).collect();
    let trace = trace(&pods);
    let pools = [pool("a", 4000, 9), pool("b", 4000, 9), pool("c", 8000, 33)];
    let run = || {
        let cost = replay(&trace.pods, &pools, Expander::Random, ReplayConditions::DEFAULT, 7);
        (cost.usd.to_bits(), cost.waits, cost.scale_ups, cost.max_nodes)
    };
    assert_eq!(run(), run());
}
