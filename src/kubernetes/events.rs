//! Events: what happened, beside the object that it happened to, for `kubectl describe` and `kubectl get events`.
//!
//! They are told on the side. Nothing waits for one, and one that cannot be published is counted and forgotten.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Secret};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::{Api, Client, Resource};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub use kube::runtime::events::EventType;

use crate::api::{NodeGroup, VPSieNode};
use crate::telemetry::Registry;

/// Who publishes, as events say it.
const REPORTER: &str = "vpsie-autoscaler";
/// Happenings that wait to be published, at most: what thousands of machines that fail together make of them.
const QUEUE: usize = 4096;
/// One event, with the look-up of what it is about.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// What waits when the process stops may take this long.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The same words about the same object are said once in this time.
const QUIET: Duration = Duration::from_mins(1);
/// A UID is looked up again after this time: a NodeGroup can be deleted and created anew.
const UID_KEPT: Duration = Duration::from_mins(10);
/// Objects and words that are remembered, at most.
const REMEMBERED: usize = 4096;
/// Bytes that the API server takes in a note.
const NOTE_MAX: usize = 1024;

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A NodeGroup, by its name.
    NodeGroup(String),
    /// A VPSieNode, by its name.
    VPSieNode(String),
    /// A Secret in the namespace of NodeGroups, by its name.
    Secret(String),
    /// A Node.
    Node {
        /// Its name.
        name: String,
        /// Its UID; empty where it is not known.
        uid: String,
    },
}

/// Something that a person may ask about later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// What it is about.
    pub on: Object,
    /// What else has to do with it.
    pub related: Option<Object>,
    /// Whether somebody should look.
    pub kind: EventType,
    /// One word for it, `PascalCase`.
    pub reason: &'static str,
    /// What happened, in whole words. At most 1024 bytes of it are published. No secrets.
    pub message: String,
}

impl Happening {
    /// Something about an object.
    pub fn new(on: Object, kind: EventType, reason: &'static str, message: impl Into<String>) -> Self {
        Self { on, related: None, kind, reason, message: message.into() }
    }

    /// Something about a Node.
    pub fn node(
        name: impl Into<String>,
        uid: impl Into<String>,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::new(Object::Node { name: name.into(), uid: uid.into() }, kind, reason, message)
    }

    /// Something about the Secret with VPSie's credentials. Its contents are not to be in the message.
    pub fn secret(
        name: impl Into<String>,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::new(Object::Secret(name.into()), kind, reason, message)
    }

    /// The same, with what else has to do with it.
    pub fn with(self, related: Object) -> Self {
        Self { related: Some(related), ..self }
    }
}

/// How many events were published, and how many were not. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct EventMetrics {
    events: Family<Outcome, Counter>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

impl EventMetrics {
    /// Registers `kubernetes_events_total{result="published|failed|dropped"}`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Kubernetes events that were published, failed, or dropped as too many waited";
        registry.register("kubernetes_events", help, None, &self.events);
    }

    fn count(&self, result: &'static str) {
        self.events.get_or_create(&Outcome { result }).inc();
    }

    #[cfg(test)]
    fn get(&self, result: &'static str) -> u64 {
        self.events.get_or_create(&Outcome { result }).get()
    }
}

/// Takes what happened, and never waits. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Events {
    queue: Option<mpsc::Sender<Happening>>,
    metrics: EventMetrics,
}

impl Events {
    /// Where there is no API server: everything is forgotten.
    pub fn none() -> Self {
        Self::default()
    }

    /// Events of objects in the namespace, and of Nodes. They are published while the publisher runs.
    pub fn new(client: Client, namespace: &str, metrics: EventMetrics) -> (Self, Publisher) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let publisher = Publisher {
            recorder: Recorder::new(client.clone(), Reporter::from(REPORTER)),
            client,
            namespace: namespace.to_owned(),
            waiting,
            metrics: metrics.clone(),
            uids: HashMap::new(),
            said: HashMap::new(),
        };
        (Self { queue: Some(queue), metrics }, publisher)
    }

    /// Tells what happened, sooner or later. When too much waits already it is dropped and counted.
    pub fn publish(&self, happening: Happening) {
        if let Some(queue) = &self.queue
            && queue.try_send(happening).is_err()
        {
            self.metrics.count("dropped");
        }
    }
}

