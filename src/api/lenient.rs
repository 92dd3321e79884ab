//! Reads VPSieNodes of other versions of the program.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{MachinePhase, RequestOutcome, VPSieNode};
use crate::fleet::lenient::{is_known, remove_unknown, replace_unknown};
use crate::fleet::{DeletionReason, FailureReason, Hostname, VmId};

impl VPSieNode {
    /// Reads an object. Unknown fields are ignored. Unknown values are read as the safest known ones: a phase
    /// as Running if there is a VM, and an outcome as a lost reply.
    pub fn read(object: &Value) -> Result<Self, serde_json::Error> {
        let strict = serde_json::from_value(object.clone());
        if strict.is_ok() {
            return strict;
        }
        let mut object = object.clone();
        let requests = object.pointer_mut("/spec/requests").and_then(Value::as_array_mut);
        for outcome in requests.into_iter().flatten().filter_map(|request| request.get_mut("outcome")) {
            replace_unknown(outcome, &json!("Unclear"), is_known::<RequestOutcome>);
        }
        let requested = object["spec"]["requests"].as_array().is_some_and(|requests| !requests.is_empty());
        let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else {
            return serde_json::from_value(object);
        };
        remove_unknown(status, "deletionReason", is_known::<DeletionReason>);
        remove_unknown(status, "failureReason", is_known::<FailureReason>);
        if let Some(addresses) = status.get_mut("addresses").and_then(Value::as_array_mut) {
            addresses.retain(is_known::<IpAddr>);
        }
        if status.get("phase").is_some_and(|phase| !is_known::<MachinePhase>(phase)) {
            let phase = match status.get("hostname") {
                Some(Value::String(_)) => MachinePhase::Running,
                _ if requested => MachinePhase::Creating,
                // Neither a VM nor a request is recorded: no known phase fits, and the record stays
                // unreadable.
                _ => return strict,
            };
            status.insert("phase".to_owned(), json!(phase));
        }
        serde_json::from_value(object)
    }

    /// The VM in an unreadable object.
    pub fn vm_of_unreadable(object: &Value) -> Option<(Hostname, Option<VmId>)> {
        let spec = &object["spec"];
        let status = &object["status"];
        let hostname = status["hostname"].as_str().or(spec["nodeName"].as_str())?;
        let id = status["vpsieNodeIdentifier"].as_str().or(spec["vpsieNodeIdentifier"].as_str());
        Some((Hostname::new(hostname), id.map(VmId::from)))
    }
}
