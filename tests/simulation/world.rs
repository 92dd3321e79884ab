//! One run: a world, what happens to it, and what must be true of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ca_model::{Autoscaler, Event, LoopResult, Memory, Minor, Pod};
use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use vpsie_autoscaler::clock::Clock as _;
use vpsie_autoscaler::control::FleetConfig;
use vpsie_autoscaler::fleet::{FleetSettings, Policy};
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProviderServer;
use vpsie_autoscaler::simulator::{AnomaliesConfig, Nodes, Shapes, Simulator, SimulatorConfig, Span, VmKind};

use super::checks;
use super::clock::VirtualClock;
use super::hazards::{Hazard, Hazards};
use super::kubelets::kubelets;
use super::ledger::{self, Increases, Requests, Unanswered};
use super::liveness::{Conditions, Liveness};
use super::network::{CaChannel, CrashCountdown, KnownPools, Network, Violations};
use super::planted_bugs::PlantedBug;
use super::planted_state::PlantedState;
use super::process::{Process, ProcessConfig};
use super::records::{FaultyStore, StoreKind};
use super::setting::{autoscaler, base, groups};

const STEPS: u32 = 80;
/// Two virtual hours and a half of fair weather in which everything must come to rest.
const REST_STEPS: u32 = 450;
const STEP: Duration = Duration::from_secs(20);
pub(crate) const SMALL: &str = "s-2vcpu-4gb";

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
    pub(crate) seed: u64,
    pub(crate) rng: StdRng,
    pub(crate) clock: VirtualClock,
    pub(crate) simulator: Simulator,
    pub(crate) store: FaultyStore,
    pub(crate) store_kind: StoreKind,
    pub(crate) network: Network,
    pub(crate) channel: CaChannel,
    pub(crate) cluster: Memory,
    pub(crate) autoscaler: Autoscaler,
    pub(crate) minor: Minor,
    pub(crate) process: Option<Process>,
    pub(crate) hazards: Hazards,
    liveness: Liveness,
    /// Whether VPSie answers, records can be written and nothing is killed.
    fault_free: bool,
    pub(crate) sizes_told: bool,
    bug: Option<PlantedBug>,
    shapes: Shapes,
    pub(crate) stats: Stats,
    traced: bool,
}