/// Publishes what was told to [`Events`].
pub struct Publisher {
    client: Client,
    namespace: String,
    recorder: Recorder,
    waiting: mpsc::Receiver<Happening>,
    metrics: EventMetrics,
    uids: HashMap<Object, (String, Instant)>,
    said: HashMap<(Object, &'static str, String), Instant>,
}

impl Publisher {
    /// Runs until `shutdown`, or until nobody can tell it anything any more.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let next = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                next = self.waiting.recv() => next,
            };
            let Some(happening) = next else { return };
            self.publish(happening).await;
        }
        let last = async {
            while let Ok(happening) = self.waiting.try_recv() {
                self.publish(happening).await;
            }
        };
        // What is left was not worth the wait.
        let _ = timeout(LAST_WORDS, last).await;
    }

    async fn publish(&mut self, happening: Happening) {
        if self.said_lately(&happening) {
            return;
        }
        let result = match timeout(PUBLISH_TIMEOUT, self.record(&happening)).await {
            Ok(Ok(())) => "published",
            Ok(Err(error)) => {
                tracing::debug!(%error, reason = happening.reason, "event not published");
                "failed"
            }
            Err(_) => {
                tracing::debug!(reason = happening.reason, "event not published in time");
                "failed"
            }
        };
        if result == "failed" {
            // So that the next of its kind is tried.
            self.said.remove(&words(&happening));
        }
        self.metrics.count(result);
    }

    async fn record(&mut self, happening: &Happening) -> kube::Result<()> {
        let regarding = self.reference(&happening.on).await;
        let secondary = match &happening.related {
            Some(related) => Some(self.reference(related).await),
            None => None,
        };
        let event = Event {
            type_: happening.kind,
            reason: happening.reason.to_owned(),
            note: Some(shortened(&happening.message)),
            action: happening.reason.to_owned(),
            secondary,
        };
        self.recorder.publish(&event, &regarding).await
    }

    fn said_lately(&mut self, happening: &Happening) -> bool {
        let now = Instant::now();
        if self.said.len() >= REMEMBERED {
            self.said.retain(|_, at| now.duration_since(*at) < QUIET);
        }
        if self.said.len() >= REMEMBERED {
            self.said.clear();
        }
        let words = words(happening);
        if self.said.get(&words).is_some_and(|at| now.duration_since(*at) < QUIET) {
            return true;
        }
        self.said.insert(words, now);
        false
    }

    /// With the UID where it can be had: `kubectl describe` shows no event without it.
    async fn reference(&mut self, object: &Object) -> ObjectReference {
        match object {
            Object::NodeGroup(name) => self.namespaced::<NodeGroup>(object, name).await,
            Object::VPSieNode(name) => self.namespaced::<VPSieNode>(object, name).await,
            Object::Secret(name) => self.namespaced::<Secret>(object, name).await,
            Object::Node { name, uid } => reference::<Node>(name, None, Some(uid.clone())),
        }
    }

    async fn namespaced<K>(&mut self, object: &Object, name: &str) -> ObjectReference
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let now = Instant::now();
        let known = self.uids.get(object).filter(|(_, at)| now.duration_since(*at) < UID_KEPT);
        if known.is_none() {
            let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
            let found = api.get_metadata(name).await.ok().and_then(|object| object.metadata.uid);
            if let Some(uid) = found {
                if self.uids.len() >= REMEMBERED {
                    self.uids.clear();
                }
                self.uids.insert(object.clone(), (uid, now));
            }
        }
        // One that is deleted by now is still known by the UID that it had.
        let uid = self.uids.get(object).map(|(uid, _)| uid.clone());
        reference::<K>(name, Some(self.namespace.clone()), uid)
    }
}

fn words(happening: &Happening) -> (Object, &'static str, String) {
    (happening.on.clone(), happening.reason, happening.message.clone())
}

fn reference<K: Resource<DynamicType = ()>>(
    name: &str,
    namespace: Option<String>,
    uid: Option<String>,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(name.to_owned()),
        namespace,
        uid: uid.filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    }
}

