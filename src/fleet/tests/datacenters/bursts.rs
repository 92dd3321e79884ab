//! Random bursts of pods: after each one, the machines are distributed as declared.

use proptest::test_runner::{RngAlgorithm, TestRng};
use rand::RngExt as _;

use super::*;

const HISTORIES: u64 = 20;
const BURSTS: usize = 5;

/// The largest difference between the machines of a datacenter and its part, in machines.
fn deviation(world: &World, weights: &[(&str, u32)]) -> f64 {
    let total: u32 = weights.iter().map(|(name, _)| world.running(name)).sum();
    let all: u32 = weights.iter().map(|(_, weight)| weight).sum();
    let of = |(name, weight): &(&str, u32)| {
        let part = f64::from(total) * f64::from(*weight) / f64::from(all);
        (f64::from(world.running(name)) - part).abs()
    };
    weights.iter().map(of).fold(0.0, f64::max)
}

/// The largest deviation after any burst of random histories.
fn largest_deviation(distribution: &Distribution, weights: &[(&str, u32)], balances: bool) -> f64 {
    let mut largest: f64 = 0.0;
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for _ in 0..HISTORIES {
        let mut world = World::new(group_of(0, 100, &["small"], distribution.clone()));
        world.balances = balances;
        let mut nodes = 0;
        for _ in 0..BURSTS {
            nodes += rng.random_range(1..=12);
            world.run(14, nodes);
            let running: u32 = weights.iter().map(|(name, _)| world.running(name)).sum();
            assert_eq!(running, nodes, "all pods of a burst run after 14 loops");
            largest = largest.max(deviation(&world, weights));
        }
        assert_eq!(world.refusals, []);
    }
    println!("{weights:?}: at most {largest:.2} machines from the declared part");
    largest
}

#[test]
fn balanced_bursts_deviate_by_less_than_a_machine() {
    for names in [vec![AMS, FRA], vec![AMS, FRA, LON]] {
        let weights: Vec<(&str, u32)> = names.iter().map(|name| (*name, 1)).collect();
        assert!(largest_deviation(&balanced(&names), &weights, true) < 1.0);
    }
}

#[test]
fn weighted_bursts_deviate_by_at_most_two_machines() {
    for weights in [vec![(AMS, 70), (FRA, 30)], vec![(AMS, 50), (FRA, 30), (LON, 20)]] {
        assert!(largest_deviation(&weighted(&weights), &weights, false) <= 2.0);
    }
}
