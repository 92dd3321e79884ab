//! Notices of interruptions on Nodes. Pure.

use k8s_openapi::api::core::v1::Node;

use crate::fleet::{ReportedInterruption, names};

/// Taints by which termination handlers announce the interruption of a Node: one with the key of the annotation, and
/// those of aws-node-termination-handler and GKE.
const TAINTS: [&str; 3] = [
    names::INTERRUPTION,
    "aws-node-termination-handler/spot-itn",
    "cloud.google.com/impending-node-termination",
];
/// Conditions, with the reasons that announce an interruption (any, if empty): a neutral one, and that of the node
/// problem detector of AKS.
const CONDITIONS: [(&str, &[&str]); 2] =
    [("InterruptionScheduled", &[]), ("VMEventScheduled", &["PreemptScheduled", "TerminateScheduled"])];

/// The notice of a Node: its annotation, or the taint or condition of a termination handler. An annotation with the
/// value `none` overrides the others.
pub(super) fn read_notice(node: &Node) -> Option<ReportedInterruption> {
    let annotation = node.metadata.annotations.as_ref().and_then(|all| all.get(names::INTERRUPTION));
    match annotation.map(|value| value.trim()) {
        Some("none") => None,
        // A value that is no time announces an interruption, too.
        Some(value) => Some(ReportedInterruption { deadline: value.parse().ok() }),
        None => (has_taint(node) || has_condition(node)).then_some(ReportedInterruption { deadline: None }),
    }
}

fn has_taint(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| TAINTS.contains(&taint.key.as_str()))
}

fn has_condition(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| {
        let reason = condition.reason.as_deref().unwrap_or_default();
        let announces = |(type_, reasons): &(&str, &[&str])| {
            condition.type_ == *type_ && (reasons.is_empty() || reasons.contains(&reason))
        };
        condition.status == "True" && CONDITIONS.iter().any(announces)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(value: &Value) -> Node {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn notices_are_annotations_taints_or_conditions() {
        let at = "2026-11-28T12:00:00Z";
        let annotated = |value: &str| json!({"metadata": {"annotations": {names::INTERRUPTION: value}}});
        let tainted =
            |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}, "metadata": {}});
        let condition = |kind: &str, status: &str, reason: &str| json!({"metadata": {}, "status": {"conditions": [{"type": kind, "status": status, "reason": reason}]}});
        let notice = |deadline: Option<&str>| {
            Some(ReportedInterruption { deadline: deadline.map(|at| at.parse().unwrap()) })
        };
        for (value, want) in [
            (annotated(at), notice(Some(at))),
            (annotated(""), notice(None)),
            (annotated("soon"), notice(None)),
            (annotated("none"), None),
            (tainted("aws-node-termination-handler/spot-itn"), notice(None)),
            (tainted("cloud.google.com/impending-node-termination"), notice(None)),
            (tainted("node.kubernetes.io/unschedulable"), None),
            (condition("InterruptionScheduled", "True", ""), notice(None)),
            (condition("InterruptionScheduled", "False", ""), None),
            (condition("VMEventScheduled", "True", "PreemptScheduled"), notice(None)),
            (condition("VMEventScheduled", "True", "RebootScheduled"), None),
            (json!({"metadata": {}}), None),
        ] {
            assert_eq!(read_notice(&node(&value)), want, "{value}");
        }
    }
}
