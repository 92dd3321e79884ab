//! An in-process Kubernetes API server for tests: it replies to [`kube::Client`] without a network, on
//! tokio's time.
//!
//! It stores objects of the kinds that vpsie-autoscaler uses as JSON. Versions, finalizers, status
//! subresources, preconditions, paged lists and watches behave as in Kubernetes. There is no other
//! validation.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use k8s_openapi::api::core::v1::ConfigMap;
//! let kube = fake_kube::FakeKube::new(jiff::Timestamp::now);
//! kube.fail(1, |request| request.verb.writes(), fake_kube::FaultEffect::ReplyLost);
//! let maps: kube::Api<ConfigMap> = kube::Api::default_namespaced(kube.client("me", "kube-system"));
//! let map = serde_json::from_str(r#"{"metadata": {"name": "a"}}"#).unwrap();
//! assert!(maps.create(&Default::default(), &map).await.is_err());
//! assert!(kube.get("configmaps", "kube-system", "a").is_some());
//! # });
//! ```

mod faults;
mod kinds;
mod objects;
mod request;
mod server;
mod status_error;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use faults::{FaultEffect, RequestFault};
pub use request::{ApiRequest, Verb};
pub use server::{Answer, Connection};
pub use status_error::StatusError;

use faults::Faults;
use kinds::Kind;
use objects::{Edit, Objects, Part};

/// The server. Cheap to clone: clones share one server.
#[derive(Clone)]
pub struct FakeKube(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Wakes watches and partitioned clients.
    changes: tokio::sync::watch::Sender<()>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

#[derive(Default)]
struct State {
    objects: Objects,
    faults: Faults,
    log: Vec<ApiRequest>,
    /// Verb and resource, with its subresource.
    forbidden: BTreeSet<(String, String)>,
}

impl std::fmt::Debug for FakeKube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FakeKube").field(&self.state().objects.version()).finish()
    }
}

/// Connections.
impl FakeKube {
    /// A server without objects, whose clock is `now`.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let (changes, _) = tokio::sync::watch::channel(());
        Self(Arc::new(Shared { state: Mutex::default(), changes, now: Box::new(now) }))
    }

    /// A client with this name in the log and in faults. Must be created within a tokio runtime.
    pub fn client(&self, name: &str, namespace: &str) -> kube::Client {
        kube::Client::new(self.connection(name), namespace)
    }

    /// The HTTP service of such a client, for wrappers.
    pub fn connection(&self, client: &str) -> Connection {
        Connection { kube: self.clone(), client: client.to_owned() }
    }
}

/// Direct access to objects, without faults and log. The status is a part of the object.
impl FakeKube {
    /// Creates or replaces an object. It must have `apiVersion`, `kind` and a name; the default namespace is
    /// `default`.
    pub fn put_object(&self, object: Value) -> Result<Value, StatusError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = Kind::by_name(&text(&object["apiVersion"]), &text(&object["kind"]))
            .ok_or_else(|| StatusError::new(404, format!("{} is not served", object["kind"])))?;
        let name = text(&object["metadata"]["name"]);
        let namespace = match (kind.namespaced, text(&object["metadata"]["namespace"])) {
            (false, _) => String::new(),
            (true, empty) if empty.is_empty() => "default".to_owned(),
            (true, namespace) => namespace,
        };
        let now = self.now();
        let stored = self.change(|objects| {
            if objects.get(kind, &namespace, &name).is_some() {
                return objects.update(kind, &namespace, &name, Part::All, Edit::Replace(object));
            }
            objects.create(kind, &namespace, object, Part::All, now)
        })?;
        Ok(Value::clone(&stored))
    }

    /// An object. The namespace is empty for cluster-scoped kinds.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = Kind::by_plural(plural)?;
        self.state().objects.get(kind, namespace, name).map(|object| Value::clone(object))
    }

    /// All objects of a kind, by namespace and name.
    pub fn list(&self, plural: &str) -> Vec<Value> {
        let Some(kind) = Kind::by_plural(plural) else { return Vec::new() };
        self.state().objects.all(kind, None).map(|object| Value::clone(object)).collect()
    }

    /// All objects of a type. Objects that cannot be parsed are skipped.
    pub fn all<K: kube::Resource<DynamicType = ()> + DeserializeOwned>(&self) -> Vec<K> {
        let list = self.list(&K::plural(&()));
        list.into_iter().filter_map(|object| serde_json::from_value(object).ok()).collect()
    }

    /// Changes an object with a JSON merge patch.
    pub fn patch(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<Value, StatusError> {
        let kind = Kind::by_plural(plural).ok_or_else(|| StatusError::not_found(plural, name))?;
        let edit = Edit::Merge(patch);
        let stored = self.change(|objects| objects.update(kind, namespace, name, Part::All, edit))?;
        Ok(Value::clone(&stored))
    }

    /// Deletes an object, as `kubectl delete --wait=false`: it exists until its finalizers are removed.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> Result<(), StatusError> {
        let kind = Kind::by_plural(plural).ok_or_else(|| StatusError::not_found(plural, name))?;
        let now = self.now();
        self.change(|objects| objects.delete(kind, namespace, name, &json!(null), now))?;
        Ok(())
    }

    /// Removes an object despite its finalizers. Returns true iff it existed.
    pub fn vanish(&self, plural: &str, namespace: &str, name: &str) -> bool {
        let Some(kind) = Kind::by_plural(plural) else { return false };
        self.change(|objects| objects.vanish(kind, namespace, name))
    }

    /// The version of the last write.
    pub fn version(&self) -> u64 {
        self.state().objects.version()
    }

    /// Makes `SelfSubjectAccessReview` deny a verb on a resource, such as `patch` on `nodes` or `create` on
    /// `pods/eviction`. Requests are not affected.
    pub fn forbid(&self, verb: &str, resource: &str) {
        self.state().forbidden.insert((verb.to_owned(), resource.to_owned()));
    }
}

