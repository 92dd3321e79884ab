//! Planted bugs of interruptions: the checks must find each of them.

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::observer::Target;

/// A planted bug. The letter is that of the check which it violates (docs/develop/simulation.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// R: a second replacement is recorded for one notice.
    SecondReplacement,
    /// R: after a restart, the records of replacements do not show the machines that they replace.
    ReplacementForgotten,
    /// S: the provider allows 100 percent of spot machines where the NodeGroup allows 50.
    ShareExceeded,
    /// O: drains begin minutes early.
    EarlyDrain,
    /// N: drains begin minutes late.
    LateDrain,
    /// E: a pod on another Node is evicted.
    WrongPodEvicted,
    /// D: another VM than that of the drained Node is deleted.
    WrongVmDeleted,
    /// 5: each creation is sent twice.
    DoubledCreation,
    /// V: deletions of VMs with a notice are not sent.
    VmLeaked,
    /// W: the cordon stays after a withdrawal.
    CordonLeft,
    /// C: Nodes with a notice are not cordoned.
    NotCordoned,
    /// P: replacements stay protected from scale-down.
    ProtectionLeft,
    /// H: replacements on their way are visible in pools without other machines.
    ReplacementShown,
}

impl Bug {
    /// All bugs, each with a seed that finds it.
    pub(super) const ALL: [(Self, u64); 13] = [
        (Self::SecondReplacement, 3),
        (Self::ReplacementForgotten, 2),
        (Self::ShareExceeded, 3),
        (Self::EarlyDrain, 2),
        (Self::LateDrain, 6),
        (Self::WrongPodEvicted, 3),
        (Self::WrongVmDeleted, 3),
        (Self::DoubledCreation, 3),
        (Self::VmLeaked, 0),
        (Self::CordonLeft, 4),
        (Self::NotCordoned, 0),
        (Self::ProtectionLeft, 6),
        (Self::ReplacementShown, 2),
    ];

    /// The letter or number at the beginning of the message that reports the bug.
    pub(super) fn check(self) -> &'static str {
        match self {
            Self::SecondReplacement | Self::ReplacementForgotten => "R",
            Self::ShareExceeded => "S",
            Self::EarlyDrain => "O",
            Self::LateDrain => "N",
            Self::WrongPodEvicted => "E",
            Self::WrongVmDeleted => "D",
            Self::DoubledCreation => "5",
            Self::VmLeaked => "V",
            Self::CordonLeft => "W",
            Self::NotCordoned => "C",
            Self::ProtectionLeft => "P",
            Self::ReplacementShown => "H",
        }
    }

    /// Seconds by which the clock of the loop over notices is ahead.
    pub(super) fn clock_error(self) -> i64 {
        match self {
            Self::EarlyDrain => 150,
            Self::LateDrain => -600,
            _ => 0,
        }
    }

    /// The body of a write to the API server, as the bug changes it.
    pub(super) fn change_body(self, method: &Method, target: &Target, body: Bytes) -> Bytes {
        let is_node_patch = *method == Method::PATCH && target.plural == "nodes";
        let Ok(mut patch) = serde_json::from_slice::<Value>(&body) else { return body };
        match self {
            Self::CordonLeft if is_node_patch && patch["spec"]["unschedulable"] == false => {
                remove(&mut patch["spec"], "unschedulable");
            }
            Self::NotCordoned if is_node_patch && patch["spec"]["unschedulable"] == true => {
                remove(&mut patch["spec"], "unschedulable");
            }
            Self::ProtectionLeft if is_node_patch => {
                let annotations = &mut patch["metadata"]["annotations"];
                let key = "cluster-autoscaler.kubernetes.io/scale-down-disabled";
                if annotations.get(key).is_none_or(|value| !value.is_null()) {
                    return body;
                }
                remove(annotations, key);
            }
            _ => return body,
        }
        patch.to_string().into()
    }

    /// A second write to the API server that follows the first one.
    pub(super) fn second_write(self, method: &Method, target: &Target, body: &Bytes) -> Option<Bytes> {
        let is_creation = *method == Method::POST && target.plural == "vpsienodes";
        if self != Self::SecondReplacement || !is_creation {
            return None;
        }
        let mut record: Value = serde_json::from_slice(body).ok()?;
        record["spec"]["replaces"].as_str()?;
        let name = record["metadata"]["name"].as_str()?.to_owned();
        record["metadata"]["name"] = format!("{name}x").into();
        Some(record.to_string().into())
    }

    /// Whether replies to lists of records lack the replaced machines.
    pub(super) fn hides_replaced(self) -> bool {
        self == Self::ReplacementForgotten
    }
}

fn remove(object: &mut Value, key: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(key);
    }
}
