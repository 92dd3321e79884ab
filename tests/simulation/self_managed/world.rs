//! One run of the provider in a self-managed cluster.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ca_model::{Autoscaler, Config, Kubernetes, LoopResult, Minor};
use data_encoding::BASE64;
use fake_kube::FakeKube;
use http::{Method, Request};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::control::ServedCluster;
use vpsie_autoscaler::fleet::{Phase, Policy, names};
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProviderServer;
use vpsie_autoscaler::simulator::{
    DEFAULT_DATACENTER, DEFAULT_TOKEN, Shapes, Simulator, SimulatorConfig, TimesConfig, VmKind,
};
use vpsie_autoscaler::vpsie::Transport;

use super::boot::{Boots, tokens};
use super::process::Process;
use super::{MAX, NAMESPACE};
use crate::clock::VirtualClock;
use crate::cluster::workload::Workload;
use crate::fixtures::{autoscaler_config, base_url, new_autoscaler_with};
use crate::network::{CaChannel, CrashCountdown, KnownPools, Violations};

/// Offers of the NodeGroup.
const OFFERS: [&str; 2] = ["c-2vcpu-4gb", "c-4vcpu-8gb"];
/// Time of a step.
const STEP: Duration = Duration::from_secs(15);
/// Steps with injected faults.
const FAULT_STEPS: u32 = 160;
/// Steps without faults in which the cluster must come to rest.
const REST_STEPS: u32 = 400;
/// VMs of others: with the hostname of a machine and no marker, and with the marker of another cluster.
const OTHERS: [(&str, &str); 2] = [
    ("web-0a1b2c3d-1", "made by hand"),
    ("web-0a1b2c3e-1", "vpsie-autoscaler another-cluster web/ams1/c-2vcpu-4gb/on-demand"),
];

/// What differs between runs.
pub(super) struct Setting {
    /// `--create-timeout`.
    pub(super) create_timeout: Duration,
    /// `--max-node-provision-time` of Cluster Autoscaler.
    pub(super) provision_time: Duration,
    /// Times of VPSie.
    pub(super) times: TimesConfig,
    /// Whether the account has a managed cluster, too.
    pub(super) managed_cluster: bool,
    /// The template of the payload. None: that of the join kind.
    pub(super) template: Option<&'static str>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            create_timeout: Policy::default().create_timeout,
            provision_time: autoscaler_config(0).max_node_provision_time,
            times: TimesConfig::default(),
            managed_cluster: false,
            template: None,
        }
    }
}

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlantedBug {
    /// Deletions of scripts do not reach VPSie.
    ScriptsStay,
    /// Deletions of VMs name another VM.
    WrongVmDeleted,
    /// Requests for VMs are sent twice.
    RequestedTwice,
}

pub(super) struct World {
    seed: u64,
    pub(super) rng: StdRng,
    pub(super) clock: VirtualClock,
    pub(super) simulator: Simulator,
    pub(super) kube: FakeKube,
    pub(super) transport: Transport,
    countdown: CrashCountdown,
    pub(super) base: &'static str,
    pub(super) boots: Boots,
    pub(super) workload: Workload,
    autoscaler: Autoscaler,
    channel: CaChannel,
    pub(super) process: Option<Process>,
    /// Whether VMs are attached to a VPC.
    has_network: bool,
    setting: Setting,
    traced: bool,
}

/// Numbers of VMs in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcome {
    joined: u64,
    refused: u64,
    calls: u64,
}

impl World {
    fn new(seed: u64, bug: Option<PlantedBug>) -> Result<Self, String> {
        Self::with(seed, Setting::default(), bug)
    }

    /// A world without faults and networks.
    pub(super) fn calm(seed: u64, setting: Setting) -> Result<Self, String> {
        Ok(Self { has_network: false, ..Self::with(seed, setting, None)? })
    }

