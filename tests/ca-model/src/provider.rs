//! Client of the external gRPC protocol, with the caches and the interpretation of replies of each release of
//! Cluster Autoscaler (docs/reference/cluster-autoscaler.md#transport).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prost::Message;
use tonic::{Code, Status};

use crate::link::Link;
use crate::minor::Minor;
use crate::object::{Node, Taint, resources};
use crate::wire;

/// A completed RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name, such as `NodeGroupTargetSize`.
    pub rpc: &'static str,
    /// Pool id or node name of the request; empty if it has none.
    pub subject: String,
    /// Its outcome.
    pub code: Code,
    /// Message of the provider if the outcome is not OK.
    pub message: String,
}

/// A node group of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// Its minimum size.
    pub min: i64,
    /// Its maximum size.
    pub max: i64,
}

/// An instance of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id: a provider id, or a placeholder.
    pub id: String,
    /// Its state. None if the reply has none; then its error is ignored, too.
    pub state: Option<InstanceState>,
    /// Error of its creation.
    pub error: Option<InstanceError>,
}

/// State of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// 1.
    Running,
    /// 2.
    Creating,
    /// 3.
    Deleting,
}

/// Error of the creation of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceError {
    /// 1: out of resources. 99: any other error.
    pub class: i32,
    /// A short code.
    pub code: String,
    /// Message for users.
    pub message: String,
}

/// Options of a node group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Maximum utilization of a node that may be deleted.
    pub utilization: f64,
    /// Time that a node must be unneeded before its deletion.
    pub unneeded: Duration,
    /// Time that an unready node must be unneeded before its deletion.
    pub unready: Duration,
    /// Maximum time until a node registers.
    pub provision: Duration,
    /// Maximum time until a registered node becomes ready.
    pub startup: Duration,
    /// Whether DaemonSet pods are ignored in the utilization.
    pub ignore_daemon_sets: bool,
}

/// Failure of an RPC.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the provider or of the transport.
    Error(Status),
    /// A reply that makes the real process panic.
    Crash(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Error(status)
    }
}

#[derive(Debug, Default)]
struct Caches {
    groups: Option<Vec<Group>>,
    of_node: BTreeMap<String, Group>,
    templates: BTreeMap<String, Node>,
    gpu_label: bool,
    gpu_types: bool,
    calls: Vec<Call>,
}

/// The provider, as a client of Cluster Autoscaler calls it.
pub struct Provider {
    minor: Minor,
    link: Link,
    caches: Mutex<Caches>,
}

impl Provider {
    /// Sends requests as release `minor` does. The timeout of `link` stands for `grpc_timeout`.
    pub fn new(minor: Minor, link: Link) -> Self {
        Self { minor, link, caches: Mutex::default() }
    }

