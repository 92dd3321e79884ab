//! `--expander`: the chain of filters that selects among the options of a scale-up
//! (docs/reference/cluster-autoscaler.md#expanders).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_pb::api::core::v1::{Container, Pod as WirePod, PodSpec, ResourceRequirements};
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use prost::Message;
use tonic::Status;

use crate::link::Link;
use crate::minor::Minor;
use crate::object::{Node, Pod};
use crate::provider::Provider;
use crate::scale_up::Choice;
use crate::wire;

/// A filter of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expander {
    /// The option with the least unused resources.
    LeastWaste,
    /// A random option. Every chain ends with it.
    Random,
    /// By the prices of the provider.
    Price,
    /// By the reply of a separate gRPC service.
    Grpc,
}

impl Expander {
    /// The filter of a name such as `least-waste`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "least-waste" => Self::LeastWaste,
            "random" => Self::Random,
            "price" => Self::Price,
            "grpc" => Self::Grpc,
            _ => return None,
        })
    }
}

/// Inputs of a filter besides the options.
pub(crate) struct FilterContext<'a> {
    pub provider: &'a Provider,
    pub service: Option<&'a Link>,
    pub templates: &'a BTreeMap<String, Node>,
    /// Number of nodes of the cluster.
    pub nodes: usize,
    pub now: Timestamp,
}

/// The options that the filter keeps.
pub(crate) async fn filter(
    expander: Expander,
    choices: Vec<Choice>,
    context: &FilterContext<'_>,
) -> Vec<Choice> {
    match expander {
        Expander::Random => choices,
        Expander::LeastWaste => keep_least(choices.into_iter().map(|choice| (choice.waste, choice))),
        Expander::Price => price(choices, context).await,
        Expander::Grpc => grpc(choices, context).await,
    }
}

fn keep_least(scored: impl Iterator<Item = (f64, Choice)>) -> Vec<Choice> {
    let (mut kept, mut least): (Vec<Choice>, f64) = (Vec::new(), 0.0);
    for (score, choice) in scored {
        // Compares as upstream: if the first score is NaN, no other score replaces it.
        if kept.is_empty() || least > score {
            kept = vec![choice];
            least = score;
        } else if least.total_cmp(&score).is_eq() {
            kept.push(choice);
        }
    }
    kept
}

/// Upstream's price expander. It also weighs the size of nodes, so it can select a more expensive option
/// (docs/reference/cluster-autoscaler.md#price-expander).
async fn price(choices: Vec<Choice>, context: &FilterContext<'_>) -> Vec<Choice> {
    let stabilization_pod =
        Pod { namespace: "default".to_owned(), ..Pod::new("stabilize", 500, 500, context.now) };
    let stable = pod_price(context, &stabilization_pod).await.unwrap_or(0.0);
    let preferred = f64::from(match context.nodes {
        0..=2 => 1_u8,
        3..=6 => 2,
        7..=20 => 4,
        21..=60 => 8,
        61..=200 => 16,
        _ => 32,
    });
    let mut scored = Vec::new();
    'options: for choice in choices {
        let Some(template) = context.templates.get(&choice.group) else { continue };
        let Ok(node) = context.provider.node_price(template, context.now).await else { continue };
        let mut pods = 0.0;
        for pod in &choice.pods {
            match pod_price(context, pod).await {
                Ok(price) => pods += price,
                Err(_) => continue 'options,
            }
        }
        let ratio = (node * choice.nodes as f64 + stable) / (pods + stable);
        let cores = template.allocatable.cpu_millis as f64 / 1000.0;
        let unfitness = (preferred / cores).max(cores / preferred);
        let suppressed = (unfitness - 1.0) * (1.0 - ((choice.nodes - 1) as f64 / 15.0).tanh()) + 1.0;
        scored.push((suppressed * ratio, choice));
    }
    keep_least(scored.into_iter())
}

