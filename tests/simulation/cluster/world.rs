//! One run of the provider in a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ca_model::{Autoscaler, Kubernetes, LoopResult, Minor};
use fake_kube::{FakeKube, RequestFault};
use http::Request;
use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::fleet::{Phase, RequestOutcome};
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProviderServer;
use vpsie_autoscaler::simulator::{
    AnomaliesConfig, DEFAULT_CLUSTER, DEFAULT_DATACENTER, Shapes, Simulator, SimulatorConfig, Span, VmKind,
};
use vpsie_autoscaler::vpsie::Transport;

use super::kubelets::{DISK_GIB, Kubelets, memory_mib};
use super::process::{ClusterProcess, ClusterProcessConfig};
use super::workload::{Workload, name, pods_on};
use super::{MAX, NAMESPACE};
use crate::clock::VirtualClock;
use crate::fixtures::{base_url, new_autoscaler};
use crate::network::{CaChannel, KnownPools, Violations};

/// Offers of the NodeGroup. The simulated catalog always contains these offers.
const OFFERS: [&str; 2] = ["s-2vcpu-4gb", "s-4vcpu-8gb"];
/// Time of a step.
const STEP: Duration = Duration::from_secs(15);
/// Steps with injected faults.
const FAULT_STEPS: u32 = 160;
/// Steps without faults in which the cluster must come to rest.
const REST_STEPS: u32 = 400;
/// Maximum time from the readiness of a Node until it has its providerID.
const IDENTITY_TIME: Duration = Duration::from_mins(1);

/// A lasting fault of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Disturbance {
    /// The clocks of the provider, the API server and each kubelet differ by minutes.
    ClockSkew,
    /// Replies to creations are lost and VMs are listed late, so VMs become orphans.
    Orphans,
    /// Deleted VMs are listed and run again.
    ReturningVms,
    /// The first status of a Node shows a part of its memory and no disk.
    PartialStatus,
    /// `maxClusterWorkers` is 0, and reads of it fail after the start of the process.
    NoWorkersAllowed,
    /// Nodes of another site have the private addresses that new VMs get.
    AddressConflicts,
}

use Disturbance::{AddressConflicts, ClockSkew, NoWorkersAllowed, Orphans, PartialStatus, ReturningVms};

const ALL: [Disturbance; 6] =
    [ClockSkew, Orphans, ReturningVms, PartialStatus, NoWorkersAllowed, AddressConflicts];

/// Draws the disturbances of a run. `DISTURBANCES=ClockSkew,Orphans` replaces the drawn ones.
fn draw_disturbances(rng: &mut StdRng) -> BTreeSet<Disturbance> {
    // Rare, because such a run has no machines.
    let probability = |disturbance: &Disturbance| if *disturbance == NoWorkersAllowed { 0.1 } else { 0.4 };
    let drawn: BTreeSet<Disturbance> =
        ALL.into_iter().filter(|disturbance| rng.random_bool(probability(disturbance))).collect();
    let Ok(names) = std::env::var("DISTURBANCES") else { return drawn };
    let parse = |name: &str| {
        let found = ALL.into_iter().find(|disturbance| format!("{disturbance:?}") == name);
        found.unwrap_or_else(|| panic!("DISTURBANCES: {name:?} is not one of {ALL:?}"))
    };
    names.split(',').filter(|name| !name.is_empty()).map(parse).collect()
}

/// Ids of the Nodes of another site. Each has the address of the VM with its id.
const OTHER_SITE: std::ops::Range<u64> = 2..14;

struct ClusterWorld {
    seed: u64,
    rng: StdRng,
    clock: VirtualClock,
    simulator: Simulator,
    kube: FakeKube,
    transport: Transport,
    base: &'static str,
    disturbances: BTreeSet<Disturbance>,
    kubelets: Kubelets,
    workload: Workload,
    autoscaler: Autoscaler,
    channel: CaChannel,
    process: Option<ClusterProcess>,
    /// Ready Nodes without a providerID, by name, and the start of that state.
    unidentified: BTreeMap<String, Instant>,
    traced: bool,
}

