use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};
use tower::BoxError;

use super::*;

/// An API server with one object of each kind, which records requests and can refuse every event.
#[derive(Clone, Default)]
struct Stub {
    requests: Arc<Mutex<Vec<(Method, String, Value)>>>,
    refuses: Option<u16>,
}

impl Stub {
    fn client(&self) -> Client {
        let stub = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| stub.clone().reply(request));
        Client::new(service, "default")
    }

    async fn reply(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect().await?.to_bytes()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        self.requests.lock().unwrap().push((parts.method.clone(), path.clone(), body.clone()));
        let name = path.rsplit('/').next().unwrap_or_default();
        let (status, reply) = match (parts.method, self.refuses) {
            (Method::GET, _) if name == "deleted" => (404, json!({"code": 404, "message": "not found"})),
            (Method::GET, _) => (
                200,
                json!({
                    "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                    "metadata": {"name": name, "uid": format!("uid-of-{name}")},
                }),
            ),
            (_, Some(code)) => (code, json!({"code": code, "message": "as the test says"})),
            _ => (200, body),
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&reply)?));
        *response.status_mut() = StatusCode::from_u16(status)?;
        Ok(response)
    }

    fn sent(&self, wanted: &Method) -> Vec<(String, Value)> {
        let requests = self.requests.lock().unwrap();
        let sent = requests.iter().filter(|(method, ..)| method == wanted);
        sent.map(|(_, path, body)| (path.clone(), body.clone())).collect()
    }
}

fn failed(machine: &str) -> ObjectEvent {
    let on = Object::NodeGroup("web".to_owned());
    ObjectEvent::new(on, EventType::Warning, "Failed", "STOCKOUT: No capacity")
        .with_related(Object::VPSieNode(machine.to_owned()))
}

/// Publishes all, and waits for the end.
async fn publish(client: Client, published: Vec<ObjectEvent>) -> EventMetrics {
    let metrics = EventMetrics::default();
    let (events, publisher) = Events::new(client, "kube-system", metrics.clone());
    for event in published {
        events.publish(event);
    }
    drop(events);
    publisher.run(CancellationToken::new()).await;
    metrics
}

#[tokio::test(start_paused = true)]
async fn an_event_has_its_object_by_uid() {
    let stub = Stub::default();
    let metrics = publish(stub.client(), vec![failed("web-1")]).await;
    let sent = stub.sent(&Method::POST);
    let [(path, event)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/kube-system/events");
    assert_eq!(
        event["regarding"],
        json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup", "name": "web",
            "namespace": "kube-system", "uid": "uid-of-web",
        })
    );
    assert_eq!(
        (&event["related"]["kind"], &event["related"]["uid"]),
        (&json!("VPSieNode"), &json!("uid-of-web-1"))
    );
    assert_eq!(
        (&event["type"], &event["reason"], &event["note"], &event["reportingController"]),
        (&json!("Warning"), &json!("Failed"), &json!("STOCKOUT: No capacity"), &json!("vpsie-autoscaler"))
    );
    assert_eq!(metrics.get("published"), 1);
}

#[tokio::test(start_paused = true)]
async fn events_of_nodes_need_no_look_up() {
    let stub = Stub::default();
    let node = ObjectEvent::node("slave-1", "7", EventType::Normal, "IdentityGiven", "It has its providerID");
    publish(stub.client(), vec![node]).await;
    let sent = stub.sent(&Method::POST);
    assert_eq!(sent[0].0, "/apis/events.k8s.io/v1/namespaces/default/events");
    assert_eq!(
        sent[0].1["regarding"],
        json!({"apiVersion": "v1", "kind": "Node", "name": "slave-1", "uid": "7"})
    );
    assert_eq!(stub.sent(&Method::GET), []);
}

#[tokio::test(start_paused = true)]
async fn events_of_deleted_objects_are_published() {
    let stub = Stub::default();
    let deleted = |name: &str| {
        let on = Object::VPSieNode(name.to_owned());
        ObjectEvent::new(on, EventType::Normal, "Deleted", "VPSie lists its VM no more")
    };
    let metrics = publish(stub.client(), vec![deleted("deleted")]).await;
    assert_eq!(metrics.get("published"), 1);
    assert_eq!(stub.sent(&Method::POST)[0].1["regarding"].get("uid"), None);
}

#[tokio::test(start_paused = true)]
async fn equal_events_are_published_once_a_minute() {
    let stub = Stub::default();
    let (events, publisher) = Events::new(stub.client(), "kube-system", EventMetrics::default());
    let running = tokio::spawn(publisher.run(CancellationToken::new()));
    for _ in 0..13 {
        events.publish(failed("web-1"));
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    drop(events);
    running.await.unwrap();
    assert_eq!(stub.sent(&Method::POST).len(), 1);
    let series: Vec<_> =
        stub.sent(&Method::PATCH).into_iter().map(|(_, event)| event["series"]["count"].clone()).collect();
    assert_eq!(series, [json!(2)]);
    assert_eq!(stub.sent(&Method::GET).len(), 2, "UIDs are looked up once");
}

#[tokio::test(start_paused = true)]
async fn refused_events_are_counted_and_the_next_is_tried() {
    let stub = Stub { refuses: Some(403), ..Stub::default() };
    let metrics = publish(stub.client(), vec![failed("web-1"), failed("web-1")]).await;
    assert_eq!((metrics.get("failed"), metrics.get("published")), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_server_blocks_nothing_and_overflow_is_dropped() {
    let silent =
        tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, BoxError>>());
    let metrics = EventMetrics::default();
    let (events, publisher) = Events::new(Client::new(silent, "default"), "kube-system", metrics.clone());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(publisher.run(shutdown.clone()));
    let started = Instant::now();
    for n in 0..QUEUE_SIZE + 10 {
        events.publish(failed(&format!("web-{n}")));
    }
    assert_eq!((started.elapsed(), metrics.get("dropped")), (Duration::ZERO, 10));
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(metrics.get("failed"), 2);
    shutdown.cancel();
    running.await.unwrap();
    assert!(
        started.elapsed() <= Duration::from_secs(12) + PUBLISH_TIMEOUT + SHUTDOWN_TIMEOUT,
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn long_messages_are_truncated() {
    let stub = Stub::default();
    let on = Object::Secret("vpsie-secret".to_owned());
    let dedup_key = "é".repeat(2000);
    publish(stub.client(), vec![ObjectEvent::new(on, EventType::Warning, "Refused", dedup_key)]).await;
    let note = stub.sent(&Method::POST)[0].1["note"].as_str().unwrap().to_owned();
    assert_eq!(note, "é".repeat(512));
}

#[test]
fn events_without_an_api_server_are_dropped() {
    let events = Events::none();
    events.publish(failed("web-1"));
    assert_eq!(events.metrics.get("dropped"), 0);
}
