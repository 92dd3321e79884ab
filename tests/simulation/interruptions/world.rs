//! One run with interruptions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ca_model::{Autoscaler, Kubernetes, LoopResult, Minor};
use fake_kube::FakeKube;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use vpsie_autoscaler::catalog::CapacityType;
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::fleet::{Machine, Phase as MachinePhase};
use vpsie_autoscaler::simulator::{
    DEFAULT_CLUSTER, DEFAULT_DATACENTER, Phase, Shapes, Simulator, SimulatorConfig, VmKind,
};
use vpsie_autoscaler::vpsie::Transport;

use super::cloud::{Cloud, Plan};
use super::connection::ProviderConnection;
use super::disturbances::Disturbance;
use super::expander::ExpanderChannel;
use super::observer::{Observer, ObserverState, is_counted};
use super::planted_bugs::Bug;
use super::{GRACE, MAX, OFFERS, STEP, vpsie};
use crate::clock::VirtualClock;
use crate::cluster::kubelets::Kubelets;
use crate::cluster::process::{ClusterProcess, ClusterProcessConfig};
use crate::cluster::workload::Workload;
use crate::cluster::{NAMESPACE, observe_deletions};
use crate::fixtures::base_url;
use crate::network::{CaChannel, CrashCountdown, KnownPools, Network, Violations};
use crate::observers::UnansweredCreations;
use crate::planted_state::PlantedState;
use crate::records::Backing;

/// Steps with disturbances.
const FAULT_STEPS: u32 = 120;
/// Steps without disturbances in which the cluster must come to rest.
const REST_STEPS: u32 = 400;
/// Time without a disturbance after which a notice is given in calm.
const CALM_TIME: SignedDuration = SignedDuration::from_secs(60);

/// Counts of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stats {
    pub(super) notices: u64,
    pub(super) withdrawn: u64,
    pub(super) replaced: u64,
    pub(super) timely_evictions: u64,
    pub(super) lost: u64,
    pub(super) crashes: u64,
    pub(super) spot_vms: u64,
    pub(super) calls: u64,
}

pub(super) struct InterruptionWorld {
    pub(super) seed: u64,
    pub(super) rng: StdRng,
    pub(super) clock: VirtualClock,
    pub(super) simulator: Simulator,
    pub(super) kube: FakeKube,
    pub(super) observer: Observer,
    pub(super) disturbances: BTreeSet<Disturbance>,
    pub(super) process: Option<ClusterProcess>,
    pub(super) workload: Workload,
    pub(super) countdown: CrashCountdown,
    /// Time at which a new process starts after a crash.
    pub(super) restarts_at: Option<Timestamp>,
    pub(super) stats: Stats,
    /// Weight of notices among the events of a run.
    pub(super) notice_weight: u32,
    /// Whether capacity, creations, the API server or evictions are disturbed now.
    pub(super) faults: BTreeSet<Disturbance>,
    /// Nodes with a protection that is not needed, and the time since when.
    pub(super) unneeded_protection: BTreeMap<String, Timestamp>,
    bug: Option<Bug>,
    transport: Transport,
    base: &'static str,
    kubelets: Kubelets,
    autoscaler: Autoscaler,
    pub(super) channel: CaChannel,
    expander: ExpanderChannel,
    /// Whether Cluster Autoscaler uses the expander.
    pub(super) uses_expander: bool,
    traced: bool,
}

