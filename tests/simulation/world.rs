//! One run: a world, what happens to it, and what must be true of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ca_model::{Autoscaler, Config, Event, Link, Memory, Minor, Outcome, Pod, Provider};
use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use vpsie_autoscaler::control::{Clock as _, Declared};
use vpsie_autoscaler::fleet::{AutoscalingOptions, Basis, NodeGroup, Policy};
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProviderServer;
use vpsie_autoscaler::simulator::{Prefix, Shapes, Simulator, SimulatorConfig, VmKind};

use super::checks;
use super::clock::VirtualClock;
use super::kubelets::kubelets;
use super::process::{Process, Surroundings};
use super::records::{Disk, Keeping};
use super::sabotage::Sabotage;
use super::wires::{Complaints, Door, Fuse, Known, Network};

const STEPS: u32 = 80;
/// Two virtual hours and a half of fair weather in which everything must come to rest.
const CALM_STEPS: u32 = 450;
const STEP: Duration = Duration::from_secs(20);
const SMALL: &str = "s-2vcpu-4gb";

/// What happened in runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) crashes: u64,
    pub(crate) created: u64,
    pub(crate) deleted: u64,
    pub(crate) lost: u64,
    pub(crate) loops: u64,
    pub(crate) calls: u64,
}

impl Stats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.created += other.created;
        self.deleted += other.deleted;
        self.lost += other.lost;
        self.loops += other.loops;
        self.calls += other.calls;
    }
}

pub(crate) struct World {
    seed: u64,
    rng: StdRng,
    clock: VirtualClock,
    simulator: Simulator,
    store: Disk,
    keeping: Keeping,
    network: Network,
    door: Door,
    cluster: Memory,
    autoscaler: Autoscaler,
    minor: Minor,
    process: Option<Process>,
    sabotage: Option<Sabotage>,
    shapes: Shapes,
    stats: Stats,
    trace: bool,
}

