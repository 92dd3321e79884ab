//! Two replicas, VPSie, an API server and Cluster Autoscaler, with what goes wrong between them, from one seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ca_model::{Autoscaler, Event, LoopResult, Memory, Minor, Pod};
use fake_kube::{FakeKube, RequestFault};
use k8s_openapi::api::core::v1::ConfigMap;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use vpsie_autoscaler::api::VPSieNode;
use vpsie_autoscaler::clock::Clock as _;
use vpsie_autoscaler::fleet::{Hostname, Policy, Records};
use vpsie_autoscaler::simulator::{Shapes, Simulator, SimulatorConfig, VmKind};
use vpsie_autoscaler::store::records_of;

use super::PlantedState;
use super::network::{Led, fault_effect};
use super::replica::{Replica, Serving};
use super::{LEASE, NAMESPACE};
use crate::checks;
use crate::clock::VirtualClock;
use crate::freezer::Freezer;
use crate::hazards::Hazards;
use crate::kubelets::kubelets;
use crate::network::{CaChannel, KnownPools, Violations};
use crate::setting::{autoscaler, base};

const NAMES: [&str; 2] = ["a", "b"];
const STEPS: u32 = 100;
const STEP: Duration = Duration::from_secs(20);
/// Two virtual hours and a half of fair weather in which everything must come to rest.
const REST_STEPS: u32 = 450;

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stats {
    /// Changes of who leads.
    transitions: u64,
    crashes: u64,
    freezes: u64,
    created: u64,
    deleted: u64,
}

struct World {
    seed: u64,
    rng: StdRng,
    clock: VirtualClock,
    simulator: Simulator,
    kube: FakeKube,
    /// A host each, and the process on it, if one runs.
    replicas: Vec<(Replica, Option<JoinHandle<()>>)>,
    serving: Serving,
    channel: CaChannel,
    cluster: Memory,
    autoscaler: Autoscaler,
    minor: Minor,
    calm: bool,
    stats: Stats,
    traced: bool,
}

