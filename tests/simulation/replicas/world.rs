//! One run with two replicas, VPSie, an API server and Cluster Autoscaler, with injected faults.

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

use super::PlantedReplicaBug;
use super::network::{PastLeaders, draw_effect};
use super::replica::{Endpoint, Replica};
use super::{LEASE, NAMESPACE};
use crate::checks;
use crate::clock::VirtualClock;
use crate::fixtures::{base_url, new_autoscaler};
use crate::freezer::Freezer;
use crate::hazards::Hazards;
use crate::network::{CaChannel, KnownPools, Violations};
use crate::nodes::update_nodes;

const NAMES: [&str; 2] = ["a", "b"];
/// Steps with injected faults.
const FAULT_STEPS: u32 = 100;
/// Mean time of a step.
const STEP: Duration = Duration::from_secs(20);
/// Steps without faults in which the cluster must come to rest: two and a half hours.
const REST_STEPS: u32 = 450;

/// Counts of events in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ReplicaStats {
    /// Changes of the leader.
    transitions: u64,
    crashes: u64,
    freezes: u64,
    created: u64,
    deleted: u64,
}

/// Two replicas with their API server, VPSie, the cluster and Cluster Autoscaler.
struct ReplicaWorld {
    seed: u64,
    rng: StdRng,
    clock: VirtualClock,
    simulator: Simulator,
    kube: FakeKube,
    /// Each host, and the task of its processes, if it runs.
    replicas: Vec<(Replica, Option<JoinHandle<()>>)>,
    endpoint: Endpoint,
    channel: CaChannel,
    cluster: Memory,
    autoscaler: Autoscaler,
    minor: Minor,
    /// Whether fault injection has ended.
    fault_free: bool,
    stats: ReplicaStats,
    traced: bool,
}