impl World {
    pub(crate) async fn new(
        store_kind: StoreKind,
        seed: u64,
        bug: Option<PlantedBug>,
    ) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let clock = VirtualClock::new();
        let hazards = Hazards::draw(&mut rng, seed, store_kind, bug.and_then(PlantedBug::hazard));
        let mut shapes = Shapes::random(&mut rng);
        hazards.shape(&mut shapes, &mut rng);
        let mut config = SimulatorConfig { seed, shapes, ..SimulatorConfig::default() };
        config.clusters[0].foreign_workers = rng.random_range(0..3);
        if rng.random_bool(0.3) {
            // So late that a request counts as lost before.
            config.times.listed.to = SignedDuration::from_mins(4);
            config.times.boot.to = SignedDuration::from_mins(5);
        }
        if hazards.has(Hazard::CutLists) {
            // More than a page has rows.
            config.clusters[0].foreign_workers = rng.random_range(18..45);
        }
        if hazards.has(Hazard::StoreGaps) {
            config.times.listed =
                Span { from: SignedDuration::from_secs(90), to: SignedDuration::from_mins(4) };
        }
        let each_size_differs = rng.random_bool(0.5);
        if each_size_differs {
            config.offers.retain(|offer| offer.name.starts_with("s-"));
        }
        let sizes_told = each_size_differs && matches!(shapes.nodes, Nodes::Rich | Nodes::MastersSlaves);
        let simulator = Simulator::new(config, Arc::new(clock.right())).map_err(|e| e.to_string())?;
        hazards.apply(&simulator, &mut rng);
        let countdown = CrashCountdown::default();
        let violations = Violations::default();
        let store = FaultyStore::new(store_kind, seed, &clock, countdown.clone(), bug);
        let network = Network {
            simulator: simulator.clone(),
            backing: store.backing.clone(),
            countdown,
            violations: violations.clone(),
            bug,
            requests: (!hazards.unexplained_vms()).then(|| Requests::new(sizes_told)),
            unanswered: Unanswered::default(),
            latency: hazards.has(Hazard::StoreGaps),
            planted: PlantedState::default(),
        };
        let known = Arc::new(Mutex::new(KnownPools::default()));
        let channel = CaChannel {
            server: Arc::default(),
            violations,
            bug,
            known,
            freezer: Arc::default(),
            increases: Some((Increases::default(), store.backing.clone())),
        };
        let minors = [Minor::V1_28, Minor::V1_30, Minor::V1_33, Minor::V1_34, Minor::V1_35, Minor::V1_36];
        let minor = *minors.choose(&mut rng).unwrap();
        let autoscaler = autoscaler(minor, &channel, seed);
        let mut world = Self {
            seed,
            rng,
            clock,
            simulator,
            store,
            store_kind,
            network,
            channel,
            cluster: Memory::default(),
            autoscaler,
            minor,
            process: None,
            hazards,
            liveness: Liveness::default(),
            fault_free: false,
            sizes_told,
            bug,
            shapes,
            stats: Stats::default(),
            traced: std::env::var_os("TRACE").is_some(),
        };
        if world.traced {
            let logs = tracing_subscriber::fmt().without_time().with_ansi(false).with_test_writer();
            drop(logs.with_max_level(tracing::Level::INFO).try_init());
        }
        world.trace(&(world.minor, world.shapes, &world.hazards));
        world.start().await?;
        Ok(world)
    }

    pub(crate) async fn run(mut self) -> Result<Stats, String> {
        for step in 0..STEPS {
            self.inject_faults().await?;
            self.step().await.map_err(|why| format!("seed {}, step {step}: {why}", self.seed))?;
        }
        self.run_without_faults().await?;
        if self.hazards.is_long() {
            self.run_half_a_day().await?;
        }
        self.end_hazards().await?;
        for (load, name) in [(3, "three pods"), (0, "no pods")] {
            self.cluster.deploy("web", load, self.pod(1500));
            self.cluster.deploy("batch", 0, self.pod(500));
            let mut last = String::new();
            // VMs appear until six hours after their request, and a person clears them away one by one.
            let steps = if self.hazards.has(Hazard::LateVms) { 4 * REST_STEPS } else { REST_STEPS };
            for step in 0..steps {
                if self.process.is_none() {
                    self.start().await?;
                }
                self.step().await.map_err(|why| format!("seed {}, rest step {step}: {why}", self.seed))?;
                self.clear_away()?;
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
        if self.hazards.has(Hazard::YearAhead) {
            self.days_later().await?;
        }
        let vms = self.simulator.vms();
        let gone = self.simulator.gone();
        let ours = |kind: VmKind| kind == VmKind::Worker;
        self.stats.deleted = gone.iter().filter(|vm| ours(vm.vm.kind)).count() as u64;
        self.stats.created = self.stats.deleted + vms.iter().filter(|vm| ours(vm.vm.kind)).count() as u64;
        self.stats.calls = self.simulator.call_count();
        Ok(self.stats)
    }

    fn rested(&self, load: usize) -> Result<(), String> {
        checks::at_rest(&self.simulator, &self.store.backing.records())?;
        if self.cluster.pending() > 0 {
            return Err(format!("{} pods are pending", self.cluster.pending()));
        }
        let workers = self.simulator.worker_count();
        if load == 0 && workers > 0 {
            return Err(format!("{workers} workers are left; Nodes {:?}", self.cluster.list_nodes()));
        }
        Ok(())
    }

    pub(crate) fn trace(&self, what: &dyn std::fmt::Debug) {
        if self.traced {
            println!("{:>7.1}s {what:?}", self.clock.elapsed().as_secs_f64());
        }
    }

    pub(crate) fn pod(&self, cpu_millis: i64) -> Pod {
        Pod::new("", cpu_millis, 512, self.clock.right().now())
    }

    pub(crate) async fn start(&mut self) -> Result<(), String> {
        self.store.countdown.stop();
        self.network.forget_requests();
        self.liveness.reset();
        let mut groups = groups();
        if self.bug == Some(PlantedBug::MaximumIgnored) {
            for group in &mut groups {
                group.max += 3;
            }
        }
        let around = ProcessConfig {
            store: self.store.open(),
            transport: self.network.transport(),
            clock: Arc::new(self.clock.clone()),
            declared: FleetConfig { declaration: groups.into(), settings: FleetSettings::default() },
            policy: Policy { running_when_listed: self.seed.is_multiple_of(2), ..Policy::default() },
            base: base(self.shapes),
        };
        let process = match Process::start(around, self.rng.random()).await {
            Ok(process) => process,
            // It will be started again.
            Err(why) if self.store.is_unavailable() => {
                self.trace(&("cannot start", why));
                return Ok(());
            }
            Err(why) => return Err(why),
        };
        let service = CloudProviderService::new(process.handle.clone());
        *self.channel.server.lock().unwrap() = Some(CloudProviderServer::new(service));
        self.process = Some(process);
        Ok(())
    }

    pub(crate) async fn kill(&mut self) {
        *self.channel.server.lock().unwrap() = None;
        if let Some(process) = self.process.take() {
            self.trace(&"the provider is killed");
            process.kill().await;
            self.stats.crashes += 1;
            self.channel.process_died();
        }
        self.store.countdown.stop();
    }

    pub(crate) async fn step(&mut self) -> Result<(), String> {
        self.step_of(STEP).await
    }

    pub(crate) async fn step_of(&mut self, time: Duration) -> Result<(), String> {
        let handle = self.process.as_ref().map(|process| &process.handle);
        // Otherwise nodes of unknown role take the pods, and no machine is requested in their place.
        let selective = self.hazards.has(Hazard::UnknownRoles);
        kubelets(&self.cluster, &self.simulator, self.clock.right().now(), handle, selective).await;
        self.cluster.step(self.clock.right().now());
        self.autoscaling().await?;
        self.pass(time).await;
        self.check().await
    }

    /// Lets time pass, in which the process may burn its countdown.
    pub(crate) async fn pass(&mut self, time: Duration) {
        if !self.fault_free && self.hazards.has(Hazard::StoreGaps) && self.rng.random_bool(0.4) {
            let from = Duration::from_millis(self.rng.random_range(0..20_000));
            let lasts = Duration::from_secs(self.rng.random_range(3..40));
            self.trace(&("records cannot be written", from, lasts));
            self.store.set_gap(from, lasts);
        }
        let until = tokio::time::Instant::now() + time;
        let countdown = self.store.countdown.clone();
        tokio::select! {
            biased;
            () = countdown.crashed() => {
                self.kill().await;
                tokio::time::sleep_until(until).await;
            }
            () = tokio::time::sleep_until(until) => {}
        }
    }

    async fn autoscaling(&mut self) -> Result<(), String> {
        let alive = self.process.is_some() && !self.store.is_unavailable();
        let now = self.clock.right().now();
        let countdown = self.store.countdown.clone();
        let report = {
            let mut blown = std::pin::pin!(countdown.crashed());
            let mut looping = std::pin::pin!(self.autoscaler.loop_once(&self.cluster, now));
            let mut burnt = false;
            loop {
                tokio::select! {
                    biased;
                    report = &mut looping => break (report, burnt),
                    () = &mut blown, if !burnt => {
                        burnt = true;
                        *self.channel.server.lock().unwrap() = None;
                        if let Some(process) = self.process.take() {
                            process.kill().await;
                            self.stats.crashes += 1;
                            self.channel.process_died();
                        }
                        self.store.countdown.stop();
                    }
                }
            }
        };
        let (report, burnt) = report;
        self.stats.loops += 1;
        if !report.events.is_empty() || burnt {
            self.trace(&(&report.outcome, &report.events, burnt));
        }
        match &report.outcome {
            LoopResult::Crashed(why) => return Err(format!("8: Cluster Autoscaler panics: {why}")),
            // Without a disk nothing can be promised, and some answers are errors. While a record is refused, deletions of
            // its machine are errors as well.
            LoopResult::Aborted(why)
                if alive && !burnt && !self.store.is_unavailable() && self.store.refused().is_none() =>
            {
                return Err(format!("3: the loop of Cluster Autoscaler is aborted: {why}"));
            }
            _ => {}
        }
        self.promised(&report.events)
    }

    /// What was acknowledged is on disk: invariant 2.
    fn promised(&self, events: &[Event]) -> Result<(), String> {
        let machines = self.store.backing.records().machines;
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
        if let Some(violation) = self.network.violations.first() {
            return Err(violation);
        }
        let records = self.store.backing.records();
        checks::money(&self.simulator, &records, &self.hazards)?;
        ledger::bounded(&self.simulator, &self.hazards, &self.network.unanswered)?;
        let Some(process) = &mut self.process else { return Ok(()) };
        process.goes_on()?;
        checks::answers(&self.channel).await?;
        if self.store.is_consistent() {
            checks::memory(&process.handle, &self.store.backing.records())?;
            if let Some((increases, _)) = &self.channel.increases
                && self.hazards.has(Hazard::HalfWrittenIncreases)
            {
                increases.check(&self.store.backing.records(), self.store.fine_for())?;
            }
        }
        let conditions = Conditions {
            sizes_told: self.sizes_told,
            may_halt: self.hazards.unexplained_vms() || self.hazards.has(Hazard::DeletionsForbidden),
            deletes: !self.simulator.anomalies().deletions_forbidden,
            short: if self.hazards.has(Hazard::SilentShortage) { &[2] } else { &[] },
            simulator: &self.simulator,
            refused: self.store.refused(),
        };
        self.liveness.check(&process.handle, self.fault_free.then_some(&conditions))
    }

    /// Ends the weather, not the hazards.
    pub(crate) fn clear(&mut self) -> Result<(), String> {
        self.simulator.clear_faults();
        self.simulator.set_outage(false);
        // Without a list of workers nothing is requested, for as long as that lasts.
        let anomalies = self.simulator.anomalies();
        self.simulator.set_anomalies(AnomaliesConfig { incomplete_listings: 0.0, ..anomalies });
        self.simulator.set_rate_limit(None);
        self.simulator.set_worker_quota(None);
        self.simulator.set_capacity(None, SMALL, None).map_err(|e| e.to_string())?;
        self.store.set_failing(false);
        self.store.set_flaky(false);
        self.fault_free = true;
        Ok(())
    }

    /// Some processes live through the change of the weather.
    pub(crate) async fn start_again(&mut self) -> Result<(), String> {
        if self.rng.random_bool(0.5) {
            self.kill().await;
        }
        if self.process.is_none() { self.start().await } else { Ok(()) }
    }
}
