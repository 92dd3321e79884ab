//! Records of another version: unknown fields are ignored, unknown values are read as the value with the
//! least effect. A guess must not request or delete a VM.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::ids::{Hostname, VmId};
use super::machine::{Machine, Phase};
use super::record::{UnmanagedKind, UnmanagedNode};

/// Reads a machine that another version recorded. An error if its phase is unknown and neither a VM nor a
/// request shows a safe one.
pub(crate) fn read_machine(text: &str) -> Result<Machine, serde_json::Error> {
    let strict = serde_json::from_str(text);
    if strict.is_ok() {
        return strict;
    }
    let mut record: Value = serde_json::from_str(text)?;
    let requests = record.get_mut("requests").and_then(Value::as_array_mut);
    for outcome in requests.into_iter().flatten().filter_map(|request| request.get_mut("outcome")) {
        replace_unknown(outcome, &json!("unclear"), is_known::<super::RequestOutcome>);
    }
    let requested = record["requests"].as_array().is_some_and(|requests| !requests.is_empty());
    let since = record["phase"]["since"].as_str().or(record["createdAt"].as_str()).map(ToOwned::to_owned);
    let Some(phase) = record.get_mut("phase").and_then(Value::as_object_mut) else { return strict };
    if let Some(reason) = phase.get_mut("failure").and_then(|failure| failure.get_mut("reason")) {
        replace_unknown(reason, &json!("REFUSED"), is_known::<super::FailureReason>);
    }
    remove_unknown(phase, "reason", is_known::<super::DeletionReason>);
    if serde_json::from_value::<Phase>(json!(phase)).is_err() {
        let vm = phase.get("vm").filter(|vm| !vm.is_null()).cloned();
        record["phase"] = match vm {
            Some(vm) => json!({"phase": "running", "vm": vm, "since": since}),
            None if requested => json!({"phase": "creating", "vm": null, "since": since}),
            None => return strict,
        };
    }
    serde_json::from_value(record)
}

/// Reads an unmanaged node that another version recorded. An unknown kind is read as foreign, so it is never
/// touched.
pub(crate) fn read_unmanaged(text: &str) -> Result<UnmanagedNode, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Known {
        hostname: Hostname,
        id: Option<VmId>,
        first_seen: Timestamp,
    }
    serde_json::from_str(text).or_else(|_| {
        let Known { hostname, id, first_seen } = serde_json::from_str(text)?;
        Ok(UnmanagedNode::new(hostname, id, first_seen, UnmanagedKind::Foreign))
    })
}

/// The VM that an unreadable row names, as a foreign node: it is never touched.
pub(crate) fn vm_of_unreadable(text: &str) -> Option<UnmanagedNode> {
    let record: Value = serde_json::from_str(text).ok()?;
    let vm = record.pointer("/phase/vm").filter(|vm| !vm.is_null()).unwrap_or(&record["vm"]);
    let first_seen = record["createdAt"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
    let id = vm["id"].as_str().map(VmId::from);
    let hostname = Hostname::new(vm["hostname"].as_str()?);
    Some(UnmanagedNode::new(hostname, id, first_seen, UnmanagedKind::Foreign))
}

/// Whether this version knows the value.
pub(crate) fn is_known<T: DeserializeOwned>(word: &Value) -> bool {
    serde_json::from_value::<T>(word.clone()).is_ok()
}

/// Replaces an unknown value by `instead`.
pub(crate) fn replace_unknown(word: &mut Value, instead: &Value, is_known: impl Fn(&Value) -> bool) {
    if !is_known(word) {
        word.clone_from(instead);
    }
}

/// Removes an unknown value.
pub(crate) fn remove_unknown(object: &mut Map<String, Value>, key: &str, is_known: impl Fn(&Value) -> bool) {
    if object.get(key).is_some_and(|word| !is_known(word)) {
        object.remove(key);
    }
}