impl ClusterWorld {
    fn new(seed: u64) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let disturbances = draw_disturbances(&mut rng);
        let clock = VirtualClock::new();
        let shapes = Shapes::random(&mut rng);
        let mut config = SimulatorConfig { seed, shapes, ..SimulatorConfig::default() };
        let minutes =
            |from, to| Span { from: SignedDuration::from_mins(from), to: SignedDuration::from_mins(to) };
        if disturbances.contains(&Orphans) {
            (config.times.listed, config.times.boot) = (minutes(2, 4), minutes(3, 5));
        }
        config.anomalies = AnomaliesConfig {
            returns: if disturbances.contains(&ReturningVms) { 0.5 } else { 0.0 },
            returns_after: minutes(1, 10),
            ..AnomaliesConfig::default()
        };
        let simulator = Simulator::new(config, Arc::new(clock.unskewed())).map_err(|e| e.to_string())?;
        if disturbances.contains(&ClockSkew) {
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
        let minor = if rng.random_bool(0.5) { Minor::V1_33 } else { Minor::V1_36 };
        let mut world = Self {
            seed,
            transport: observe_deletions(simulator.transport(), &simulator, &kube, &violations),
            base: base_url(shapes),
            kubelets: Kubelets::new(seed, disturbances.contains(&PartialStatus)),
            autoscaler: new_autoscaler(minor, &channel, seed),
            clock,
            simulator,
            kube,
            disturbances,
            workload: Workload::default(),
            channel,
            process: None,
            unidentified: BTreeMap::new(),
            traced: std::env::var_os("TRACE").is_some(),
            rng,
        };
        world.set_up()?;
        Ok(world)
    }

    /// Prints an event with its time, if `TRACE` is set.
    fn trace(&self, event: &dyn std::fmt::Debug) {
        if self.traced {
            println!("{:>7.1}s {event:?}", self.clock.elapsed().as_secs_f64());
        }
    }

