//! Two deployments in one VPSie account: one for a managed cluster, one for a self-managed cluster. Neither binds,
//! counts or deletes the machines of the other one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ca_model::{Autoscaler, Kubernetes, LoopResult, Minor};
use fake_kube::FakeKube;
use http::{Method, Request};
use rand::RngExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::control::FleetHandle;
use vpsie_autoscaler::fleet::Phase;
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProviderServer;
use vpsie_autoscaler::simulator::{DEFAULT_CLUSTER, DEFAULT_DATACENTER, Simulator, VmKind};
use vpsie_autoscaler::vpsie::Transport;

use super::world::{Setting, World};
use super::{MAX, NAMESPACE};
use crate::clock::VirtualClock;
use crate::cluster::kubelets::Kubelets;
use crate::cluster::process::{ClusterProcess, ClusterProcessConfig};
use crate::cluster::workload::Workload;
use crate::fixtures::new_autoscaler;
use crate::network::{CaChannel, KnownPools, Violations};

/// Steps with faults, and steps in which both clusters must come to rest.
const FAULT_STEPS: u32 = 120;
const REST_STEPS: u32 = 400;

/// The managed cluster, with a deployment of its own.
struct Managed {
    clock: VirtualClock,
    simulator: Simulator,
    kube: FakeKube,
    kubelets: Kubelets,
    workload: Workload,
    autoscaler: Autoscaler,
    channel: CaChannel,
    process: ClusterProcess,
}

impl Managed {
    async fn start(world: &World, seed: u64, violations: &Violations) -> Result<Self, String> {
        let server_clock = world.clock.unskewed();
        let kube = FakeKube::new(move || server_clock.now());
        // Its name is also that of the NodeGroup of the other cluster.
        let group = json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
            "metadata": {"name": "web", "namespace": NAMESPACE, "generation": 1},
            "spec": {"minNodes": 0, "maxNodes": MAX, "datacenterID": DEFAULT_DATACENTER,
                "resourceIdentifier": DEFAULT_CLUSTER, "offeringIDs": ["s-2vcpu-4gb", "s-4vcpu-8gb"]},
        });
        kube.put_object(group).map_err(|error| format!("{error:?}"))?;
        let channel = CaChannel {
            server: Arc::default(),
            violations: violations.clone(),
            bug: None,
            known: Arc::new(Mutex::new(KnownPools::default())),
            freezer: Arc::default(),
            increases: None,
        };
        let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
        let config = ClusterProcessConfig {
            client: kube.client("provider", NAMESPACE),
            clock: Arc::clone(&clock),
            notice_clock: clock,
            transport: watched(world.simulator.transport(), &world.simulator, VmKind::Worker, violations),
            base: world.base,
            seed,
        };
        Ok(Self {
            clock: world.clock.clone(),
            simulator: world.simulator.clone(),
            kube,
            kubelets: Kubelets::new(seed, false),
            workload: Workload::default(),
            autoscaler: new_autoscaler(Minor::V1_36, &channel, seed),
            channel,
            process: ClusterProcess::start(config).await?,
        })
    }

    /// Runs the kubelets, the workload and one loop of Cluster Autoscaler.
    async fn step(&mut self) -> Result<(), String> {
        let now = self.clock.unskewed().now();
        self.kubelets.step(&self.kube, &self.simulator, now);
        self.workload.step(&self.kube);
        {
            let mut server = self.channel.server.lock().unwrap();
            if server.is_none() && self.process.opened.get().is_some() {
                *server =
                    Some(CloudProviderServer::new(CloudProviderService::new(self.process.handle.clone())));
            }
        }
        let cluster = Kubernetes::new(self.kube.client("autoscaler", "default"));
        let report = self.autoscaler.loop_once(&cluster, now).await;
        if let LoopResult::Crashed(error) = &report.outcome {
            return Err(format!("8: Cluster Autoscaler panics: {error}"));
        }
        self.process.check_tasks()
    }

    fn check_rest(&self, replicas: usize) -> Result<(), String> {
        let machines = self.process.handle.read(|fleet| {
            let unsettled = fleet.machines().find(|machine| !matches!(machine.phase, Phase::Running { .. }));
            unsettled.map_or(Ok(fleet.machines().count()), |machine| Err(format!("{machine:?}")))
        })?;
        let pending = Workload::count_pending(&self.kube);
        let workers = self.simulator.worker_count();
        if pending > 0 || machines != workers || replicas == 0 && workers > 0 {
            return Err(format!("{pending} pods are pending; {machines} machines, {workers} workers"));
        }
        Ok(())
    }
}

/// The network of a deployment to VPSie. It checks that each deletion names a VM of the deployment.
fn watched(inner: Transport, simulator: &Simulator, own: VmKind, violations: &Violations) -> Transport {
    let (simulator, violations) = (simulator.clone(), violations.clone());
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
        let path = request.uri().path();
        if request.method() == Method::DELETE && !path.ends_with("/script") {
            let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            let named = body["vmIdentifier"].as_str().or_else(|| body["identifier"].as_str());
            let all = simulator.vms().into_iter().chain(simulator.gone());
            let kind =
                named.and_then(|uuid| all.into_iter().find(|vm| vm.vm.uuid == uuid)).map(|vm| vm.vm.kind);
            if kind != Some(own) {
                violations.add(format!("7: DELETE {path} of a deployment with {own:?} names a {kind:?}"));
            }
        }
        inner.clone().oneshot(request)
    }))
}