impl World {
    pub(crate) async fn new(keeping: Keeping, seed: u64, sabotage: Option<Sabotage>) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let clock = VirtualClock::new();
        let shapes = Shapes::random(&mut rng);
        let mut config = SimulatorConfig { seed, shapes, ..SimulatorConfig::default() };
        config.clusters[0].foreign_workers = rng.random_range(0..3);
        if rng.random_bool(0.3) {
            // So late that a request counts as lost before.
            config.times.listed.to = SignedDuration::from_mins(4);
            config.times.boot.to = SignedDuration::from_mins(5);
        }
        let simulator = Simulator::new(config, Arc::new(clock.right())).map_err(|e| e.to_string())?;
        let (fuse, complaints) = (Fuse::default(), Complaints::default());
        let store = Disk::new(keeping, seed, &clock, fuse.clone(), sabotage);
        let network = Network {
            simulator: simulator.clone(),
            kept: store.kept.clone(),
            fuse,
            complaints: complaints.clone(),
            sabotage,
        };
        let known = Arc::new(Mutex::new(Known::default()));
        let door = Door { server: Arc::default(), complaints, sabotage, known, freezer: Arc::default() };
        let minors = [Minor::V1_28, Minor::V1_30, Minor::V1_33, Minor::V1_34, Minor::V1_35, Minor::V1_36];
        let minor = *minors.choose(&mut rng).unwrap();
        let autoscaler = autoscaler(minor, &door, seed);
        let mut world = Self {
            seed,
            rng,
            clock,
            simulator,
            store,
            keeping,
            network,
            door,
            cluster: Memory::default(),
            autoscaler,
            minor,
            process: None,
            sabotage,
            shapes,
            stats: Stats::default(),
            trace: std::env::var_os("TRACE").is_some(),
        };
        if world.trace {
            let logs = tracing_subscriber::fmt().without_time().with_ansi(false).with_test_writer();
            drop(logs.with_max_level(tracing::Level::INFO).try_init());
        }
        world.tell(&(world.minor, world.shapes));
        world.start().await?;
        Ok(world)
    }

    pub(crate) async fn run(mut self) -> Result<Stats, String> {
        for step in 0..STEPS {
            self.disturb().await?;
            self.step().await.map_err(|why| format!("seed {}, step {step}: {why}", self.seed))?;
        }
        self.calm().await?;
        for (load, name) in [(3, "three pods"), (0, "no pods")] {
            self.cluster.deploy("web", load, self.pod(1500));
            self.cluster.deploy("batch", 0, self.pod(500));
            let mut last = String::new();
            for step in 0..CALM_STEPS {
                if self.process.is_none() {
                    self.start().await?;
                }
                self.step().await.map_err(|why| format!("seed {}, calm step {step}: {why}", self.seed))?;
                match self.rested(load) {
                    Ok(()) => {
                        last.clear();
                        break;
                    }
                    Err(why) => last = why,
                }
            }
            if !last.is_empty() {
                let listings: u64 = self
                    .simulator
                    .calls()
                    .iter()
                    .filter(|(call, _)| call.starts_with("GET /k8s/cluster/byId"))
                    .map(|(_, count)| count)
                    .sum();
                return Err(format!(
                    "seed {}: 5: does not come to rest with {name}: {last}; {listings} listings so far",
                    self.seed
                ));
            }
        }
        let (vms, gone) = (self.simulator.vms(), self.simulator.gone());
        let ours = |kind: VmKind| kind == VmKind::Worker;
        self.stats.deleted = gone.iter().filter(|vm| ours(vm.vm.kind)).count() as u64;
        self.stats.created = self.stats.deleted + vms.iter().filter(|vm| ours(vm.vm.kind)).count() as u64;
        self.stats.calls = self.simulator.call_count();
        Ok(self.stats)
    }

    fn rested(&self, load: usize) -> Result<(), String> {
        checks::at_rest(&self.simulator, &self.store.kept.records())?;
        if self.cluster.pending() > 0 {
            return Err(format!("{} pods are pending", self.cluster.pending()));
        }
        let workers = self.simulator.worker_count();
        if load == 0 && workers > 0 {
            return Err(format!("{workers} workers are left; Nodes {:?}", self.cluster.list_nodes()));
        }
        Ok(())
    }

    fn tell(&self, what: &dyn std::fmt::Debug) {
        if self.trace {
            println!("{:>7.1}s {what:?}", self.clock.elapsed().as_secs_f64());
        }
    }

    fn pod(&self, cpu_millis: i64) -> Pod {
        Pod::new("", cpu_millis, 512, self.clock.right().now())
    }

    async fn start(&mut self) -> Result<(), String> {
        self.store.fuse.put_out();
        let mut groups = groups();
        if self.sabotage == Some(Sabotage::MaximumIgnored) {
            for group in &mut groups {
                group.max += 3;
            }
        }
        let around = Surroundings {
            store: self.store.open(),
            transport: self.network.transport(),
            clock: Arc::new(self.clock.clone()),
            declared: Declared { declaration: groups.into(), basis: Basis::default() },
            policy: Policy { running_when_listed: self.seed.is_multiple_of(2), ..Policy::default() },
            base: base(self.shapes),
        };
        let process = match Process::start(around, self.rng.random()).await {
            Ok(process) => process,
            // It will be started again.
            Err(why) if self.store.troubled() => {
                self.tell(&("cannot start", why));
                return Ok(());
            }
            Err(why) => return Err(why),
        };
        let service = CloudProviderService::new(process.handle.clone());
        *self.door.server.lock().unwrap() = Some(CloudProviderServer::new(service));
        self.process = Some(process);
        Ok(())
    }

    async fn kill(&mut self) {
        *self.door.server.lock().unwrap() = None;
        if let Some(process) = self.process.take() {
            self.tell(&"the provider is killed");
            process.kill().await;
            self.stats.crashes += 1;
        }
        self.store.fuse.put_out();
    }

    /// Something happens, or not.
    async fn disturb(&mut self) -> Result<(), String> {
        if self.process.is_none() && self.rng.random_bool(0.5) {
            self.tell(&"the provider starts");
            self.start().await?;
        }
        let what = self.rng.random_range(0..24);
        match what {
            0..4 => {
                let (web, batch) = (self.rng.random_range(0..9), self.rng.random_range(0..6));
                self.tell(&("load", web, batch));
                self.cluster.deploy("web", web, self.pod(1500));
                self.cluster.deploy("batch", batch, self.pod(500));
            }
            4..8 => self.add_fault()?,
            8 => self.simulator.clear_faults(),
            9 => {
                let on = self.rng.random_bool(0.4);
                self.tell(&("outage", on));
                self.simulator.set_outage(on);
            }
            10..12 => {
                let steps = self.rng.random_range(0..20);
                self.tell(&("fuse", steps));
                self.store.fuse.light(steps);
            }
            12 => self.kill().await,
            13 => {
                self.tell(&"Cluster Autoscaler restarts");
                self.autoscaler = autoscaler(self.minor, &self.door, self.rng.random());
            }
            14 => {
                let room = self.rng.random_bool(0.7).then(|| self.rng.random_range(0..5));
                self.tell(&("capacity", room));
                self.simulator.set_capacity(None, SMALL, room).map_err(|e| e.to_string())?;
            }
            15 => {
                let seconds = self.rng.random_range(-1800..1800);
                self.tell(&("clock", seconds));
                self.clock.jump(seconds);
            }
            16 => {
                let workers: Vec<_> =
                    self.simulator.vms().into_iter().filter(|vm| vm.vm.kind == VmKind::Worker).collect();
                if let Some(vm) = workers.choose(&mut self.rng) {
                    self.tell(&("deleted behind our back", &vm.vm.hostname));
                    self.simulator.delete_vm(&vm.vm.uuid).map_err(|e| e.to_string())?;
                }
            }
            17 => {
                let failing = self.rng.random_bool(0.5);
                self.tell(&("disk full", failing));
                self.store.set_failing(failing);
            }
            18 => {
                let limit = self.rng.random_bool(0.5).then_some(30);
                self.tell(&("rate limit", limit));
                self.simulator.set_rate_limit(limit);
            }
            19 => {
                let quota = self.rng.random_bool(0.4).then(|| self.rng.random_range(0..8));
                self.tell(&("quota", quota));
                self.simulator.set_worker_quota(quota);
            }
            20..23 if self.keeping == Keeping::Kubernetes => {
                let stormy = self.rng.random_bool(0.6);
                self.tell(&("storm", stormy));
                self.store.set_stormy(stormy);
            }
            23 => self.store.touch(),
            _ => {}
        }
        Ok(())
    }

    fn add_fault(&mut self) -> Result<(), String> {
        let path = ["/**/add/slave/**", "/**/add/slave/**", "/**/delete/slave", "/**/byId/*", "/**"]
            .choose(&mut self.rng)
            .unwrap();
        let effect = [
            "lost",
            "lost",
            "not-sent",
            "status=500",
            "status=503 done",
            "status=429 retry-after=7",
            "html=502",
            "html=502 done",
            "delay=20s",
            "delay=45s",
            "slow=15s",
            "status=404",
        ]
        .choose(&mut self.rng)
        .unwrap();
        // A creation that VPSie does twice for one request cannot be told from a worker that somebody added.
        let count = self.rng.random_range(1..5);
        let text = format!("* {path} {effect} count={count} p=0.7");
        self.tell(&("fault", &text));
        self.stats.lost += u64::from(effect.contains("lost") || effect.contains("done"));
        self.simulator.add_fault(text.parse().map_err(|e| format!("{text}: {e:?}"))?);
        Ok(())
    }

    async fn calm(&mut self) -> Result<(), String> {
        self.tell(&"calm");
        self.simulator.clear_faults();
        self.simulator.set_outage(false);
        self.simulator.set_rate_limit(None);
        self.simulator.set_worker_quota(None);
        self.simulator.set_capacity(None, SMALL, None).map_err(|e| e.to_string())?;
        self.store.set_failing(false);
        self.store.set_stormy(false);
        self.kill().await;
        self.start().await
    }

    async fn step(&mut self) -> Result<(), String> {
        let handle = self.process.as_ref().map(|process| &process.handle);
        kubelets(&self.cluster, &self.simulator, self.clock.right().now(), handle).await;
        self.cluster.step(self.clock.right().now());
        self.autoscaling().await?;
        self.pass(STEP).await;
        self.check().await
    }

    /// Lets time pass, in which the process may burn its fuse.
    async fn pass(&mut self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        let fuse = self.store.fuse.clone();
        tokio::select! {
            biased;
            () = fuse.blown() => {
                self.kill().await;
                tokio::time::sleep_until(until).await;
            }
            () = tokio::time::sleep_until(until) => {}
        }
    }

    async fn autoscaling(&mut self) -> Result<(), String> {
        let alive = self.process.is_some() && !self.store.troubled();
        let now = self.clock.right().now();
        let fuse = self.store.fuse.clone();
        let report = {
            let mut blown = std::pin::pin!(fuse.blown());
            let mut looping = std::pin::pin!(self.autoscaler.loop_once(&self.cluster, now));
            let mut burnt = false;
            loop {
                tokio::select! {
                    biased;
                    report = &mut looping => break (report, burnt),
                    () = &mut blown, if !burnt => {
                        burnt = true;
                        *self.door.server.lock().unwrap() = None;
                        if let Some(process) = self.process.take() {
                            process.kill().await;
                            self.stats.crashes += 1;
                        }
                        self.store.fuse.put_out();
                    }
                }
            }
        };
        let (report, burnt) = report;
        self.stats.loops += 1;
        if !report.events.is_empty() || burnt {
            self.tell(&(&report.outcome, &report.events, burnt));
        }
        match &report.outcome {
            Outcome::Crashed(why) => return Err(format!("8: Cluster Autoscaler panics: {why}")),
            // Without a disk nothing can be promised, and some answers are errors.
            Outcome::Aborted(why) if alive && !burnt && !self.store.troubled() => {
                return Err(format!("3: the loop of Cluster Autoscaler is aborted: {why}"));
            }
            _ => {}
        }
        self.promised(&report.events)
    }

    /// What was acknowledged is on disk: invariant 2.
    fn promised(&self, events: &[Event]) -> Result<(), String> {
        let machines = self.store.kept.records().machines;
        for event in events {
            let Event::ScaledUp { group, delta } = event else { continue };
            let on_disk = machines.iter().filter(|m| m.pool.to_string() == *group).count();
            if (on_disk as i64) < *delta {
                return Err(format!(
                    "2: {group} was increased by {delta}, and {on_disk} machines are on disk"
                ));
            }
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<(), String> {
        if let Some(complaint) = self.network.complaints.first() {
            return Err(complaint);
        }
        let records = self.store.kept.records();
        checks::money(&self.simulator, &records)?;
        let Some(process) = &self.process else { return Ok(()) };
        checks::answers(&self.door).await?;
        if self.store.settled() {
            checks::memory(&process.handle, &self.store.kept.records())?;
        }
        Ok(())
    }
}

/// Where the API is, in its shapes.
pub(crate) fn base(shapes: Shapes) -> &'static str {
    match shapes.prefix {
        Prefix::AppsAndApi | Prefix::Apps => "https://vpsie.example/apps/v2",
        Prefix::Api => "https://vpsie.example/api/v2",
        Prefix::Bare => "https://vpsie.example/v2",
    }
}