impl ReplicaWorld {
    fn new(seed: u64, bug: Option<PlantedReplicaBug>) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let clock = VirtualClock::new();
        let shapes = Shapes::random(&mut rng);
        let config = SimulatorConfig { seed, shapes, ..SimulatorConfig::default() };
        let simulator = Simulator::new(config, Arc::new(clock.clone())).map_err(|e| e.to_string())?;
        let server_clock = clock.clone();
        let kube = FakeKube::new(move || server_clock.now());
        let violations = Violations::default();
        let endpoint = Endpoint::default();
        let past_leaders = PastLeaders::default();
        let channel = CaChannel {
            server: Arc::default(),
            violations: violations.clone(),
            bug: None,
            known: Arc::new(Mutex::new(KnownPools::default())),
            freezer: Arc::default(),
            increases: None,
        };
        let replica = |name| {
            let own_clock = clock.unskewed();
            own_clock.jump(*[0, 0, 3, -3, 20, -20].choose(&mut rng).unwrap());
            Replica {
                name,
                clock: own_clock,
                freezer: Freezer::default(),
                kube: kube.clone(),
                transport: simulator.transport(),
                base: base_url(shapes),
                policy: Policy { running_when_listed: seed.is_multiple_of(2), ..Policy::default() },
                channel: channel.clone(),
                endpoint: endpoint.clone(),
                past_leaders: past_leaders.clone(),
                violations: violations.clone(),
                bug,
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
            endpoint,
            autoscaler: new_autoscaler(minor, &channel, seed),
            channel,
            cluster: Memory::default(),
            minor,
            fault_free: false,
            stats: ReplicaStats::default(),
            traced: std::env::var_os("TRACE").is_some(),
            rng,
        })
    }

    async fn run(mut self) -> Result<ReplicaStats, String> {
        if self.traced {
            let logs = tracing_subscriber::fmt().without_time().with_ansi(false).with_test_writer();
            drop(logs.with_max_level(tracing::Level::INFO).try_init());
        }
        self.start_all();
        if self.rng.random_bool(0.7) {
            self.inject_api_faults();
        }
        for step in 0..FAULT_STEPS {
            self.inject_faults()?;
            self.step().await.map_err(|error| format!("seed {}, step {step}: {error}", self.seed))?;
        }
        self.end_faults();
        for (load, name) in [(3, "three pods"), (0, "no pods")] {
            self.cluster.deploy("web", load, self.new_pod(1500));
            self.cluster.deploy("batch", 0, self.new_pod(500));
            let mut at_rest = Err(String::new());
            for step in 0..REST_STEPS {
                self.step()
                    .await
                    .map_err(|error| format!("seed {}, rest step {step}: {error}", self.seed))?;
                at_rest = self.check_rest(load);
                if at_rest.is_ok() {
                    break;
                }
            }
            at_rest.map_err(|error| {
                format!("seed {}: 5: the cluster does not come to rest with {name}: {error}", self.seed)
            })?;
        }
        let lease = self.kube.get("leases", NAMESPACE, LEASE).unwrap_or_default();
        self.stats.transitions += lease["spec"]["leaseTransitions"].as_u64().unwrap_or_default();
        let gone = self.simulator.gone();
        self.stats.deleted = gone.iter().filter(|vm| vm.vm.kind == VmKind::Worker).count() as u64;
        self.stats.created = self.stats.deleted + self.simulator.worker_count() as u64;
        Ok(self.stats)
    }

    /// Prints an event with its time, if `TRACE` is set.
    fn trace(&self, event: &dyn std::fmt::Debug) {
        if self.traced {
            println!("{:>7.1}s {event:?}", self.clock.elapsed().as_secs_f64());
        }
    }

    fn new_pod(&self, cpu_millis: i64) -> Pod {
        Pod::new("", cpu_millis, 512, self.clock.now())
    }

    /// Starts the replicas that do not run.
    fn start_all(&mut self) {
        let max_term = if self.fault_free { Duration::from_hours(1000) } else { Duration::from_mins(20) };
        for (replica, task) in &mut self.replicas {
            if task.is_none() {
                *task = Some(tokio::spawn(replica.clone().run(self.rng.random(), max_term)));
            }
        }
    }

    fn crash(&mut self, index: usize) {
        let (replica, task) = &mut self.replicas[index];
        if let Some(task) = task.take() {
            task.abort();
            replica.note_crash();
            self.stats.crashes += 1;
        }
    }

    /// Injects at most one event before a step. Starts ended replicas with probability 1/2.
    fn inject_faults(&mut self) -> Result<(), String> {
        let index = self.rng.random_range(0..NAMES.len());
        let name = NAMES[index];
        if self.rng.random_bool(0.5) {
            self.start_all();
        }
        match self.rng.random_range(0..24) {
            0..5 => {
                let web = self.rng.random_range(0..9);
                let batch = self.rng.random_range(0..6);
                self.trace(&("load", web, batch));
                self.cluster.deploy("web", web, self.new_pod(1500));
                self.cluster.deploy("batch", batch, self.new_pod(500));
            }
            5..9 => {
                let time = Duration::from_millis(self.rng.random_range(1000..40_000));
                // The serving replica, with a probability of at least 0.7.
                let serving = self.endpoint.replica().filter(|_| self.rng.random_bool(0.7));
                let freezer =
                    serving.map_or_else(|| self.replicas[index].0.freezer.clone(), |replica| replica.freezer);
                self.trace(&("pause", time));
                freezer.freeze(time);
                self.stats.freezes += 1;
            }
            9..11 => {
                self.trace(&("crash", name));
                self.crash(index);
            }
            11 | 12 => {
                self.trace(&("partition", name));
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
                self.autoscaler = new_autoscaler(self.minor, &self.channel, self.rng.random());
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

    /// Delays, refuses or loses requests to the API server, and loses replies. Writes are delayed by less
    /// than the time between renew deadline and lease duration.
    fn inject_api_faults(&mut self) {
        let rng = Mutex::new(StdRng::seed_from_u64(self.rng.random()));
        self.kube.on_request(move |request| {
            let mut rng = rng.lock().unwrap();
            let is_write = request.verb.writes() && request.plural != "leases";
            let max_delay = if is_write { 4500 } else { 20_000 };
            let delay = Duration::from_millis(match rng.random_range(0..40) {
                0 => rng.random_range(0..max_delay),
                1..4 => rng.random_range(0..1500),
                _ => rng.random_range(0..50),
            });
            RequestFault { delay, effect: draw_effect(&mut rng, 60) }
        });
    }

    /// Ends all faults and restarts all replicas.
    fn end_faults(&mut self) {
        self.trace(&"faults end");
        self.fault_free = true;
        self.simulator.clear_faults();
        self.kube.clear_faults();
        self.kube.set_down(false);
        for name in NAMES {
            self.kube.partition(name, false);
        }
        (0..NAMES.len()).for_each(|index| self.crash(index));
        self.start_all();
    }

    /// Runs one loop of Cluster Autoscaler, lets time pass, and checks the invariants.
    async fn step(&mut self) -> Result<(), String> {
        let now = self.clock.now();
        let serving = self.endpoint.replica().filter(|replica| !replica.freezer.is_frozen());
        let handle = serving.as_ref().map(|replica| &replica.handle);
        update_nodes(&self.cluster, &self.simulator, now, handle, false).await;
        self.cluster.step(now);
        let report = self.autoscaler.loop_once(&self.cluster, now).await;
        if !report.events.is_empty() {
            self.trace(&(&report.outcome, &report.events));
        }
        if let LoopResult::Crashed(error) = &report.outcome {
            return Err(format!("8: Cluster Autoscaler panics: {error}"));
        }
        self.check_acknowledged(&report.events)?;
        // Random times, so that pauses and partitions interrupt requests.
        tokio::time::sleep(STEP.mul_f64(0.5 + self.rng.random::<f64>())).await;
        self.check().await
    }

    /// Checks that acknowledged increases are recorded: invariant 2.
    fn check_acknowledged(&self, events: &[Event]) -> Result<(), String> {
        let machines = self.records().machines;
        for event in events {
            let Event::ScaledUp { group, delta } = event else { continue };
            let recorded = machines.iter().filter(|m| m.pool.to_string() == *group).count();
            if (recorded as i64) < *delta {
                return Err(format!(
                    "2: an increase of {group} by {delta} was acknowledged, and {recorded} machines are recorded"
                ));
            }
        }
        Ok(())
    }

    /// Reads the records without faults.
    fn records(&self) -> Records {
        let nodes = self.kube.all::<VPSieNode>();
        let maps = self.kube.all::<ConfigMap>();
        records_of(&nodes, &maps)
    }

    /// Checks all invariants.
    async fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.channel.violations.first() {
            return Err(violation);
        }
        checks::check_vms(&self.simulator, &self.records(), &Hazards::default())?;
        let Some(serving) = self.endpoint.replica().filter(|replica| !replica.freezer.is_frozen()) else {
            return Ok(());
        };
        checks::check_replies(&self.channel).await?;
        if self.fault_free {
            checks::check_memory(&serving.handle, &self.records())?;
        }
        Ok(())
    }

    /// Checks that the cluster is at rest with `load` pods.
    fn check_rest(&self, load: usize) -> Result<(), String> {
        checks::check_at_rest(&self.simulator, &self.records())?;
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
            return Err(format!("{workers:?} remain"));
        }
        Ok(())
    }
}

