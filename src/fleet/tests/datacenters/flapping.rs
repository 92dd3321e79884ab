//! Circuit breakers under random histories.

use proptest::prelude::*;

use super::*;

const OFFERS_HERE: [&str; 3] = ["small", "medium", "large"];
/// Maximum of openings in an hour: an opening stays for 2, 4, 8, 16 and 30 minutes.
const MAX_OPENINGS: usize = 6;
/// Maximum time until a datacenter in which machines are wanted is closed after the last fault: the last attempt fails after the
/// create timeout, and the next one comes after half an hour at most.
const MAX_RECOVERY_MINUTES: usize = 10 + 30 + 5;

#[derive(Clone, Copy, Debug)]
enum Weather {
    Fine,
    Refuses(&'static str),
    Silent(&'static str),
    Hidden(&'static str),
    NotReady(&'static str),
    NeverJoins(&'static str),
    AllRefuse,
}

fn weather() -> impl Strategy<Value = Weather> {
    let at = || prop::sample::select(vec![AMS, FRA]);
    prop_oneof![
        3 => Just(Weather::Fine),
        2 => at().prop_map(Weather::Refuses),
        1 => at().prop_map(Weather::Silent),
        1 => at().prop_map(Weather::Hidden),
        1 => at().prop_map(Weather::NotReady),
        1 => at().prop_map(Weather::NeverJoins),
        1 => Just(Weather::AllRefuse),
    ]
}

fn strategies() -> impl Strategy<Value = Distribution> {
    prop::sample::select(vec![balanced(&[AMS, FRA]), primary_backup(&[AMS, FRA])])
}

fn histories() -> impl Strategy<Value = Vec<(Weather, u32, u32)>> {
    prop::collection::vec((weather(), 1_u32..12, 0_u32..12), 1..14)
}

fn apply(world: &mut World, weather: Weather) {
    world.refused.clear();
    world.silent.clear();
    world.hidden.clear();
    world.unjoined.clear();
    match weather {
        Weather::Fine | Weather::NotReady(_) => {}
        Weather::Refuses(at) => world.refuse(at, &OFFERS_HERE),
        Weather::Silent(at) => drop(world.silent.insert(at.into())),
        Weather::Hidden(at) => drop(world.hidden.insert(at.into())),
        Weather::NeverJoins(at) => drop(world.unjoined.insert(at.into())),
        Weather::AllRefuse => {
            [AMS, FRA].map(|at| world.refuse(at, &OFFERS_HERE)).into_iter().for_each(drop);
        }
    }
}

/// A minute in which Nodes register, VPSie serves, and machines that never joined are deleted.
fn minute(world: &mut World, weather: Weather) {
    world.serve();
    world.register();
    world.end_unjoined();
    match weather {
        Weather::NotReady(at) => world.set_unready(&[at]),
        _ => world.set_unready(&[]),
    }
    assert_eq!(world.fleet.check_consistency(), Ok(()));
    world.hand.wait(Duration::from_mins(1));
}

/// The openings of a datacenter, and the times at which it closed early because creations failed everywhere.
#[derive(Default)]
struct Openings {
    outages: Vec<Outage>,
    early: Vec<Timestamp>,
}

impl Openings {
    fn note(&mut self, world: &World, at: &str) {
        let breaker = world.fleet.datacenter_history().breaker(&at.into());
        let is_new = breaker.last.filter(|last| self.outages.last() != Some(last));
        self.outages.extend(is_new);
        let Some(last) = self.outages.last() else { return };
        let age = world.hand.now.duration_since(last.at).unsigned_abs();
        let closed_early = breaker.state.is_closed() && age < Duration::from_mins(2);
        if closed_early && self.early.last().is_none_or(|early| *early < last.at) {
            self.early.push(world.hand.now);
        }
    }

    /// Checks the number of openings in each hour.
    fn check(&self) -> Result<(), String> {
        for first in &self.outages {
            let is_within = |time: &Timestamp| {
                *time >= first.at && time.duration_since(first.at).unsigned_abs() < Duration::from_hours(1)
            };
            let openings = self.outages.iter().filter(|outage| is_within(&outage.at)).count();
            let early = self.early.iter().filter(|time| is_within(time)).count();
            if openings > MAX_OPENINGS + early {
                return Err(format!("{openings} openings from {}: {:?}", first.at, self.outages));
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// - Between two openings of a datacenter lie at least two minutes, unless another outage is observed, and there are few in
    ///   an hour.
    /// - An open datacenter adds no machine; a half-open one has at most one under trial.
    /// - No VM that exists is lost while rows are missing.
    /// - The fleet that readers see is the writer's.
    #[test]
    fn breakers_do_not_flap(steps in histories(), strategy in strategies()) {
        let mut world = World::new(group_of(0, 12, &OFFERS_HERE, strategy));
        world.hand.policy.running_when_listed = false;
        let mut openings = [Openings::default(), Openings::default()];
        for (weather, minutes, nodes) in steps {
            apply(&mut world, weather);
            for _ in 0..minutes {
                let before = [AMS, FRA].map(|at| (world.state(at), machines(&world, at)));
                world.scale_up(nodes);
                for ((state, count), at) in before.into_iter().zip([AMS, FRA]) {
                    let added = machines(&world, at).saturating_sub(count);
                    prop_assert!(state != "open" || added == 0, "{} grew", at);
                    prop_assert!(state != "half_open" || added <= 1, "{} grew by {}", at, added);
                    prop_assert!(tried(&world, at) <= 1, "{} machines are tried in {}", tried(&world, at), at);
                }
                let present = world.running(AMS) + world.running(FRA);
                minute(&mut world, weather);
                if matches!(weather, Weather::Hidden(_)) {
                    // The only VM of a datacenter is kept for ten minutes.
                    prop_assert!(world.running(AMS) + world.running(FRA) + 1 >= present, "VMs were lost");
                }
                for (openings, at) in openings.iter_mut().zip([AMS, FRA]) {
                    openings.note(&world, at);
                }
            }
        }
        for openings in openings {
            for pair in openings.outages.windows(2) {
                let is_other = pair[0].cause != pair[1].cause
                    && matches!(pair[1].cause, OutageCause::NodesNotReady | OutageCause::RowsMissing);
                let apart = pair[1].at.duration_since(pair[0].at).unsigned_abs();
                prop_assert!(is_other || apart >= Duration::from_mins(2), "{:?}", pair);
            }
            prop_assert_eq!(openings.check(), Ok(()));
        }
    }

    /// A fault that comes and goes opens a datacenter a few times in an hour, however many machines are wanted there.
    #[test]
    fn a_flickering_fault_opens_few_times(
        weather in prop::sample::select(vec![
            Weather::Refuses(AMS),
            Weather::Silent(AMS),
            Weather::NeverJoins(AMS),
            Weather::NotReady(AMS),
        ]),
        is_fine in prop::collection::vec(prop::bool::weighted(0.2), 120),
    ) {
        let mut world = World::new(group_of(0, 400, &OFFERS_HERE, balanced(&[AMS, FRA])));
        world.run(1, 8);
        world.hand.policy.running_when_listed = false;
        let mut openings = Openings::default();
        for is_fine in is_fine {
            let weather = if is_fine { Weather::Fine } else { weather };
            apply(&mut world, weather);
            for offer in OFFERS_HERE {
                let (_, target, max) = world.limits(AMS, offer);
                if max > target {
                    world.hand.increase(&mut world.fleet, &pool(AMS, offer), 1).unwrap();
                }
            }
            minute(&mut world, weather);
            world.remove_failed();
            openings.note(&world, AMS);
        }
        prop_assert_eq!(openings.check(), Ok(()));
    }

    /// After the last fault, every datacenter in which machines are wanted is closed within a bound, and stays so.
    #[test]
    fn datacenters_close_after_the_last_fault(steps in histories(), strategy in strategies()) {
        let mut world = World::new(group_of(0, 12, &OFFERS_HERE, strategy.clone()));
        world.hand.policy.running_when_listed = false;
        for (weather, minutes, nodes) in steps {
            apply(&mut world, weather);
            for _ in 0..minutes {
                world.scale_up(nodes);
                minute(&mut world, weather);
            }
        }
        apply(&mut world, Weather::Fine);
        // A backup is tried only when it is needed.
        let wanted = match strategy.strategy {
            DatacenterStrategy::PrimaryBackup => &[AMS][..],
            DatacenterStrategy::Balanced | DatacenterStrategy::Weighted { .. } => &[AMS, FRA],
        };
        world.fleet.declare(vec![group_of(0, 200, &OFFERS_HERE, strategy)]);
        for _ in 0..MAX_RECOVERY_MINUTES {
            for at in wanted {
                // A pod that is bound to the datacenter.
                let (_, target, max) = world.limits(at, "small");
                if world.state(at) != "closed" && max > target {
                    world.hand.increase(&mut world.fleet, &pool(at, "small"), 1).unwrap();
                }
            }
            minute(&mut world, Weather::Fine);
            world.remove_failed();
        }
        for _ in 0..30 {
            let states: Vec<&str> = wanted.iter().map(|at| world.state(at)).collect();
            prop_assert!(states.iter().all(|state| *state == "closed"), "{:?}", states);
            minute(&mut world, Weather::Fine);
        }
    }
}

/// Machines of the datacenter that are neither Deleting nor Failed.
fn machines(world: &World, datacenter: &str) -> u32 {
    let reports = world.fleet.datacenter_reports(&"web".into());
    reports.iter().find(|report| report.datacenter.as_str() == datacenter).map_or(0, |report| report.machines)
}

/// Machines of a half-open datacenter that were created since it is half-open.
fn tried(world: &World, datacenter: &str) -> usize {
    let DatacenterState::HalfOpen { since } = world.fleet.datacenter_history().state(&datacenter.into())
    else {
        return 0;
    };
    let is_tried = |machine: &&Machine| {
        machine.pool.datacenter.as_str() == datacenter
            && machine.created_at > since
            && !matches!(machine.phase, Phase::Failed { .. } | Phase::Deleting { .. })
    };
    world.fleet.machines().filter(is_tried).count()
}

/// What happened in the primary while it was out.
#[derive(Default)]
struct Cycle {
    /// The waits of its circuit breaker, in the order of its openings.
    waits: Vec<Duration>,
    /// Machines that were tried while it was half-open.
    tried: u32,
}

/// Runs loops with one more pending pod a minute, for at most the minutes, or until VPSie refuses nothing and the circuit
/// breaker of the primary is closed. While it is open no machine is added, and while it is half-open one at a time.
fn run_outage(world: &mut World, minutes: u32, pods: &mut u32) -> Cycle {
    let mut cycle = Cycle::default();
    let mut last = None;
    for _ in 0..minutes {
        *pods += 1;
        for _ in 0..6 {
            let (state, before) = (world.state(AMS), machines(world, AMS));
            world.scale_up(*pods);
            let added = machines(world, AMS).saturating_sub(before);
            match state {
                "open" => assert_eq!(added, 0),
                "half_open" => {
                    assert!(added <= 1, "{added}");
                    cycle.tried += added;
                }
                _ => {}
            }
            world.serve();
            if let DatacenterState::Open { since, until: Some(until) } =
                world.fleet.datacenter_history().state(&AMS.into())
                && last != Some(since)
            {
                last = Some(since);
                cycle.waits.push(until.duration_since(since).unsigned_abs());
            }
            world.hand.wait(Duration::from_secs(10));
        }
        if world.refused.is_empty() && world.state(AMS) == "closed" {
            break;
        }
    }
    cycle
}

#[test]
fn three_outages_in_a_row_do_not_flap() {
    let offers = ["small", "medium"];
    let mut world = World::new(group_of(0, 400, &offers, primary_backup(&[AMS, FRA])));
    let mut pods = 0;
    let mut waits = Vec::new();
    for _ in 0..3 {
        world.refuse(AMS, &offers);
        let outage = run_outage(&mut world, 20, &mut pods);
        assert_ne!(world.state(AMS), "closed");
        assert_eq!(outage.tried as usize + 1, outage.waits.len(), "each attempt is one machine, and fails");
        waits.extend(outage.waits);
        world.refused.clear();
        let after = run_outage(&mut world, 40, &mut pods);
        assert_eq!((world.state(AMS), after.tried), ("closed", 1), "one machine is tried, then it is open");
        let before = world.running(AMS);
        pods += 4;
        world.run(6, pods);
        assert_eq!((world.state(AMS), world.running(AMS)), ("closed", before + 4));
    }
    let minutes: Vec<u64> = waits.iter().map(|wait| wait.as_secs() / 60).collect();
    assert_eq!(minutes, [2, 4, 8, 16, 30], "each failure, and each outage within an hour, doubles the wait");
}