    /// Creates the objects that exist before the provider starts.
    fn set_up(&mut self) -> Result<(), String> {
        let put =
            |object: Value| self.kube.put_object(object).map(drop).map_err(|error| format!("{error:?}"));
        put(json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
            "metadata": {"name": "web", "namespace": NAMESPACE, "generation": 1},
            "spec": {"minNodes": 0, "maxNodes": MAX, "datacenterID": DEFAULT_DATACENTER,
                "resourceIdentifier": DEFAULT_CLUSTER, "offeringIDs": OFFERS},
        }))?;
        if self.disturbances.contains(&NoWorkersAllowed) {
            self.workload.replicas = 4;
            put(json!({
                "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "AutoscalerConfig",
                "metadata": {"name": "default", "generation": 1},
                "spec": {"globalSettings": {"maxClusterWorkers": 0}},
            }))?;
        }
        if self.disturbances.contains(&AddressConflicts) {
            for id in OTHER_SITE {
                put(other_site_node(id))?;
            }
        }
        Ok(())
    }

    async fn run(mut self) -> Result<u64, String> {
        if self.traced {
            let logs = tracing_subscriber::fmt().without_time().with_ansi(false).with_test_writer();
            drop(logs.with_max_level(tracing::Level::INFO).try_init());
        }
        self.trace(&self.disturbances);
        self.start().await?;
        for step in 0..FAULT_STEPS {
            self.inject_faults().await?;
            self.step().await.map_err(|error| format!("seed {}, step {step}: {error}", self.seed))?;
        }
        self.simulator.clear_faults();
        let anomalies = AnomaliesConfig { returns: 0.0, ..self.simulator.anomalies() };
        self.simulator.set_anomalies(anomalies);
        self.trace(&"faults end");
        for (replicas, text) in [(3, "three pods"), (0, "no pods")] {
            self.workload.replicas = replicas;
            let mut at_rest = Err(String::new());
            for step in 0..REST_STEPS {
                self.step()
                    .await
                    .map_err(|error| format!("seed {}, rest step {step}: {error}", self.seed))?;
                at_rest = self.check_rest(replicas);
                if at_rest.is_ok() {
                    break;
                }
            }
            at_rest.map_err(|error| {
                format!("seed {}: L: the cluster does not come to rest with {text}: {error}", self.seed)
            })?;
        }
        Ok(self.simulator.call_count())
    }

    async fn start(&mut self) -> Result<(), String> {
        if self.disturbances.contains(&NoWorkersAllowed) {
            // Long enough that Cluster Autoscaler would request machines meanwhile.
            let until = Instant::now() + Duration::from_secs(self.rng.random_range(20..180));
            let reads = move |request: &fake_kube::ApiRequest| {
                request.plural == "autoscalerconfigs" && !request.verb.writes() && Instant::now() < until
            };
            self.kube.fail(u32::MAX, reads, RequestFault::refused(503));
        }
        let seed = self.rng.random();
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let config = ClusterProcessConfig {
            client: self.kube.client("provider", NAMESPACE),
            clock: Arc::clone(&clock),
            notice_clock: clock,
            transport: self.transport.clone(),
            base: self.base,
            seed,
        };
        self.process = Some(ClusterProcess::start(config).await?);
        Ok(())
    }

    /// Connects Cluster Autoscaler once the process opens gRPC. From then on every pool must have its
    /// maximum, because Cluster Autoscaler acts on it.
    fn connect(&mut self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        let Some(allowed) = process.opened.get() else { return Ok(()) };
        for offer in OFFERS {
            let has_offer = |id: &&String| id.starts_with("web/") && id.contains(&format!("/{offer}/"));
            let max = allowed.keys().find(has_offer).and_then(|id| allowed.get(id));
            if max != Some(&MAX) {
                return Err(format!(
                    "8: gRPC opened before the NodeGroup was in force: the pool of {offer} allows {max:?} machines"
                ));
            }
        }
        let mut server = self.channel.server.lock().unwrap();
        if server.is_none() {
            *server = Some(CloudProviderServer::new(CloudProviderService::new(process.handle.clone())));
        }
        Ok(())
    }

    /// Injects at most one event before a step.
    async fn inject_faults(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..40) {
            0..6 => {
                self.workload.replicas = self.rng.random_range(0..7);
                self.trace(&("pods", self.workload.replicas));
            }
            6..10 if self.disturbances.contains(&Orphans) => {
                let text = format!("POST /**/add/slave/** lost count={}", self.rng.random_range(1..3));
                self.trace(&text);
                self.simulator.add_fault(text.parse().map_err(|e| format!("{text}: {e:?}"))?);
            }
            10 => {
                self.trace(&"the provider is killed");
                *self.channel.server.lock().unwrap() = None;
                if let Some(process) = self.process.take() {
                    process.kill().await;
                }
                self.unidentified.clear();
                self.start().await?;
            }
            11 if self.disturbances.contains(&ClockSkew) => {
                let seconds = self.rng.random_range(-300..300);
                self.trace(&("clock jump", seconds));
                self.clock.jump(seconds);
            }
            _ => {}
        }
        Ok(())
    }

    /// Runs the kubelets, the workload and one loop of Cluster Autoscaler, lets time pass, and checks the
    /// invariants.
    async fn step(&mut self) -> Result<(), String> {
        let now = self.clock.unskewed().now();
        self.kubelets.step(&self.kube, &self.simulator, now);
        if self.disturbances.contains(&AddressConflicts) {
            for id in OTHER_SITE {
                let conditions =
                    json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": now.to_string()}]);
                let name = format!("other-{id}");
                drop(self.kube.patch("nodes", "", &name, json!({"status": {"conditions": conditions}})));
            }
        }
        self.workload.step(&self.kube);
        self.connect()?;
        let cluster = Kubernetes::new(self.kube.client("autoscaler", "default"));
        let report = self.autoscaler.loop_once(&cluster, now).await;
        if !report.events.is_empty() || report.outcome != LoopResult::Done {
            self.trace(&(&report.outcome, &report.events));
        }
        if let LoopResult::Crashed(error) = &report.outcome {
            return Err(format!("8: Cluster Autoscaler panics: {error}"));
        }
        // A partial status is completed within a step.
        tokio::time::sleep(STEP / 3).await;
        self.kubelets.step(&self.kube, &self.simulator, self.clock.unskewed().now());
        tokio::time::sleep(STEP / 3 * 2).await;
        self.check()
    }

    /// Checks all invariants.
    fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.channel.violations.first() {
            return Err(violation);
        }
        if let Some(process) = &mut self.process {
            process.check_tasks()?;
        }
        if self.disturbances.contains(&NoWorkersAllowed) && self.simulator.worker_count() > 0 {
            return Err("4: a worker was created although maxClusterWorkers is 0".to_owned());
        }
        self.check_identities()?;
        self.check_profiles()?;
        if self.disturbances.contains(&AddressConflicts) {
            for id in OTHER_SITE {
                let node = self.kube.get("nodes", "", &format!("other-{id}")).unwrap_or_default();
                let is_changed = node["spec"] != other_site_node(id)["spec"]
                    || node["metadata"]["labels"] != other_site_node(id)["metadata"]["labels"];
                if is_changed {
                    return Err(format!(
                        "I: the Node other-{id} of another site was changed: its spec is {}",
                        node["spec"]
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks that the ready Node of each machine gets its providerID in time, despite clock skew.
    fn check_identities(&mut self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        let now = Instant::now();
        let bound: BTreeSet<String> = process.handle.read(|fleet| {
            let machines = fleet
                .machines()
                .filter(|m| matches!(m.phase, Phase::Creating { .. } | Phase::Running { .. }));
            machines
                .filter_map(|m| m.vm())
                .filter(|vm| vm.id.is_some())
                .map(|vm| vm.hostname.to_string())
                .collect()
        });
        let nodes = self.kube.list("nodes");
        let unidentified: BTreeSet<String> = nodes
            .iter()
            .filter(|node| {
                is_ready(node) && !node["spec"]["providerID"].is_string() && bound.contains(&name(node))
            })
            .map(name)
            .collect();
        self.unidentified.retain(|name, _| unidentified.contains(name));
        for name in unidentified {
            let since = *self.unidentified.entry(name.clone()).or_insert(now);
            if now > since + IDENTITY_TIME {
                return Err(format!(
                    "I: the Node {name} is ready and has had no providerID for {:?}",
                    now - since
                ));
            }
        }
        Ok(())
    }

    /// Checks that templates have the resources of a complete Node status, not those of the first, partial
    /// one.
    fn check_profiles(&self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        process.handle.read(|fleet| {
            for pool in fleet.pools().filter(|pool| fleet.size_profile(pool.offer.size).is_some()) {
                let promised = fleet.template(pool).allocatable;
                let actual = (memory_mib(pool.offer.size.0), DISK_GIB);
                if (promised.memory_mib, promised.disk_gib) != actual {
                    return Err(format!(
                        "T: the template of {} promises {promised:?}, Nodes have (memory, disk) {actual:?}",
                        pool.text
                    ));
                }
            }
            Ok(())
        })
    }

    /// Checks that the cluster is at rest with `replicas` pods.
    fn check_rest(&self, replicas: usize) -> Result<(), String> {
        if self.disturbances.contains(&NoWorkersAllowed) {
            return Ok(());
        }
        let Some(process) = &self.process else { return Err("no process".to_owned()) };
        let unsettled = process.handle.read(|fleet| {
            fleet
                .machines()
                .find(|machine| match &machine.phase {
                    Phase::Running { .. } => false,
                    Phase::Deleting { vm: None, .. } => {
                        machine.requests.iter().any(|request| request.outcome != RequestOutcome::Lost)
                    }
                    _ => true,
                })
                .map(|machine| format!("{machine:?}"))
        });
        let pending = Workload::count_pending(&self.kube);
        let workers = self.simulator.worker_count();
        match unsettled {
            Some(machine) => Err(machine),
            None if pending > 0 => Err(format!("{pending} pods are pending")),
            None if replicas == 0 && workers > 0 => Err(format!("{workers} workers remain")),
            None => Ok(()),
        }
    }
}

pub(crate) fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A ready Node of another site. It is older than all VMs, and a later VM gets its address.
fn other_site_node(id: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("other-{id}"), "creationTimestamp": "2025-12-30T00:00:00Z",
            "labels": {"kubernetes.io/hostname": format!("other-{id}")}},
        "spec": {"taints": [{"key": "site", "value": "other", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("10.0.0.{id}")}],
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
            "allocatable": {"cpu": "0", "memory": "0", "pods": "0"}},
    })
}

/// The network to VPSie. It checks that no VM is deleted while pods run on its ready Node.
pub(crate) fn observe_deletions(
    inner: Transport,
    simulator: &Simulator,
    kube: &FakeKube,
    violations: &Violations,
) -> Transport {
    let simulator = simulator.clone();
    let kube = kube.clone();
    let violations = violations.clone();
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
        if request.method() == http::Method::DELETE && request.uri().path().contains("delete/slave") {
            let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            let deleted = simulator.vms().into_iter().find(|vm| body["identifier"] == vm.vm.uuid.as_str());
            if let Some(vm) = deleted.filter(|vm| vm.vm.kind == VmKind::Worker) {
                let node = vm.vm.hostname.to_lowercase();
                let pods = pods_on(&kube, &node);
                let ready = kube.get("nodes", "", &node).is_some_and(|node| is_ready(&node));
                if ready && !pods.is_empty() {
                    violations
                        .add(format!("D: the VM {node} is deleted while {pods:?} run on its ready Node"));
                }
            }
        }
        inner.clone().oneshot(request)
    }))
}

fn run(seed: u64) -> Result<u64, String> {
    crate::run_in_virtual_time(async { ClusterWorld::new(seed)?.run().await })
}

#[test]
fn a_cluster_keeps_its_pods_and_its_limits() {
    let calls = crate::run_seeds(2, "a_cluster_keeps", run);
    assert!(calls.iter().all(|calls| *calls > 0));
}

#[test]
fn the_same_seed_gives_the_same_run_in_a_cluster() {
    assert_eq!(run(4), run(4));
}
