//! The whole process on a virtual clock: the provider, the VPSie simulator and a model of Cluster Autoscaler, with
//! faults, crashes and a clock that jumps, all from one seed. The invariants are checked after each step.
//!
//! `SEEDS=10000 cargo test --release --test simulation through_faults` runs more seeds (`with_kubernetes`: with
//! records in a cluster; `one_replica_acts`: with two replicas). `SEED=7` replays one, and `TRACE=1` tells what
//! happened in it. `HAZARDS=SilentShortage,Namesakes` puts these [hazards] into every world and no others;
//! `WITHOUT=StoreGaps` leaves one out; `TROUBLES=Skew` those of a cluster (`a_cluster_keeps`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: what breaks here is the test")]

mod checks;
mod clock;
mod cluster;
mod freezer;
mod hazards;
mod kubelets;
mod ledger;
mod liveness;
mod phases;
mod planted;
mod process;
mod records;
mod replicas;
mod sabotage;
mod setting;
mod weather;
mod wires;
mod world;

use std::collections::BTreeMap;

use records::Keeping;
use sabotage::Sabotage;
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
fn run(keeping: Keeping, seed: u64, sabotage: Option<Sabotage>) -> Result<Stats, String> {
    virtually(async { World::new(keeping, seed, sabotage).await?.run().await })
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

fn the_invariants_hold(keeping: Keeping, default: u64, test: &str) {
    let outcomes = each_seed(default, test, |seed| run(keeping, seed, None));
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
    the_invariants_hold(Keeping::Memory, 100, "through_faults");
}

#[test]
fn the_invariants_hold_with_kubernetes_as_the_store() {
    the_invariants_hold(Keeping::Kubernetes, 40, "with_kubernetes");
}

fn finds(keeping: Keeping, bugs: &[Sabotage]) {
    for sabotage in bugs {
        let found =
            (0..200).find_map(|seed| run(keeping, seed, Some(*sabotage)).err().map(|why| (seed, why)));
        let Some((seed, why)) = found else { panic!("{sabotage:?} was not found in 200 seeds") };
        println!("{sabotage:?}: found by seed {seed}: {}", why.lines().next().unwrap_or_default());
    }
}

/// For each invariant a bug that breaks it: were it in the product, a simulation of few seeds would find it.
#[test]
fn a_planted_bug_is_found() {
    finds(Keeping::Memory, &Sabotage::ALL);
}

#[test]
fn a_planted_bug_is_found_under_its_hazard() {
    finds(Keeping::Memory, &Sabotage::UNDER_HAZARDS);
}

#[test]
fn a_bug_planted_in_the_store_of_a_cluster_is_found() {
    finds(Keeping::Kubernetes, &Sabotage::KUBERNETES);
}

#[test]
fn the_same_seed_does_the_same() {
    for (keeping, seed) in
        [(Keeping::Memory, 3), (Keeping::Memory, 11), (Keeping::Kubernetes, 3), (Keeping::Kubernetes, 11)]
    {
        assert_eq!(run(keeping, seed, None), run(keeping, seed, None));
    }
}