impl InterruptionWorld {
    /// Creates a world with these disturbances, or with drawn ones.
    pub(super) fn new(
        seed: u64,
        bug: Option<Bug>,
        disturbances: Option<BTreeSet<Disturbance>>,
    ) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let drawn = Disturbance::draw(&mut rng);
        let disturbances = disturbances.unwrap_or(drawn);
        let clock = VirtualClock::new();
        let shapes = Shapes::random(&mut rng);
        let mut config = SimulatorConfig { seed, shapes, ..SimulatorConfig::default() };
        for offer in config.offers.iter_mut().filter(|offer| OFFERS.contains(&offer.name.as_str())) {
            offer.spot_monthly = Some(offer.monthly / rust_decimal::Decimal::from(3));
        }
        config.offers.retain(|offer| offer.name.starts_with("s-"));
        let simulator = Simulator::new(config, Arc::new(clock.unskewed())).map_err(|e| e.to_string())?;
        if disturbances.contains(&Disturbance::ClockSkew) {
            clock.jump(rng.random_range(-1500..1500));
        }
        let server_clock = clock.unskewed();
        let kube = FakeKube::new(move || server_clock.now());
        let violations = Violations::default();
        let channel = CaChannel {
            server: Arc::default(),
            violations: violations.clone(),
            bug: None,
            known: Arc::new(Mutex::new(KnownPools::default())),
            freezer: Arc::default(),
            increases: None,
        };
        let observer = Observer {
            backing: Backing::Kubernetes(kube.clone(), Arc::default()),
            kube: kube.clone(),
            clock: clock.clone(),
            cloud: Cloud::default(),
            violations: violations.clone(),
            share: *[100, 80, 50].choose(&mut rng).unwrap(),
            state: Arc::new(Mutex::new(ObserverState::default())),
        };
        let network = Network {
            simulator: simulator.clone(),
            backing: observer.backing.clone(),
            // Only writes to the API server are counted. Each call to VPSie is between two of them.
            countdown: CrashCountdown::default(),
            violations: violations.clone(),
            bug: None,
            requests: None,
            unanswered: UnansweredCreations::default(),
            has_latency: false,
            planted_state: PlantedState::default(),
        };
        let transport = observe_deletions(network.transport(), &simulator, &kube, &violations);
        let minor = if rng.random_bool(0.5) { Minor::V1_33 } else { Minor::V1_36 };
        let uses_expander = !seed.is_multiple_of(3);
        let expander = ExpanderChannel::new(&channel);
        let world = Self {
            seed,
            transport: vpsie::plant(transport, &simulator, &observer.cloud, bug),
            base: base_url(shapes),
            kubelets: Kubelets::new(seed, false),
            autoscaler: expander.autoscaler(minor, uses_expander, seed),
            expander,
            uses_expander,
            clock,
            simulator,
            kube,
            observer,
            disturbances,
            process: None,
            workload: Workload::default(),
            countdown: CrashCountdown::default(),
            restarts_at: None,
            stats: Stats::default(),
            notice_weight: *[1, 2, 5].choose(&mut rng).unwrap(),
            faults: BTreeSet::new(),
            unneeded_protection: BTreeMap::new(),
            bug,
            channel,
            traced: std::env::var_os("TRACE").is_some(),
            rng,
        };
        world.put_node_group()?;
        Ok(world)
    }

    /// Replaces Cluster Autoscaler by one of this release, which uses the expander.
    pub(super) fn with_release(mut self, minor: Minor) -> Self {
        self.uses_expander = true;
        self.autoscaler = self.expander.autoscaler(minor, true, self.seed);
        self
    }

    fn put_node_group(&self) -> Result<(), String> {
        let share = if self.bug == Some(Bug::ShareExceeded) { 100 } else { self.observer.share };
        let group = self.kube.put_object(json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
            "metadata": {"name": "web", "namespace": NAMESPACE, "generation": 1},
            "spec": {"minNodes": 0, "maxNodes": MAX, "datacenterID": DEFAULT_DATACENTER,
                "resourceIdentifier": DEFAULT_CLUSTER, "offeringIDs": OFFERS,
                "spotConfig": {"enabled": true, "maxSpotPercentage": share, "allowedInterruptionRate": 100,
                    "interruptionGracePeriod": format!("{}s", GRACE.as_secs())}},
        }));
        group.map(drop).map_err(|error| format!("{error:?}"))
    }

    /// Prints an event with its time, if `TRACE` is set.
    pub(super) fn trace(&self, event: &dyn std::fmt::Debug) {
        if self.traced {
            println!("{:>7.1}s {event:?}", self.clock.elapsed().as_secs_f64());
        }
    }

    pub(super) async fn run(mut self) -> Result<Stats, String> {
        self.begin().await?;
        for step in 0..FAULT_STEPS {
            self.inject_faults().await?;
            self.step().await.map_err(|error| format!("seed {}, step {step}: {error}", self.seed))?;
        }
        self.end_faults()?;
        self.come_to_rest().await
    }

    pub(super) async fn begin(&mut self) -> Result<(), String> {
        if self.traced {
            let logs = tracing_subscriber::fmt().without_time().with_ansi(false).with_test_writer();
            drop(logs.with_max_level(tracing::Level::INFO).try_init());
        }
        self.trace(&(&self.disturbances, self.observer.share));
        self.start().await
    }

    /// Checks that the cluster comes to rest with three pods, and without pods.
    pub(super) async fn come_to_rest(mut self) -> Result<Stats, String> {
        self.trace(&"faults end");
        for (replicas, text) in [(3, "three pods"), (0, "no pods")] {
            self.workload.replicas = replicas;
            self.wait_for_rest(replicas, text).await?;
        }
        let state = self.observer.state.lock().unwrap();
        let vms = self.simulator.vms().into_iter().chain(self.simulator.gone());
        self.stats.spot_vms = vms.filter(|vm| vm.vm.spot).count() as u64;
        self.stats.replaced = state.replaced;
        self.stats.timely_evictions = state.timely_evictions;
        let notices = self.observer.cloud.all();
        self.stats.notices = notices.len() as u64;
        self.stats.withdrawn = notices.iter().filter(|notice| !notice.is_shown()).count() as u64;
        self.stats.calls = self.simulator.call_count();
        drop(state);
        Ok(self.stats)
    }

    /// Runs until the cluster is at rest with `replicas` pods.
    pub(super) async fn wait_for_rest(&mut self, replicas: usize, text: &str) -> Result<(), String> {
        let mut at_rest = Ok(());
        for step in 0..REST_STEPS {
            self.step().await.map_err(|error| format!("seed {}, rest step {step}: {error}", self.seed))?;
            at_rest = self.check_rest(replicas);
            if at_rest.is_ok() {
                return Ok(());
            }
        }
        at_rest.map_err(|error| {
            format!("seed {}: L: the cluster does not come to rest with {text}: {error}", self.seed)
        })
    }

    /// Starts a process. While the API server is disturbed the start can fail; later steps repeat it.
    async fn start(&mut self) -> Result<(), String> {
        self.countdown.stop();
        let connection = ProviderConnection {
            inner: self.kube.connection("provider"),
            observer: self.observer.clone(),
            countdown: self.countdown.clone(),
            bug: self.bug,
        };
        let notice_clock = self.clock.with_error(self.bug.map_or(0, Bug::clock_error));
        let config = ClusterProcessConfig {
            client: kube::Client::new(connection, NAMESPACE),
            clock: Arc::new(self.clock.clone()),
            notice_clock: Arc::new(notice_clock) as Arc<dyn Clock>,
            transport: self.transport.clone(),
            base: self.base,
            seed: self.rng.random(),
        };
        match ClusterProcess::start(config).await {
            Ok(process) => self.process = Some(process),
            Err(error) if self.faults.contains(&Disturbance::FlakyServer) => {
                self.trace(&("the provider cannot start", error));
                self.restarts_at = Some(self.observer.now());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Kills the process. A new one starts `pause` later.
    pub(super) async fn kill(&mut self, pause: SignedDuration) {
        self.countdown.stop();
        *self.channel.server.lock().unwrap() = None;
        if let Some(process) = self.process.take() {
            self.trace(&"the provider is killed");
            process.kill().await;
            self.stats.crashes += 1;
        }
        {
            let mut state = self.observer.state.lock().unwrap();
            state.up_since = None;
            state.crashes += 1;
        }
        self.restarts_at = Some(self.observer.now() + pause);
    }

    /// Notes a disturbance other than a crash.
    pub(super) fn disturb(&self) {
        self.observer.state.lock().unwrap().calm_since = None;
    }

    pub(super) fn has_skew(&self) -> bool {
        self.disturbances.contains(&Disturbance::ClockSkew)
    }

    /// Whether only one notice disturbs the provider.
    pub(super) fn is_calm(&self) -> bool {
        let now = self.observer.now();
        let records = self.observer.backing.records();
        let is_settled = |machine: &Machine| {
            matches!(machine.phase, MachinePhase::Running { .. }) && machine.notice.is_none()
        };
        let is_over = |since: Option<Timestamp>| since.is_some_and(|since| since + CALM_TIME <= now);
        let state = self.observer.state.lock().unwrap();
        is_over(state.calm_since)
            && is_over(state.up_since)
            && records.machines.iter().filter(|m| is_counted(m)).all(is_settled)
    }

    /// Gives notice to a random Node.
    pub(super) fn announce(&mut self, plan: Plan) -> bool {
        let cloud = self.observer.cloud.clone();
        let Some(victim) = cloud.choose_victim(&self.kube, &self.simulator, &mut self.rng) else {
            return false;
        };
        let notice = cloud.announce(&self.kube, victim, plan, self.observer.now(), self.is_calm());
        self.trace(&notice);
        true
    }

    /// Lets a random VM vanish without a notice.
    pub(super) fn lose_vm(&mut self) {
        let vms = self.simulator.vms();
        let running: Vec<_> = vms.iter().filter(|vm| vm.vm.kind == VmKind::Worker).collect();
        let running: Vec<_> = running.into_iter().filter(|vm| vm.phase == Phase::Running).collect();
        if let Some(vm) = running.choose(&mut self.rng) {
            self.trace(&("the VM vanishes", &vm.vm.hostname));
            drop(self.simulator.interrupt(&vm.vm.uuid, SignedDuration::ZERO));
            self.stats.lost += 1;
            self.disturb();
        }
    }

    /// Sets the number of VMs of a capacity type that VPSie has for each offer.
    pub(super) fn set_capacity(&self, capacity_type: CapacityType, limit: Option<u32>) -> Result<(), String> {
        for offer in OFFERS {
            let set = self.simulator.set_capacity_of_type(None, offer, Some(capacity_type), limit);
            set.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Runs the cloud, the kubelets, the workload and one loop of Cluster Autoscaler, lets time pass, and
    /// checks the invariants.
    pub(super) async fn step(&mut self) -> Result<(), String> {
        let now = self.observer.now();
        if self.process.is_none() && self.restarts_at.is_none_or(|at| at <= now) {
            self.start().await?;
        }
        self.connect();
        self.note_calm(now);
        for change in self.observer.cloud.advance(&self.kube, &self.simulator, now) {
            self.trace(&change);
        }
        self.move_pods(now);
        self.run_autoscaler(now).await?;
        self.advance(STEP.unsigned_abs() / 2).await;
        self.move_pods(self.observer.now());
        self.advance(STEP.unsigned_abs() / 2).await;
        self.check().await
    }

    fn move_pods(&mut self, now: Timestamp) {
        self.kubelets.step(&self.kube, &self.simulator, now);
        self.workload.step(&self.kube);
    }

    /// Connects Cluster Autoscaler once the process opens gRPC.
    fn connect(&mut self) {
        let Some(process) = self.process.as_ref().filter(|process| process.opened.get().is_some()) else {
            return;
        };
        let is_connected = self.channel.server.lock().unwrap().is_some();
        if !is_connected {
            let hides = self.bug != Some(Bug::ReplacementShown);
            self.expander.connect(process, Arc::new(self.clock.clone()), self.uses_expander, hides);
        }
    }

    /// Notes whether something disturbs the provider.
    fn note_calm(&mut self, now: Timestamp) {
        let is_open = self.channel.server.lock().unwrap().is_some();
        let is_up = is_open && !self.faults.contains(&Disturbance::FlakyServer) && !self.has_skew();
        let is_calm = self.faults.is_empty() && !self.has_skew();
        let mut state = self.observer.state.lock().unwrap();
        state.up_since = state.up_since.or(Some(now)).filter(|_| is_up);
        state.calm_since = state.calm_since.or(Some(now)).filter(|_| is_calm);
    }

    /// Lets time pass. The process may crash meanwhile.
    async fn advance(&mut self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        let countdown = self.countdown.clone();
        tokio::select! {
            biased;
            () = countdown.crashed() => {
                let pause = self.draw_pause();
                self.kill(pause).await;
                tokio::time::sleep_until(until).await;
            }
            () = tokio::time::sleep_until(until) => {}
        }
    }

    fn draw_pause(&mut self) -> SignedDuration {
        SignedDuration::from_secs(*[0, 0, 20, 90].choose(&mut self.rng).unwrap())
    }

    /// Runs one loop of Cluster Autoscaler. The process may crash meanwhile; the loop then continues without
    /// it.
    async fn run_autoscaler(&mut self, now: Timestamp) -> Result<(), String> {
        let cluster = Kubernetes::new(self.kube.client("autoscaler", "default"));
        let countdown = self.countdown.clone();
        let (report, has_crashed) = {
            let mut crash = std::pin::pin!(countdown.crashed());
            let mut looping = std::pin::pin!(self.autoscaler.loop_once(&cluster, now));
            let mut has_crashed = false;
            loop {
                tokio::select! {
                    biased;
                    report = &mut looping => break (report, has_crashed),
                    () = &mut crash, if !has_crashed => {
                        has_crashed = true;
                        *self.channel.server.lock().unwrap() = None;
                        if let Some(process) = self.process.take() {
                            process.kill().await;
                            self.stats.crashes += 1;
                        }
                    }
                }
            }
        };
        if has_crashed {
            self.trace(&"the provider was killed");
            let pause = self.draw_pause();
            self.kill(pause).await;
        }
        if !report.events.is_empty() || report.outcome != LoopResult::Done {
            self.trace(&(&report.outcome, &report.events));
        }
        match &report.outcome {
            LoopResult::Crashed(error) => Err(format!("8: Cluster Autoscaler panics: {error}")),
            _ => Ok(()),
        }
    }
}