    fn with(seed: u64, setting: Setting, bug: Option<PlantedBug>) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(seed);
        let clock = VirtualClock::new();
        let shapes = Shapes::random_with_vms(&mut rng);
        let mut config = SimulatorConfig { seed, shapes, times: setting.times, ..SimulatorConfig::default() };
        if !setting.managed_cluster {
            config.clusters.clear();
        }
        let simulator = Simulator::new(config, Arc::new(clock.unskewed())).map_err(|e| e.to_string())?;
        let server_clock = clock.unskewed();
        let kube = FakeKube::new(move || server_clock.now());
        let violations = Violations::default();
        let countdown = CrashCountdown::default();
        let channel = CaChannel {
            server: Arc::default(),
            violations,
            bug: None,
            known: Arc::new(Mutex::new(KnownPools::default())),
            freezer: Arc::default(),
            increases: None,
        };
        let minor = if rng.random_bool(0.5) { Minor::V1_33 } else { Minor::V1_36 };
        let flags =
            Config { max_node_provision_time: setting.provision_time, ..autoscaler_config(rng.random()) };
        let autoscaler = new_autoscaler_with(minor, &channel, flags);
        let base = base_url(shapes);
        let transport = transport(simulator.clone(), countdown.clone(), bug);
        let traced = std::env::var("TRACE").is_ok();
        let has_network = rng.random_bool(0.5);
        let boots = Boots::default();
        let workload = Workload::default();
        let process = None;
        Ok(Self {
            seed,
            rng,
            clock,
            simulator,
            kube,
            transport,
            countdown,
            base,
            boots,
            workload,
            autoscaler,
            channel,
            process,
            has_network,
            setting,
            traced,
        })
    }

    pub(super) fn trace(&self, event: &impl std::fmt::Debug) {
        if self.traced {
            println!("{:>7.1}s {event:?}", self.clock.elapsed().as_secs_f64());
        }
    }

    /// Creates the objects that exist before the provider starts, and the VMs of others.
    pub(super) async fn set_up(&mut self) -> Result<(), String> {
        let networks = if self.has_network {
            json!({DEFAULT_DATACENTER: {"vpcID": add_vpc(&self.simulator, self.base).await?}})
        } else {
            json!({})
        };
        let put =
            |object: Value| self.kube.put_object(object).map(drop).map_err(|error| format!("{error:?}"));
        let mut params = CertificateParams::new(Vec::new()).map_err(|error| error.to_string())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let ca = CertifiedIssuer::self_signed(params, key).map_err(|error| error.to_string())?;
        let encoded = BASE64.encode(ca.pem().as_bytes());
        let kubeconfig = format!("clusters:\n- cluster:\n    certificate-authority-data: {encoded}\n");
        put(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "cluster-info", "namespace": "kube-public"}, "data": {"kubeconfig": kubeconfig}}))?;
        let mut group = json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
            "metadata": {"name": "web", "namespace": NAMESPACE, "generation": 1},
            "spec": {"minNodes": 0, "maxNodes": MAX, "datacenterID": DEFAULT_DATACENTER, "offeringIDs": OFFERS,
                "osImageID": "ubuntu", "selfManaged": {"joinKind": "kubeadm", "endpoint": "10.0.0.1:6443",
                    "networks": networks,
                    "delivery": if self.rng.random_bool(0.7) { "script" } else { "userData" }}},
        });
        if let Some(template) = self.setting.template {
            self.set_template(template)?;
            group["spec"]["selfManaged"]["payload"] =
                json!({"configMapKeyRef": {"name": "payload", "key": "script"}});
        }
        put(group)?;
        for (hostname, notes) in OTHERS {
            self.simulator
                .add_plain_vm(DEFAULT_DATACENTER, OFFERS[0], hostname, notes)
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Sets the template of the payload.
    pub(super) fn set_template(&self, template: &str) -> Result<(), String> {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "payload", "namespace": NAMESPACE}, "data": {"script": template}});
        self.kube.put_object(object).map(drop).map_err(|error| format!("{error:?}"))
    }

    async fn run(mut self) -> Result<Outcome, String> {
        self.set_up().await?;
        self.start().await?;
        for step in 0..FAULT_STEPS {
            self.inject_faults().await?;
            self.step().await.map_err(|error| format!("seed {}, step {step}: {error}", self.seed))?;
        }
        self.end_faults();
        for replicas in [3, 0] {
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
                format!(
                    "seed {}: L: the cluster does not come to rest with {replicas} pods: {error}",
                    self.seed
                )
            })?;
        }
        let Boots { joined, refused, .. } = self.boots;
        Ok(Outcome { joined, refused, calls: self.simulator.call_count() })
    }

    pub(super) async fn start(&mut self) -> Result<(), String> {
        let seed = self.rng.random();
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let client = self.kube.client("provider", NAMESPACE);
        let timeout = self.setting.create_timeout;
        let started = Process::start(client, clock, self.transport.clone(), self.base, seed, timeout).await?;
        self.process = Some(started);
        Ok(())
    }

    /// Connects Cluster Autoscaler once the NodeGroups are in force and the catalog is known.
    fn connect(&mut self) {
        let Some(process) = &self.process else { return };
        let is_served = matches!(*process.served.borrow(), ServedCluster::SelfManaged(_));
        let has_catalog = process.handle.read(|fleet| fleet.catalog().is_some());
        let mut server = self.channel.server.lock().unwrap();
        if server.is_none() && is_served && has_catalog {
            *server = Some(CloudProviderServer::new(CloudProviderService::new(process.handle.clone())));
        }
    }

    /// Injects at most one event before a step.
    pub(super) async fn inject_faults(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..32) {
            0..6 => {
                self.workload.replicas = self.rng.random_range(0..7);
                self.trace(&("pods", self.workload.replicas));
            }
            6..10 => {
                let path = ["/**/vm", "/**/script/add", "/**/scripts", "/**/vm/pending", "/**"]
                    [self.rng.random_range(0..5)];
                let effect =
                    ["lost", "lost", "not-sent", "status=500", "status=503 done", "html=502", "delay=45s"]
                        [self.rng.random_range(0..7)];
                let text = format!("* {path} {effect} count={} p=0.7", self.rng.random_range(1..4));
                self.trace(&("fault", &text));
                self.simulator.add_fault(text.parse().map_err(|e| format!("{text}: {e:?}"))?);
            }
            10 => self.simulator.clear_faults(),
            11 => self.restart("the provider is killed").await?,
            12..15 => {
                let calls = self.rng.random_range(0..24);
                self.trace(&("crash after calls", calls));
                self.countdown.start(calls);
            }
            15 => {
                let own = self.own_vms();
                if !own.is_empty() {
                    let uuid = &own[self.rng.random_range(0..own.len())];
                    self.trace(&("VM deleted at VPSie by another client", uuid));
                    self.simulator.delete_vm(uuid).map_err(|error| error.to_string())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn end_faults(&self) {
        self.simulator.clear_faults();
        self.countdown.stop();
        self.trace(&"faults end");
    }

    async fn restart(&mut self, why: &str) -> Result<(), String> {
        self.trace(&why);
        *self.channel.server.lock().unwrap() = None;
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
        self.countdown.stop();
        self.start().await
    }

    /// Boots VMs, runs the workload and one loop of Cluster Autoscaler, lets time pass, and checks the invariants.
    pub(super) async fn step(&mut self) -> Result<(), String> {
        let now = self.clock.unskewed().now();
        self.boots.step(&self.kube, &self.simulator, now)?;
        self.workload.step(&self.kube);
        self.connect();
        let cluster = Kubernetes::new(self.kube.client("autoscaler", "default"));
        let report = self.autoscaler.loop_once(&cluster, now).await;
        if !report.events.is_empty() || report.outcome != LoopResult::Done {
            self.trace(&(&report.outcome, &report.events));
        }
        if let LoopResult::Crashed(error) = &report.outcome {
            return Err(format!("8: Cluster Autoscaler panics: {error}"));
        }
        let crashed = {
            let countdown = self.countdown.clone();
            tokio::time::timeout(STEP, async move { countdown.crashed().await }).await.is_ok()
        };
        if crashed {
            self.restart("the provider crashes within a call").await?;
        }
        self.check()
    }

    /// UUIDs of the VMs that the provider created.
    pub(super) fn own_vms(&self) -> Vec<String> {
        let is_own = |hostname: &str| OTHERS.iter().all(|(other, _)| *other != hostname);
        let plain = self.simulator.vms().into_iter().filter(|vm| vm.vm.kind == VmKind::Plain);
        plain.filter(|vm| is_own(&vm.vm.hostname)).map(|vm| vm.vm.uuid).collect()
    }

    /// Whether each VM is attached once to its network, and no Node waits for that.
    fn is_attached(&self) -> bool {
        let own = self.own_vms();
        let vms = self.simulator.vms().into_iter().filter(|vm| own.contains(&vm.vm.uuid));
        let mut attachments = vms.map(|vm| vm.vm.plain.map_or(0, |plain| plain.private_ips.len()));
        let waits = |node: &Value| node["spec"]["taints"].to_string().contains(names::NETWORK);
        attachments.all(|count| count == usize::from(self.has_network))
            && !self.kube.list("nodes").iter().any(waits)
    }

    fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.channel.violations.first() {
            return Err(violation);
        }
        if let Some(process) = &mut self.process {
            process.check_tasks()?;
        }
        let hostnames: BTreeSet<String> = self.simulator.vms().into_iter().map(|vm| vm.vm.hostname).collect();
        if let Some((lost, _)) = OTHERS.iter().find(|(hostname, _)| !hostnames.contains(*hostname)) {
            return Err(format!("5: the VM {lost} of others was deleted"));
        }
        let limit = MAX as usize + 3;
        let own = self.own_vms().len();
        if own > limit { Err(format!("4: {own} VMs, more than {limit}")) } else { Ok(()) }
    }

    /// Checks that the cluster is at rest with `replicas` pods: nothing is left of joins that ended.
    pub(super) fn check_rest(&self, replicas: usize) -> Result<(), String> {
        let Some(process) = &self.process else { return Err("no process".to_owned()) };
        let (machines, unsettled) = process.handle.read(|fleet| {
            let unsettled = fleet.machines().find(|machine| !matches!(machine.phase, Phase::Running { .. }));
            (fleet.machines().count(), unsettled.map(|machine| format!("{machine:?}")))
        });
        let pending = Workload::count_pending(&self.kube);
        let vms = self.own_vms().len();
        let tokens = tokens(&self.kube);
        let scripts = self.simulator.script_names();
        match unsettled {
            Some(machine) => Err(machine),
            None if pending > 0 => {
                let nodes = self.kube.list("nodes").len();
                let limits = process.handle.read(|fleet| {
                    let limits =
                        |pool| (fleet.limits(pool), fleet.growth_block(&pool.text, 1, self.clock.now()));
                    fleet.pools().map(limits).map(|pool| format!("{pool:?}")).collect::<Vec<_>>()
                });
                Err(format!(
                    "{pending} pods are pending; {machines} machines, {vms} VMs, {nodes} Nodes; {limits:?}"
                ))
            }
            None if replicas == 0 && vms > 0 => Err(format!("{vms} VMs remain")),
            None if machines != vms => Err(format!("{machines} machines, {vms} VMs")),
            None if !self.is_attached() => {
                Err("a VM is not attached, or its Node keeps the taint".to_owned())
            }
            None if !tokens.is_empty() => Err(format!("the tokens {tokens:?} remain")),
            None if !scripts.is_empty() => Err(format!("the scripts {scripts:?} remain")),
            None => Ok(()),
        }
    }
}

/// The network to VPSie, with crashes within calls.
fn transport(simulator: Simulator, countdown: CrashCountdown, bug: Option<PlantedBug>) -> Transport {
    BoxCloneSyncService::new(tower::service_fn(move |mut request: Request<Bytes>| {
        let (simulator, countdown) = (simulator.clone(), countdown.clone());
        async move {
            countdown.count_down().await;
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            if bug == Some(PlantedBug::ScriptsStay) && method == Method::DELETE && path.ends_with("/script") {
                let reply = http::Response::new(Bytes::from_static(b"{\"error\":false,\"data\":true}"));
                return Ok(reply);
            }
            if bug == Some(PlantedBug::WrongVmDeleted) && method == Method::DELETE && path.ends_with("/vm") {
                let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
                let named = body["vmIdentifier"].as_str().unwrap_or_default().to_owned();
                let other = simulator.vms().into_iter().map(|vm| vm.vm.uuid).find(|uuid| *uuid != named);
                let text =
                    String::from_utf8_lossy(request.body()).replace(&named, &other.unwrap_or_default());
                *request.body_mut() = Bytes::from(text);
            }
            if bug == Some(PlantedBug::RequestedTwice) && method == Method::POST && path.ends_with("/vm") {
                for _ in 0..3 {
                    let again = copy(&request);
                    drop(simulator.transport().oneshot(again).await);
                }
            }
            let reply = simulator.transport().oneshot(request).await;
            countdown.count_down().await;
            reply
        }
    }))
}

/// Adds a VPC, and returns its id.
async fn add_vpc(simulator: &Simulator, base: &str) -> Result<String, String> {
    let send = async |method: Method, path: &str, body: Value| -> Result<Value, String> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{base}/{path}"))
            .header("vpsie-auth", DEFAULT_TOKEN)
            .header("authorization", format!("Bearer {DEFAULT_TOKEN}"))
            .header("content-type", "application/json")
            .body(Bytes::from(body.to_string()))
            .map_err(|error| error.to_string())?;
        let reply = simulator.transport().oneshot(request).await.map_err(|error| error.to_string())?;
        serde_json::from_slice(reply.body()).map_err(|error| format!("{path}: {error}: {:?}", reply.body()))
    };
    send(Method::POST, "vpc/add", json!({"name": "nodes", "dcIdentifier": DEFAULT_DATACENTER})).await?;
    let listed = send(Method::GET, "vpc", Value::Null).await?;
    let id = find_vpc(&listed).ok_or_else(|| format!("no VPC in {listed}"))?;
    Ok(id.as_str().map_or_else(|| id.to_string(), str::to_owned))
}

