//! **Pure.** The order of Cluster Autoscaler's options for pending pods.
//!
//! For each node group that would fit some of the pods, Cluster Autoscaler estimates the number of nodes and
//! asks which of these options to choose. It carries out one option unchanged, and asks about the remaining
//! pods in a later loop (docs/reference/cluster-autoscaler.md#expanders).

mod order;
mod pod_groups;
mod remaining;
mod spare;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::Resources;
use crate::cost::UsdPerHour;
use crate::fleet::NodeGroupName;

pub use order::rank_options;

/// The pending pods and the options of one call.
#[derive(Clone, Debug, Default)]
pub struct DecisionInput {
    /// The pending pods, each once.
    pub pods: Vec<PodRequest>,
    /// The options.
    pub options: Vec<ExpansionOption>,
}

/// The resources that a pod requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRequest {
    /// CPU, millicores.
    pub cpu_millis: u64,
    /// Memory, bytes.
    pub memory_bytes: u64,
}

/// An option of Cluster Autoscaler, with the properties of its pool.
#[derive(Clone, Debug)]
pub struct ExpansionOption {
    /// Id of the pool, as Cluster Autoscaler sends it.
    pub pool: Arc<str>,
    /// The pool's NodeGroup. None if the pool is not ours.
    pub node_group: Option<NodeGroupName>,
    /// Number of nodes that would be added.
    pub nodes: u32,
    /// The pods that these nodes would take: indexes of [`DecisionInput::pods`].
    pub pods: Vec<u32>,
    /// Allocatable resources of one node.
    pub allocatable: Resources,
    /// Expected price of one node, with the cost of its interruptions. None if it is unknown or the pool is not
    /// ours.
    pub price: Option<UsdPerHour>,
    /// The part of the price that is the expected cost of interruptions.
    pub interruptions: UsdPerHour,
    /// Share of the NodeGroup's spot machines that have the class of this pool, 0 to 1. 0 for on-demand pools.
    pub concentration: f64,
    /// Fraction of the price that is charged because the next machine of the NodeGroup belongs in another datacenter.
    pub placement: f64,
    /// Number of machines on their way as replacements of interrupted ones that Cluster Autoscaler takes over before the
    /// option adds nodes. They cost nothing more.
    pub replacements: u32,
    /// The reason why it is certain to fail, if any.
    pub blocked: Option<Blocked>,
    /// The NodeGroup prefers its offer (`preferredInstanceType`).
    pub preferred: bool,
    /// Position among the pools of its NodeGroup, from 0.
    pub position: u32,
}

impl ExpansionOption {
    /// Number of its nodes that are replacements on their way.
    fn coming_nodes(&self) -> u32 {
        self.nodes.min(self.replacements)
    }
}

/// The reason why an option is certain to fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// A code, such as `STOCKOUT` or `COST_LIMIT_REACHED`.
    pub reason: Cow<'static, str>,
    /// Details for operators.
    pub message: String,
}

/// The order of the options, with reasons.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// All options, the best first.
    pub options: Vec<RankedOption>,
}

/// An option in the order.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedOption {
    /// Index of [`DecisionInput::options`].
    pub option: usize,
    /// Whether it is among the best options, which are the reply to Cluster Autoscaler.
    pub best: bool,
    /// The reason for its position.
    pub rating: Rating,
}

/// The reason for the position of an option.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Rating {
    /// Ordered by its cost.
    Priced(CostEstimate),
    /// Ordered after all options with a price.
    Unpriced,
    /// Excluded: certain to fail.
    Blocked(Blocked),
}

/// The estimated cost of choosing an option.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CostEstimate {
    /// Cost of its nodes, without replacements.
    pub nodes: UsdPerHour,
    /// Number of its nodes that are replacements on their way.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replacements: u32,
    /// Charge for spot machines of a class that the NodeGroup has many of: an interruption of that class could end all of them at once.
    #[serde(default, skip_serializing_if = "UsdPerHour::is_zero")]
    pub concentration: UsdPerHour,
    /// Charge for nodes in a datacenter in which the next machine of the NodeGroup does not belong (`multiRegion`).
    #[serde(default, skip_serializing_if = "UsdPerHour::is_zero")]
    pub placement: UsdPerHour,
    /// Estimated cost of the remaining pods with the other options of the call.
    pub remaining: UsdPerHour,
    /// Counted value of its nodes' spare capacity, for later pods.
    pub spare: UsdPerHour,
    /// The key of the order: nodes, concentration, placement and remaining pods, less spare capacity.
    pub total: UsdPerHour,
    /// Number of pods that it would leave pending.
    pub remaining_pods: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