    /// The modelled release.
    pub fn minor(&self) -> Minor {
        self.minor
    }

    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The RPCs since the last call.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.caches().calls)
    }

    async fn call<Q, R>(&self, rpc: &'static str, subject: &str, request: Q) -> Result<R, Status>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let path = format!("/clusterautoscaler.cloudprovider.v1.externalgrpc.CloudProvider/{rpc}");
        let result = self.link.unary(&path, request).await;
        let (code, message) = match &result {
            Ok(_) => (Code::Ok, String::new()),
            Err(status) => (status.code(), status.message().to_owned()),
        };
        self.record_call(rpc, subject, code, message);
        result
    }

    /// Records an RPC to another service than the provider.
    pub(crate) fn record_call(&self, rpc: &'static str, subject: &str, code: Code, message: String) {
        self.caches().calls.push(Call { rpc, subject: subject.to_owned(), code, message });
    }

    pub(crate) async fn refresh(&self) -> Result<(), Status> {
        {
            let mut caches = self.caches();
            caches.groups = None;
            caches.of_node.clear();
            caches.templates.clear();
        }
        self.call::<_, wire::Empty>("Refresh", "", wire::Empty {}).await.map(drop)
    }

    /// The node groups; empty if the RPC fails (docs/reference/cluster-autoscaler.md#nodegroups).
    pub(crate) async fn groups(&self) -> Vec<Group> {
        if let Some(groups) = self.caches().groups.clone() {
            return groups;
        }
        let Ok(reply) = self.call::<_, wire::NodeGroups>("NodeGroups", "", wire::Empty {}).await else {
            return Vec::new();
        };
        let groups: Vec<_> = reply.groups.into_iter().map(group).collect();
        self.caches().groups = Some(groups.clone());
        groups
    }

    /// The group of a node. None if the provider does not manage the node; this is not cached.
    pub(crate) async fn group_of(&self, node: &Node) -> Result<Option<Group>, Status> {
        let key = format!("{}{}", node.name, node.provider_id);
        if let Some(group) = self.caches().of_node.get(&key) {
            return Ok(Some(group.clone()));
        }
        let request = wire::ForNode { node: Some(external_node(node)) };
        let reply: wire::ForNodeReply = self.call("NodeGroupForNode", &node.name, request).await?;
        let found = reply.group.map(group).filter(|group| !group.id.is_empty());
        if let Some(group) = &found {
            self.caches().of_node.insert(key, group.clone());
        }
        Ok(found)
    }

    pub(crate) async fn target_size(&self, group: &str) -> Result<i64, Status> {
        let reply: wire::TargetSize = self.call("NodeGroupTargetSize", group, by_id(group)).await?;
        Ok(reply.size.into())
    }

    pub(crate) async fn increase_size(&self, group: &str, delta: i64) -> Result<(), Status> {
        let request = wire::Delta { delta: delta as i32, id: group.to_owned() };
        self.call::<_, wire::Empty>("NodeGroupIncreaseSize", group, request).await.map(drop)
    }

    pub(crate) async fn decrease_target_size(&self, group: &str, delta: i64) -> Result<(), Status> {
        let request = wire::Delta { delta: delta as i32, id: group.to_owned() };
        self.call::<_, wire::Empty>("NodeGroupDecreaseTargetSize", group, request).await.map(drop)
    }

    pub(crate) async fn delete_nodes(&self, group: &str, nodes: &[Node]) -> Result<(), Status> {
        let request =
            wire::DeleteNodes { nodes: nodes.iter().map(external_node).collect(), id: group.to_owned() };
        self.call::<_, wire::Empty>("NodeGroupDeleteNodes", group, request).await.map(drop)
    }

    pub(crate) async fn instances(&self, group: &str) -> Result<Vec<Instance>, Status> {
        let reply: wire::Instances = self.call("NodeGroupNodes", group, by_id(group)).await?;
        Ok(reply.instances.into_iter().map(instance).collect())
    }

    /// Template of the next node of the group. None if the provider has no template.
    pub(crate) async fn template(&self, group: &str) -> Result<Option<Node>, Failure> {
        if let Some(node) = self.caches().templates.get(group) {
            return Ok(Some(node.clone()));
        }
        let reply: wire::TemplateReply =
            match self.call("NodeGroupTemplateNodeInfo", group, by_id(group)).await {
                Ok(reply) => reply,
                Err(status) if self.accepts_unimplemented(&status) => return Ok(None),
                Err(status) => return Err(status.into()),
            };
        let bytes = match self.minor {
            Minor::V1_34 => reply.node_bytes.or(reply.node_info),
            minor if minor < Minor::V1_34 => reply.node_info,
            _ => reply.node_bytes,
        };
        let bytes = bytes.ok_or_else(|| Failure::Crash(format!("the template of {group} is empty")))?;
        let node = decode_node(&bytes).map_err(|error| Status::internal(error.to_string()))?;
        self.caches().templates.insert(group.to_owned(), node.clone());
        Ok(Some(node))
    }

    /// Requests a template that is already cached, as 1.36 does for a group that it found by a node.
    pub(crate) async fn request_template_again(&self, group: &str) {
        drop(self.call::<_, wire::TemplateReply>("NodeGroupTemplateNodeInfo", group, by_id(group)).await);
    }

    /// Options of a group. None: the defaults.
    pub(crate) async fn options(&self, group: &str, defaults: &Options) -> Result<Option<Options>, Failure> {
        let request =
            wire::OptionsRequest { id: group.to_owned(), defaults: Some(self.options_request(defaults)) };
        let reply: wire::OptionsReply = match self.call("NodeGroupGetOptions", group, request).await {
            Ok(reply) => reply,
            Err(status) if self.accepts_unimplemented(&status) => return Ok(None),
            Err(status) => return Err(status.into()),
        };
        reply.options.map(|options| self.read_options(group, &options)).transpose()
    }

    fn accepts_unimplemented(&self, status: &Status) -> bool {
        self.minor >= Minor::V1_30 && status.code() == Code::Unimplemented
    }

    fn options_request(&self, from: &Options) -> wire::Options {
        let meta = |duration: Duration| Some(wire::MetaDuration { nanos: duration.as_nanos() as i64 });
        let known = |duration: Duration| {
            Some(wire::WellKnownDuration {
                seconds: duration.as_secs() as i64,
                nanos: duration.subsec_nanos() as i32,
            })
        };
        let old = self.minor <= Minor::V1_34;
        let new = self.minor >= Minor::V1_34;
        wire::Options {
            utilization: from.utilization,
            gpu_utilization: from.utilization,
            unneeded: old.then(|| meta(from.unneeded)).flatten(),
            unready: old.then(|| meta(from.unready)).flatten(),
            provision: (old && self.minor >= Minor::V1_30).then(|| meta(from.provision)).flatten(),
            zero_or_max: false,
            ignore_daemon_sets: self.minor >= Minor::V1_33 && from.ignore_daemon_sets,
            unneeded_duration: new.then(|| known(from.unneeded)).flatten(),
            unready_duration: new.then(|| known(from.unready)).flatten(),
            provision_duration: new.then(|| known(from.provision)).flatten(),
        }
    }

    fn read_options(&self, group: &str, options: &wire::Options) -> Result<Options, Failure> {
        let read = |name: &str, old: Option<wire::MetaDuration>, new: Option<wire::WellKnownDuration>| {
            let old = old.map(|old| Duration::from_nanos(old.nanos.unsigned_abs()));
            let new = new.map(|new| Duration::new(new.seconds.unsigned_abs(), new.nanos.unsigned_abs()));
            match self.minor {
                Minor::V1_34 => new.or(old),
                minor if minor < Minor::V1_34 => old,
                _ => Some(new.unwrap_or_default()),
            }
            .ok_or_else(|| Failure::Crash(format!("options of {group} lack {name}")))
        };
        Ok(Options {
            utilization: options.utilization,
            unneeded: read("scaleDownUnneededTime", options.unneeded, options.unneeded_duration)?,
            unready: read("scaleDownUnreadyTime", options.unready, options.unready_duration)?,
            provision: if self.minor < Minor::V1_30 {
                Duration::ZERO
            } else {
                read("MaxNodeProvisionTime", options.provision, options.provision_duration)?
            },
            startup: if self.minor < Minor::V1_35 { Duration::from_mins(15) } else { Duration::ZERO },
            ignore_daemon_sets: options.ignore_daemon_sets,
        })
    }

    /// Repeated in each loop until the first reply (docs/reference/cluster-autoscaler.md#gpu).
    pub(crate) async fn gpu_label(&self) {
        if !self.caches().gpu_label
            && self.call::<_, wire::Label>("GPULabel", "", wire::Empty {}).await.is_ok()
        {
            self.caches().gpu_label = true;
        }
    }

    /// Repeated in each loop until the first reply (docs/reference/cluster-autoscaler.md#gpu).
    pub(crate) async fn gpu_types(&self) {
        if !self.caches().gpu_types
            && self.call::<_, wire::Empty>("GetAvailableGPUTypes", "", wire::Empty {}).await.is_ok()
        {
            self.caches().gpu_types = true;
        }
    }

    /// Price of a node for the hour that begins now, USD.
    pub(crate) async fn node_price(&self, node: &Node, now: Timestamp) -> Result<f64, Status> {
        let old = self.minor <= Minor::V1_34;
        let new = self.minor >= Minor::V1_34;
        let (start, end) = hour(now);
        let request = wire::NodePrice {
            node: Some(external_node(node)),
            start_time: old.then_some(start),
            end_time: old.then_some(end),
            start_timestamp: new.then_some(start),
            end_timestamp: new.then_some(end),
        };
        let reply: wire::Price = self.call("PricingNodePrice", &node.name, request).await?;
        Ok(reply.price)
    }

    /// Price of a pod for the hour that begins now, USD.
    pub(crate) async fn pod_price(&self, pod: Vec<u8>, name: &str, now: Timestamp) -> Result<f64, Status> {
        let old = self.minor <= Minor::V1_34;
        let new = self.minor >= Minor::V1_34;
        let (start, end) = hour(now);
        let request = wire::PodPrice {
            pod: if old { pod.clone() } else { Vec::new() },
            start_time: old.then_some(start),
            end_time: old.then_some(end),
            pod_bytes: if new { pod } else { Vec::new() },
            start_timestamp: new.then_some(start),
            end_timestamp: new.then_some(end),
        };
        let reply: wire::Price = self.call("PricingPodPrice", name, request).await?;
        Ok(reply.price)
    }

    pub(crate) async fn cleanup(&self) -> Result<(), Status> {
        self.call::<_, wire::Empty>("Cleanup", "", wire::Empty {}).await.map(drop)
    }
}