async fn pod_price(context: &FilterContext<'_>, pod: &Pod) -> Result<f64, Status> {
    context.provider.pod_price(pod_bytes(pod), &pod.name, context.now).await
}

/// Calls the service of the expander. Its errors, and replies without a known group, keep all options.
async fn grpc(choices: Vec<Choice>, context: &FilterContext<'_>) -> Vec<Choice> {
    let Some(service) = context.service else { return choices };
    let minor = context.provider.minor();
    let messages = minor <= Minor::V1_34;
    let bytes = minor >= Minor::V1_34;
    let options = choices.iter().map(|choice| {
        let pods: Vec<_> = choice.pods.iter().map(pod_bytes).collect();
        wire::ExpanderOption {
            group: choice.group.clone(),
            nodes: choice.nodes as i32,
            debug: String::new(),
            pods: if messages { pods.clone() } else { Vec::new() },
            pod_bytes: if bytes { pods } else { Vec::new() },
        }
    });
    let nodes: BTreeMap<String, Vec<u8>> =
        context.templates.iter().map(|(id, node)| (id.clone(), node_bytes(node))).collect();
    let request = wire::BestOptions {
        options: options.collect(),
        nodes: if messages { nodes.clone() } else { BTreeMap::new() },
        node_bytes: if bytes { nodes } else { BTreeMap::new() },
    };
    let reply = service.unary::<_, wire::BestOptionsReply>("/grpcplugin.Expander/BestOptions", request).await;
    let (code, message) = match &reply {
        Ok(_) => (tonic::Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    };
    context.provider.record_call("BestOptions", "", code, message);
    let Ok(reply) = reply else { return choices };
    if reply.options.is_empty() {
        return if minor < Minor::V1_32 { choices } else { Vec::new() };
    }
    let best: BTreeSet<String> = reply.options.into_iter().map(|option| option.group).collect();
    if choices.iter().any(|choice| best.contains(&choice.group)) {
        choices.into_iter().filter(|choice| best.contains(&choice.group)).collect()
    } else {
        choices
    }
}

fn quantity(text: String) -> Quantity {
    Quantity { string: Some(text) }
}

fn pod_bytes(pod: &Pod) -> Vec<u8> {
    let requests = BTreeMap::from([
        ("cpu".to_owned(), quantity(format!("{}m", pod.requests.cpu_millis))),
        ("memory".to_owned(), quantity(format!("{}Mi", pod.requests.memory_mib))),
    ]);
    let container = Container {
        name: Some("main".to_owned()),
        resources: Some(ResourceRequirements { requests, ..ResourceRequirements::default() }),
        ..Container::default()
    };
    let meta = ObjectMeta {
        name: Some(pod.name.clone()),
        namespace: Some(pod.namespace.clone()),
        ..ObjectMeta::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        node_selector: pod.node_selector.clone(),
        ..PodSpec::default()
    };
    WirePod { metadata: Some(meta), spec: Some(spec), ..WirePod::default() }.encode_to_vec()
}

fn node_bytes(node: &Node) -> Vec<u8> {
    use k8s_pb::api::core::v1::{Node as WireNode, NodeStatus};
    let meta = ObjectMeta {
        name: Some(node.name.clone()),
        labels: node.labels.clone(),
        annotations: node.annotations.clone(),
        ..ObjectMeta::default()
    };
    let allocatable = BTreeMap::from([
        ("cpu".to_owned(), quantity(format!("{}m", node.allocatable.cpu_millis))),
        ("memory".to_owned(), quantity(format!("{}Mi", node.allocatable.memory_mib))),
        ("pods".to_owned(), quantity(node.allocatable.pods.to_string())),
    ]);
    let status = NodeStatus { capacity: allocatable.clone(), allocatable, ..NodeStatus::default() };
    WireNode { metadata: Some(meta), status: Some(status), ..WireNode::default() }.encode_to_vec()
}
