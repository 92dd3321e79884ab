//! The stored objects, and the effects of writes. Without time and network.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::status_error::StatusError;

/// Namespace (empty for none) and name.
pub(crate) type Key = (String, String);

/// One write, for watches.
#[derive(Clone, Debug)]
pub(crate) struct ObjectChange {
    pub(crate) version: u64,
    pub(crate) plural: &'static str,
    pub(crate) namespace: String,
    pub(crate) before: Option<Arc<Value>>,
    /// None if the object was removed. Watches get `last` then.
    pub(crate) after: Option<Arc<Value>>,
    pub(crate) last: Arc<Value>,
}

/// Maximum number of stored changes, which bounds the memory of long runs.
const MAX_HISTORY: usize = 20_000;
/// Maximum number of lists with a valid continue token.
const MAX_OPEN_LISTS: usize = 32;

/// A change of an object.
pub(crate) enum Edit {
    /// `PUT`.
    Replace(Value),
    /// `PATCH` with a JSON merge patch.
    Merge(Value),
}

/// Part of an object that a write may change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Object,
    Status,
    /// Both: direct access of the test.
    All,
}

#[derive(Debug, Default)]
pub(crate) struct Objects {
    version: u64,
    uids: u64,
    stored: BTreeMap<&'static str, BTreeMap<Key, Arc<Value>>>,
    history: VecDeque<ObjectChange>,
    /// Watches from an earlier version get 410 Gone.
    compacted: u64,
    lists: VecDeque<(u64, u64, VecDeque<Arc<Value>>)>,
}

