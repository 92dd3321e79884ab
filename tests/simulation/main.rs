//! The whole process on a virtual clock: the provider, the VPSie simulator and a model of Cluster Autoscaler, with
//! faults, crashes and a clock that jumps, all from one seed. The invariants are checked after each step.
//!
//! `SEEDS=10000 cargo test --release --test simulation through_faults` runs more seeds (`with_kubernetes`: with
//! records in a cluster; `one_replica_acts`: with two replicas). `SEED=7` replays one, and `TRACE=1` tells what
//! happened in it. `HAZARDS=SilentShortage,Namesakes` puts these [hazards] into every world and no others;
//! `WITHOUT=StoreGaps` leaves one out; `DISTURBANCES=Skew` those of a cluster (`a_cluster_keeps`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: what breaks here is the test")]

mod checks;
mod clock;
mod cluster;
mod faults;
mod freezer;
mod hazards;
mod kubelets;
mod ledger;
mod liveness;
mod network;
mod phases;
mod planted_bugs;
mod planted_state;
mod process;
mod records;
mod replicas;
mod setting;
mod world;

use std::collections::BTreeMap;

use planted_bugs::PlantedBug;
use records::StoreKind;
use world::{Stats, World};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?}: want a number")))
}

/// Does it in virtual time.
fn virtually<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

/// One run. What broke, if something did.
fn run(store_kind: StoreKind, seed: u64, bug: Option<PlantedBug>) -> Result<Stats, String> {
    virtually(async { World::new(store_kind, seed, bug).await?.run().await })
}

/// Runs `SEED`, or `SEEDS` or so many seeds, and panics if one breaks. What each came to.
fn each_seed<T: Send>(default: u64, test: &str, run: impl Fn(u64) -> Result<T, String> + Sync) -> Vec<T> {
    let (first, count) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SEEDS").unwrap_or(default)),
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
    let mut clean = Vec::new();
    let mut broken = BTreeMap::new();
    for (seed, outcome) in outcomes {
        match outcome {
            Ok(outcome) => clean.push(outcome),
            Err(why) => drop(broken.insert(seed, why)),
        }
    }
    println!("{} of {count} seeds ran clean", clean.len());
    for (seed, why) in broken.iter().take(20) {
        println!("{why}\n  replay: SEED={seed} TRACE=1 cargo test --test simulation {test} -- --nocapture");
    }
    assert!(
        broken.is_empty(),
        "{} of {count} seeds broke; the first is {:?}",
        broken.len(),
        broken.keys().next()
    );
    clean
}

fn the_invariants_hold(store_kind: StoreKind, default: u64, test: &str) {
    let outcomes = each_seed(default, test, |seed| run(store_kind, seed, None));
    let mut total = Stats::default();
    for stats in &outcomes {
        total.add(stats);
    }
    println!("{total:?}");
    // A run in which nothing happens shows nothing.
    assert!(
        outcomes.len() < 100 || total.crashes > 0 && total.created > 0 && total.deleted > 0 && total.lost > 0
    );
}

#[test]
fn the_invariants_hold_through_faults_and_crashes() {
    the_invariants_hold(StoreKind::Memory, 100, "through_faults");
}

#[test]
fn the_invariants_hold_with_kubernetes_as_the_store() {
    the_invariants_hold(StoreKind::Kubernetes, 40, "with_kubernetes");
}

fn finds(store_kind: StoreKind, bugs: &[PlantedBug]) {
    for bug in bugs {
        let found = (0..200).find_map(|seed| run(store_kind, seed, Some(*bug)).err().map(|why| (seed, why)));
        let Some((seed, why)) = found else { panic!("{bug:?} was not found in 200 seeds") };
        println!("{bug:?}: found by seed {seed}: {}", why.lines().next().unwrap_or_default());
    }
}

/// For each invariant a bug that breaks it: were it in the product, a simulation of few seeds would find it.
#[test]
fn a_planted_bug_is_found() {
    finds(StoreKind::Memory, &PlantedBug::ALL);
}

#[test]
fn a_planted_bug_is_found_under_its_hazard() {
    finds(StoreKind::Memory, &PlantedBug::UNDER_HAZARDS);
}

#[test]
fn a_bug_planted_in_the_store_of_a_cluster_is_found() {
    finds(StoreKind::Kubernetes, &PlantedBug::KUBERNETES);
}

#[test]
fn the_same_seed_does_the_same() {
    for (store_kind, seed) in [
        (StoreKind::Memory, 3),
        (StoreKind::Memory, 11),
        (StoreKind::Kubernetes, 3),
        (StoreKind::Kubernetes, 11),
    ] {
        assert_eq!(run(store_kind, seed, None), run(store_kind, seed, None));
    }
}
