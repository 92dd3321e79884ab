//! Payloads and their clean-up against an API server in the process.

mod cleanup;
mod deadline;
mod secrecy;
mod stop;

use std::sync::Mutex as StdMutex;

use async_trait::async_trait;
use data_encoding::BASE64;
use fake_kube::{ApiRequest, FakeKube, RequestFault, Verb};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::catalog::Catalog;
use crate::fleet::tests::{OTHER as POOL, group, offer};
use crate::fleet::{
    Binding, Change, DeletionReason, DrainState, FleetSettings, Machine, MachineId, NodeGroup, Phase,
    Records, RequestOutcome, TaintEffect, Vm, VmRequest, names,
};
use crate::join::{Credential, ObjectKey, PayloadTemplate, VariableSource};
use crate::kubernetes::{EventMetrics, Events};
use crate::vpsie::{BackendError, Script, Scripts};

const NAMESPACE: &str = "vpsie-system";

#[derive(Clone)]
struct TestClock(Arc<StdMutex<Timestamp>>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// The scripts, None while VPSie is down, and the number of listings.
struct TestScripts(StdMutex<Option<Vec<Script>>>, StdMutex<u32>);

impl Default for TestScripts {
    fn default() -> Self {
        Self(StdMutex::new(Some(Vec::new())), StdMutex::default())
    }
}

impl TestScripts {
    fn add(&self, id: &str, hostname: Hostname) {
        let script = Script { id: id.to_owned(), hostname };
        self.0.lock().unwrap().get_or_insert_default().push(script);
    }

    fn listings(&self) -> u32 {
        *self.1.lock().unwrap()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().iter().flatten().count()
    }
}

#[async_trait]
impl Scripts for TestScripts {
    async fn list_scripts(&self) -> Result<Vec<Script>, BackendError> {
        *self.1.lock().unwrap() += 1;
        let listed = self.0.lock().unwrap().clone();
        listed.ok_or_else(|| BackendError::Unclear { message: "VPSie is down".to_owned() })
    }

    async fn delete_script(&self, script: &Script) -> Result<(), BackendError> {
        self.0.lock().unwrap().get_or_insert_default().retain(|other| other != script);
        Ok(())
    }
}

struct World {
    kube: FakeKube,
    clock: TestClock,
    handle: FleetHandle,
    payloads: Arc<JoinPayloads>,
    scripts: Arc<TestScripts>,
    ca: CertifiedIssuer<'static, KeyPair>,
}

fn config(kind: JoinKind) -> JoinConfig {
    JoinConfig {
        kind,
        endpoint: "10.0.0.1:6443".to_owned(),
        template: PayloadTemplate::BuiltIn,
        variables: BTreeMap::new(),
        credential: Credential::BootstrapToken,
        cloud_controller: CloudController::None,
        kubernetes_version: None,
    }
}

fn vms() -> VmGroup {
    let network = VmNetwork {
        vpc: None,
        firewall_group: None,
        public_ipv4: true,
        public_ipv6: false,
        private_ip: false,
    };
    VmGroup {
        places: [("ams1".into(), VmPlace { image: "ubuntu".to_owned(), network })].into(),
        project: None,
        ssh_key: None,
        tags: Vec::new(),
        notes: None,
        delivery: Delivery::Script,
        allow_shared_memory: false,
    }
}

fn key(name: &str, key: &str) -> ObjectKey {
    ObjectKey { name: name.to_owned(), key: key.to_owned() }
}

fn node_group() -> NodeGroup {
    let labels = BTreeMap::from([("team".to_owned(), "web".to_owned())]);
    let effect = TaintEffect::NoSchedule;
    let taints = vec![Taint { key: "a/b".to_owned(), value: "c".to_owned(), effect }];
    NodeGroup { labels, taints, ..group("batch", 0, 9, &[POOL]) }
}

impl World {
    fn new(config: JoinConfig) -> Self {
        let clock = TestClock(Arc::new(StdMutex::new("2026-01-02T03:04:05Z".parse().unwrap())));
        let kube = FakeKube::new({
            let clock = clock.clone();
            move || clock.now()
        });
        let records = Records {
            catalog: Some(Arc::new(Catalog { offers: vec![offer(2, "small")] })),
            ..Records::default()
        };
        let settings = FleetSettings { binding: Binding::ByName, ..FleetSettings::default() };
        let handle = FleetHandle::fixed(Fleet::restore(vec![node_group()], records, settings));
        let client = kube.client("autoscaler", NAMESPACE);
        let payloads =
            JoinPayloads::new(handle.clone(), Arc::new(clock.clone()), &client, NAMESPACE, "cluster-uid");
        payloads.set_groups([("batch".into(), SelfManagedGroup { vms: vms(), join: config })].into());
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let kubeconfig = format!(
            "clusters:\n- cluster:\n    certificate-authority-data: {}\n",
            BASE64.encode(ca.pem().as_bytes())
        );
        let world = Self { kube, clock, handle, payloads: Arc::new(payloads), scripts: Arc::default(), ca };
        world.put("ConfigMap", "kube-public", "cluster-info", json!({ "kubeconfig": kubeconfig }));
        world.put("ConfigMap", NAMESPACE, "kube-root-ca.crt", json!({ "ca.crt": world.ca.pem() }));
        world
    }

    #[allow(clippy::needless_pass_by_value, reason = "callers build it in place")]
    fn put(&self, kind: &str, namespace: &str, name: &str, data: Value) {
        let metadata = json!({"name": name, "namespace": namespace});
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data});
        self.kube.put_object(object).unwrap();
    }

    fn put_secret(&self, name: &str, key: &str, value: &str) {
        self.put("Secret", NAMESPACE, name, json!({key: BASE64.encode(value.as_bytes())}));
    }

    fn pass(&self, minutes: u64) {
        *self.clock.0.lock().unwrap() += Duration::from_mins(minutes);
    }

    fn save(&self, machine: &Machine) {
        self.handle.fleet.write().unwrap().apply(&Change::SaveMachine(machine.clone()));
    }

    /// A machine with an open request.
    fn requested(&self, machine: &str, number: u32) -> (Machine, CreateRequest) {
        self.requested_in("ams1", machine, number)
    }

    fn requested_in(&self, datacenter: &str, machine: &str, number: u32) -> (Machine, CreateRequest) {
        let hostname = Hostname::new(&format!("{machine}-{number}"));
        let request = VmRequest {
            at: self.clock.now(),
            outcome: RequestOutcome::InFlight,
            hostname: Some(hostname.clone()),
        };
        let machine = Machine {
            id: MachineId::from(machine),
            pool: POOL.replace("ams1", datacenter).parse().unwrap(),
            size: crate::catalog::SizeId(2),
            created_at: self.clock.now(),
            phase: Phase::Creating { vm: None, since: self.clock.now() },
            requests: vec![request],
            notice: None,
            replaces: None,
        };
        self.save(&machine);
        let request = CreateRequest {
            machine: machine.id.clone(),
            pool: machine.pool.clone(),
            class: machine.class(),
            hostname: Some(hostname),
        };
        (machine, request)
    }

    fn bind(&self, machine: &mut Machine) {
        let hostname = machine.requests.remove(0).hostname.unwrap();
        let id = Some(machine.id.as_str().into());
        let vm = Vm { hostname, id, addresses: Vec::new(), provider_id: None, attached: None, request: None };
        machine.phase = Phase::Creating { vm: Some(vm), since: self.clock.now() };
        self.save(machine);
    }

    fn join(&self, machine: &mut Machine) {
        let vm = machine.vm().unwrap().clone();
        machine.phase = Phase::Running { vm, since: self.clock.now() };
        self.save(machine);
    }

    fn delete(&self, machine: &mut Machine) {
        machine.phase = Phase::Deleting {
            vm: machine.vm().cloned(),
            since: self.clock.now(),
            reason: DeletionReason::default(),
            drain: DrainState::Pending,
            accepted_at: None,
        };
        self.save(machine);
    }

    async fn payload(&self, request: &CreateRequest) -> Result<String, PayloadError> {
        self.payloads.payload(request).await.map(|payload| payload.expose().to_owned())
    }

    /// Runs the clean-up for two passes.
    async fn clean(&self) {
        let (events, publisher) =
            Events::new(self.kube.client("events", NAMESPACE), NAMESPACE, EventMetrics::default());
        let scripts: Arc<dyn Scripts> = self.scripts.clone();
        let cleanup = JoinCleanup::new(
            Arc::clone(&self.payloads),
            self.handle.clone(),
            Some(scripts),
            events,
            Duration::from_mins(40),
        );
        let shutdown = CancellationToken::new();
        let loops = tokio::spawn(cleanup.run(shutdown.clone()));
        let published = tokio::spawn(publisher.run(shutdown.clone()));
        tokio::time::sleep(Duration::from_secs(20)).await;
        shutdown.cancel();
        loops.await.unwrap();
        published.await.unwrap();
    }

    fn secrets(&self) -> Vec<Value> {
        let all = self.kube.list("secrets");
        all.into_iter().filter(|secret| secret["metadata"]["namespace"] == "kube-system").collect()
    }

    fn expiration(&self) -> String {
        let secrets = self.secrets();
        assert_eq!(secrets.len(), 1);
        field(&secrets[0], "expiration")
    }

    fn joins(&self) -> Value {
        self.kube
            .get("configmaps", NAMESPACE, "vpsie-autoscaler-joins")
            .map_or(Value::Null, |map| map["data"].clone())
    }
}