impl Objects {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.stored.get(kind.plural)?.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// All objects of a kind, or those in the given namespace, by namespace and name.
    pub(crate) fn all<'a>(
        &'a self,
        kind: &Kind,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Value>> + 'a {
        let of_kind = self.stored.get(kind.plural).into_iter().flatten();
        of_kind.filter(move |((of, _), _)| namespace.is_none_or(|n| n == of)).map(|(_, object)| object)
    }

    /// Splits a list. Returns the first page, and the token for the remaining items.
    pub(crate) fn page(
        &mut self,
        mut items: VecDeque<Arc<Value>>,
        version: u64,
        limit: usize,
    ) -> (Vec<Arc<Value>>, Option<u64>) {
        if limit == 0 || items.len() <= limit {
            return (items.into(), None);
        }
        let rest = items.split_off(limit);
        let token = self.lists.back().map_or(1, |(token, _, _)| token + 1);
        self.lists.push_back((token, version, rest));
        if self.lists.len() > MAX_OPEN_LISTS {
            self.lists.pop_front();
        }
        (items.into(), Some(token))
    }

    /// The remaining items of a list, and the version of the list.
    pub(crate) fn rest(&self, token: &str) -> Result<(VecDeque<Arc<Value>>, u64), StatusError> {
        let expired = || StatusError::new(410, "The provided continue parameter is too old");
        let token: u64 =
            token.parse().map_err(|_| StatusError::new(400, "continue key is not valid: not a number"))?;
        let list = self.lists.iter().find(|(of, _, _)| *of == token).ok_or_else(expired)?;
        Ok((list.2.clone(), list.1))
    }

    /// Drops past changes and open lists: watches from earlier versions and continue tokens get 410.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
        self.lists.clear();
    }

    /// The changes after `version`.
    pub(crate) fn since(
        &self,
        version: u64,
    ) -> Result<impl Iterator<Item = &ObjectChange> + '_, StatusError> {
        if version < self.compacted {
            let text = format!("too old resource version: {version} ({})", self.compacted);
            return Err(StatusError::new(410, text));
        }
        let from = self.history.partition_point(|change| change.version <= version);
        Ok(self.history.range(from..))
    }

    pub(crate) fn create(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        part: Part,
        now: Timestamp,
    ) -> Result<Arc<Value>, StatusError> {
        check_type(kind, &object)?;
        remove_nulls(&mut object);
        let mut meta = take_meta(&mut object)?;
        let name = match (text(&meta, "name"), text(&meta, "generateName")) {
            (Some(name), _) => name.to_owned(),
            (None, Some(prefix)) => format!("{prefix}{:05x}", self.uids + 1),
            (None, None) => return Err(StatusError::new(422, "metadata.name: Required value")),
        };
        if text(&meta, "namespace").is_some_and(|of| of != namespace) {
            let text =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(StatusError::new(400, text));
        }
        if text(&meta, "resourceVersion").is_some() && part != Part::All {
            return Err(StatusError::new(400, "resourceVersion should not be set on objects to be created"));
        }
        if self.get(kind, namespace, &name).is_some() {
            return Err(StatusError::exists(kind.plural, &name));
        }
        check_size(kind, &name, &object)?;
        self.uids += 1;
        meta.insert("name".to_owned(), name.clone().into());
        if kind.namespaced {
            meta.insert("namespace".to_owned(), namespace.into());
        }
        let uid = format!("00000000-0000-4000-8000-{:012x}", self.uids);
        meta.insert("uid".to_owned(), uid.into());
        meta.insert("creationTimestamp".to_owned(), seconds(now));
        meta.remove("deletionTimestamp");
        if kind.status {
            meta.insert("generation".to_owned(), 1.into());
            if part != Part::All {
                object.as_object_mut().map(|object| object.remove("status"));
            }
        }
        put_meta(kind, &mut object, meta);
        Ok(self.store(kind, (namespace.to_owned(), name), None, Some(object)))
    }

    pub(crate) fn update(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        part: Part,
        edit: Edit,
    ) -> Result<Arc<Value>, StatusError> {
        let missing = || StatusError::not_found(kind.plural, name);
        let old = self.get(kind, namespace, name).cloned().ok_or_else(missing)?;
        let (mut new, replaces) = match edit {
            Edit::Replace(object) => (object, true),
            Edit::Merge(patch) => {
                let mut new = Value::clone(&old);
                merge(&mut new, patch);
                (new, false)
            }
        };
        check_type(kind, &new)?;
        remove_nulls(&mut new);
        let mut meta = take_meta(&mut new)?;
        let old_meta = meta_of(&old);
        let differs = |key| text(&meta, key).is_some_and(|now| text(old_meta, key) != Some(now));
        if differs("name") {
            return Err(StatusError::new(400, "the name of the object does not match the name on the URL"));
        }
        if differs("uid") {
            return Err(StatusError::new(409, "Precondition failed: the UID is another object's"));
        }
        if text(&meta, "resourceVersion").is_none() && replaces && !kind.unconditional && part != Part::All {
            return Err(StatusError::new(
                422,
                "metadata.resourceVersion: Invalid value: must be specified for an update",
            ));
        }
        if differs("resourceVersion") && part != Part::All {
            return Err(StatusError::modified(kind.plural, name));
        }
        for key in ["name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion"] {
            keep(&mut meta, old_meta, key);
        }
        if part != Part::All {
            keep(&mut meta, old_meta, "deletionTimestamp");
            keep(&mut meta, old_meta, "deletionGracePeriodSeconds");
        }
        if part == Part::Status {
            let status = new.get("status").cloned();
            new = Value::clone(&old);
            set_status(&mut new, status);
            meta = take_meta(&mut new)?;
        } else if part == Part::Object && kind.status {
            set_status(&mut new, old.get("status").cloned());
        }
        check_size(kind, name, &new)?;
        let kept = finalizers(old_meta);
        if meta.contains_key("deletionTimestamp") && finalizers(&meta).iter().any(|f| !kept.contains(f)) {
            let text = "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted";
            return Err(StatusError::new(422, text));
        }
        let same = |a: &Value, b: &Value| {
            let rest = |v: &Value| -> BTreeMap<String, Value> {
                let entries = v.as_object().into_iter().flatten();
                entries
                    .filter(|(key, _)| !["metadata", "status", "apiVersion", "kind"].contains(&key.as_str()))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            };
            rest(a) == rest(b)
        };
        if kind.status && !same(&old, &new) {
            let generation = old_meta.get("generation").and_then(Value::as_u64).unwrap_or(1);
            meta.insert("generation".to_owned(), (generation + 1).into());
        }
        let ends = meta.contains_key("deletionTimestamp") && finalizers(&meta).is_empty();
        put_meta(kind, &mut new, meta);
        if new == *old {
            return Ok(old);
        }
        let key = (namespace.to_owned(), name.to_owned());
        if ends {
            self.store(kind, key, Some(new), None);
            return Ok(old);
        }
        Ok(self.store(kind, key, None, Some(new)))
    }

    /// Deletes an object. With finalizers, sets its `deletionTimestamp` and returns it.
    pub(crate) fn delete(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        preconditions: &Value,
        now: Timestamp,
    ) -> Result<Option<Arc<Value>>, StatusError> {
        let missing = || StatusError::not_found(kind.plural, name);
        let old = self.get(kind, namespace, name).cloned().ok_or_else(missing)?;
        let meta = meta_of(&old);
        for key in ["uid", "resourceVersion"] {
            if preconditions[key].as_str().is_some_and(|expected| text(meta, key) != Some(expected)) {
                let text = format!(
                    "Precondition failed: {key} in precondition: {}, {key} in object meta: {}",
                    preconditions[key], meta[key]
                );
                return Err(StatusError::new(409, text));
            }
        }
        let key = (namespace.to_owned(), name.to_owned());
        if finalizers(meta).is_empty() {
            self.store(kind, key, Some(Value::clone(&old)), None);
            return Ok(None);
        }
        if meta.contains_key("deletionTimestamp") {
            return Ok(Some(old));
        }
        let mut new = Value::clone(&old);
        new["metadata"]["deletionTimestamp"] = seconds(now);
        new["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        Ok(Some(self.store(kind, key, None, Some(new))))
    }

    /// Removes an object despite its finalizers.
    pub(crate) fn vanish(&mut self, kind: &'static Kind, namespace: &str, name: &str) -> bool {
        let Some(old) = self.get(kind, namespace, name).cloned() else { return false };
        self.store(kind, (namespace.to_owned(), name.to_owned()), Some(Value::clone(&old)), None);
        true
    }

    /// Stores `new` with the next version, or removes the object whose last state is `gone`.
    fn store(
        &mut self,
        kind: &'static Kind,
        key: Key,
        gone: Option<Value>,
        new: Option<Value>,
    ) -> Arc<Value> {
        self.version += 1;
        let version = self.version;
        let stamp = |mut object: Value| {
            object["metadata"]["resourceVersion"] = version.to_string().into();
            Arc::new(object)
        };
        let namespace = key.0.clone();
        let of_kind = self.stored.entry(kind.plural).or_default();
        let before = of_kind.get(&key).cloned();
        let after = new.map(stamp);
        let last = if let Some(after) = &after {
            of_kind.insert(key, Arc::clone(after));
            Arc::clone(after)
        } else {
            of_kind.remove(&key);
            stamp(gone.unwrap_or_default())
        };
        let change =
            ObjectChange { version, plural: kind.plural, namespace, before, after, last: Arc::clone(&last) };
        self.history.push_back(change);
        if self.history.len() > MAX_HISTORY
            && let Some(forgotten) = self.history.pop_front()
        {
            self.compacted = forgotten.version;
        }
        last
    }
}