/// A planted bug: deletions of VMs name a worker of the managed cluster.
fn deletes_workers(inner: Transport, simulator: &Simulator) -> Transport {
    let simulator = simulator.clone();
    BoxCloneSyncService::new(tower::service_fn(move |mut request: Request<Bytes>| {
        let mut body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let is_deletion = request.method() == Method::DELETE && body["vmIdentifier"].is_string();
        let worker = simulator.vms().into_iter().find(|vm| vm.vm.kind == VmKind::Worker);
        if let Some(worker) = worker.filter(|_| is_deletion) {
            body["vmIdentifier"] = worker.vm.uuid.into();
            *request.body_mut() = Bytes::from(body.to_string());
        }
        inner.clone().oneshot(request)
    }))
}

/// Checks that each VM of the fleet is of the kind.
fn check_fleet(handle: &FleetHandle, simulator: &Simulator, kind: VmKind) -> Result<(), String> {
    let all: Vec<_> = simulator.vms().into_iter().chain(simulator.gone()).collect();
    let ids: BTreeSet<String> = handle.read(|fleet| {
        fleet.machines().filter_map(|machine| Some(machine.vm()?.id.as_ref()?.as_str().to_owned())).collect()
    });
    let is_other = |uuid: &&String| all.iter().any(|vm| vm.vm.uuid == **uuid && vm.vm.kind != kind);
    ids.iter()
        .find(is_other)
        .map_or(Ok(()), |uuid| Err(format!("5: {uuid} is a machine of a fleet of {kind:?}")))
}

/// Checks that each Node has the id of a VM of the kind.
fn check_nodes(kube: &FakeKube, simulator: &Simulator, kind: VmKind) -> Result<(), String> {
    let others = simulator
        .vms()
        .into_iter()
        .filter(|vm| vm.vm.kind != kind)
        .map(|vm| format!("vpsie://{}", vm.vm.uuid));
    let others: BTreeSet<String> = others.collect();
    let wrong = kube
        .list("nodes")
        .into_iter()
        .find(|node| node["spec"]["providerID"].as_str().is_some_and(|id| others.contains(id)));
    wrong.map_or(Ok(()), |node| {
        Err(format!("I: a Node of {kind:?} has the id of another VM: {}", node["metadata"]["name"]))
    })
}

/// Returns the numbers of VMs that joined and of workers.
async fn run(seed: u64, has_bug: bool) -> Result<(u64, usize), String> {
    let mut world = World::calm(seed, Setting { managed_cluster: true, ..Setting::default() })?;
    let violations = Violations::default();
    world.transport = watched(world.transport.clone(), &world.simulator, VmKind::Plain, &violations);
    if has_bug {
        world.transport = deletes_workers(world.transport.clone(), &world.simulator);
    }
    world.set_up().await?;
    world.start().await?;
    let mut managed = Managed::start(&world, seed, &violations).await?;
    let mut created = BTreeSet::new();
    let check = |world: &World, managed: &Managed| -> Result<(), String> {
        if let Some(process) = &world.process {
            check_fleet(&process.handle, &world.simulator, VmKind::Plain)?;
        }
        check_fleet(&managed.process.handle, &world.simulator, VmKind::Worker)?;
        check_nodes(&world.kube, &world.simulator, VmKind::Plain)?;
        check_nodes(&managed.kube, &world.simulator, VmKind::Worker)?;
        violations.first().map_or(Ok(()), Err)
    };
    for step in 0..FAULT_STEPS {
        world.inject_faults().await?;
        if world.rng.random_bool(0.2) {
            managed.workload.replicas = world.rng.random_range(0..7);
        }
        managed.step().await?;
        world.step().await?;
        check(&world, &managed).map_err(|error| format!("seed {seed}, step {step}: {error}"))?;
        let workers = world.simulator.vms().into_iter().filter(|vm| vm.vm.kind == VmKind::Worker);
        created.extend(workers.map(|vm| vm.vm.uuid));
    }
    world.end_faults();
    for replicas in [3, 0] {
        (world.workload.replicas, managed.workload.replicas) = (replicas, replicas);
        let mut at_rest = Err(String::new());
        for _ in 0..REST_STEPS {
            managed.step().await?;
            world.step().await?;
            check(&world, &managed)?;
            at_rest = world.check_rest(replicas).and_then(|()| managed.check_rest(replicas));
            if at_rest.is_ok() {
                break;
            }
        }
        at_rest.map_err(|error| format!("seed {seed}: L: no rest with {replicas} pods: {error}"))?;
    }
    Ok((world.boots.joined, created.len()))
}

#[test]
fn a_managed_and_a_self_managed_cluster_share_an_account() {
    let counts = crate::run_seeds(2, "share_an_account", |seed| crate::run_in_virtual_time(run(seed, false)));
    println!("VMs that joined, workers: {counts:?}");
    assert!(counts.iter().all(|(joined, workers)| *joined > 0 && *workers > 0));
}

#[test]
fn a_planted_bug_of_two_clusters_in_an_account_is_found() {
    let found =
        crate::find_planted_bug("deletes_workers", 0, |seed| crate::run_in_virtual_time(run(seed, true)));
    assert!(found.contains("7: DELETE"), "{found}");
}
