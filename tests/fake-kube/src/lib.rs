//! A Kubernetes API server in the process, for tests: real answers of [`kube::Client`], no network, and time that
//! is tokio's.
//!
//! It keeps objects of the kinds that vpsie-autoscaler uses as JSON, with versions, finalizers, status
//! subresources, preconditions, paged lists and watches as Kubernetes has them. It validates nothing else.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use k8s_openapi::api::core::v1::ConfigMap;
//! let kube = fake_kube::FakeKube::new(jiff::Timestamp::now);
//! kube.fail(1, |asked| asked.verb.writes(), fake_kube::Then::ReplyLost);
//! let maps: kube::Api<ConfigMap> = kube::Api::default_namespaced(kube.client("me", "kube-system"));
//! let map = serde_json::from_str(r#"{"metadata": {"name": "a"}}"#).unwrap();
//! assert!(maps.create(&Default::default(), &map).await.is_err());
//! assert!(kube.get("configmaps", "kube-system", "a").is_some());
//! # });
//! ```

mod faults;
mod kinds;
mod objects;
mod refusal;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use faults::{Fate, Then};
pub use refusal::Refusal;
pub use request::{Asked, Verb};
pub use server::{Answer, Connection};

use faults::Faults;
use kinds::Kind;
use objects::{Edit, Objects, Part};

/// The server. Clones are the same one.
#[derive(Clone)]
pub struct FakeKube(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Wakes watches, and clients that are cut off.
    changes: tokio::sync::watch::Sender<()>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

#[derive(Default)]
struct State {
    objects: Objects,
    faults: Faults,
    log: Vec<Asked>,
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

    /// A client that the log and faults know by this name. Must be made within a tokio runtime.
    pub fn client(&self, name: &str, namespace: &str) -> kube::Client {
        kube::Client::new(self.connection(name), namespace)
    }

    /// The service under such a client, to be wrapped.
    pub fn connection(&self, client: &str) -> Connection {
        Connection { kube: self.clone(), client: client.to_owned() }
    }
}

/// The objects, by hand. No fault and no log is on this way, and status is a part of the object.
impl FakeKube {
    /// Writes an object, whatever is there. It must have `apiVersion`, `kind` and a name; what is to have a
    /// namespace and has none is in `default`.
    pub fn put(&self, object: Value) -> Result<Value, Refusal> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = Kind::by_name(&text(&object["apiVersion"]), &text(&object["kind"]))
            .ok_or_else(|| Refusal::new(404, format!("{} is not served", object["kind"])))?;
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

    /// An object. The namespace is empty for kinds that have none.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = Kind::by_plural(plural)?;
        self.state().objects.get(kind, namespace, name).map(|object| Value::clone(object))
    }

    /// All objects of a kind, by namespace and name.
    pub fn list(&self, plural: &str) -> Vec<Value> {
        let Some(kind) = Kind::by_plural(plural) else { return Vec::new() };
        self.state().objects.all(kind, None).map(|object| Value::clone(object)).collect()
    }

    /// The same, typed; those that cannot be read so are left out.
    pub fn all<K: kube::Resource<DynamicType = ()> + DeserializeOwned>(&self) -> Vec<K> {
        let list = self.list(&K::plural(&()));
        list.into_iter().filter_map(|object| serde_json::from_value(object).ok()).collect()
    }

    /// Changes an object with a JSON merge patch.
    pub fn patch(&self, plural: &str, namespace: &str, name: &str, patch: Value) -> Result<Value, Refusal> {
        let kind = Kind::by_plural(plural).ok_or_else(|| Refusal::not_found(plural, name))?;
        let edit = Edit::Merge(patch);
        let stored = self.change(|objects| objects.update(kind, namespace, name, Part::All, edit))?;
        Ok(Value::clone(&stored))
    }

    /// Deletes an object, as `kubectl delete --wait=false`: finalizers hold it.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> Result<(), Refusal> {
        let kind = Kind::by_plural(plural).ok_or_else(|| Refusal::not_found(plural, name))?;
        let now = self.now();
        self.change(|objects| objects.delete(kind, namespace, name, &json!(null), now))?;
        Ok(())
    }

    /// Removes an object whatever its finalizers. Whether it was there.
    pub fn vanish(&self, plural: &str, namespace: &str, name: &str) -> bool {
        let Some(kind) = Kind::by_plural(plural) else { return false };
        self.change(|objects| objects.vanish(kind, namespace, name))
    }

    /// The version of the last write.
    pub fn version(&self) -> u64 {
        self.state().objects.version()
    }

    /// What `SelfSubjectAccessReview` answers no to: a verb on a resource, such as `patch` on `nodes` or `create`
    /// on `pods/eviction`. Requests are served all the same.
    pub fn forbid(&self, verb: &str, resource: &str) {
        self.state().forbidden.insert((verb.to_owned(), resource.to_owned()));
    }
}

