//! Kubernetes events, for `kubectl describe` and `kubectl get events`.
//!
//! Nothing waits for an event. An event that cannot be published is counted and dropped.

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

/// The reporting controller of events.
const REPORTER: &str = "vpsie-autoscaler";
/// Maximum number of queued events. Thousands of machines may fail at once.
const QUEUE_SIZE: usize = 4096;
/// Timeout of one event, including the look-up of its object.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for queued events at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// Minimum time between equal events of one object.
const REPEAT_INTERVAL: Duration = Duration::from_mins(1);
/// Time after which a UID is looked up again: a NodeGroup can be deleted and created again.
const UID_TTL: Duration = Duration::from_mins(10);
/// Maximum number of cached UIDs, and of remembered events.
const CACHE_SIZE: usize = 4096;
/// Maximum length of a note, bytes.
const NOTE_MAX: usize = 1024;

/// The object of an event.
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
        /// Its UID; empty if unknown.
        uid: String,
    },
}

/// An event to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEvent {
    /// The object that it happened to.
    pub on: Object,
    /// Another object that is involved.
    pub related: Option<Object>,
    /// Normal, or Warning if it needs attention.
    pub kind: EventType,
    /// The reason, `PascalCase`.
    pub reason: &'static str,
    /// The message. It is cut to 1024 bytes and must not contain secrets.
    pub message: String,
}

impl ObjectEvent {
    /// An event of an object.
    pub fn new(on: Object, kind: EventType, reason: &'static str, message: impl Into<String>) -> Self {
        Self { on, related: None, kind, reason, message: message.into() }
    }

    /// An event of a Node.
    pub fn node(
        name: impl Into<String>,
        uid: impl Into<String>,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::new(Object::Node { name: name.into(), uid: uid.into() }, kind, reason, message)
    }

    /// An event of the Secret with VPSie's credentials. The message must not contain them.
    pub fn secret(
        name: impl Into<String>,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::new(Object::Secret(name.into()), kind, reason, message)
    }

    /// Adds another object that is involved.
    pub fn with_related(self, related: Object) -> Self {
        Self { related: Some(related), ..self }
    }
}

/// Counts events by result. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct EventMetrics {
    events: Family<PublishLabels, Counter>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PublishLabels {
    result: &'static str,
}

impl EventMetrics {
    /// Registers `kubernetes_events_total{result="published|failed|dropped"}`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Kubernetes events by result: published, failed, or dropped because the queue was full";
        registry.register("kubernetes_events", help, None, &self.events);
    }

    fn count(&self, result: &'static str) {
        self.events.get_or_create(&PublishLabels { result }).inc();
    }

    #[cfg(test)]
    fn get(&self, result: &'static str) -> u64 {
        self.events.get_or_create(&PublishLabels { result }).get()
    }
}

/// A queue of events. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Events {
    queue: Option<mpsc::Sender<ObjectEvent>>,
    metrics: EventMetrics,
}

impl Events {
    /// A queue that drops all events, for use without an API server.
    pub fn none() -> Self {
        Self::default()
    }

    /// A queue for events of objects in the namespace and of Nodes, and its publisher, which must be run.
    pub fn new(client: Client, namespace: &str, metrics: EventMetrics) -> (Self, Publisher) {
        let (queue, queued) = mpsc::channel(QUEUE_SIZE);
        let publisher = Publisher {
            recorder: Recorder::new(client.clone(), Reporter::from(REPORTER)),
            client,
            namespace: namespace.to_owned(),
            queued,
            metrics: metrics.clone(),
            uids: HashMap::new(),
            published: HashMap::new(),
        };
        (Self { queue: Some(queue), metrics }, publisher)
    }

    /// Queues an event, without waiting. If the queue is full, the event is dropped and counted.
    pub fn publish(&self, event: ObjectEvent) {
        if let Some(queue) = &self.queue
            && queue.try_send(event).is_err()
        {
            self.metrics.count("dropped");
        }
    }
}

