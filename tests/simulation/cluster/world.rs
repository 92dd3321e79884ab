//! One run in a cluster.

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
use vpsie_autoscaler::clock::Clock as _;
use vpsie_autoscaler::fleet::{Phase, RequestOutcome};
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProviderServer;
use vpsie_autoscaler::simulator::{
    AnomaliesConfig, DEFAULT_CLUSTER, DEFAULT_DATACENTER, Shapes, Simulator, SimulatorConfig, Span, VmKind,
};
use vpsie_autoscaler::vpsie::Transport;

use super::kubelets::{DISK_GIB, Kubelets, memory_mib};
use super::process::Process;
use super::workload::{Workload, name, pods_on};
use super::{MAX, NAMESPACE};
use crate::clock::VirtualClock;
use crate::network::{CaChannel, KnownPools, Violations};
use crate::setting::{autoscaler, base};

/// Offers of the NodeGroup. The catalog always has them.
const OFFERS: [&str; 2] = ["s-2vcpu-4gb", "s-4vcpu-8gb"];
const STEP: Duration = Duration::from_secs(15);
const STORM: u32 = 160;
const CALM: u32 = 400;
/// Within this a Node that is ready has its identity.
const IDENTIFIED: Duration = Duration::from_mins(1);

/// What is wrong with a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Disturbance {
    /// The provider's clock is minutes from the API server's, and each kubelet's from both.
    Skew,
    /// Replies to creations are lost and VMs appear late: more VMs than machines.
    Orphans,
    /// Deleted VMs run again.
    Returning,
    /// The first status of a Node shows a part of its memory and no disk.
    Flapping,
    /// No worker is allowed, and the API server does not say so at first.
    Brake,
    /// Nodes of another site have the private addresses that new VMs get.
    Neighbours,
}

use Disturbance::{Brake, Flapping, Neighbours, Orphans, Returning, Skew};

const ALL: [Disturbance; 6] = [Skew, Orphans, Returning, Flapping, Brake, Neighbours];

/// Some, by chance. `DISTURBANCES=Skew,Brake` takes these instead, and all of them.
fn disturbances(rng: &mut StdRng) -> BTreeSet<Disturbance> {
    // With the brake on, little else happens.
    let chance = |disturbance: &Disturbance| if *disturbance == Brake { 0.1 } else { 0.4 };
    let chosen: BTreeSet<Disturbance> =
        ALL.into_iter().filter(|disturbance| rng.random_bool(chance(disturbance))).collect();
    let Ok(names) = std::env::var("DISTURBANCES") else { return chosen };
    let named = |name: &str| {
        let found = ALL.into_iter().find(|disturbance| format!("{disturbance:?}") == name);
        found.unwrap_or_else(|| panic!("DISTURBANCES: {name:?} is none of {ALL:?}"))
    };
    names.split(',').filter(|name| !name.is_empty()).map(named).collect()
}

/// Numbers of VMs whose addresses they have.
const NEIGHBOURS: std::ops::Range<u64> = 2..14;

struct World {
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
    process: Option<Process>,
    /// Nodes that are ready and have no identity, since when.
    nameless: BTreeMap<String, Instant>,
    traced: bool,
}