fn hour(now: Timestamp) -> (wire::Moment, wire::Moment) {
    let at = |seconds: i64| wire::Moment { seconds, nanos: now.subsec_nanosecond() };
    (at(now.as_second()), at(now.as_second() + 3600))
}

fn by_id(id: &str) -> wire::ById {
    wire::ById { id: id.to_owned() }
}

fn external_node(node: &Node) -> wire::ExternalNode {
    wire::ExternalNode {
        provider_id: node.provider_id.clone(),
        name: node.name.clone(),
        labels: node.labels.clone().into_iter().collect(),
        annotations: node.annotations.clone().into_iter().collect(),
    }
}

fn group(message: wire::NodeGroup) -> Group {
    Group { id: message.id, min: message.min_size.into(), max: message.max_size.into() }
}

fn instance(message: wire::InstanceMessage) -> Instance {
    let status = message.status.unwrap_or_default();
    let state = match status.state {
        1 => Some(InstanceState::Running),
        2 => Some(InstanceState::Creating),
        3 => Some(InstanceState::Deleting),
        _ => None,
    };
    let error = status.error.filter(|error| state.is_some() && !error.code.is_empty());
    Instance {
        id: message.id,
        state,
        error: error.map(|error| InstanceError {
            class: error.class,
            code: error.code,
            message: error.message,
        }),
    }
}

fn decode_node(bytes: &[u8]) -> Result<Node, prost::DecodeError> {
    let node = k8s_pb::api::core::v1::Node::decode(bytes)?;
    let (meta, spec, status) =
        (node.metadata.unwrap_or_default(), node.spec.unwrap_or_default(), node.status.unwrap_or_default());
    let taints = spec.taints.into_iter().map(|taint| Taint {
        key: taint.key.unwrap_or_default(),
        value: taint.value.unwrap_or_default(),
        effect: taint.effect.unwrap_or_default(),
    });
    Ok(Node {
        taints: taints.collect(),
        labels: meta.labels.into_iter().collect(),
        annotations: meta.annotations.into_iter().collect(),
        unschedulable: spec.unschedulable.unwrap_or_default(),
        ..Node::new(
            &meta.name.unwrap_or_default(),
            &spec.provider_id.unwrap_or_default(),
            resources(|name| status.allocatable.get(name)?.string.as_deref()),
            jiff::Timestamp::UNIX_EPOCH,
        )
    })
}
