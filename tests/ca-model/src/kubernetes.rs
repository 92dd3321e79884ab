//! A real cluster, through its API server.

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{EvictParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::cluster::{Cluster, ClusterError};
use crate::object::{Node, Pod, Resources, Taint, Toleration, resources};

/// The cluster of a Kubernetes client.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
}

impl Kubernetes {
    /// Uses this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn update_spec(&self, name: &str, change: impl Fn(&mut k8s::NodeSpec)) -> Result<(), ClusterError> {
        let nodes: Api<k8s::Node> = Api::all(self.client.clone());
        loop {
            let mut node = nodes.get(name).await?;
            change(node.spec.get_or_insert_default());
            match nodes.replace(name, &PostParams::default(), &node).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                result => return result.map(drop).map_err(Into::into),
            }
        }
    }
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        Self(error.to_string())
    }
}

fn ignore_not_found(result: Result<(), ClusterError>) -> Result<(), ClusterError> {
    result.or_else(|error| if error.0.contains("not found") { Ok(()) } else { Err(error) })
}

#[async_trait]
impl Cluster for Kubernetes {
    async fn nodes(&self) -> Result<Vec<Node>, ClusterError> {
        let nodes: Api<k8s::Node> = Api::all(self.client.clone());
        Ok(nodes.list(&ListParams::default()).await?.iter().map(node).collect())
    }

    async fn pods(&self) -> Result<Vec<Pod>, ClusterError> {
        let pods: Api<k8s::Pod> = Api::all(self.client.clone());
        let params = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
        Ok(pods.list(&params).await?.iter().map(pod).collect())
    }

    async fn taint(&self, node: &str, taint: Taint, cordon: bool) -> Result<(), ClusterError> {
        self.update_spec(node, |spec| {
            let taints = spec.taints.get_or_insert_default();
            taints.retain(|old| old.key != taint.key);
            taints.push(k8s::Taint {
                key: taint.key.clone(),
                value: Some(taint.value.clone()),
                effect: taint.effect.clone(),
                time_added: None,
            });
            if cordon {
                spec.unschedulable = Some(true);
            }
        })
        .await
    }

    async fn untaint(&self, node: &str, key: &str) -> Result<(), ClusterError> {
        let changed = self.update_spec(node, |spec| {
            spec.taints.get_or_insert_default().retain(|taint| taint.key != key);
            spec.unschedulable = None;
        });
        ignore_not_found(changed.await)
    }

    #[expect(clippy::disallowed_methods, reason = "passes no options, so none can be lost")]
    async fn evict(&self, namespace: &str, name: &str) -> Result<(), ClusterError> {
        let pods: Api<k8s::Pod> = Api::namespaced(self.client.clone(), namespace);
        let evicted = pods.evict(name, &EvictParams::default()).await;
        ignore_not_found(evicted.map(drop).map_err(Into::into))
    }
}

fn time(time: Option<&Time>) -> Timestamp {
    time.map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

fn node(node: &k8s::Node) -> Node {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let allocatable = status.allocatable.unwrap_or_default();
    let taints = spec.taints.into_iter().flatten().map(|taint| Taint {
        key: taint.key,
        value: taint.value.unwrap_or_default(),
        effect: taint.effect,
    });
    Node {
        name: node.name_any(),
        provider_id: spec.provider_id.unwrap_or_default(),
        labels: node.labels().clone(),
        annotations: node.annotations().clone(),
        taints: taints.collect(),
        unschedulable: spec.unschedulable.unwrap_or_default(),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        ready_since: time(ready.and_then(|condition| condition.last_transition_time.as_ref())),
        created: time(node.metadata.creation_timestamp.as_ref()),
        allocatable: resources(|name| allocatable.get(name).map(|quantity| quantity.0.as_str())),
    }
}

fn pod(pod: &k8s::Pod) -> Pod {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut requests = Resources { pods: 1, ..Resources::default() };
    for container in &spec.containers {
        let wanted = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let wanted = resources(|name| wanted?.get(name).map(|quantity| quantity.0.as_str()));
        requests.cpu_millis += wanted.cpu_millis;
        requests.memory_mib += wanted.memory_mib;
    }
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let unschedulable = conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    let tolerations = spec.tolerations.into_iter().flatten().map(|toleration| Toleration {
        key: toleration.key.unwrap_or_default(),
        value: toleration.value.filter(|_| toleration.operator.as_deref() != Some("Exists")),
        effect: toleration.effect,
    });
    Pod {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        node: spec.node_name,
        requests,
        node_selector: spec.node_selector.unwrap_or_default(),
        tolerations: tolerations.collect(),
        controlled: owner.is_some(),
        node_bound: owner.is_some_and(|owner| matches!(owner.kind.as_str(), "DaemonSet" | "Node")),
        unschedulable: unschedulable && pod.metadata.deletion_timestamp.is_none(),
        created: time(pod.metadata.creation_timestamp.as_ref()),
    }
}