pub(crate) fn autoscaler(minor: Minor, door: &Door, seed: u64) -> Autoscaler {
    let config = Config {
        max_node_provision_time: Duration::from_mins(6),
        scale_down_unneeded_time: Duration::from_mins(1),
        scale_down_unready_time: Duration::from_mins(3),
        scale_down_delay_after_add: Duration::from_mins(1),
        unremovable_recheck: Duration::from_secs(30),
        initial_backoff: Duration::from_mins(1),
        max_backoff: Duration::from_mins(4),
        seed,
        ..Config::default()
    };
    Autoscaler::new(config, Provider::new(minor, Link::new(Duration::from_secs(5), door.clone())))
}

pub(crate) fn groups() -> Vec<NodeGroup> {
    let pool = |group: &str, offer: &str| format!("{group}/ams1/{offer}/on-demand").parse().unwrap();
    let group = |name: &str, pools: &[&str], max: u32| NodeGroup {
        name: name.into(),
        min: 0,
        max,
        pools: pools.iter().map(|offer| pool(name, offer)).collect(),
        size: None,
        labels: [("for".to_owned(), name.to_owned())].into(),
        taints: Vec::new(),
        preferred: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: vpsie_autoscaler::cost::CostLimit::default(),
        deletion: None,
        node: vpsie_autoscaler::fleet::DeclaredNode::default(),
    };
    vec![
        group(checks::POOLS[0].0, checks::POOLS[0].1, checks::MAXIMA[0].1),
        group(checks::POOLS[1].0, checks::POOLS[1].1, checks::MAXIMA[1].1),
    ]
}