/// Faults.
impl FakeKube {
    /// Sets the latency of all requests.
    pub fn set_latency(&self, latency: Duration) {
        self.state().faults.latency = latency;
    }

    /// Applies a fault to the next `times` matching requests. The first matching rule applies.
    pub fn fail(
        &self,
        times: u32,
        matches: impl Fn(&ApiRequest) -> bool + Send + Sync + 'static,
        fault: impl Into<RequestFault>,
    ) {
        self.state().faults.rules.push((times.max(1), Arc::new(matches), fault.into()));
    }

    /// Sets a hook that selects the fault of requests without a matching rule. It may access the server.
    pub fn on_request(&self, hook: impl Fn(&ApiRequest) -> RequestFault + Send + Sync + 'static) {
        self.state().faults.hook = Some(Arc::new(hook));
    }

    /// Removes all rules and the hook.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults.rules.clear();
        state.faults.hook = None;
    }

    /// Refuses all connections if `down`. Watches stall meanwhile.
    pub fn set_down(&self, down: bool) {
        self.state().faults.down = down;
        self.wake();
    }

    /// Partitions a client, or ends its partition. Requests during the partition fail without effect at its
    /// end; watches stall.
    pub fn partition(&self, client: &str, cut_off: bool) {
        {
            let mut state = self.state();
            if cut_off {
                state.faults.partitioned.insert(client.to_owned());
            } else {
                state.faults.partitioned.remove(client);
            }
        }
        self.wake();
    }

    /// Breaks the connection of each watch.
    pub fn cut_watches(&self) {
        self.state().faults.cuts += 1;
        self.wake();
    }

    /// Silences each watch: its client receives neither events nor an end of the stream.
    pub fn silence_watches(&self) {
        self.state().faults.silences += 1;
        self.wake();
    }

    /// Holds back the lines of watches while `held`.
    pub fn hold_watches(&self, held: bool) {
        self.state().faults.watches_held = held;
        self.wake();
    }

    /// Drops past changes: a watch that has not received them fails with 410.
    pub fn compact(&self) {
        self.state().objects.compact();
        self.wake();
    }
}

/// The log of requests.
impl FakeKube {
    /// All requests so far, including lost ones.
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.state().log.clone()
    }

    /// Number of matching requests.
    pub fn count(&self, matches: impl Fn(&ApiRequest) -> bool) -> usize {
        self.state().log.iter().filter(|request| matches(request)).count()
    }

    /// Clears the log.
    pub fn forget_requests(&self) {
        self.state().log.clear();
    }
}

impl FakeKube {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        (self.0.now)()
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    fn wake(&self) {
        self.0.changes.send_replace(());
    }

    fn change<R>(&self, edit: impl FnOnce(&mut Objects) -> R) -> R {
        let (result, changed) = {
            let mut state = self.state();
            let before = state.objects.version();
            let result = edit(&mut state.objects);
            (result, state.objects.version() != before)
        };
        if changed {
            self.wake();
        }
        result
    }

    fn log(&self, request: ApiRequest) {
        self.state().log.push(request);
    }

    fn select_fault(&self, request: &ApiRequest) -> (Duration, RequestFault) {
        let (latency, fault) = {
            let mut state = self.state();
            (state.faults.latency, state.faults.select_fault(request))
        };
        let fault =
            fault.unwrap_or_else(|hook| hook.map_or_else(RequestFault::default, |hook| hook(request)));
        (latency, fault)
    }
}