fn shortened(message: &str) -> String {
    let mut end = message.len().min(NOTE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response, StatusCode};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::BoxError;

    use super::*;

    /// An API server that knows one object of each kind and keeps what it is sent. Given a status other than 200
    /// it answers every event with that.
    #[derive(Clone, Default)]
    struct Stub {
        requests: Arc<Mutex<Vec<(Method, String, Value)>>>,
        refuses: Option<u16>,
    }

    impl Stub {
        fn client(&self) -> Client {
            let stub = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| stub.clone().answer(request));
            Client::new(service, "default")
        }

        async fn answer(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
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

    fn failed(machine: &str) -> Happening {
        let on = Object::NodeGroup("web".to_owned());
        Happening::new(on, EventType::Warning, "Failed", "STOCKOUT: No capacity")
            .with(Object::VPSieNode(machine.to_owned()))
    }

    /// Publishes all, and waits for the end.
    async fn publish(client: Client, happenings: Vec<Happening>) -> EventMetrics {
        let metrics = EventMetrics::default();
        let (events, publisher) = Events::new(client, "kube-system", metrics.clone());
        for happening in happenings {
            events.publish(happening);
        }
        drop(events);
        publisher.run(CancellationToken::new()).await;
        metrics
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_says_what_about_what_and_is_found_by_uid() {
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
            (
                &json!("Warning"),
                &json!("Failed"),
                &json!("STOCKOUT: No capacity"),
                &json!("vpsie-autoscaler")
            )
        );
        assert_eq!(metrics.get("published"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn events_of_nodes_are_in_default_and_need_no_look_up() {
        let stub = Stub::default();
        let node =
            Happening::node("slave-1", "7", EventType::Normal, "IdentityGiven", "It has its providerID");
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
    async fn an_object_that_is_deleted_is_told_of_all_the_same() {
        let stub = Stub::default();
        let deleted = |name: &str| {
            let on = Object::VPSieNode(name.to_owned());
            Happening::new(on, EventType::Normal, "Deleted", "VPSie lists its VM no more")
        };
        let metrics = publish(stub.client(), vec![deleted("deleted")]).await;
        assert_eq!(metrics.get("published"), 1);
        assert_eq!(stub.sent(&Method::POST)[0].1["regarding"].get("uid"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_words_are_said_once_a_minute_and_then_as_a_series() {
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
        let series: Vec<_> = stub
            .sent(&Method::PATCH)
            .into_iter()
            .map(|(_, event)| event["series"]["count"].clone())
            .collect();
        assert_eq!(series, [json!(2)]);
        assert_eq!(stub.sent(&Method::GET).len(), 2, "UIDs are looked up once");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_api_server_refuses_is_counted_and_the_next_is_tried() {
        let stub = Stub { refuses: Some(403), ..Stub::default() };
        let metrics = publish(stub.client(), vec![failed("web-1"), failed("web-1")]).await;
        assert_eq!((metrics.get("failed"), metrics.get("published")), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_silent_holds_up_nobody_and_the_overflow_is_dropped() {
        let silent =
            tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, BoxError>>());
        let metrics = EventMetrics::default();
        let (events, publisher) = Events::new(Client::new(silent, "default"), "kube-system", metrics.clone());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(publisher.run(shutdown.clone()));
        let started = Instant::now();
        for n in 0..QUEUE + 10 {
            events.publish(failed(&format!("web-{n}")));
        }
        assert_eq!((started.elapsed(), metrics.get("dropped")), (Duration::ZERO, 10));
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(metrics.get("failed"), 2);
        shutdown.cancel();
        running.await.unwrap();
        assert!(
            started.elapsed() <= Duration::from_secs(12) + PUBLISH_TIMEOUT + LAST_WORDS,
            "{:?}",
            started.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn long_words_are_cut_to_what_the_api_server_takes() {
        let stub = Stub::default();
        let on = Object::Secret("vpsie-secret".to_owned());
        let words = "é".repeat(2000);
        publish(stub.client(), vec![Happening::new(on, EventType::Warning, "Refused", words)]).await;
        let note = stub.sent(&Method::POST)[0].1["note"].as_str().unwrap().to_owned();
        assert_eq!(note, "é".repeat(512));
    }

    #[test]
    fn without_an_api_server_nothing_is_kept() {
        let events = Events::none();
        events.publish(failed("web-1"));
        assert_eq!(events.metrics.get("dropped"), 0);
    }
}