fn field(secret: &Value, key: &str) -> String {
    String::from_utf8(BASE64.decode(secret["data"][key].as_str().unwrap().as_bytes()).unwrap()).unwrap()
}

fn credential(secret: &Value) -> String {
    format!("{}.{}", field(secret, "token-id"), field(secret, "token-secret"))
}

#[tokio::test(start_paused = true)]
async fn a_payload_has_a_token_of_its_own_and_the_template_labels() {
    let world = World::new(config(JoinKind::Kubeadm));
    let (_, request) = world.requested("batch-1", 1);
    let payload = world.payload(&request).await.unwrap();
    let secrets = world.secrets();
    assert_eq!(secrets.len(), 1);
    assert!(payload.contains(&credential(&secrets[0])));
    assert_eq!(
        secrets[0]["metadata"]["labels"],
        json!({
            "app.kubernetes.io/managed-by": "vpsie-autoscaler", "autoscaler.vpsie.com/cluster": "cluster-uid",
            "autoscaler.vpsie.com/machine": "batch-1", "autoscaler.vpsie.com/hostname": "batch-1-1",
        })
    );
    assert_eq!(world.expiration(), "2026-01-02T03:34:05Z");
    assert!(payload.contains("name: \"batch-1-1\""));
    world.handle.read(|fleet| {
        let pool = fleet.pool(POOL).unwrap();
        let template = fleet.template(pool);
        for (key, value) in &fleet.node_labels(pool) {
            assert!(payload.contains(&format!("{key}={value}")), "{key}");
            assert_eq!(template.labels.get(key), Some(value));
        }
        assert_eq!(template.taints, node_group().taints);
    });
    assert!(payload.contains(r#"taints: [{"effect":"NoSchedule","key":"a/b","value":"c"}]"#), "{payload}");
}

#[tokio::test(start_paused = true)]
async fn only_the_payload_has_the_startup_taint_of_a_network() {
    for (kind, want) in [
        (
            JoinKind::Kubeadm,
            format!(r#"{{"effect":"NoSchedule","key":"{}","value":"attaching"}}"#, names::NETWORK),
        ),
        (JoinKind::K3s, format!(r#""{}=attaching:NoSchedule""#, names::NETWORK)),
    ] {
        let world = World::new(config(kind));
        let (_, request) = world.requested("batch-1", 1);
        assert!(!world.payload(&request).await.unwrap().contains(names::NETWORK));
        let mut vms = vms();
        vms.places.get_mut("ams1").unwrap().network.firewall_group = Some("fw-1".to_owned());
        world.payloads.set_groups([("batch".into(), SelfManagedGroup { vms, join: config(kind) })].into());
        let (_, request) = world.requested("batch-1", 2);
        let payload = world.payload(&request).await.unwrap();
        assert!(payload.contains(&want), "{payload}");
        world.handle.read(|fleet| {
            assert_eq!(fleet.template(fleet.pool(POOL).unwrap()).taints, node_group().taints);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_of_kube_system_are_not_read() {
    let world = World::new(config(JoinKind::Kubeadm));
    let (mut machine, request) = world.requested("batch-1", 1);
    world.payload(&request).await.unwrap();
    world.pass(10);
    world.clean().await;
    world.bind(&mut machine);
    world.join(&mut machine);
    world.clean().await;
    assert_eq!(world.secrets(), Vec::<Value>::new());
    let reads = |asked: &ApiRequest| asked.plural == "secrets" && !asked.verb.writes();
    assert_eq!(world.kube.count(reads), 0);
    let asked = world.kube.requests().into_iter().filter(|asked| asked.plural == "secrets");
    let verbs: std::collections::BTreeSet<_> = asked.map(|asked| asked.verb).collect();
    assert_eq!(verbs.into_iter().collect::<Vec<_>>(), [Verb::Create, Verb::Patch, Verb::Delete]);
}

#[tokio::test(start_paused = true)]
async fn the_next_request_revokes_the_token_of_the_earlier_one() {
    let world = World::new(config(JoinKind::Kubeadm));
    let (_, first) = world.requested("batch-1", 1);
    let first = world.payload(&first).await.unwrap();
    let old = credential(&world.secrets()[0]);
    assert!(first.contains(&old));
    let (_, second) = world.requested("batch-1", 2);
    let second = world.payload(&second).await.unwrap();
    let secrets = world.secrets();
    assert_eq!(secrets.len(), 1);
    assert_ne!(credential(&secrets[0]), old);
    assert!(second.contains(&credential(&secrets[0])));
}

#[tokio::test(start_paused = true)]
async fn another_id_is_used_if_one_is_taken() {
    let world = World::new(config(JoinKind::Kubeadm));
    let (_, request) = world.requested("batch-1", 1);
    world.kube.fail(2, |asked| asked.is_verb_on(Verb::Create, "secrets"), RequestFault::refused(409));
    let payload = world.payload(&request).await.unwrap();
    let token = &world.secrets()[0];
    assert!(payload.contains(&credential(token)));
    assert!(world.joins().to_string().contains(&field(token, "token-id")));
    world.kube.fail(3, |asked| asked.is_verb_on(Verb::Create, "secrets"), RequestFault::refused(409));
    let (_, request) = world.requested("batch-2", 1);
    assert!(matches!(world.payload(&request).await, Err(PayloadError::Unavailable(_))));
    assert!(!world.joins()["join.batch-2-1"].as_str().unwrap().contains("token"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_for_a_payload_that_cannot_be_made() {
    let own =
        |key: ObjectKey| JoinConfig { template: PayloadTemplate::ConfigMap(key), ..config(JoinKind::Custom) };
    let secret = |key: ObjectKey| JoinConfig {
        variables: [("a".to_owned(), VariableSource::Secret(key))].into(),
        ..config(JoinKind::Kubeadm)
    };
    for (config, want) in [
        (own(key("payload", "none")), "ConfigMap vpsie-system/payload has no key none: add it"),
        (own(key("none", "script")), "ConfigMap vpsie-system/none does not exist: create it"),
        (secret(key("none", "a")), "Secret vpsie-system/none does not exist: create it"),
        (secret(key("vars", "b")), "Secret vpsie-system/vars has no key b: add it"),
        (
            own(key("payload", "undefined")),
            "line 2 of the payload template uses an undefined value (vars.missing): define it, or correct its name",
        ),
        (
            own(key("payload", "cloud-config")),
            "the payload must be a script that begins with #!, because VPSie runs it as a program",
        ),
        (
            config(JoinKind::Custom),
            "joinKind custom has no built-in payload: name a ConfigMap in selfManaged.payload",
        ),
    ] {
        let world = World::new(config);
        let templates =
            json!({"undefined": "#!/bin/sh\n{{ vars.missing }}", "cloud-config": "#cloud-config"});
        world.put("ConfigMap", NAMESPACE, "payload", templates);
        world.put_secret("vars", "a", "hunter2");
        let (_, request) = world.requested("batch-1", 1);
        assert_eq!(world.payload(&request).await, Err(PayloadError::Invalid(want.to_owned())));
        assert!(world.secrets().is_empty());
        assert_eq!(world.joins(), Value::Null);
    }
    let world = World::new(config(JoinKind::Kubeadm));
    assert!(world.kube.vanish("configmaps", "kube-public", "cluster-info"));
    let (_, request) = world.requested("batch-1", 1);
    let want = "ConfigMap kube-public/cluster-info does not exist: create it";
    assert_eq!(world.payload(&request).await, Err(PayloadError::Invalid(want.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_object_is_named_with_the_remedy() {
    for (kind, plural, remedy) in [
        ("Secret", "secrets", "add vars to provider.selfManaged.secretNames"),
        ("ConfigMap", "configmaps", "a Role of vpsie-autoscaler must permit to get it"),
    ] {
        let source = match kind {
            "Secret" => VariableSource::Secret(key("vars", "a")),
            _ => VariableSource::ConfigMap(key("vars", "a")),
        };
        let world =
            World::new(JoinConfig { variables: [("a".to_owned(), source)].into(), ..config(JoinKind::K3s) });
        world.kube.fail(1, move |asked| asked.is_verb_on(Verb::Get, plural), RequestFault::refused(403));
        let (_, request) = world.requested("batch-1", 1);
        let error = world.payload(&request).await.unwrap_err();
        assert!(matches!(error, PayloadError::Invalid(_)), "{error:?}");
        let want = format!("vpsie-autoscaler may not read {kind} {NAMESPACE}/vars: {remedy}");
        assert!(error.to_string().starts_with(&want), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_credential_needs_no_token() {
    let world = World::new(JoinConfig {
        credential: Credential::Shared(key("join", "token")),
        ..config(JoinKind::K3s)
    });
    world.put_secret("join", "token", "pa55");
    let (_, request) = world.requested("batch-1", 1);
    let payload = world.payload(&request).await.unwrap();
    assert!(payload.contains("::node:pa55"));
    assert!(world.secrets().is_empty());
    assert!(!world.joins().to_string().contains("pa55"));
    world.put_secret("join", "token", "K10aa::server:pa55");
    let error = world.payload(&request).await.unwrap_err();
    assert!(error.to_string().starts_with("the join credential is a server token"), "{error}");
}