impl World {
    fn new(seed: u64) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let disturbances = disturbances(&mut rng);
        let clock = VirtualClock::new();
        let shapes = Shapes::random(&mut rng);
        let mut config = SimulatorConfig { seed, shapes, ..SimulatorConfig::default() };
        let minutes =
            |from, to| Span { from: SignedDuration::from_mins(from), to: SignedDuration::from_mins(to) };
        if disturbances.contains(&Orphans) {
            (config.times.listed, config.times.boot) = (minutes(2, 4), minutes(3, 5));
        }
        config.anomalies = AnomaliesConfig {
            returns: if disturbances.contains(&Returning) { 0.5 } else { 0.0 },
            returns_after: minutes(1, 10),
            ..AnomaliesConfig::default()
        };
        let simulator = Simulator::new(config, Arc::new(clock.right())).map_err(|e| e.to_string())?;
        if disturbances.contains(&Skew) {
            clock.jump(rng.random_range(-1500..1500));
        }
        let right = clock.right();
        let kube = FakeKube::new(move || right.now());
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
            transport: watched(&simulator, &kube, &violations),
            base: base(shapes),
            kubelets: Kubelets::new(seed, disturbances.contains(&Flapping)),
            autoscaler: autoscaler(minor, &channel, seed),
            clock,
            simulator,
            kube,
            disturbances,
            workload: Workload::default(),
            channel,
            process: None,
            nameless: BTreeMap::new(),
            traced: std::env::var_os("TRACE").is_some(),
            rng,
        };
        world.set_up()?;
        Ok(world)
    }

    fn trace(&self, what: &dyn std::fmt::Debug) {
        if self.traced {
            println!("{:>7.1}s {what:?}", self.clock.elapsed().as_secs_f64());
        }
    }

    fn set_up(&mut self) -> Result<(), String> {
        let put =
            |object: Value| self.kube.put_object(object).map(drop).map_err(|refusal| format!("{refusal:?}"));
        put(json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
            "metadata": {"name": "web", "namespace": NAMESPACE, "generation": 1},
            "spec": {"minNodes": 0, "maxNodes": MAX, "datacenterID": DEFAULT_DATACENTER,
                "resourceIdentifier": DEFAULT_CLUSTER, "offeringIDs": OFFERS},
        }))?;
        if self.disturbances.contains(&Brake) {
            self.workload.wanted = 4;
            put(json!({
                "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "AutoscalerConfig",
                "metadata": {"name": "default", "generation": 1},
                "spec": {"globalSettings": {"maxClusterWorkers": 0}},
            }))?;
        }
        if self.disturbances.contains(&Neighbours) {
            for id in NEIGHBOURS {
                put(neighbour(id))?;
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
        for step in 0..STORM {
            self.inject_faults().await?;
            self.step().await.map_err(|why| format!("seed {}, step {step}: {why}", self.seed))?;
        }
        self.simulator.clear_faults();
        self.trace(&"calm");
        for (wanted, text) in [(3, "three pods"), (0, "no pods")] {
            self.workload.wanted = wanted;
            let mut last = Err(String::new());
            for step in 0..CALM {
                self.step().await.map_err(|why| format!("seed {}, rest step {step}: {why}", self.seed))?;
                last = self.rested(wanted);
                if last.is_ok() {
                    break;
                }
            }
            last.map_err(|why| format!("seed {}: L: does not come to rest with {text}: {why}", self.seed))?;
        }
        Ok(self.simulator.call_count())
    }

    async fn start(&mut self) -> Result<(), String> {
        if self.disturbances.contains(&Brake) {
            // Long enough for Cluster Autoscaler to request machines meanwhile.
            let until = Instant::now() + Duration::from_secs(self.rng.random_range(20..180));
            let reads = move |asked: &fake_kube::ApiRequest| {
                asked.plural == "autoscalerconfigs" && !asked.verb.writes() && Instant::now() < until
            };
            self.kube.fail(u32::MAX, reads, RequestFault::refused(503));
        }
        let seed = self.rng.random();
        let clock = Arc::new(self.clock.clone());
        let process = Process::start(&self.kube, clock, self.transport.clone(), self.base, seed).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Serves once the process opens gRPC. Every pool must have its maximum then, because Cluster Autoscaler acts on it.
    fn serve(&mut self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        let Some(allowed) = process.opened.get() else { return Ok(()) };
        for offer in OFFERS {
            let is_it = |id: &&String| id.starts_with("web/") && id.contains(&format!("/{offer}/"));
            let max = allowed.keys().find(is_it).and_then(|id| allowed.get(id));
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

    async fn inject_faults(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..40) {
            0..6 => {
                self.workload.wanted = self.rng.random_range(0..7);
                self.trace(&("pods", self.workload.wanted));
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
                self.nameless.clear();
                self.start().await?;
            }
            11 if self.disturbances.contains(&Skew) => {
                let seconds = self.rng.random_range(-300..300);
                self.trace(&("clock", seconds));
                self.clock.jump(seconds);
            }
            _ => {}
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<(), String> {
        let now = self.clock.right().now();
        self.kubelets.step(&self.kube, &self.simulator, now);
        if self.disturbances.contains(&Neighbours) {
            for id in NEIGHBOURS {
                let beat = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": now.to_string()}]);
                let name = format!("other-{id}");
                drop(self.kube.patch("nodes", "", &name, json!({"status": {"conditions": beat}})));
            }
        }
        self.workload.step(&self.kube);
        self.serve()?;
        let cluster = Kubernetes::new(self.kube.client("autoscaler", "default"));
        let report = self.autoscaler.loop_once(&cluster, now).await;
        if !report.events.is_empty() || report.outcome != LoopResult::Done {
            self.trace(&(&report.outcome, &report.events));
        }
        if let LoopResult::Crashed(why) = &report.outcome {
            return Err(format!("8: Cluster Autoscaler panics: {why}"));
        }
        // A status that is wrong for some seconds is right again within a step.
        tokio::time::sleep(STEP / 3).await;
        self.kubelets.step(&self.kube, &self.simulator, self.clock.right().now());
        tokio::time::sleep(STEP / 3 * 2).await;
        self.check()
    }

    fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.channel.violations.first() {
            return Err(violation);
        }
        if let Some(process) = &mut self.process {
            process.goes_on()?;
        }
        if self.disturbances.contains(&Brake) && self.simulator.worker_count() > 0 {
            return Err("4: a VM is made, and maxClusterWorkers is 0".to_owned());
        }
        self.identified()?;
        self.check_profiles()?;
        if self.disturbances.contains(&Neighbours) {
            for id in NEIGHBOURS {
                let node = self.kube.get("nodes", "", &format!("other-{id}")).unwrap_or_default();
                let touched = node["spec"] != neighbour(id)["spec"]
                    || node["metadata"]["labels"] != neighbour(id)["metadata"]["labels"];
                if touched {
                    return Err(format!(
                        "I: the Node other-{id} of another site was changed: {}",
                        node["spec"]
                    ));
                }
            }
        }
        Ok(())
    }

    /// The ready Node of a machine has its identity within the bound, whatever the clocks.
    fn identified(&mut self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        let now = Instant::now();
        let bound: BTreeSet<String> = process.handle.read(|fleet| {
            let lives = fleet
                .machines()
                .filter(|m| matches!(m.phase, Phase::Creating { .. } | Phase::Running { .. }));
            lives
                .filter_map(|m| m.vm())
                .filter(|vm| vm.id.is_some())
                .map(|vm| vm.hostname.to_string())
                .collect()
        });
        let nodes = self.kube.list("nodes");
        let nameless: BTreeSet<String> = nodes
            .iter()
            .filter(|node| {
                is_ready(node) && !node["spec"]["providerID"].is_string() && bound.contains(&name(node))
            })
            .map(name)
            .collect();
        self.nameless.retain(|name, _| nameless.contains(name));
        for name in nameless {
            let since = *self.nameless.entry(name.clone()).or_insert(now);
            if now > since + IDENTIFIED {
                return Err(format!(
                    "I: the Node {name} is ready and has no providerID for {:?}",
                    now - since
                ));
            }
        }
        Ok(())
    }

    /// Templates promise the resources that Nodes of their size have once they settle, not those of their first status.
    fn check_profiles(&self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        process.handle.read(|fleet| {
            for pool in fleet.pools().filter(|pool| fleet.size_profile(pool.offer.size).is_some()) {
                let promised = fleet.template(pool).allocatable;
                let has = (memory_mib(pool.offer.size.0), DISK_GIB);
                if (promised.memory_mib, promised.disk_gib) != has {
                    return Err(format!("T: the template of {} promises {promised:?}", pool.text));
                }
            }
            Ok(())
        })
    }

    fn rested(&self, wanted: usize) -> Result<(), String> {
        if self.disturbances.contains(&Brake) {
            return Ok(());
        }
        let Some(process) = &self.process else { return Err("no process".to_owned()) };
        let odd = process.handle.read(|fleet| {
            fleet
                .machines()
                .find(|machine| match &machine.phase {
                    Phase::Running { .. } => false,
                    Phase::Deleting { vm: None, .. } => {
                        machine.requests.iter().any(|a| a.outcome != RequestOutcome::Lost)
                    }
                    _ => true,
                })
                .map(|machine| format!("{machine:?}"))
        });
        let waiting = Workload::waiting(&self.kube);
        let workers = self.simulator.worker_count();
        match odd {
            Some(machine) => Err(machine),
            None if waiting > 0 => Err(format!("{waiting} pods wait")),
            None if wanted == 0 && workers > 0 => Err(format!("{workers} workers are left")),
            None => Ok(()),
        }
    }
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A Node of another site: ready, older than all VMs of ours, with an address that one of them will have.
fn neighbour(id: u64) -> Value {
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

/// The network to VPSie: a VM on whose ready Node pods run is not deleted.
fn watched(simulator: &Simulator, kube: &FakeKube, violations: &Violations) -> Transport {
    let simulator = simulator.clone();
    let kube = kube.clone();
    let violations = violations.clone();
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
        if request.method() == http::Method::DELETE && request.uri().path().contains("delete/slave") {
            let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            let victim = simulator.vms().into_iter().find(|vm| body["identifier"] == vm.vm.uuid.as_str());
            if let Some(vm) = victim.filter(|vm| vm.vm.kind == VmKind::Worker) {
                let node = vm.vm.hostname.to_lowercase();
                let pods = pods_on(&kube, &node);
                let ready = kube.get("nodes", "", &node).is_some_and(|node| is_ready(&node));
                if ready && !pods.is_empty() {
                    violations
                        .add(format!("D: the VM {node} is deleted, and {pods:?} run on its ready Node"));
                }
            }
        }
        simulator.transport().oneshot(request)
    }))
}

fn run(seed: u64) -> Result<u64, String> {
    crate::virtually(async { World::new(seed)?.run().await })
}

#[test]
fn a_cluster_keeps_its_pods_and_its_limits() {
    let calls = crate::each_seed(8, "a_cluster_keeps", run);
    assert!(calls.iter().all(|calls| *calls > 0));
}

#[test]
fn the_same_seed_does_the_same_in_a_cluster() {
    assert_eq!(run(4), run(4));
}