/// The id of the first VPC in a reply.
fn find_vpc(value: &Value) -> Option<&Value> {
    match value {
        Value::Object(object) if object.contains_key("network_range") => object.get("id"),
        Value::Object(object) => object.values().find_map(find_vpc),
        Value::Array(rows) => rows.iter().find_map(find_vpc),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn copy(request: &Request<Bytes>) -> Request<Bytes> {
    let mut copy = Request::new(request.body().clone());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn run(seed: u64, bug: Option<PlantedBug>) -> Result<Outcome, String> {
    crate::run_in_virtual_time(async { World::new(seed, bug)?.run().await })
}

#[test]
fn a_self_managed_cluster_leaves_nothing_behind() {
    let outcomes = crate::run_seeds(4, "a_self_managed_cluster", |seed| run(seed, None));
    let joined: u64 = outcomes.iter().map(|outcome| outcome.joined).sum();
    let refused: u64 = outcomes.iter().map(|outcome| outcome.refused).sum();
    println!("{joined} VMs joined, {refused} were refused");
    assert!(joined > 0);
}

#[test]
fn the_same_seed_gives_the_same_run_in_a_self_managed_cluster() {
    assert_eq!(run(3, None), run(3, None));
}

#[test]
fn planted_bugs_of_a_self_managed_cluster_are_found() {
    for (bug, message) in [
        (PlantedBug::ScriptsStay, "scripts"),
        (PlantedBug::WrongVmDeleted, "5: the VM"),
        // The runaway guard halts growth.
        (PlantedBug::RequestedTwice, "pods are pending"),
    ] {
        let found = (0..20).find_map(|seed| run(seed, Some(bug)).err());
        let found = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        println!("{bug:?}: {found}");
        assert!(found.contains(message), "{bug:?} was found by another check: {found}");
    }
}