fn run(seed: u64, bug: Option<PlantedReplicaBug>) -> Result<ReplicaStats, String> {
    crate::run_in_virtual_time(async { ReplicaWorld::new(seed, bug)?.run().await })
}

#[test]
fn one_replica_acts_and_nothing_is_lost() {
    let runs = crate::run_seeds(8, "one_replica_acts", |seed| run(seed, None));
    let mut total = ReplicaStats::default();
    for stats in &runs {
        total.transitions += stats.transitions;
        total.crashes += stats.crashes;
        total.freezes += stats.freezes;
        total.created += stats.created;
        total.deleted += stats.deleted;
    }
    println!("{total:?}");
    assert!(runs.len() < 8 || total.transitions > 100 && total.created > 0 && total.deleted > 0);
}

#[test]
fn a_planted_replica_bug_is_found() {
    for (bug, known_seed) in [
        (PlantedReplicaBug::NoFence, 6),
        (PlantedReplicaBug::WallClockTrusted, 6),
        (PlantedReplicaBug::MarginIgnored, 0),
    ] {
        let error = crate::find_planted_bug(bug, known_seed, |seed| run(seed, Some(bug)));
        assert!(error.contains(": 9: "), "{error}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_with_replicas() {
    assert_eq!(run(5, None), run(5, None));
}
