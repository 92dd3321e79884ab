//! Simulation of the whole process on a virtual clock: the provider, the VPSie simulator, a model of Cluster
//! Autoscaler, injected faults, crashes and clock jumps. One seed determines a run. The invariants are
//! checked after each step. docs/develop/simulation.md describes tests, environment variables, phases and
//! messages.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: what breaks here is the test")]

mod checks;
mod clock;
mod cluster;
mod faults;
mod fixtures;
mod freezer;
mod hazards;
mod interruptions;
mod liveness;
mod network;
mod nodes;
mod observers;
mod phases;
mod planted_bugs;
mod planted_state;
mod process;
mod records;
mod replicas;
mod self_managed;
mod world;

use std::collections::BTreeMap;
use std::iter;

use planted_bugs::PlantedBug;
use records::StoreKind;
use world::{Stats, World};

fn parse_variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, must be a number")))
}

/// Runs a future on a runtime whose clock is virtual: it advances when all tasks wait.
fn run_in_virtual_time<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

/// Runs one seed. The error is the message of the first check that failed.
fn run(store_kind: StoreKind, seed: u64, bug: Option<PlantedBug>) -> Result<Stats, String> {
    run_in_virtual_time(async { World::new(store_kind, seed, bug).await?.run().await })
}

/// Factor of the default numbers of seeds.
fn seed_factor() -> u64 {
    parse_variable("SEED_FACTOR").unwrap_or(1)
}

/// Runs the seed `SEED`, or else the first `SEEDS` seeds (by default `default` times `SEED_FACTOR`). Panics if
/// a seed fails. `test` is the filter in the command that replays it.
fn run_seeds<T: Send>(default: u64, test: &str, run: impl Fn(u64) -> Result<T, String> + Sync) -> Vec<T> {
    let (first, count) = match parse_variable("SEED") {
        Some(seed) => (seed, 1),
        None => (0, parse_variable("SEEDS").unwrap_or(default * seed_factor())),
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let run = &run;
    let outcomes: Vec<(u64, Result<T, String>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|worker| {
                let seeds = (first..first + count).filter(move |seed| seed % workers == worker);
                scope.spawn(move || seeds.map(|seed| (seed, run(seed))).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut passed = Vec::new();
    let mut failed = BTreeMap::new();
    for (seed, outcome) in outcomes {
        match outcome {
            Ok(outcome) => passed.push(outcome),
            Err(error) => drop(failed.insert(seed, error)),
        }
    }
    println!("{} of {count} seeds passed", passed.len());
    for (seed, error) in failed.iter().take(20) {
        println!("{error}\n  replay: SEED={seed} TRACE=1 cargo test --test simulation {test} -- --nocapture");
    }
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed; the first is {:?}",
        failed.len(),
        failed.keys().next()
    );
    passed
}

fn check_invariants(store_kind: StoreKind, default: u64, test: &str) {
    let outcomes = run_seeds(default, test, |seed| run(store_kind, seed, None));
    let mut total = Stats::default();
    for stats in &outcomes {
        total.add(stats);
    }
    println!("{total:?}");
    // Runs without crashes, creations, deletions or lost replies would check nothing.
    assert!(
        outcomes.len() < 8 || total.crashes > 0 && total.created > 0 && total.deleted > 0 && total.lost > 0
    );
}

#[test]
fn the_invariants_hold_through_faults_and_crashes() {
    check_invariants(StoreKind::Memory, 3, "through_faults");
}

#[test]
fn the_invariants_hold_with_kubernetes_as_the_store() {
    check_invariants(StoreKind::Kubernetes, 3, "with_kubernetes");
}

/// Runs a planted bug with the seed `known_seed`, and then with the first 100 seeds, until a check fails. Returns
/// the message of that check. Panics if no check fails.
fn find_planted_bug<T>(
    bug: impl std::fmt::Debug,
    known_seed: u64,
    run: impl Fn(u64) -> Result<T, String>,
) -> String {
    let found = iter::once(known_seed).chain(0..100).find_map(|seed| Some((seed, run(seed).err()?)));
    let Some((seed, error)) = found else {
        panic!("no check found {bug:?} with seed {known_seed} or the first 100 seeds")
    };
    println!("{bug:?}: found by seed {seed}: {}", error.lines().next().unwrap_or_default());
    error
}

fn assert_found(store_kind: StoreKind, bugs: &[(PlantedBug, u64)]) {
    for (bug, known_seed) in bugs {
        find_planted_bug(bug, *known_seed, |seed| run(store_kind, seed, Some(*bug)));
    }
}

/// For each invariant there is a bug that violates it. The checks must find each in few seeds.
#[test]
fn a_planted_bug_is_found() {
    assert_found(StoreKind::Memory, &PlantedBug::WITHOUT_HAZARDS);
}

#[test]
fn a_planted_bug_is_found_under_its_hazard() {
    assert_found(StoreKind::Memory, &PlantedBug::UNDER_HAZARDS);
}

#[test]
fn a_planted_bug_in_the_kubernetes_store_is_found() {
    assert_found(StoreKind::Kubernetes, &PlantedBug::KUBERNETES);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let runs = [
        (StoreKind::Memory, 3),
        (StoreKind::Kubernetes, 11),
        (StoreKind::Memory, 11),
        (StoreKind::Kubernetes, 3),
    ];
    for (store_kind, seed) in runs.into_iter().take(2 * seed_factor() as usize) {
        assert_eq!(run(store_kind, seed, None), run(store_kind, seed, None));
    }
}
