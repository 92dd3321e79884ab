//! One run with one process: the simulated world, its steps and the checks after each step.

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
use super::fixtures::{base_url, new_autoscaler, node_groups};
use super::hazards::{Hazard, Hazards};
use super::liveness::{Conditions, Liveness};
use super::network::{CaChannel, CrashCountdown, KnownPools, Network, Violations};
use super::nodes::update_nodes;
use super::observers::{self, IncreaseObserver, RequestObserver, UnansweredCreations};
use super::planted_bugs::PlantedBug;
use super::planted_state::PlantedState;
use super::process::{Process, ProcessConfig};
use super::records::{FaultyStore, StoreKind};

/// Steps with injected faults.
const FAULT_STEPS: u32 = 80;
/// Steps without faults and hazards in which the cluster must come to rest: two and a half hours.
const REST_STEPS: u32 = 450;
/// Time of a step.
const STEP: Duration = Duration::from_secs(20);
/// The offer that all NodeGroups have, and whose capacity is limited at times.
pub(crate) const SMALL: &str = "s-2vcpu-4gb";

/// Counts of events in runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) crashes: u64,
    pub(crate) created: u64,
    pub(crate) deleted: u64,
    /// Injected faults that lose a reply.
    pub(crate) lost: u64,
    /// Loops of Cluster Autoscaler.
    pub(crate) loops: u64,
    /// Requests to VPSie.
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

