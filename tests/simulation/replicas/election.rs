//! Many elections by chance: never do two lead.

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

use super::network::{client, fault_effect};
use super::{LEASE, NAMESPACE, PlantedState, config};
use crate::clock::VirtualClock;
use crate::freezer::Freezer;

const REPLICAS: [&str; 3] = ["a", "b", "c"];
const STEPS: u32 = 3000;

/// All that ever led, with their names.
type Terms = Arc<Mutex<Vec<(String, Leadership)>>>;

struct Replica {
    name: &'static str,
    clock: VirtualClock,
    freezer: Freezer,
    lives: u32,
}

impl Replica {
    /// Stands for election, leads, steps down or loses, and is started again.
    async fn live(self, kube: FakeKube, terms: Terms, seed: u64, planted: Option<PlantedState>) {
        let Self { name, clock, freezer, mut lives } = self;
        let mut rng = StdRng::seed_from_u64(seed);
        let never = CancellationToken::new();
        let life = async {
            loop {
                lives += 1;
                let identity = format!("{name}_{lives}");
                let client = client(&kube, name, &clock, planted);
                let clock = Arc::new(clock.clone());
                let mut elector = Elector::new(client, config(&identity, planted), clock, rng.random());
                if let Some(leadership) = elector.acquire(&never).await {
                    terms.lock().unwrap().push((identity, leadership));
                    let term = Duration::from_secs(rng.random_range(1..300));
                    let backing = tokio::time::timeout(term, elector.renew_until(&never)).await;
                    if backing.is_err() && rng.random_bool(0.7) {
                        elector.release().await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..5000))).await;
            }
        };
        freezer.run(life).await;
    }
}

/// How many terms there were.
async fn elections(seed: u64, planted: Option<PlantedState>) -> Result<usize, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let clock = VirtualClock::new();
    let now = clock.clone();
    let kube = FakeKube::new(move || now.now());
    let terms = Terms::default();
    let mut tasks = JoinSet::new();
    let mut freezers = Vec::new();
    for name in REPLICAS {
        let clock = clock.right();
        clock.jump(*[0, 0, 3600, -3600, 20, -20].choose(&mut rng).unwrap());
        let freezer = Freezer::default();
        freezers.push(freezer.clone());
        let replica = Replica { name, clock, freezer, lives: 0 };
        tasks.spawn(replica.live(kube.clone(), Arc::clone(&terms), rng.random(), planted));
    }
    let leads = |at: &str| {
        let terms = terms.lock().unwrap();
        let leading: Vec<&str> =
            terms.iter().filter(|(_, leadership)| leadership.holds()).map(|(who, _)| who.as_str()).collect();
        if leading.len() > 1 {
            return Err(format!("seed {seed}, {at} after {:?}: {leading:?} lead", clock.elapsed()));
        }
        Ok(leading.len() == 1)
    };
    let weather = rng.random_bool(0.5);
    if weather {
        hostile(&kube, rng.random());
    }
    for step in 0..STEPS {
        match rng.random_range(0..150) {
            0 => kube.partition(REPLICAS.choose(&mut rng).unwrap(), true),
            1..5 => kube.partition(REPLICAS.choose(&mut rng).unwrap(), false),
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
        leads("in the storm")?;
    }
    kube.clear_faults();
    kube.set_down(false);
    for name in REPLICAS {
        kube.partition(name, false);
    }
    freezers.iter().for_each(Freezer::thaw);
    let mut ready = 0;
    for _ in 0..900 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        ready += u32::from(leads("in the calm")?);
    }
    // Terms end in the calm as well, and are followed by others.
    if ready < 500 {
        return Err(format!("seed {seed}: in the calm somebody leads in only {ready} of 900 moments"));
    }
    let terms = terms.lock().unwrap().len();
    Ok(terms)
}

/// Requests are slow, refused or lost, and so are replies.
fn hostile(kube: &FakeKube, seed: u64) {
    let rng = Mutex::new(StdRng::seed_from_u64(seed));
    kube.on_request(move |_| {
        let mut rng = rng.lock().unwrap();
        let delay = Duration::from_millis(match rng.random_range(0..20) {
            0 => rng.random_range(0..30_000),
            1..4 => rng.random_range(0..4000),
            _ => rng.random_range(0..100),
        });
        RequestFault { delay, effect: fault_effect(&mut rng, 30) }
    });
}

fn run(seed: u64, planted: Option<PlantedState>) -> Result<usize, String> {
    crate::virtually(elections(seed, planted))
}

#[test]
fn never_do_two_lead() {
    let terms = crate::each_seed(60, "never_do_two_lead", |seed| run(seed, None));
    let terms: usize = terms.iter().sum();
    println!("{terms} terms");
    assert!(terms > 0);
}

#[test]
fn a_bug_in_the_election_is_found() {
    for planted in [PlantedState::WallClockTrusted, PlantedState::MarginIgnored] {
        let found = (0..100).find_map(|seed| run(seed, Some(planted)).err());
        println!("{planted:?}: {}", found.unwrap_or_else(|| panic!("{planted:?} was not found")));
    }
}