/// Publishes the events of an [`Events`] queue.
pub struct Publisher {
    client: Client,
    namespace: String,
    recorder: Recorder,
    queued: mpsc::Receiver<ObjectEvent>,
    metrics: EventMetrics,
    uids: HashMap<Object, (String, Instant)>,
    published: HashMap<(Object, &'static str, String), Instant>,
}

impl Publisher {
    /// Runs until `shutdown`, or until all clones of [`Events`] are dropped.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let next = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                next = self.queued.recv() => next,
            };
            let Some(event) = next else { return };
            self.publish(event).await;
        }
        let last = async {
            while let Ok(event) = self.queued.try_recv() {
                self.publish(event).await;
            }
        };
        // Events that remain after the timeout are lost.
        let _ = timeout(SHUTDOWN_TIMEOUT, last).await;
    }

    async fn publish(&mut self, event: ObjectEvent) {
        if self.is_repeated(&event) {
            return;
        }
        let result = match timeout(PUBLISH_TIMEOUT, self.record(&event)).await {
            Ok(Ok(())) => "published",
            Ok(Err(error)) => {
                tracing::debug!(%error, reason = event.reason, "cannot publish an event");
                "failed"
            }
            Err(_) => {
                tracing::debug!(reason = event.reason, "cannot publish an event in time");
                "failed"
            }
        };
        if result == "failed" {
            // The next equal event is another attempt.
            self.published.remove(&dedup_key(&event));
        }
        self.metrics.count(result);
    }

    async fn record(&mut self, event: &ObjectEvent) -> kube::Result<()> {
        let regarding = self.reference(&event.on).await;
        let secondary = match &event.related {
            Some(related) => Some(self.reference(related).await),
            None => None,
        };
        let event = Event {
            type_: event.kind,
            reason: event.reason.to_owned(),
            note: Some(truncate_note(&event.message)),
            action: event.reason.to_owned(),
            secondary,
        };
        self.recorder.publish(&event, &regarding).await
    }

    fn is_repeated(&mut self, event: &ObjectEvent) -> bool {
        let now = Instant::now();
        if self.published.len() >= CACHE_SIZE {
            self.published.retain(|_, at| now.duration_since(*at) < REPEAT_INTERVAL);
        }
        if self.published.len() >= CACHE_SIZE {
            self.published.clear();
        }
        let key = dedup_key(event);
        if self.published.get(&key).is_some_and(|at| now.duration_since(*at) < REPEAT_INTERVAL) {
            return true;
        }
        self.published.insert(key, now);
        false
    }

    /// A reference with the UID if possible: `kubectl describe` shows no events without it.
    async fn reference(&mut self, object: &Object) -> ObjectReference {
        match object {
            Object::NodeGroup(name) => self.namespaced_reference::<NodeGroup>(object, name).await,
            Object::VPSieNode(name) => self.namespaced_reference::<VPSieNode>(object, name).await,
            Object::Secret(name) => self.namespaced_reference::<Secret>(object, name).await,
            Object::Node { name, uid } => reference::<Node>(name, None, Some(uid.clone())),
        }
    }

    async fn namespaced_reference<K>(&mut self, object: &Object, name: &str) -> ObjectReference
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let now = Instant::now();
        let known = self.uids.get(object).filter(|(_, at)| now.duration_since(*at) < UID_TTL);
        if known.is_none() {
            let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
            let found = api.get_metadata(name).await.ok().and_then(|object| object.metadata.uid);
            if let Some(uid) = found {
                if self.uids.len() >= CACHE_SIZE {
                    self.uids.clear();
                }
                self.uids.insert(object.clone(), (uid, now));
            }
        }
        // The cached UID of a deleted object stays valid.
        let uid = self.uids.get(object).map(|(uid, _)| uid.clone());
        reference::<K>(name, Some(self.namespace.clone()), uid)
    }
}

fn dedup_key(event: &ObjectEvent) -> (Object, &'static str, String) {
    (event.on.clone(), event.reason, event.message.clone())
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

fn truncate_note(message: &str) -> String {
    let mut end = message.len().min(NOTE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests;