/// A provider process with its store, VPSie, the cluster and Cluster Autoscaler.
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
    /// Whether fault injection has ended: VPSie answers, the store works and no process is killed.
    fault_free: bool,
    pub(crate) sizes_listed: bool,
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
        hazards.set_shapes(&mut shapes, &mut rng);
        let mut config = SimulatorConfig { seed, shapes, ..SimulatorConfig::default() };
        config.clusters[0].foreign_workers = rng.random_range(0..3);
        if rng.random_bool(0.3) {
            // So late that the request counts as lost before its VM is listed.
            config.times.listed.to = SignedDuration::from_mins(4);
            config.times.boot.to = SignedDuration::from_mins(5);
        }
        if hazards.has(Hazard::CutLists) {
            // More rows than a page has.
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
        let sizes_listed = each_size_differs && matches!(shapes.nodes, Nodes::Rich | Nodes::MastersSlaves);
        let simulator = Simulator::new(config, Arc::new(clock.unskewed())).map_err(|e| e.to_string())?;
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
            requests: (!hazards.has_unmatched_vms()).then(|| RequestObserver::new(sizes_listed)),
            unanswered: UnansweredCreations::default(),
            has_latency: hazards.has(Hazard::StoreGaps),
            planted_state: PlantedState::default(),
        };
        let known = Arc::new(Mutex::new(KnownPools::default()));
        let channel = CaChannel {
            server: Arc::default(),
            violations,
            bug,
            known,
            freezer: Arc::default(),
            increases: Some((IncreaseObserver::default(), store.backing.clone())),
        };
        let minors = [Minor::V1_28, Minor::V1_30, Minor::V1_33, Minor::V1_34, Minor::V1_35, Minor::V1_36];
        let minor = *minors.choose(&mut rng).unwrap();
        let autoscaler = new_autoscaler(minor, &channel, seed);
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
            sizes_listed,
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
        for step in 0..FAULT_STEPS {
            self.inject_faults().await?;
            self.step().await.map_err(|error| format!("seed {}, step {step}: {error}", self.seed))?;
        }
        self.run_without_faults().await?;
        if self.hazards.needs_half_day() {
            self.run_half_day().await?;
        }
        self.end_hazards().await?;
        for (load, name) in [(3, "three pods"), (0, "no pods")] {
            self.cluster.deploy("web", load, self.new_pod(1500));
            self.cluster.deploy("batch", 0, self.new_pod(500));
            let mut unmet = String::new();
            // VMs appear until six hours after their request, and an administrator deletes them.
            let steps = if self.hazards.has(Hazard::LateVms) { 4 * REST_STEPS } else { REST_STEPS };
            for step in 0..steps {
                if self.process.is_none() {
                    self.start().await?;
                }
                self.step()
                    .await
                    .map_err(|error| format!("seed {}, rest step {step}: {error}", self.seed))?;
                self.delete_foreign_workers()?;
                match self.check_rest(load) {
                    Ok(()) => {
                        unmet.clear();
                        break;
                    }
                    Err(error) => unmet = error,
                }
            }
            if !unmet.is_empty() {
                let listings: u64 = self
                    .simulator
                    .calls()
                    .iter()
                    .filter(|(call, _)| call.starts_with("GET /k8s/cluster/byId"))
                    .map(|(_, count)| count)
                    .sum();
                return Err(format!(
                    "seed {}: 5: the cluster does not come to rest with {name}: {unmet}; {listings} listings so far",
                    self.seed
                ));
            }
        }
        if self.hazards.has(Hazard::YearAhead) {
            self.run_days_later().await?;
        }
        let vms = self.simulator.vms();
        let gone = self.simulator.gone();
        let is_worker = |kind: VmKind| kind == VmKind::Worker;
        self.stats.deleted = gone.iter().filter(|vm| is_worker(vm.vm.kind)).count() as u64;
        self.stats.created =
            self.stats.deleted + vms.iter().filter(|vm| is_worker(vm.vm.kind)).count() as u64;
        self.stats.calls = self.simulator.call_count();
        Ok(self.stats)
    }

    /// Checks that the cluster is at rest with `load` pods.
    fn check_rest(&self, load: usize) -> Result<(), String> {
        checks::check_at_rest(&self.simulator, &self.store.backing.records())?;
        if self.cluster.pending() > 0 {
            return Err(format!("{} pods are pending", self.cluster.pending()));
        }
        let workers = self.simulator.worker_count();
        if load == 0 && workers > 0 {
            return Err(format!("{workers} workers remain; Nodes are {:?}", self.cluster.list_nodes()));
        }
        Ok(())
    }

    /// Prints an event with its time, if `TRACE` is set.
    pub(crate) fn trace(&self, event: &dyn std::fmt::Debug) {
        if self.traced {
            println!("{:>7.1}s {event:?}", self.clock.elapsed().as_secs_f64());
        }
    }

    pub(crate) fn new_pod(&self, cpu_millis: i64) -> Pod {
        Pod::new("", cpu_millis, 512, self.clock.unskewed().now())
    }

    /// Starts a process. Without a store the start can fail; later steps repeat it.
    pub(crate) async fn start(&mut self) -> Result<(), String> {
        self.store.countdown.stop();
        self.network.forget_accepted();
        self.liveness.reset();
        let mut groups = node_groups();
        if self.bug == Some(PlantedBug::MaximumIgnored) {
            for group in &mut groups {
                group.max += 3;
            }
        }
        let config = ProcessConfig {
            store: self.store.open(),
            transport: self.network.transport(),
            clock: Arc::new(self.clock.clone()),
            declared: FleetConfig { declaration: groups.into(), settings: FleetSettings::default() },
            policy: Policy { running_when_listed: self.seed.is_multiple_of(2), ..Policy::default() },
            base: base_url(self.shapes),
        };
        let process = match Process::start(config, self.rng.random()).await {
            Ok(process) => process,
            Err(error) if self.store.is_unavailable() => {
                self.trace(&("the provider cannot start", error));
                return Ok(());
            }
            Err(error) => return Err(error),
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
            self.channel.note_process_end();
        }
        self.store.countdown.stop();
    }

    /// Runs one loop of Cluster Autoscaler, lets time pass, and checks the invariants.
    pub(crate) async fn step(&mut self) -> Result<(), String> {
        self.step_for(STEP).await
    }

    /// The same with another duration.
    pub(crate) async fn step_for(&mut self, time: Duration) -> Result<(), String> {
        let handle = self.process.as_ref().map(|process| &process.handle);
        // Without a label selector, nodes of unknown role would run the pods, and no machine would be
        // requested.
        let needs_labels = self.hazards.has(Hazard::UnknownRoles);
        update_nodes(&self.cluster, &self.simulator, self.clock.unskewed().now(), handle, needs_labels).await;
        self.cluster.step(self.clock.unskewed().now());
        self.run_autoscaler().await?;
        self.advance(time).await;
        self.check().await
    }

    /// Lets time pass. The process may crash meanwhile.
    pub(crate) async fn advance(&mut self, time: Duration) {
        if !self.fault_free && self.hazards.has(Hazard::StoreGaps) && self.rng.random_bool(0.4) {
            let delay = Duration::from_millis(self.rng.random_range(0..20_000));
            let duration = Duration::from_secs(self.rng.random_range(3..40));
            self.trace(&("the store fails", delay, duration));
            self.store.set_gap(delay, duration);
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

    /// Runs one loop of Cluster Autoscaler. The process may crash meanwhile; the loop then continues without
    /// it.
    async fn run_autoscaler(&mut self) -> Result<(), String> {
        let is_available = self.process.is_some() && !self.store.is_unavailable();
        let now = self.clock.unskewed().now();
        let countdown = self.store.countdown.clone();
        let (report, crashed) = {
            let mut crash = std::pin::pin!(countdown.crashed());
            let mut looping = std::pin::pin!(self.autoscaler.loop_once(&self.cluster, now));
            let mut crashed = false;
            loop {
                tokio::select! {
                    biased;
                    report = &mut looping => break (report, crashed),
                    () = &mut crash, if !crashed => {
                        crashed = true;
                        *self.channel.server.lock().unwrap() = None;
                        if let Some(process) = self.process.take() {
                            process.kill().await;
                            self.stats.crashes += 1;
                            self.channel.note_process_end();
                        }
                        self.store.countdown.stop();
                    }
                }
            }
        };
        self.stats.loops += 1;
        if !report.events.is_empty() || crashed {
            self.trace(&(&report.outcome, &report.events, crashed));
        }
        match &report.outcome {
            LoopResult::Crashed(error) => return Err(format!("8: Cluster Autoscaler panics: {error}")),
            // Without a store commands fail. While a record is rejected, deletions of its machine fail too.
            LoopResult::Aborted(error)
                if is_available
                    && !crashed
                    && !self.store.is_unavailable()
                    && self.store.rejected_machine().is_none() =>
            {
                return Err(format!("3: the loop of Cluster Autoscaler is aborted: {error}"));
            }
            _ => {}
        }
        self.check_acknowledged(&report.events)
    }

    /// Checks that acknowledged increases are recorded: invariant 2.
    fn check_acknowledged(&self, events: &[Event]) -> Result<(), String> {
        let machines = self.store.backing.records().machines;
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

    /// Checks all invariants.
    async fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.network.violations.first() {
            return Err(violation);
        }
        let records = self.store.backing.records();
        checks::check_vms(&self.simulator, &records, &self.hazards)?;
        observers::check_paid_vms(&self.simulator, &self.hazards, &self.network.unanswered)?;
        let Some(process) = &mut self.process else { return Ok(()) };
        process.check_tasks()?;
        checks::check_replies(&self.channel).await?;
        if self.store.is_consistent() {
            checks::check_memory(&process.handle, &self.store.backing.records())?;
            if let Some((increases, _)) = &self.channel.increases
                && self.hazards.has(Hazard::HalfWrittenIncreases)
            {
                increases.check(&self.store.backing.records(), self.store.time_since_failure())?;
            }
        }
        let conditions = Conditions {
            sizes_listed: self.sizes_listed,
            may_halt: self.hazards.has_unmatched_vms() || self.hazards.has(Hazard::DeletionsForbidden),
            allows_deletions: !self.simulator.anomalies().deletions_forbidden,
            short_sizes: if self.hazards.has(Hazard::SilentShortage) { &[2] } else { &[] },
            simulator: &self.simulator,
            rejected: self.store.rejected_machine(),
        };
        self.liveness.check(&process.handle, self.fault_free.then_some(&conditions))
    }

    /// Ends the injected faults, not the hazards.
    pub(crate) fn end_faults(&mut self) -> Result<(), String> {
        self.simulator.clear_faults();
        self.simulator.set_outage(false);
        // This hazard ends too: without a list of workers the provider requests nothing.
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

    /// Restarts the process with probability 1/2, and starts one if none runs.
    pub(crate) async fn restart_by_chance(&mut self) -> Result<(), String> {
        if self.rng.random_bool(0.5) {
            self.kill().await;
        }
        if self.process.is_none() { self.start().await } else { Ok(()) }
    }
}
