//! The watched objects of a kind, including objects that this version cannot read.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::fleet::names;
use crate::kubernetes::watch_config;

/// The kind whose objects have the log key `nodegroup`.
const NODE_GROUP: &str = "NodeGroup";

/// The objects of a kind.
#[derive(Debug)]
pub(super) struct Watched<K> {
    /// The last readable version of each, with the present metadata.
    pub(super) objects: BTreeMap<String, K>,
    /// Objects that cannot be read now.
    pub(super) unreadable: BTreeMap<String, Unreadable>,
    listing: BTreeMap<String, Result<K, Box<Unreadable>>>,
    /// Whether the API server may lack the kind. Then there are no objects.
    optional: bool,
    /// Whether the objects were listed.
    pub(super) read: bool,
    /// The error of the last failed list.
    pub(super) failed: Option<String>,
}

/// An object that this version cannot read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unreadable {
    pub(super) meta: ObjectMeta,
    /// The problem.
    pub(super) error: String,
}

impl<K> Default for Watched<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            listing: BTreeMap::new(),
            optional: false,
            read: false,
            failed: None,
        }
    }
}

impl<K> Watched<K> {
    /// Objects of a kind that the API server may lack.
    pub(super) fn optional() -> Self {
        Self { optional: true, ..Self::default() }
    }
}

impl<K: Resource<DynamicType = ()> + Debug> Watched<K> {
    /// Applies an event of the watch. Returns whether it changed anything.
    pub(super) fn apply_event(&mut self, event: WatchEvent<K>) -> bool {
        match event {
            Err(error) => {
                let before = (self.read, self.failed.is_some());
                self.read |= error.not_found && self.optional;
                self.failed = Some(error.message);
                return before != (self.read, true);
            }
            Ok(watcher::Event::Apply(object)) => return self.apply(object),
            Ok(watcher::Event::Delete(object)) => {
                self.objects.remove(&object.name_any());
                self.unreadable.remove(&object.name_any());
            }
            Ok(watcher::Event::Init) => {
                self.listing.clear();
                return false;
            }
            Ok(watcher::Event::InitApply(object)) => {
                self.listing.insert(object.name_any(), usable(object));
                return false;
            }
            Ok(watcher::Event::InitDone) => {
                let mut before = std::mem::take(&mut self.objects);
                self.unreadable.clear();
                for (name, object) in std::mem::take(&mut self.listing) {
                    let last = before.remove(&name);
                    self.store_object(name, object, last);
                }
                self.read = true;
                self.failed = None;
            }
        }
        true
    }

    fn apply(&mut self, object: DeserializeGuard<K>) -> bool {
        let name = object.name_any();
        let object = usable(object);
        let present = match &object {
            Ok(object) => user_metadata(object.meta()),
            Err(unreadable) => user_metadata(&unreadable.meta),
        };
        let readable = object.is_ok();
        let was_unreadable = self.unreadable.remove(&name);
        let last = self.objects.remove(&name);
        let before = match (&was_unreadable, &last) {
            (Some(unreadable), _) => Some(user_metadata(&unreadable.meta)),
            (None, last) => last.as_ref().map(|last| user_metadata(last.meta())),
        };
        self.store_object(name, object, last);
        was_unreadable.is_some() == readable || before.is_none_or(|before| before != present)
    }

    /// Stores an object. Of an unreadable object, the `last` version stays, if it is the same object.
    fn store_object(&mut self, name: String, object: Result<K, Box<Unreadable>>, last: Option<K>) {
        match object {
            Ok(object) => drop(self.objects.insert(name, object)),
            Err(unreadable) => {
                let kind = K::kind(&());
                tracing::warn!(
                    nodegroup = (kind == NODE_GROUP).then_some(name.as_str()),
                    error = unreadable.error,
                    "this version cannot read {kind} {name}; see its status"
                );
                if let Some(mut last) = last.filter(|last| last.meta().uid == unreadable.meta.uid) {
                    *last.meta_mut() = unreadable.meta.clone();
                    self.objects.insert(name.clone(), last);
                }
                self.unreadable.insert(name, *unreadable);
            }
        }
    }
}

/// The part of an object that users change. Most changes are status updates by this loop.
pub(super) fn user_metadata(meta: &ObjectMeta) -> impl PartialEq + use<> {
    let ObjectMeta { uid, generation, deletion_timestamp, labels, annotations, .. } = meta.clone();
    let relearn = annotations.and_then(|mut all| all.remove(names::RELEARN));
    (uid, generation, deletion_timestamp, labels, relearn)
}

/// An event of a watch.
pub(super) type WatchEvent<K> = Result<watcher::Event<DeserializeGuard<K>>, WatchError>;

/// A failed watch or list.
#[derive(Debug)]
pub(super) struct WatchError {
    /// The API server lacks the kind.
    not_found: bool,
    message: String,
}

impl From<watcher::Error> for WatchError {
    fn from(error: watcher::Error) -> Self {
        let not_found = matches!(
            &error,
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404
        );
        Self { not_found, message: error.to_string() }
    }
}

/// An unreadable object must not end the watch of the others.
fn usable<K: Resource>(object: DeserializeGuard<K>) -> Result<K, Box<Unreadable>> {
    object.0.map_err(|invalid| Box::new(Unreadable { meta: invalid.metadata, error: invalid.error }))
}

/// Watches the objects of a kind until the stream is dropped.
pub(super) fn watch_objects<K>(
    api: Api<DeserializeGuard<K>>,
    what: &'static str,
) -> BoxStream<'static, WatchEvent<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher(api, watch_config()).default_backoff();
    let events = events.map(move |event| {
        event.map_err(|error| {
            tracing::warn!(%error, "cannot watch {what}; the watch is restarted");
            WatchError::from(error)
        })
    });
    events.chain(stream::pending()).boxed()
}
