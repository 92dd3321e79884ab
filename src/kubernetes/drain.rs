//! Emptying a Node by the eviction API, which keeps to disruption budgets.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};

use crate::retry_after::RetryAfter;

/// A pod that is still there so long after its grace period is not waited for: its kubelet is dead.
const DEAD_AFTER: Duration = Duration::from_mins(1);
/// Grace period of a pod that names none, seconds.
const DEFAULT_GRACE: i64 = 30;
/// The longest grace period that is waited for, seconds.
const LONGEST_GRACE: u64 = 7 * 24 * 3600;
/// Pods a request reads.
const PAGE: u32 = 500;

/// Whether a pod keeps its Node from being empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staying {
    /// No: it is of a DaemonSet, a static pod, or over.
    Ignored,
    /// It is to be evicted.
    ToEvict,
    /// It is on its way out.
    Leaving,
}

/// Whether a pod keeps its Node from being empty.
pub fn staying(pod: &Pod) -> Staying {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let owned_by = |kind: &str| {
        pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.kind == kind)
    };
    let is_static = pod.annotations().contains_key("kubernetes.io/config.mirror");
    if is_static || owned_by("DaemonSet") || owned_by("Node") || matches!(phase, Some("Succeeded" | "Failed"))
    {
        return Staying::Ignored;
    }
    match &pod.metadata.deletion_timestamp {
        None => Staying::ToEvict,
        Some(_) => Staying::Leaving,
    }
}

/// How long a pod may take to leave once that began. One that is there for longer is not waited for.
pub fn leaves_within(pod: &Pod) -> Duration {
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
    Duration::from_secs(u64::try_from(grace).unwrap_or(0).min(LONGEST_GRACE)) + DEAD_AFTER
}

/// What became of an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The pod is on its way out, or gone, or another one has its name.
    Leaving,
    /// A disruption budget does not allow it now.
    Blocked(String),
    /// The API server wants to be left alone for so long.
    Throttled(RetryAfter),
    /// It could not be asked, or does not allow it.
    Failed(String),
}

impl Evicted {
    /// The word for it in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Leaving => "accepted",
            Self::Blocked(_) => "blocked",
            Self::Throttled(_) => "throttled",
            Self::Failed(_) => "failed",
        }
    }
}

/// Asks for the eviction of this pod, and of no other that has its name since.
pub async fn evict(client: &Client, pod: &Pod) -> Evicted {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(preconditions),
            ..DeleteOptions::default()
        }),
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    // `Api::evict` would write the options under a name that the API server does not know.
    let asked: kube::Result<serde_json::Value> =
        pods.create_subresource("eviction", &name, &PostParams::default(), &eviction).await;
    match asked {
        Ok(_) => Evicted::Leaving,
        Err(kube::Error::Api(refusal)) => answer(refusal.code, &refusal),
        Err(error) => Evicted::Failed(error.to_string()),
    }
}

fn answer(code: u16, refusal: &kube::core::Status) -> Evicted {
    let details = refusal.details.as_ref();
    let causes = details.map(|details| details.causes.as_slice()).unwrap_or_default();
    let budget = causes.iter().find(|cause| cause.reason == "DisruptionBudget");
    match code {
        404 | 409 => Evicted::Leaving,
        // Its namespace is being deleted, and it with that.
        403 if causes.iter().any(|cause| cause.reason == "NamespaceTerminating") => Evicted::Leaving,
        429 if budget.is_some() => {
            let why = budget.map(|cause| cause.message.clone()).filter(|message| !message.is_empty());
            Evicted::Blocked(why.unwrap_or_else(|| refusal.message.clone()))
        }
        429 => {
            let wait = details.map_or(0, |details| details.retry_after_seconds).max(1);
            Evicted::Throttled(RetryAfter::new(Duration::from_secs(u64::from(wait))))
        }
        // Two budgets on one pod: nobody can evict it until one is gone.
        500 => Evicted::Blocked(refusal.message.clone()),
        _ => Evicted::Failed(refusal.message.clone()),
    }
}

/// The pods on a Node.
pub async fn pods_on(client: &Client, node: &str) -> kube::Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut params = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = pods.list(&params).await?;
        found.extend(page.items);
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(metadata: &Value, status: &Value) -> Pod {
        serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap()
    }

    #[test]
    fn what_keeps_a_node_from_being_empty() {
        let owned = |kind: &str| {
            json!({"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "u", "controller": true}
            ]})
        };
        let running = json!({"phase": "Running"});
        for (metadata, status, want) in [
            (json!({}), json!({"phase": "Pending"}), Staying::ToEvict),
            (owned("ReplicaSet"), running.clone(), Staying::ToEvict),
            (owned("DaemonSet"), running.clone(), Staying::Ignored),
            (owned("Node"), running.clone(), Staying::Ignored),
            (json!({"annotations": {"kubernetes.io/config.mirror": "x"}}), running.clone(), Staying::Ignored),
            (json!({}), json!({"phase": "Succeeded"}), Staying::Ignored),
            (json!({}), json!({"phase": "Failed"}), Staying::Ignored),
            (json!({"deletionTimestamp": "2026-01-01T00:09:30Z"}), running, Staying::Leaving),
        ] {
            assert_eq!(staying(&pod(&metadata, &status)), want, "{metadata} {status}");
        }
    }

    #[test]
    fn what_the_api_server_answers_means() {
        let said = |code: u16, reason: &str, wait: u32| {
            let status: kube::core::Status = serde_json::from_value(json!({
                "status": "Failure", "message": "no", "reason": "x", "code": code,
                "details": {"retryAfterSeconds": wait, "causes": [{"reason": reason, "message": "web needs 2", "field": ""}]},
            }))
            .unwrap();
            answer(code, &status)
        };
        assert_eq!(said(404, "", 0), Evicted::Leaving);
        assert_eq!(said(409, "", 0), Evicted::Leaving);
        assert_eq!(said(403, "NamespaceTerminating", 0), Evicted::Leaving);
        assert_eq!(said(403, "", 0), Evicted::Failed("no".to_owned()));
        assert_eq!(said(429, "DisruptionBudget", 10), Evicted::Blocked("web needs 2".to_owned()));
        let throttled = |seconds| Evicted::Throttled(RetryAfter::new(Duration::from_secs(seconds)));
        assert_eq!(said(429, "", 7), throttled(7));
        assert_eq!(said(429, "", u32::MAX), throttled(60));
        assert_eq!(said(429, "", 0), throttled(1));
        assert_eq!(said(500, "", 0), Evicted::Blocked("no".to_owned()));
    }
}
