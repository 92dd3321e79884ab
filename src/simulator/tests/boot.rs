//! VMs that join the cluster of their payload.

use std::collections::BTreeMap;
use std::sync::Mutex;

use data_encoding::{BASE64, HEXLOWER};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio_util::sync::CancellationToken;

use super::payload::{TOKEN, agent, kubeadm};
use super::*;

/// An API server that checks trust and credentials of connections.
#[derive(Clone)]
struct ApiServer(Arc<Mutex<World>>);

struct World {
    ca: String,
    /// Accepted bootstrap tokens.
    tokens: Vec<String>,
    /// The condition of new requests for certificates. None: they have a certificate.
    denied: bool,
    /// Whether `/cacerts` is served, as k3s does.
    serves_cacerts: bool,
    nodes: BTreeMap<String, Value>,
    beats: BTreeMap<String, u32>,
    /// The name in the last request for a certificate.
    requested: String,
}

/// The credential of a connection.
#[derive(Clone, Debug)]
enum Credential {
    None,
    Token(String),
    Certificate { certificate: String, key: String },
}

const CERTIFICATE: &str = "CERTIFICATE of ";

impl ApiServer {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        Self(Arc::new(Mutex::new(World {
            ca,
            tokens: vec![TOKEN.to_owned()],
            denied: false,
            serves_cacerts: true,
            nodes: BTreeMap::new(),
            beats: BTreeMap::new(),
            requested: String::new(),
        })))
    }

    fn world<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    fn node(&self, name: &str) -> Option<Value> {
        self.world(|world| world.nodes.get(name).cloned())
    }

    fn beats(&self, name: &str) -> u32 {
        self.world(|world| world.beats.get(name).copied().unwrap_or_default())
    }

    /// The hash of the public key, as kubeadm has it.
    fn key_hash(&self) -> String {
        let ca = self.world(|world| world.ca.clone());
        let pem = x509_parser::pem::Pem::iter_from_buffer(ca.as_bytes()).next().unwrap().unwrap();
        let certificate = pem.parse_x509().unwrap();
        hex(certificate.tbs_certificate.subject_pki.raw)
    }

    /// The hash of the PEM text, as k3s has it.
    fn bundle_hash(&self) -> String {
        self.world(|world| hex(world.ca.as_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

impl Connect for ApiServer {
    fn connect(&self, endpoint: &str, trust: Trust<'_>) -> Result<kube::Client, String> {
        assert_eq!(endpoint, "https://api.test:6443");
        let (ca, credential) = match trust {
            Trust::Anyone => (None, Credential::None),
            Trust::Token { ca, token } => {
                (Some(ca), Credential::Token(format!("{}.{}", token.id, token.secret.reveal())))
            }
            Trust::Certificate(KubeletIdentity { ca, certificate, key, .. }) => {
                let (certificate, key) = (certificate.clone(), key.reveal().to_owned());
                (Some(ca.as_str()), Credential::Certificate { certificate, key })
            }
        };
        assert!(ca.is_none_or(|ca| self.world(|world| world.ca == ca)));
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, credential) = (server.clone(), credential.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let path: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
                let (status, body) =
                    server.world(|world| world.handle(&credential, &parts.method, &path, &body));
                let body = body.as_str().map_or_else(|| body.to_string(), ToOwned::to_owned);
                let reply = http::Response::builder().status(status).body(Body::from(body.into_bytes()));
                Ok::<_, std::convert::Infallible>(reply.unwrap())
            }
        });
        Ok(kube::Client::new(service, "default"))
    }
}

fn failure(code: u16) -> (u16, Value) {
    (code, json!({ "kind": "Status", "status": "Failure", "code": code, "reason": "", "message": "" }))
}