impl World {
    fn new(seed: u64, planted: Option<PlantedState>) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let clock = VirtualClock::new();
        let shapes = Shapes::random(&mut rng);
        let config = SimulatorConfig { seed, shapes, ..SimulatorConfig::default() };
        let simulator = Simulator::new(config, Arc::new(clock.clone())).map_err(|e| e.to_string())?;
        let now = clock.clone();
        let kube = FakeKube::new(move || now.now());
        let violations = Violations::default();
        let serving = Serving::default();
        let led = Led::default();
        let channel = CaChannel {
            server: Arc::default(),
            violations: violations.clone(),
            bug: None,
            known: Arc::new(Mutex::new(KnownPools::default())),
            freezer: Arc::default(),
            increases: None,
        };
        let replica = |name| {
            let own = clock.right();
            own.jump(*[0, 0, 3, -3, 20, -20].choose(&mut rng).unwrap());
            Replica {
                name,
                clock: own,
                freezer: Freezer::default(),
                kube: kube.clone(),
                transport: simulator.transport(),
                base: base(shapes),
                policy: Policy { running_when_listed: seed.is_multiple_of(2), ..Policy::default() },
                channel: channel.clone(),
                serving: serving.clone(),
                led: led.clone(),
                violations: violations.clone(),
                planted,
            }
        };
        let replicas = NAMES.map(replica).into_iter().map(|replica| (replica, None)).collect();
        let minor = *[Minor::V1_28, Minor::V1_33, Minor::V1_36].choose(&mut rng).unwrap();
        Ok(Self {
            seed,
            clock,
            simulator,
            kube,
            replicas,
            serving,
            autoscaler: autoscaler(minor, &channel, seed),
            channel,
            cluster: Memory::default(),
            minor,
            calm: false,
            stats: Stats::default(),
            traced: std::env::var_os("TRACE").is_some(),
            rng,
        })
    }

    async fn run(mut self) -> Result<Stats, String> {
        if self.traced {
            let logs = tracing_subscriber::fmt().without_time().with_ansi(false).with_test_writer();
            drop(logs.with_max_level(tracing::Level::INFO).try_init());
        }
        self.start_all();
        if self.rng.random_bool(0.7) {
            self.hostile();
        }
        for step in 0..STEPS {
            self.inject_faults()?;
            self.step().await.map_err(|why| format!("seed {}, step {step}: {why}", self.seed))?;
        }
        self.end_faults();
        for (load, name) in [(3, "three pods"), (0, "no pods")] {
            self.cluster.deploy("web", load, self.pod(1500));
            self.cluster.deploy("batch", 0, self.pod(500));
            let mut last = Err(String::new());
            for step in 0..REST_STEPS {
                self.step().await.map_err(|why| format!("seed {}, rest step {step}: {why}", self.seed))?;
                last = self.rested(load);
                if last.is_ok() {
                    break;
                }
            }
            last.map_err(|why| format!("seed {}: 5: does not come to rest with {name}: {why}", self.seed))?;
        }
        let lease = self.kube.get("leases", NAMESPACE, LEASE).unwrap_or_default();
        self.stats.transitions += lease["spec"]["leaseTransitions"].as_u64().unwrap_or_default();
        let gone = self.simulator.gone();
        self.stats.deleted = gone.iter().filter(|vm| vm.vm.kind == VmKind::Worker).count() as u64;
        self.stats.created = self.stats.deleted + self.simulator.worker_count() as u64;
        Ok(self.stats)
    }

    fn trace(&self, what: &dyn std::fmt::Debug) {
        if self.traced {
            println!("{:>7.1}s {what:?}", self.clock.elapsed().as_secs_f64());
        }
    }

    fn pod(&self, cpu_millis: i64) -> Pod {
        Pod::new("", cpu_millis, 512, self.clock.now())
    }

    fn start_all(&mut self) {
        let longest = if self.calm { Duration::from_hours(1000) } else { Duration::from_mins(20) };
        for (replica, task) in &mut self.replicas {
            if task.is_none() {
                *task = Some(tokio::spawn(replica.clone().live(self.rng.random(), longest)));
            }
        }
    }

    fn crash(&mut self, which: usize) {
        let (replica, task) = &mut self.replicas[which];
        if let Some(task) = task.take() {
            task.abort();
            replica.crashed();
            self.stats.crashes += 1;
        }
    }

    fn inject_faults(&mut self) -> Result<(), String> {
        let which = self.rng.random_range(0..NAMES.len());
        let name = NAMES[which];
        if self.rng.random_bool(0.5) {
            self.start_all();
        }
        match self.rng.random_range(0..24) {
            0..5 => {
                let web = self.rng.random_range(0..9);
                let batch = self.rng.random_range(0..6);
                self.trace(&("load", web, batch));
                self.cluster.deploy("web", web, self.pod(1500));
                self.cluster.deploy("batch", batch, self.pod(500));
            }
            5..9 => {
                let time = Duration::from_millis(self.rng.random_range(1000..40_000));
                // Rather the one that acts.
                let serves = self.serving.now().filter(|_| self.rng.random_bool(0.7));
                let freezer = serves.map_or_else(|| self.replicas[which].0.freezer.clone(), |s| s.freezer);
                self.trace(&("freeze", time));
                freezer.freeze(time);
                self.stats.freezes += 1;
            }
            9..11 => {
                self.trace(&("crash", name));
                self.crash(which);
            }
            11 | 12 => {
                self.trace(&("cut off", name));
                self.kube.partition(name, true);
            }
            13..15 => NAMES.iter().for_each(|name| self.kube.partition(name, false)),
            15 => self.kube.set_down(true),
            16 | 17 => self.kube.set_down(false),
            18 if self.rng.random_bool(0.3) => {
                self.trace(&"the Lease is deleted");
                let lease = self.kube.get("leases", NAMESPACE, LEASE).unwrap_or_default();
                self.stats.transitions += lease["spec"]["leaseTransitions"].as_u64().unwrap_or_default();
                drop(self.kube.delete("leases", NAMESPACE, LEASE));
            }
            19 => {
                self.trace(&"Cluster Autoscaler restarts");
                self.autoscaler = autoscaler(self.minor, &self.channel, self.rng.random());
            }
            20 | 21 => {
                let effect = ["lost", "not-sent", "status=500", "status=503 done", "delay=20s", "delay=45s"]
                    .choose(&mut self.rng)
                    .unwrap();
                let text = format!("* /** {effect} count={} p=0.7", self.rng.random_range(1..5));
                self.trace(&("fault", &text));
                self.simulator.add_fault(text.parse().map_err(|e| format!("{text}: {e:?}"))?);
            }
            22 => self.simulator.clear_faults(),
            _ => {}
        }
        Ok(())
    }

    /// Requests to the API server are slow, refused or lost, and so are replies. What changes something is not
    /// slower than the margin between renew deadline and lease duration.
    fn hostile(&mut self) {
        let rng = Mutex::new(StdRng::seed_from_u64(self.rng.random()));
        self.kube.on_request(move |asked| {
            let mut rng = rng.lock().unwrap();
            let slowest = if asked.verb.writes() && asked.plural != "leases" { 4500 } else { 20_000 };
            let delay = Duration::from_millis(match rng.random_range(0..40) {
                0 => rng.random_range(0..slowest),
                1..4 => rng.random_range(0..1500),
                _ => rng.random_range(0..50),
            });
            RequestFault { delay, effect: fault_effect(&mut rng, 60) }
        });
    }

    fn end_faults(&mut self) {
        self.trace(&"calm");
        self.calm = true;
        self.simulator.clear_faults();
        self.kube.clear_faults();
        self.kube.set_down(false);
        for name in NAMES {
            self.kube.partition(name, false);
        }
        (0..NAMES.len()).for_each(|which| self.crash(which));
        self.start_all();
    }

    async fn step(&mut self) -> Result<(), String> {
        let now = self.clock.now();
        let serves = self.serving.now().filter(|serves| !serves.freezer.frozen());
        kubelets(&self.cluster, &self.simulator, now, serves.as_ref().map(|serves| &serves.handle), false)
            .await;
        self.cluster.step(now);
        let report = self.autoscaler.loop_once(&self.cluster, now).await;
        if !report.events.is_empty() {
            self.trace(&(&report.outcome, &report.events));
        }
        if let LoopResult::Crashed(why) = &report.outcome {
            return Err(format!("8: Cluster Autoscaler panics: {why}"));
        }
        self.promised(&report.events)?;
        // At odd moments, so that what is cut off or freezes is at something.
        tokio::time::sleep(STEP.mul_f64(0.5 + self.rng.random::<f64>())).await;
        self.check().await
    }

    /// What was acknowledged is recorded: invariant 2.
    fn promised(&self, events: &[Event]) -> Result<(), String> {
        let machines = self.recorded().machines;
        for event in events {
            let Event::ScaledUp { group, delta } = event else { continue };
            let there = machines.iter().filter(|m| m.pool.to_string() == *group).count();
            if (there as i64) < *delta {
                return Err(format!(
                    "2: {group} was increased by {delta}, and {there} machines are recorded"
                ));
            }
        }
        Ok(())
    }

    /// What is recorded now, past all faults.
    fn recorded(&self) -> Records {
        let nodes = self.kube.all::<VPSieNode>();
        let maps = self.kube.all::<ConfigMap>();
        records_of(&nodes, &maps)
    }

    async fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.channel.violations.first() {
            return Err(violation);
        }
        checks::money(&self.simulator, &self.recorded(), &Hazards::default())?;
        let Some(serves) = self.serving.now().filter(|serves| !serves.freezer.frozen()) else {
            return Ok(());
        };
        checks::answers(&self.channel).await?;
        if self.calm {
            checks::memory(&serves.handle, &self.recorded())?;
        }
        Ok(())
    }

    fn rested(&self, load: usize) -> Result<(), String> {
        checks::at_rest(&self.simulator, &self.recorded())?;
        if self.cluster.pending() > 0 {
            return Err(format!("{} pods are pending", self.cluster.pending()));
        }
        let workers: Vec<Hostname> = self
            .simulator
            .vms()
            .into_iter()
            .filter(|vm| vm.vm.kind == VmKind::Worker)
            .map(|vm| Hostname::new(&vm.vm.hostname))
            .collect();
        if load == 0 && !workers.is_empty() {
            return Err(format!("{workers:?} are left"));
        }
        Ok(())
    }
}

