//! One interruption in a calm cluster, with a crash at each write since the notice.

use std::collections::BTreeSet;

use ca_model::Minor;
use jiff::SignedDuration;
use vpsie_autoscaler::catalog::CapacityType;

use super::cloud::{Plan, Revision, Sign};
use super::world::{InterruptionWorld, Stats};
use crate::run_in_virtual_time;

/// The interruption of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    /// The replacement is ready before the deadline.
    Long,
    /// The notice is shorter than the boot.
    Short,
    /// The notice has no deadline.
    Unknown,
    /// The notice is withdrawn while the replacement boots.
    Withdrawn,
    /// The deadline is moved to an earlier time.
    Moved,
    /// VPSie refuses spot replacements.
    SoldOut,
    /// The VM runs on after the deadline.
    Outlived,
}

impl Scenario {
    pub(super) const ALL: [Self; 7] =
        [Self::Long, Self::Short, Self::Unknown, Self::Withdrawn, Self::Moved, Self::SoldOut, Self::Outlived];

    fn plan(self, now: jiff::Timestamp) -> Plan {
        let after = SignedDuration::from_secs(20);
        match self {
            Self::Long | Self::SoldOut => Plan::new(240),
            Self::Short => Plan::new(25),
            Self::Unknown => Plan { sign: Sign::Taint, ..Plan::new(120) },
            Self::Withdrawn => Plan { revision: Some((after, Revision::Withdraw)), ..Plan::new(180) },
            Self::Moved => {
                let earlier = now + SignedDuration::from_secs(60);
                Plan { revision: Some((after, Revision::Move(earlier))), ..Plan::new(400) }
            }
            Self::Outlived => Plan { outlives: true, ..Plan::new(90) },
        }
    }
}

/// Runs a notice that is shorter than the boot, with this release of Cluster Autoscaler and the expander. Returns the
/// number of machines that are added beyond the replacement.
pub(super) fn run_short_notice(minor: Minor, seed: u64) -> Result<usize, String> {
    run_in_virtual_time(async {
        let mut world = InterruptionWorld::new(seed, None, Some(BTreeSet::new()))?.with_release(minor);
        world.begin().await?;
        world.workload.replicas = 2;
        world.wait_for_rest(2, "two pods").await?;
        let before = world.observer.increase_count();
        if !world.announce(Scenario::Short.plan(world.observer.now())) {
            return Err("no Node could get a notice".to_owned());
        }
        // Until the pods run again.
        for step in 0..30 {
            world.step().await.map_err(|error| format!("step {step}: {error}"))?;
        }
        Ok(world.observer.increase_count() - before)
    })
    .map_err(|error| format!("{minor:?}, seed {seed}: {error}"))
}

/// Runs a scenario. The process crashes after `writes` writes to the API server since the notice, counting each write
/// before and after its execution. Returns the counts, and whether it crashed.
pub(super) fn run(scenario: Scenario, writes: u32, seed: u64) -> Result<(Stats, bool), String> {
    let named = |error| format!("{scenario:?}, crash after {writes} writes: {error}");
    run_in_virtual_time(async {
        let mut world = InterruptionWorld::new(seed, None, Some(BTreeSet::new()))?;
        world.begin().await?;
        world.workload.replicas = 2;
        world.wait_for_rest(2, "two pods").await?;
        // Later than the last disturbance, so that all checks apply.
        for _ in 0..7 {
            world.step().await?;
        }
        if scenario == Scenario::SoldOut {
            world.set_capacity(CapacityType::Spot, Some(0))?;
        }
        if !world.announce(scenario.plan(world.observer.now())) {
            return Err("no Node could get a notice".to_owned());
        }
        world.countdown.start(writes);
        // Until the VM is gone at the latest.
        for step in 0..50 {
            world.step().await.map_err(|error| format!("step {step}: {error}"))?;
        }
        world.countdown.stop();
        world.set_capacity(CapacityType::Spot, None)?;
        let stats = world.come_to_rest().await?;
        let has_crashed = stats.crashes > 0;
        Ok((stats, has_crashed))
    })
    .map_err(named)
}
