//! Records other than machines: the catalog, size profiles, the request history and unmanaged nodes. Each is
//! one value of a ConfigMap.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use kube::core::ObjectMeta;
use serde_json::{Map, Value, json};

use super::format;
use super::object_cache::RecordObject;
use crate::catalog::SizeId;
use crate::fleet::{Hostname, Records, RequestHistory, SizeProfile, lenient};

const CATALOG_MAP: &str = "vpsie-autoscaler-catalog";
/// Followed by a hexadecimal digit: a single object could exceed the size limit.
const UNMANAGED_MAP: &str = "vpsie-autoscaler-unmanaged-";
/// Followed by the size. Each size has its own object, because the labels of its Nodes are long.
const PROFILE_MAP: &str = "vpsie-autoscaler-profile-";
const NODES: &str = "nodes";
/// Its own object: earlier releases refuse unknown keys in the others.
const HISTORY_MAP: &str = "vpsie-autoscaler-request-history";
/// Its own object: earlier releases refuse unknown keys in the others.
const SPOT_HISTORY_MAP: &str = "vpsie-autoscaler-spot-history";
const DATACENTER_HISTORY_MAP: &str = "vpsie-autoscaler-datacenter-history";
const CATALOG: &str = "catalog";
const HISTORY: &str = "history";
/// A request history that could not be read, before it was replaced.
const UNREADABLE_HISTORY: &str = "history.unreadable";
const PROFILES: &str = "profile.";
/// Longest key of a ConfigMap.
const KEY_MAX: usize = 253;

pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "vpsie-autoscaler");

/// The location of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConfigMapKey {
    pub(super) map: String,
    pub(super) key: String,
}

impl ConfigMapKey {
    pub(super) fn catalog() -> Self {
        Self { map: CATALOG_MAP.to_owned(), key: CATALOG.to_owned() }
    }

    pub(super) fn request_history() -> Self {
        Self { map: HISTORY_MAP.to_owned(), key: HISTORY.to_owned() }
    }

    pub(super) fn spot_history() -> Self {
        Self { map: SPOT_HISTORY_MAP.to_owned(), key: HISTORY.to_owned() }
    }

    pub(super) fn datacenter_history() -> Self {
        Self { map: DATACENTER_HISTORY_MAP.to_owned(), key: HISTORY.to_owned() }
    }

    pub(super) fn profile(size: SizeId) -> Self {
        Self { map: CATALOG_MAP.to_owned(), key: format!("{PROFILES}{size}") }
    }

    pub(super) fn profile_nodes(size: SizeId) -> Self {
        Self { map: format!("{PROFILE_MAP}{size}"), key: NODES.to_owned() }
    }

    pub(super) fn unmanaged(hostname: &Hostname) -> Self {
        let hash = fnv(hostname.as_str());
        Self { map: format!("{UNMANAGED_MAP}{:x}", hash % 16), key: key(hostname.as_str(), hash) }
    }
}

/// FNV-1a. The result must not change between releases: names of ConfigMaps depend on it.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A hostname as a key. A byte that keys do not allow becomes `_` and two hexadecimal digits.
fn key(hostname: &str, hash: u64) -> String {
    use std::fmt::Write as _;
    let mut key = String::new();
    for byte in hostname.bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte) {
            key.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(key, "_{byte:02x}");
        }
    }
    // Kubernetes refuses the key `.` and keys that start with `..`.
    if key.starts_with('.') || key.is_empty() {
        key.insert(0, '_');
    }
    if key.len() > KEY_MAX {
        key.truncate(KEY_MAX - 17);
        let _ = write!(key, "_{hash:016x}");
    }
    key
}

impl RecordObject for ConfigMap {
    fn has_same_records(&self, other: &Self) -> bool {
        let data = |map: &Self| map.data.clone().unwrap_or_default();
        data(self) == data(other)
    }
}

/// Values of one ConfigMap to be written, or to be removed.
pub(super) type Values = BTreeMap<String, Option<String>>;

pub(super) fn new_map(name: &str, values: &Values) -> ConfigMap {
    let set = values.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())])),
            annotations: Some(BTreeMap::from([format::annotation()])),
            ..ObjectMeta::default()
        },
        data: Some(set.collect()),
        ..ConfigMap::default()
    }
}

/// The patch that sets these values and no others, and the present format. A request history that cannot be
/// read stays as another value.
pub(super) fn patch(stored: &ConfigMap, values: &Values) -> Option<Value> {
    let old = |key: &str| stored.data.as_ref().and_then(|data| data.get(key));
    let differ = values.iter().filter(|(key, value)| old(key) != value.as_ref());
    let mut data: Map<String, Value> = differ.map(|(key, value)| (key.clone(), json!(value))).collect();
    if stored.metadata.name.as_deref() == Some(HISTORY_MAP)
        && let Some(unreadable) =
            old(HISTORY).filter(|text| serde_json::from_str::<RequestHistory>(text).is_err())
    {
        data.insert(UNREADABLE_HISTORY.to_owned(), json!(unreadable));
    }
    let mut patch = json!({});
    if !data.is_empty() {
        patch["data"] = json!(data);
    }
    if let Some(annotations) = format::raised(&stored.metadata) {
        patch["metadata"] = json!({"annotations": annotations});
    }
    (patch != json!({})).then_some(patch)
}

