//! Tests of the world with interruptions.

use ca_model::Minor;

use super::planted_bugs::Bug;
use super::sweep::{self, Scenario};
use super::world::{InterruptionWorld, Stats};
use crate::{find_planted_bug, run_in_virtual_time, run_seeds};

/// Upper bound of the writes of one interruption. It has no common divisor with 13 or the number of scenarios.
const MAX_WRITES: u64 = 64;

fn run(seed: u64, bug: Option<Bug>) -> Result<Stats, String> {
    run_in_virtual_time(async { InterruptionWorld::new(seed, bug, None)?.run().await })
}

#[test]
fn interruptions_move_pods_and_leave_nothing_behind() {
    let runs = run_seeds(2, "interruptions_move", |seed| run(seed, None));
    let sum = |count: fn(&Stats) -> u64| runs.iter().map(count).sum::<u64>();
    let [notices, replaced, timely, spot] =
        [sum(|s| s.notices), sum(|s| s.replaced), sum(|s| s.timely_evictions), sum(|s| s.spot_vms)];
    println!(
        "{notices} notices, {} withdrawn, {replaced} replacements, {timely} evictions after one was ready, {spot} spot VMs, \
         {} lost VMs, {} crashes",
        sum(|s| s.withdrawn),
        sum(|s| s.lost),
        sum(|s| s.crashes)
    );
    // Runs without notices, replacements or spot machines would check nothing.
    assert!(runs.len() < 8 || [notices, replaced, timely, spot].iter().all(|count| *count > 0));
}

/// The seed of a run determines its scenario, and the number of writes after which the process crashes.
#[test]
fn interruptions_survive_a_crash_at_each_write() {
    let scenarios = Scenario::ALL.len() as u64;
    let crashed = run_seeds(scenarios, "interruptions_survive", |seed| {
        let scenario = Scenario::ALL[(seed % scenarios) as usize];
        // All pairs in `scenarios * MAX_WRITES` seeds, and the first seeds are spread over all numbers.
        let writes = seed * 13 % MAX_WRITES;
        sweep::run(scenario, writes as u32, seed).map(|(_, has_crashed)| has_crashed)
    });
    println!("{} of {} runs crashed", crashed.iter().filter(|crashed| **crashed).count(), crashed.len());
    assert!(crashed.len() < 8 || crashed.contains(&true));
}

/// Up to 1.35, and from 1.36 on.
#[test]
fn interruptions_with_short_notice_add_no_further_machine() {
    let releases = [Minor::V1_33, Minor::V1_36];
    let added = run_seeds(6, "interruptions_with_short_notice", |seed| {
        let added = releases.map(|minor| sweep::run_short_notice(minor, seed));
        match added.into_iter().collect::<Result<Vec<_>, _>>()?[..] {
            [0, 0] => Ok(()),
            ref added => Err(format!("seed {seed}: {added:?} machines are added with {releases:?}")),
        }
    });
    assert!(!added.is_empty());
}

#[test]
fn a_planted_bug_of_interruptions_is_found() {
    for (bug, known_seed) in Bug::ALL {
        // Only the check of the bug counts, so that each check must find its bug.
        find_planted_bug(bug, known_seed, |seed| match run(seed, Some(bug)) {
            Err(error) if error.contains(&format!(": {}: ", bug.check())) => Err(error),
            _ => Ok(()),
        });
    }
}

#[test]
fn the_same_seed_gives_the_same_interruptions() {
    let run = || sweep::run(Scenario::Long, 6, 3);
    assert_eq!(run(), run());
}
