use std::collections::BTreeMap;
use std::sync::Mutex;

use http_body_util::BodyExt;
use kube::client::Body;
use tokio_util::sync::CancellationToken;

use super::*;

/// An API server with Nodes and the number of heartbeats of each.
#[derive(Clone, Default)]
struct ApiServer(Arc<Mutex<BTreeMap<String, (Value, u32)>>>);

impl ApiServer {
    fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (status, body) = server.handle(&parts, &serde_json::from_slice(&body).unwrap());
                let reply =
                    http::Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(reply.unwrap())
            }
        });
        kube::Client::new(service, "default")
    }

    fn handle(&self, parts: &http::request::Parts, body: &Value) -> (u16, Value) {
        let mut nodes = self.0.lock().unwrap();
        let path: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
        let failure = |code: u16| {
            (
                code,
                json!({ "kind": "Status", "status": "Failure", "code": code, "reason": "", "message": "" }),
            )
        };
        match (parts.method.as_str(), path[..].get(3..).unwrap()) {
            ("POST", []) => {
                let name = body["metadata"]["name"].as_str().unwrap();
                if nodes.contains_key(name) {
                    return failure(409);
                }
                nodes.insert(name.to_owned(), (body.clone(), 0));
                (201, body.clone())
            }
            ("PATCH", [name, "status"]) => match nodes.get_mut(*name) {
                None => failure(404),
                Some((node, beats)) => {
                    assert_eq!(body["status"]["conditions"][0]["type"], "Ready");
                    *beats += 1;
                    (200, node.clone())
                }
            },
            other => panic!("{other:?}"),
        }
    }

    fn node(&self, name: &str) -> Value {
        self.0.lock().unwrap()[name].0.clone()
    }

    fn beats(&self, name: &str) -> u32 {
        self.0.lock().unwrap()[name].1
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }
}

async fn sleep_seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn join_cluster(options: JoinOptions) -> (Simulator, ApiServer, String) {
    let sim = simulator(steady());
    let server = ApiServer::default();
    tokio::spawn(join(sim.clone(), server.client(), options, CancellationToken::new()));
    let group = add_group(&sim, "workers", 2).await;
    add_worker(&sim, group).await;
    sleep_seconds(32).await;
    let name = workers(&sim)[0].vm.hostname.to_lowercase();
    (sim, server, name)
}

#[tokio::test(start_paused = true)]
async fn a_vm_joins_once_it_is_up() {
    let sim = simulator(steady());
    let server = ApiServer::default();
    tokio::spawn(join(sim.clone(), server.client(), JoinOptions::default(), CancellationToken::new()));
    let group = add_group(&sim, "workers", 2).await;
    add_worker(&sim, group).await;
    sleep_seconds(29).await;
    assert_eq!(server.names(), ["ams-kubernetes-49ab-master-main"]);
    sleep_seconds(3).await;
    assert_eq!(server.names().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_equals_that_of_a_kubelet() {
    let (_, server, name) = join_cluster(JoinOptions::default()).await;
    let node = server.node(&name);
    assert_eq!(node["spec"], json!({}));
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], name);
    assert_eq!(node["metadata"]["labels"].as_object().unwrap().len(), 5);
    assert_eq!(node["status"]["capacity"]["cpu"], "2000m");
    assert_eq!(node["status"]["capacity"]["memory"], "4065854Ki");
    assert_eq!(node["status"]["allocatable"]["cpu"], "1900m");
    assert_eq!(node["status"]["allocatable"]["memory"], "3803710Ki");
    assert_eq!(node["status"]["allocatable"]["pods"], "110");
    assert_eq!(node["status"]["conditions"][0]["status"], "True");
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.33.4");
    let master = server.node("ams-kubernetes-49ab-master-main");
    assert_eq!(master["spec"]["taints"][0]["key"], "node-role.kubernetes.io/control-plane");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_end_with_the_vm() {
    let (sim, server, name) = join_cluster(JoinOptions::default()).await;
    sleep_seconds(30).await;
    let alive = server.beats(&name);
    assert_eq!(alive, 3);
    sim.delete_vm(&workers(&sim)[0].vm.uuid).unwrap();
    sleep_seconds(60).await;
    assert_eq!(server.beats(&name), alive);
    assert!(server.names().contains(&name));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_is_not_registered_again() {
    let (_, server, name) = join_cluster(JoinOptions::default()).await;
    server.0.lock().unwrap().remove(&name);
    sleep_seconds(60).await;
    assert!(!server.names().contains(&name));
}

#[tokio::test(start_paused = true)]
async fn another_program_may_send_heartbeats() {
    let annotation = ("kwok.x-k8s.io/node".to_owned(), "fake".to_owned());
    let options = JoinOptions {
        heartbeat: Heartbeat::Other,
        annotations: [annotation].into_iter().collect(),
        ..JoinOptions::default()
    };
    let (_, server, name) = join_cluster(options).await;
    sleep_seconds(60).await;
    assert_eq!(server.beats(&name), 0);
    assert_eq!(server.node(&name)["status"]["conditions"], Value::Null);
    assert_eq!(server.node(&name)["metadata"]["annotations"], json!({ "kwok.x-k8s.io/node": "fake" }));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_continue_after_a_restart() {
    let (sim, server, name) = join_cluster(JoinOptions::default()).await;
    let before = server.beats(&name);
    tokio::spawn(join(sim, server.client(), JoinOptions::default(), CancellationToken::new()));
    sleep_seconds(1).await;
    assert_eq!(server.names().len(), 2);
    assert!(server.beats(&name) > before);
}