/// Adds the values of a ConfigMap, if it is one of ours. Values that cannot be read stay unchanged.
pub(super) fn read(map: &ConfigMap, records: &mut Records) {
    let name = map.name_any();
    if let Some(size) = name.strip_prefix(PROFILE_MAP).and_then(|size| size.parse().ok()) {
        let nodes = map.data.as_ref().and_then(|data| data.get(NODES));
        let nodes = nodes.map(|text| serde_json::from_str(text).inspect_err(|error| unreadable(map, error)));
        let profile = nodes.and_then(Result::ok).and_then(SizeProfile::from_nodes);
        records.profiles.extend(profile.map(|profile| (SizeId(size), profile)));
        return;
    }
    if name == SPOT_HISTORY_MAP {
        let history = map.data.as_ref().and_then(|data| data.get(HISTORY));
        match history.map(|text| serde_json::from_str(text)) {
            Some(Ok(history)) => records.spot_history = history,
            Some(Err(error)) => tracing::warn!(
                configmap = name,
                %error,
                "cannot read the spot history; starting with an empty one: circuit breakers are closed, and interruption rates are the assumed ones"
            ),
            None => {}
        }
        return;
    }
    if name == DATACENTER_HISTORY_MAP {
        let history = map.data.as_ref().and_then(|data| data.get(HISTORY));
        match history.map(|text| serde_json::from_str(text)) {
            Some(Ok(history)) => records.datacenter_history = history,
            Some(Err(error)) => tracing::warn!(
                configmap = name,
                %error,
                "cannot read the datacenter history; starting with an empty one: circuit breakers are closed"
            ),
            None => {}
        }
        return;
    }
    if ![CATALOG_MAP, HISTORY_MAP].contains(&name.as_str()) && !name.starts_with(UNMANAGED_MAP) {
        return;
    }
    for (key, text) in map.data.iter().flatten() {
        if let Err(error) = read_value(&name, key, text, records) {
            records.unreadable += 1;
            let namespace = map.namespace().unwrap_or_default();
            let object = format!("ConfigMap {namespace}/{name}");
            if name == HISTORY_MAP {
                tracing::error!(
                    object,
                    key,
                    error,
                    "cannot read the request history; it is kept as {UNREADABLE_HISTORY}. VMs of its requests that VPSie lists \
                     later count as foreign: delete them at VPSie"
                );
            } else {
                tracing::error!(object, key, error, "cannot read a record; it stays unchanged");
            }
        }
    }
}

fn read_value(map: &str, key: &str, text: &str, records: &mut Records) -> Result<(), String> {
    let problem = |error: serde_json::Error| error.to_string();
    if map == HISTORY_MAP {
        if key == HISTORY {
            records.request_history = serde_json::from_str(text).map_err(problem)?;
        }
    } else if map != CATALOG_MAP {
        records.unmanaged.push(lenient::read_unmanaged(text).map_err(problem)?);
    } else if key == CATALOG {
        records.catalog = Some(serde_json::from_str(text).map_err(problem)?);
    } else if let Some(size) = key.strip_prefix(PROFILES) {
        let size = size.parse().map_err(|_| "the key has no valid size".to_owned())?;
        records.profiles.push((SizeId(size), serde_json::from_str(text).map_err(problem)?));
    } else {
        return Err("unknown key".to_owned());
    }
    Ok(())
}

/// Not an error: a new profile is made from Nodes.
fn unreadable(map: &ConfigMap, error: &serde_json::Error) {
    let configmap = map.name_any();
    tracing::warn!(
        configmap,
        %error,
        "cannot read the size profile of a size; a new one is made from the Nodes of that size"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_valid_and_unique() {
        let long = "ä".repeat(200);
        let hostnames =
            ["node-1.example", "", ".", "..", "a_b", "a b", "a_20b", "é", &long, &format!("{long}b")];
        let keys: Vec<ConfigMapKey> =
            hostnames.iter().map(|name| ConfigMapKey::unmanaged(&Hostname::new(name))).collect();
        for key in &keys {
            assert!(key.key.len() <= KEY_MAX && !key.key.is_empty() && !key.key.starts_with('.'));
            assert!(key.key.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)), "{key:?}");
        }
        let different: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), hostnames.len());
        assert_eq!(keys[0].key, "node-1.example");
        assert_eq!(keys[0].map, "vpsie-autoscaler-unmanaged-f", "as in every release");
    }
}
