//! Circuit breakers under random histories.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Weather {
    Fine,
    Refuses(&'static str),
    Silent(&'static str),
    Hidden(&'static str),
    NotReady(&'static str),
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
        1 => Just(Weather::AllRefuse),
    ]
}

fn apply(world: &mut World, weather: Weather) {
    let all = ["small", "medium", "large"];
    world.refused.clear();
    world.silent.clear();
    world.hidden.clear();
    match weather {
        Weather::Fine | Weather::NotReady(_) => {}
        Weather::Refuses(at) => world.refuse(at, &all),
        Weather::Silent(at) => drop(world.silent.insert(at.into())),
        Weather::Hidden(at) => drop(world.hidden.insert(at.into())),
        Weather::AllRefuse => [AMS, FRA].map(|at| world.refuse(at, &all)).into_iter().for_each(drop),
    }
}

/// The openings of each datacenter.
#[derive(Default)]
struct Openings(BTreeMap<&'static str, Vec<Outage>>);

impl Openings {
    fn note(&mut self, world: &World) {
        for at in [AMS, FRA] {
            let last = world.fleet.datacenter_history().breaker(&at.into()).last;
            let openings = self.0.entry(at).or_default();
            let is_new = last.filter(|last| openings.last() != Some(last));
            openings.extend(is_new);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// - Between two openings of a datacenter lie at least two minutes, unless another outage is observed.
    /// - An open datacenter adds no machine; a half-open one has at most one on its way.
    /// - No VM that exists is lost while rows are missing.
    /// - The fleet that readers see is the writer's.
    #[test]
    fn breakers_do_not_flap(
        steps in prop::collection::vec((weather(), 1_u32..8, 0_u32..12), 1..14),
        strategy in prop::sample::select(vec![balanced(&[AMS, FRA]), primary_backup(&[AMS, FRA])]),
    ) {
        let mut world = World::new(group_of(0, 12, &["small", "medium", "large"], strategy));
        let mut openings = Openings::default();
        for (weather, minutes, nodes) in steps {
            apply(&mut world, weather);
            for _ in 0..minutes {
                let before = [AMS, FRA].map(|at| (world.state(at), machines(&world, at)));
                world.scale_up(nodes);
                for ((state, count), at) in before.into_iter().zip([AMS, FRA]) {
                    let added = machines(&world, at).saturating_sub(count);
                    prop_assert!(state != "open" || added == 0, "{} grew", at);
                    prop_assert!(state != "half_open" || added <= 1, "{} grew by {}", at, added);
                }
                let present = world.running(AMS) + world.running(FRA);
                world.serve();
                if matches!(weather, Weather::Hidden(_)) {
                    prop_assert!(world.running(AMS) + world.running(FRA) + 1 >= present, "VMs were lost");
                }
                match weather {
                    Weather::NotReady(at) => world.set_unready(&[at]),
                    _ => world.set_unready(&[]),
                }
                openings.note(&world);
                prop_assert_eq!(world.fleet.check_consistency(), Ok(()));
                world.hand.wait(Duration::from_mins(1));
            }
        }
        for outages in openings.0.values() {
            for pair in outages.windows(2) {
                let is_other = pair[0].cause != pair[1].cause
                    && matches!(pair[1].cause, OutageCause::NodesNotReady | OutageCause::RowsMissing);
                let apart = pair[1].at.duration_since(pair[0].at).unsigned_abs();
                prop_assert!(is_other || apart >= Duration::from_mins(2), "{:?}", pair);
            }
        }
    }
}

/// Machines of the datacenter that are neither Deleting nor Failed.
fn machines(world: &World, datacenter: &str) -> u32 {
    let reports = world.fleet.datacenter_reports(&"web".into());
    reports.iter().find(|report| report.datacenter.as_str() == datacenter).map_or(0, |report| report.machines)
}