fn check_type(kind: &Kind, object: &Value) -> Result<(), StatusError> {
    let is_or_lacks = |key: &str, expected: &str| object[key].as_str().is_none_or(|text| text == expected);
    if is_or_lacks("apiVersion", &kind.api_version()) && is_or_lacks("kind", kind.word) && object.is_object()
    {
        return Ok(());
    }
    Err(StatusError::new(
        400,
        format!("the object provided is not a {} of {}", kind.word, kind.api_version()),
    ))
}

fn take_meta(object: &mut Value) -> Result<Map<String, Value>, StatusError> {
    match object.as_object_mut().and_then(|object| object.remove("metadata")) {
        Some(Value::Object(meta)) => Ok(meta),
        _ => Err(StatusError::new(400, "metadata: must be an object")),
    }
}

fn put_meta(kind: &Kind, object: &mut Value, mut meta: Map<String, Value>) {
    // As with Go's omitempty.
    for key in ["labels", "annotations"] {
        if meta.get(key).and_then(Value::as_object).is_some_and(Map::is_empty) {
            meta.remove(key);
        }
    }
    for key in ["finalizers", "ownerReferences", "managedFields"] {
        if meta.get(key).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            meta.remove(key);
        }
    }
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.word.into();
    object["metadata"] = Value::Object(meta);
}

fn meta_of(object: &Value) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    object["metadata"].as_object().unwrap_or(&NONE)
}

fn text<'a>(meta: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    meta.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn keep(meta: &mut Map<String, Value>, old: &Map<String, Value>, key: &str) {
    match old.get(key) {
        Some(value) => meta.insert(key.to_owned(), value.clone()),
        None => meta.remove(key),
    };
}

fn set_status(object: &mut Value, status: Option<Value>) {
    let Some(object) = object.as_object_mut() else { return };
    match status {
        Some(status) => object.insert("status".to_owned(), status),
        None => object.remove("status"),
    };
}

fn finalizers(meta: &Map<String, Value>) -> Vec<&str> {
    let list = meta.get("finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Removes nulls, which count as absent.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(remove_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// Applies a JSON merge patch (RFC 7386).
fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let Some(into) = into.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            into.remove(&key);
        } else {
            merge(into.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn seconds(now: Timestamp) -> Value {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string().into()
}

/// Rejects a ConfigMap whose values exceed the limit of the API server.
fn check_size(kind: &Kind, name: &str, object: &Value) -> Result<(), StatusError> {
    const MAX_BYTES: usize = 1 << 20;
    let values = object.get("data").and_then(Value::as_object).into_iter().flatten();
    let size: usize = values.filter_map(|(_, value)| value.as_str()).map(str::len).sum();
    if kind.plural == "configmaps" && size > MAX_BYTES {
        let text =
            format!("ConfigMap {name:?} is invalid: []: Too long: may not be more than {MAX_BYTES} bytes");
        return Err(StatusError::new(422, text));
    }
    Ok(())
}