impl World {
    fn handle(
        &mut self,
        credential: &Credential,
        method: &Method,
        path: &[&str],
        body: &Value,
    ) -> (u16, Value) {
        let node = match credential {
            Credential::Token(token) if !self.tokens.contains(token) => return failure(401),
            Credential::Certificate { certificate, key } => {
                assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
                certificate.strip_prefix(CERTIFICATE)
            }
            Credential::None | Credential::Token(_) => None,
        };
        match (credential, method.as_str(), path) {
            (Credential::None, "GET", ["cacerts"]) if self.serves_cacerts => (200, json!(self.ca)),
            (Credential::None, "GET", ["cacerts"]) => failure(403),
            (
                Credential::None,
                "GET",
                ["api", "v1", "namespaces", "kube-public", "configmaps", "cluster-info"],
            ) => {
                let ca = BASE64.encode(self.ca.as_bytes());
                let kubeconfig = json!({ "clusters": [{ "name": "", "cluster": {
                    "server": "https://api.test:6443", "certificate-authority-data": ca } }] });
                (200, json!({ "data": { "kubeconfig": kubeconfig.to_string() } }))
            }
            (
                Credential::Token(_),
                "POST",
                ["apis", "certificates.k8s.io", "v1", "certificatesigningrequests"],
            ) => {
                assert_eq!(body["spec"]["signerName"], "kubernetes.io/kube-apiserver-client-kubelet");
                let pem = BASE64.decode(body["spec"]["request"].as_str().unwrap().as_bytes()).unwrap();
                self.requested = common_name(&pem);
                (201, csr(&Value::Null))
            }
            (
                Credential::Token(_),
                "GET",
                ["apis", "certificates.k8s.io", "v1", "certificatesigningrequests", "csr-1"],
            ) => {
                if self.denied {
                    return (200, csr(&json!({ "conditions": [{ "type": "Denied", "status": "True" }] })));
                }
                let certificate = format!("{CERTIFICATE}{}", self.requested);
                (200, csr(&json!({ "certificate": BASE64.encode(certificate.as_bytes()) })))
            }
            (Credential::Certificate { .. }, "POST", ["api", "v1", "nodes"]) => {
                let name = body["metadata"]["name"].as_str().unwrap();
                assert_eq!(node, Some(format!("system:node:{name}").as_str()));
                if self.nodes.contains_key(name) {
                    return failure(409);
                }
                self.nodes.insert(name.to_owned(), body.clone());
                (201, body.clone())
            }
            (Credential::Certificate { .. }, "GET", ["api", "v1", "nodes", name]) => {
                self.nodes.get(*name).map_or_else(|| failure(404), |node| (200, node.clone()))
            }
            (Credential::Certificate { .. }, "PATCH", ["api", "v1", "nodes", name, "status"]) => {
                *self.beats.entry((*name).to_owned()).or_default() += 1;
                self.nodes.get(*name).map_or_else(|| failure(404), |node| (200, node.clone()))
            }
            other => panic!("{other:?}"),
        }
    }
}

fn csr(status: &Value) -> Value {
    json!({ "metadata": { "name": "csr-1" }, "spec": { "request": "", "signerName": "" }, "status": status })
}

fn common_name(pem: &[u8]) -> String {
    use x509_parser::prelude::FromDer;
    let pem = x509_parser::pem::Pem::iter_from_buffer(pem).next().unwrap().unwrap();
    let (_, request) =
        x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents).unwrap();
    let subject = &request.certification_request_info.subject;
    assert_eq!(subject.iter_organization().next().unwrap().as_str().unwrap(), "system:nodes");
    subject.iter_common_name().next().unwrap().as_str().unwrap().to_owned()
}

async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// A simulator with one VM with this user data, which had a minute to join.
async fn joined(server: &ApiServer, config: SimulatorConfig, payload: &str) -> (Simulator, String) {
    let sim = simulator(config);
    start(&sim, server, CancellationToken::new());
    create_vm(&sim, "Pool-A1", json!({ "userData": payload })).await;
    sleep(60).await;
    let uuid = sim.vms().pop().unwrap().vm.uuid;
    (sim, uuid)
}

fn start(sim: &Simulator, server: &ApiServer, shutdown: CancellationToken) {
    let connect = Arc::new(server.clone());
    tokio::spawn(boot(sim.clone(), connect, JoinOptions::default(), shutdown));
}