fn run(seed: u64, planted: Option<PlantedState>) -> Result<Stats, String> {
    crate::virtually(async { World::new(seed, planted)?.run().await })
}

#[test]
fn one_replica_acts_and_nothing_is_lost() {
    let runs = crate::each_seed(40, "one_replica_acts", |seed| run(seed, None));
    let mut total = Stats::default();
    for stats in &runs {
        total.transitions += stats.transitions;
        total.crashes += stats.crashes;
        total.freezes += stats.freezes;
        total.created += stats.created;
        total.deleted += stats.deleted;
    }
    println!("{total:?}");
    assert!(runs.len() < 40 || total.transitions > 100 && total.created > 0 && total.deleted > 0);
}

#[test]
fn a_second_actor_is_found() {
    for planted in [PlantedState::NoFence, PlantedState::WallClockTrusted, PlantedState::MarginIgnored] {
        let found = (0..200).find_map(|seed| run(seed, Some(planted)).err().map(|why| (seed, why)));
        let (seed, why) = found.unwrap_or_else(|| panic!("{planted:?} was not found in 200 seeds"));
        println!("{planted:?}: found by seed {seed}: {}", why.lines().next().unwrap_or_default());
        assert!(why.contains(": 9: "), "{why}");
    }
}

#[test]
fn the_same_seed_does_the_same_with_replicas() {
    assert_eq!(run(5, None), run(5, None));
}
