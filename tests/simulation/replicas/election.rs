//! Random elections under faults: at most one replica leads at a time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_kube::{FakeKube, RequestFault};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vpsie_autoscaler::clock::Clock as _;
use vpsie_autoscaler::kubernetes::{Elector, Leadership};

use super::network::{client, draw_effect};
use super::{LEASE, NAMESPACE, PlantedReplicaBug, election_config};
use crate::clock::VirtualClock;
use crate::freezer::Freezer;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Steps with injected faults.
const FAULT_STEPS: u32 = 3000;

/// All terms so far, with the identities of their leaders.
type Terms = Arc<Mutex<Vec<(String, Leadership)>>>;

/// A replica that only takes part in elections.
struct Candidate {
    name: &'static str,
    clock: VirtualClock,
    freezer: Freezer,
}

impl Candidate {
    /// Runs one elector after another: it acquires the Lease, leads for a random term, and often releases the
    /// Lease.
    async fn run(self, kube: FakeKube, terms: Terms, seed: u64, bug: Option<PlantedReplicaBug>) {
        let Self { name, clock, freezer } = self;
        let mut rng = StdRng::seed_from_u64(seed);
        let never = CancellationToken::new();
        let mut electors = 0;
        let work = async {
            loop {
                electors += 1;
                let identity = format!("{name}_{electors}");
                let client = client(&kube, name, &clock, bug);
                let clock = Arc::new(clock.clone());
                let mut elector = Elector::new(client, election_config(&identity, bug), clock, rng.random());
                if let Some(leadership) = elector.acquire(&never).await {
                    terms.lock().unwrap().push((identity, leadership));
                    let term = Duration::from_secs(rng.random_range(1..300));
                    let renewal = tokio::time::timeout(term, elector.renew_until(&never)).await;
                    if renewal.is_err() && rng.random_bool(0.7) {
                        elector.release().await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..5000))).await;
            }
        };
        freezer.run(work).await;
    }
}

/// Runs the elections of one seed. Returns the number of terms.
async fn run_elections(seed: u64, bug: Option<PlantedReplicaBug>) -> Result<usize, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let clock = VirtualClock::new();
    let now = clock.clone();
    let kube = FakeKube::new(move || now.now());
    let terms = Terms::default();
    let mut tasks = JoinSet::new();
    let mut freezers = Vec::new();
    for name in NAMES {
        let clock = clock.unskewed();
        clock.jump(*[0, 0, 3600, -3600, 20, -20].choose(&mut rng).unwrap());
        let freezer = Freezer::default();
        freezers.push(freezer.clone());
        let candidate = Candidate { name, clock, freezer };
        tasks.spawn(candidate.run(kube.clone(), Arc::clone(&terms), rng.random(), bug));
    }
    let has_leader = |period: &str| {
        let terms = terms.lock().unwrap();
        let leading: Vec<&str> = terms
            .iter()
            .filter(|(_, leadership)| leadership.holds())
            .map(|(identity, _)| identity.as_str())
            .collect();
        if leading.len() > 1 {
            return Err(format!(
                "seed {seed}: {leading:?} lead at the same time, {period}, after {:?}",
                clock.elapsed()
            ));
        }
        Ok(leading.len() == 1)
    };
    let has_api_faults = rng.random_bool(0.5);
    if has_api_faults {
        inject_api_faults(&kube, rng.random());
    }
    for step in 0..FAULT_STEPS {
        match rng.random_range(0..150) {
            0 => kube.partition(NAMES.choose(&mut rng).unwrap(), true),
            1..5 => kube.partition(NAMES.choose(&mut rng).unwrap(), false),
            5..7 => {
                let time = Duration::from_millis(rng.random_range(1000..40_000));
                freezers.choose(&mut rng).unwrap().freeze(time);
            }
            7 => kube.set_down(true),
            8..12 => kube.set_down(false),
            12 if step % 7 == 0 => drop(kube.delete("leases", NAMESPACE, LEASE)),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..700))).await;
        has_leader("with faults")?;
    }
    kube.clear_faults();
    kube.set_down(false);
    for name in NAMES {
        kube.partition(name, false);
    }
    freezers.iter().for_each(Freezer::thaw);
    let mut led = 0;
    for _ in 0..900 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        led += u32::from(has_leader("without faults")?);
    }
    // Terms also end without faults, so there is not always a leader.
    if led < 500 {
        return Err(format!("seed {seed}: without faults, a replica leads in only {led} of 900 samples"));
    }
    let terms = terms.lock().unwrap().len();
    Ok(terms)
}

/// Delays, refuses or loses requests to the API server, and loses replies.
fn inject_api_faults(kube: &FakeKube, seed: u64) {
    let rng = Mutex::new(StdRng::seed_from_u64(seed));
    kube.on_request(move |_| {
        let mut rng = rng.lock().unwrap();
        let delay = Duration::from_millis(match rng.random_range(0..20) {
            0 => rng.random_range(0..30_000),
            1..4 => rng.random_range(0..4000),
            _ => rng.random_range(0..100),
        });
        RequestFault { delay, effect: draw_effect(&mut rng, 30) }
    });
}

fn run(seed: u64, bug: Option<PlantedReplicaBug>) -> Result<usize, String> {
    crate::run_in_virtual_time(run_elections(seed, bug))
}

#[test]
fn at_most_one_replica_leads_under_faults() {
    let terms = crate::run_seeds(12, "at_most_one_replica_leads", |seed| run(seed, None));
    let terms: usize = terms.iter().sum();
    println!("{terms} terms");
    assert!(terms > 0);
}

#[test]
fn a_planted_bug_in_the_election_is_found() {
    for (bug, known_seed) in [(PlantedReplicaBug::WallClockTrusted, 1), (PlantedReplicaBug::MarginIgnored, 0)]
    {
        crate::find_planted_bug(bug, known_seed, |seed| run(seed, Some(bug)));
    }
}