fn state(sim: &Simulator, uuid: &str) -> Boot {
    sim.vms().into_iter().find(|vm| vm.vm.uuid == uuid).unwrap().vm.plain.unwrap().boot
}

fn refusal(sim: &Simulator, uuid: &str) -> String {
    match state(sim, uuid) {
        Boot::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_registers_with_the_labels_and_taints_of_its_payload() {
    let server = ApiServer::new();
    let registration = "  taints: [{key: a, value: b, effect: NoSchedule}]\n  \
        kubeletExtraArgs: [{name: node-labels, value: \"pool=x\"}]\n";
    let (sim, uuid) = joined(&server, steady(), &kubeadm(&server.key_hash(), registration)).await;
    let node = server.node("pool-a1").unwrap();
    assert_eq!(node["metadata"]["labels"]["pool"], "x");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "pool-a1");
    assert_eq!(node["spec"], json!({ "taints": [{ "key": "a", "value": "b", "effect": "NoSchedule" }] }));
    assert_eq!(node["status"]["conditions"][0]["status"], "True");
    assert_eq!(state(&sim, &uuid), Boot::Joined { node: "pool-a1".to_owned() });
    assert!(server.beats("pool-a1") >= 2);
}

#[tokio::test(start_paused = true)]
async fn the_payload_may_be_a_script() {
    let server = ApiServer::new();
    let sim = simulator(steady());
    start(&sim, &server, CancellationToken::new());
    let content = kubeadm(&server.key_hash(), "  name: named\n");
    let script = json!({ "name": "s", "scriptContent": content, "scriptType": "bash", "tags": [] });
    send(&sim, "POST", "/script/add", Some(script)).await;
    let id = get(&sim, "/scripts").await["data"][0]["identifier"].clone();
    create_vm(&sim, "a", json!({ "scriptIdentifier": id })).await;
    sleep(60).await;
    assert!(server.node("named").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_script_that_is_deleted_before_the_boot_is_lost() {
    let server = ApiServer::new();
    let sim = simulator(steady());
    start(&sim, &server, CancellationToken::new());
    let content = kubeadm(&server.key_hash(), "  name: named\n");
    let script = json!({ "name": "s", "scriptContent": content, "scriptType": "bash", "tags": [] });
    send(&sim, "POST", "/script/add", Some(script)).await;
    let id = get(&sim, "/scripts").await["data"][0]["identifier"].clone();
    create_vm(&sim, "a", json!({ "scriptIdentifier": id })).await;
    send(&sim, "DELETE", "/script", Some(json!({ "scriptIdentifier": id }))).await;
    sleep(60).await;
    let uuid = sim.vms().pop().unwrap().vm.uuid;
    assert_eq!(refusal(&sim, &uuid), "the script does not exist");
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_k3s_has_its_provider_id_at_registration() {
    for serves_cacerts in [true, false] {
        let server = ApiServer::new();
        server.world(|world| world.serves_cacerts = serves_cacerts);
        let token = format!("K10{}::{TOKEN}", server.bundle_hash());
        joined(&server, steady(), &agent("k3s", &token, "")).await;
        assert_eq!(server.node("pool-a1").unwrap()["spec"]["providerID"], "k3s://pool-a1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_with_another_hash_is_refused() {
    let server = ApiServer::new();
    let other = ApiServer::new().key_hash();
    let (sim, uuid) = joined(&server, steady(), &kubeadm(&other, "  name: a\n")).await;
    assert!(refusal(&sim, &uuid).contains("does not have the hash in the payload"));
    let token = format!("K10{}::{TOKEN}", server.key_hash());
    let (sim, uuid) = joined(&server, steady(), &agent("k3s", &token, "")).await;
    assert!(refusal(&sim, &uuid).contains("does not have the hash in the payload"));
    assert!(server.world(|world| world.nodes.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_is_refused() {
    let server = ApiServer::new();
    server.world(|world| world.tokens.clear());
    let (sim, uuid) = joined(&server, steady(), &kubeadm(&server.key_hash(), "  name: a\n")).await;
    assert!(refusal(&sim, &uuid).contains("401"), "{}", refusal(&sim, &uuid));
    let shown = control::control(&sim, "GET", "/vms", Value::Null).await.body;
    assert_eq!(shown[1]["plain"]["boot"]["state"], "refused");
}

#[tokio::test(start_paused = true)]
async fn a_denied_certificate_is_refused() {
    let server = ApiServer::new();
    server.world(|world| world.denied = true);
    let (sim, uuid) = joined(&server, steady(), &kubeadm(&server.key_hash(), "  name: a\n")).await;
    assert!(refusal(&sim, &uuid).contains("Denied"));
}

#[tokio::test(start_paused = true)]
async fn a_name_of_a_ready_node_is_refused() {
    let server = ApiServer::new();
    let taken = |ready: &str| json!({ "metadata": { "name": "a" }, "status": { "conditions": [{ "type": "Ready", "status": ready }] } });
    server.world(|world| world.nodes.insert("a".to_owned(), taken("True")));
    let payload = kubeadm(&server.key_hash(), "  name: a\n");
    let (sim, uuid) = joined(&server, steady(), &payload).await;
    assert_eq!(refusal(&sim, &uuid), "a ready Node has the name a");
    server.world(|world| world.nodes.insert("a".to_owned(), taken("False")));
    let (sim, uuid) = joined(&server, steady(), &payload).await;
    assert_eq!(state(&sim, &uuid), Boot::Joined { node: "a".to_owned() });
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_cannot_join_is_refused() {
    let server = ApiServer::new();
    let (sim, uuid) = joined(&server, steady(), "#cloud-config\n").await;
    assert!(refusal(&sim, &uuid).contains("does not begin with #!"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_returns_only_after_a_restart_of_its_vm() {
    let server = ApiServer::new();
    let (sim, uuid) = joined(&server, steady(), &kubeadm(&server.key_hash(), "  name: a\n")).await;
    server.world(|world| {
        world.nodes.clear();
        world.tokens.clear();
    });
    sleep(60).await;
    assert!(server.node("a").is_none());
    send(&sim, "POST", "/vm/restart", Some(json!({ "vmIdentifier": uuid }))).await;
    sleep(5).await;
    assert!(server.node("a").is_some());
}

#[tokio::test(start_paused = true)]
async fn heartbeats_end_with_the_vm_and_during_an_outage() {
    let server = ApiServer::new();
    let (sim, uuid) = joined(&server, steady(), &kubeadm(&server.key_hash(), "  name: a\n")).await;
    let outage = |outage| DatacenterFaults { outage, ..DatacenterFaults::default() };
    let beats_in_a_minute = async || {
        sleep(5).await;
        let before = server.beats("a");
        sleep(60).await;
        server.beats("a") - before
    };
    assert_eq!(beats_in_a_minute().await, 6);
    sim.set_datacenter_faults("ams1", outage(true)).unwrap();
    assert_eq!(beats_in_a_minute().await, 0);
    sim.set_datacenter_faults("ams1", outage(false)).unwrap();
    assert_eq!(beats_in_a_minute().await, 6);
    sim.delete_vm(&uuid).unwrap();
    assert_eq!(beats_in_a_minute().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_joined_vm_continues_after_a_restart_of_the_simulator() {
    let server = ApiServer::new();
    let (first, shutdown) = (simulator(steady()), CancellationToken::new());
    start(&first, &server, shutdown.clone());
    create_vm(&first, "a", json!({ "userData": kubeadm(&server.key_hash(), "  name: a\n") })).await;
    sleep(60).await;
    shutdown.cancel();
    server.world(|world| world.tokens.clear());
    let text = serde_json::to_string(&first.snapshot()).unwrap();
    let clock = Arc::new(TestClock(tokio::time::Instant::now() - Duration::from_mins(1)));
    let second = Simulator::restore(steady(), clock, serde_json::from_str(&text).unwrap()).unwrap();
    let before = server.beats("a");
    start(&second, &server, CancellationToken::new());
    sleep(2).await;
    assert_eq!(server.beats("a"), before + 1);
}