/// What goes wrong.
impl FakeKube {
    /// How long each request takes to get here.
    pub fn set_latency(&self, latency: Duration) {
        self.state().faults.latency = latency;
    }

    /// The next `times` requests that match have this fate. The first rule that fits counts.
    pub fn fail(
        &self,
        times: u32,
        matches: impl Fn(&Asked) -> bool + Send + Sync + 'static,
        fate: impl Into<Fate>,
    ) {
        self.state().faults.rules.push((times.max(1), Arc::new(matches), fate.into()));
    }

    /// Asks for the fate of each request that no rule fits. It may look at the server, and change it.
    pub fn on_request(&self, hook: impl Fn(&Asked) -> Fate + Send + Sync + 'static) {
        self.state().faults.hook = Some(Arc::new(hook));
    }

    /// Takes all rules and the hook away.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults.rules.clear();
        state.faults.hook = None;
    }

    /// Whether all connections are refused. Watches stand still meanwhile.
    pub fn set_down(&self, down: bool) {
        self.state().faults.down = down;
        self.wake();
    }

    /// Cuts one client off, or lets it back. What it asks meanwhile is answered by a broken connection when it is
    /// back, and is not done; its watches stand still.
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

    /// Kills the connection of each watch without a word to its client: nothing comes, not even its end.
    pub fn silence_watches(&self) {
        self.state().faults.silences += 1;
        self.wake();
    }

    /// Holds back what watches are told, until it is let go.
    pub fn hold_watches(&self, held: bool) {
        self.state().faults.watches_held = held;
        self.wake();
    }

    /// Forgets what happened so far: a watch that has not heard of it yet is told that it is too late.
    pub fn compact(&self) {
        self.state().objects.compact();
        self.wake();
    }
}

/// What was asked.
impl FakeKube {
    /// All requests so far, also those that were lost.
    pub fn requests(&self) -> Vec<Asked> {
        self.state().log.clone()
    }

    /// How many requests match.
    pub fn count(&self, matches: impl Fn(&Asked) -> bool) -> usize {
        self.state().log.iter().filter(|asked| matches(asked)).count()
    }

    /// Starts the log anew.
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

    fn change<R>(&self, work: impl FnOnce(&mut Objects) -> R) -> R {
        let (result, changed) = {
            let mut state = self.state();
            let before = state.objects.version();
            let result = work(&mut state.objects);
            (result, state.objects.version() != before)
        };
        if changed {
            self.wake();
        }
        result
    }

    fn log(&self, asked: Asked) {
        self.state().log.push(asked);
    }

    fn fate(&self, asked: &Asked) -> (Duration, Fate) {
        let (latency, fate) = {
            let mut state = self.state();
            (state.faults.latency, state.faults.fate(asked))
        };
        let fate = fate.unwrap_or_else(|hook| hook.map_or_else(Fate::default, |hook| hook(asked)));
        (latency, fate)
    }
}
