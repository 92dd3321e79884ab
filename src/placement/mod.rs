//! **Pure.** The order of Cluster Autoscaler's options for pods that wait.
//!
//! Cluster Autoscaler estimates, for each node group that some of the pods would fit, how many nodes of it
//! they need, and asks which of these options to take. It carries out one option unchanged, and asks about the
//! pods that are left in a later loop (docs/reference/cluster-autoscaler.md#expanders).

mod classes;
mod leftover;
mod order;
mod rest;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::Resources;
use crate::cost::UsdPerHour;
use crate::fleet::NodeGroupName;

pub use order::decide;

/// What there is to decide.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The pods that wait, each once, whichever options would take it.
    pub pods: Vec<PodRequest>,
    /// The options.
    pub candidates: Vec<Candidate>,
}

/// What a pod asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRequest {
    /// CPU, millicores.
    pub cpu_millis: u64,
    /// Memory, bytes.
    pub memory_bytes: u64,
}

/// An option of Cluster Autoscaler, and what we know of its pool.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Id of the pool, as Cluster Autoscaler spells it.
    pub pool: Arc<str>,
    /// Its NodeGroup. None when the pool is not ours.
    pub node_group: Option<NodeGroupName>,
    /// How many nodes would be added.
    pub nodes: u32,
    /// The pods that these nodes would take: indexes of [`Question::pods`].
    pub pods: Vec<u32>,
    /// What one node gives to pods.
    pub allocatable: Resources,
    /// What one node costs. None when nobody knows, or the pool is not ours.
    pub price: Option<UsdPerHour>,
    /// Why it is certain to fail, if it is.
    pub blocked: Option<Blocked>,
    /// The NodeGroup prefers its offer (`preferredInstanceType`).
    pub preferred: bool,
    /// Its place in the order of its NodeGroup's pools, the first is 0.
    pub place: u32,
}

/// Why an option is certain to fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// In one word, such as `STOCKOUT` or `MONEY_LIMIT`.
    pub reason: Cow<'static, str>,
    /// For a person: what would have to change.
    pub message: String,
}

/// What was decided, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Every option, the best first.
    pub options: Vec<Ranked>,
}

/// An option in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Index of [`Question::candidates`].
    pub candidate: usize,
    /// Whether it is (among) the best: what Cluster Autoscaler is told.
    pub best: bool,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of an option.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Verdict {
    /// Ordered by what it costs.
    Priced(Terms),
    /// Ordered after all that have a price.
    Unpriced,
    /// Left out: certain to fail.
    Blocked(Blocked),
}

/// What taking an option costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// Its nodes.
    pub nodes: UsdPerHour,
    /// The estimate for the pods that it would leave waiting, with the other options of the call.
    pub rest: UsdPerHour,
    /// What its nodes have left for pods that come later, counted in part.
    pub leftover: UsdPerHour,
    /// What options are ordered by: nodes and rest, less what is left over.
    pub total: UsdPerHour,
    /// Pods that it would leave waiting.
    pub left_waiting: u32,
}
