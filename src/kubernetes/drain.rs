//! Drains a Node through the eviction API, which respects disruption budgets.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};

use crate::retry_after::RetryAfter;

/// Time after a pod's grace period at which its kubelet counts as dead and the pod is no longer waited for.
const DEAD_AFTER: Duration = Duration::from_mins(1);
/// Grace period of a pod that sets none, seconds.
const DEFAULT_GRACE: i64 = 30;
/// Maximum grace period that is waited for, seconds.
const LONGEST_GRACE: u64 = 7 * 24 * 3600;
/// Maximum number of pods in a page of a list.
const LIST_PAGE_SIZE: u32 = 500;

/// The treatment of a pod while its Node is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainAction {
    /// It belongs to a DaemonSet, is static, or has completed.
    Ignore,
    /// It must be evicted.
    Evict,
    /// It is terminating.
    Wait,
}

/// Returns how a drain treats a pod.
pub fn drain_action(pod: &Pod) -> DrainAction {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let owned_by = |kind: &str| {
        pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.kind == kind)
    };
    let is_static = pod.annotations().contains_key("kubernetes.io/config.mirror");
    if is_static || owned_by("DaemonSet") || owned_by("Node") || matches!(phase, Some("Succeeded" | "Failed"))
    {
        return DrainAction::Ignore;
    }
    match &pod.metadata.deletion_timestamp {
        None => DrainAction::Evict,
        Some(_) => DrainAction::Wait,
    }
}

/// Time that the pod may take to end after its eviction: its grace period.
pub fn termination_grace(pod: &Pod) -> Duration {
    let grace =
        pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
    Duration::from_secs(u64::try_from(grace).unwrap_or(0).min(LONGEST_GRACE))
}

/// Deletes this pod, by UID, with its grace period. Disruption budgets do not apply.
pub async fn delete_pod(client: &Client, pod: &Pod) -> kube::Result<()> {
    let preconditions = kube::api::Preconditions { uid: pod.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    match pods.delete(&pod.name_any(), &params).await {
        Ok(_) => Ok(()),
        // Another pod may have its name.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Time that a terminating pod may take. A pod that takes longer is no longer waited for.
pub fn termination_timeout(pod: &Pod) -> Duration {
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
    Duration::from_secs(u64::try_from(grace).unwrap_or(0).min(LONGEST_GRACE)) + DEAD_AFTER
}

/// The result of an eviction request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvictionResult {
    /// The pod is terminating or gone, or another pod has its name.
    Accepted,
    /// A disruption budget does not allow it now.
    Blocked(String),
    /// The API server requests a pause of this length.
    Throttled(RetryAfter),
    /// The request failed or was refused.
    Failed(String),
}

impl EvictionResult {
    /// Its label value in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Blocked(_) => "blocked",
            Self::Throttled(_) => "throttled",
            Self::Failed(_) => "failed",
        }
    }
}

/// Evicts this pod, by UID, so that a new pod with its name is not evicted.
pub async fn evict(client: &Client, pod: &Pod) -> EvictionResult {
    let name = pod.name_any();
    let namespace = pod.namespace().unwrap_or_default();
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
    // Not `Api::evict`: it sends the options under a name that the API server ignores.
    let result: kube::Result<serde_json::Value> =
        pods.create_subresource("eviction", &name, &PostParams::default(), &eviction).await;
    match result {
        Ok(_) => EvictionResult::Accepted,
        Err(kube::Error::Api(refusal)) => eviction_result(refusal.code, &refusal),
        Err(error) => EvictionResult::Failed(error.to_string()),
    }
}

fn eviction_result(code: u16, refusal: &kube::core::Status) -> EvictionResult {
    let details = refusal.details.as_ref();
    let causes = details.map(|details| details.causes.as_slice()).unwrap_or_default();
    let budget = causes.iter().find(|cause| cause.reason == "DisruptionBudget");
    match code {
        404 | 409 => EvictionResult::Accepted,
        // The pod is deleted with its namespace.
        403 if causes.iter().any(|cause| cause.reason == "NamespaceTerminating") => EvictionResult::Accepted,
        429 if budget.is_some() => {
            let why = budget.map(|cause| cause.message.clone()).filter(|message| !message.is_empty());
            EvictionResult::Blocked(why.unwrap_or_else(|| refusal.message.clone()))
        }
        429 => {
            let wait = details.map_or(0, |details| details.retry_after_seconds).max(1);
            EvictionResult::Throttled(RetryAfter::new(Duration::from_secs(u64::from(wait))))
        }
        // Two budgets select the pod: no eviction is possible until one is removed.
        500 => EvictionResult::Blocked(refusal.message.clone()),
        _ => EvictionResult::Failed(refusal.message.clone()),
    }
}

/// The pods on a Node.
pub async fn pods_on(client: &Client, node: &str) -> kube::Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut params = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(LIST_PAGE_SIZE);
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
    fn pods_are_ignored_evicted_or_awaited() {
        let owned = |kind: &str| {
            json!({"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "u", "controller": true}
            ]})
        };
        let running = json!({"phase": "Running"});
        for (metadata, status, want) in [
            (json!({}), json!({"phase": "Pending"}), DrainAction::Evict),
            (owned("ReplicaSet"), running.clone(), DrainAction::Evict),
            (owned("DaemonSet"), running.clone(), DrainAction::Ignore),
            (owned("Node"), running.clone(), DrainAction::Ignore),
            (
                json!({"annotations": {"kubernetes.io/config.mirror": "x"}}),
                running.clone(),
                DrainAction::Ignore,
            ),
            (json!({}), json!({"phase": "Succeeded"}), DrainAction::Ignore),
            (json!({}), json!({"phase": "Failed"}), DrainAction::Ignore),
            (json!({"deletionTimestamp": "2026-01-01T00:09:30Z"}), running, DrainAction::Wait),
        ] {
            assert_eq!(drain_action(&pod(&metadata, &status)), want, "{metadata} {status}");
        }
    }

    #[test]
    fn replies_of_the_api_server_are_classified() {
        let result = |code: u16, reason: &str, wait: u32| {
            let status: kube::core::Status = serde_json::from_value(json!({
                "status": "Failure", "message": "no", "reason": "x", "code": code,
                "details": {"retryAfterSeconds": wait, "causes": [{"reason": reason, "message": "web needs 2", "field": ""}]},
            }))
            .unwrap();
            eviction_result(code, &status)
        };
        assert_eq!(result(404, "", 0), EvictionResult::Accepted);
        assert_eq!(result(409, "", 0), EvictionResult::Accepted);
        assert_eq!(result(403, "NamespaceTerminating", 0), EvictionResult::Accepted);
        assert_eq!(result(403, "", 0), EvictionResult::Failed("no".to_owned()));
        assert_eq!(result(429, "DisruptionBudget", 10), EvictionResult::Blocked("web needs 2".to_owned()));
        let throttled = |seconds| EvictionResult::Throttled(RetryAfter::new(Duration::from_secs(seconds)));
        assert_eq!(result(429, "", 7), throttled(7));
        assert_eq!(result(429, "", u32::MAX), throttled(60));
        assert_eq!(result(429, "", 0), throttled(1));
        assert_eq!(result(500, "", 0), EvictionResult::Blocked("no".to_owned()));
    }
}
