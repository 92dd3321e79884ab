//! Resources and labels of a size, observed on its Nodes. They are the basis of templates of Nodes that do
//! not exist yet.
//!
//! A profile has the last few Nodes of each NodeGroup, and a resource is their median. One unusual Node has
//! no lasting effect on a template, and a size that became smaller is known after two Nodes. A template with
//! too many resources would make Cluster Autoscaler add machines for pods that do not fit on them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::ids::NodeGroupName;
use crate::catalog::Resources;

/// Maximum of Nodes of one NodeGroup in a profile.
pub(super) const MAX_SAMPLES_OF_GROUP: usize = 3;
/// Maximum of Nodes in a profile. The size of a record is limited.
const MAX_SAMPLES_OF_SIZE: usize = 24;
/// Tolerated difference between the clocks of the API server and of this process.
const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(24);

/// Amounts of resources by name: bytes of huge pages, numbers of devices.
pub type Amounts = BTreeMap<String, u64>;

/// Resources and labels of a Node or of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeShape {
    /// `status.capacity`. A disk of 0 is unknown.
    pub capacity: Resources,
    /// `status.allocatable`. A disk of 0 is unknown.
    pub allocatable: Resources,
    /// All other resources of `status.capacity`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extended_capacity: Amounts,
    /// All other resources of `status.allocatable`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extended_allocatable: Amounts,
    /// `kubernetes.io/arch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// `kubernetes.io/os`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operating_system: Option<String>,
    /// Labels from other programs that do not identify the Node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Resources and labels of one Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// UID of the Node.
    pub node: String,
    /// `metadata.creationTimestamp` of the Node. It orders Nodes by age; the process's clock only shows whether it is
    /// in the future.
    pub registered: Timestamp,
    /// Its NodeGroup.
    pub node_group: NodeGroupName,
    /// The NodeGroup's `relearn` annotation when the sample was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relearn: Option<String>,
    /// Its resources and labels.
    #[serde(flatten)]
    pub shape: NodeShape,
}

impl Sample {
    /// Newer Nodes have greater values. A Node from the future counts as the oldest: the API server's clock was ahead,
    /// and the Node would otherwise be the newest for as long.
    fn age_order(&self, now: Timestamp) -> (bool, Timestamp, &str) {
        let is_ahead = self.registered.duration_since(now) > MAX_CLOCK_SKEW;
        (!is_ahead, self.registered, &self.node)
    }
}

/// Resources and labels that Nodes of a size have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SizeProfile {
    /// `status.capacity`: the median of the Nodes, or the value that an earlier release recorded.
    pub capacity: Resources,
    /// `status.allocatable`, likewise.
    pub allocatable: Resources,
    /// The last Nodes that registered, the newest first. Empty in records of earlier releases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Sample>,
}

impl SizeProfile {
    /// The profile of these Nodes. None without Nodes.
    pub fn from_nodes(nodes: Vec<Sample>) -> Option<Self> {
        let NodeShape { capacity, allocatable, .. } = nodes.first()?.shape.clone();
        let mut profile = Self { capacity, allocatable, nodes };
        profile.summarize();
        Some(profile)
    }

    /// The profile without its Nodes.
    pub fn summary(&self) -> Self {
        Self { nodes: Vec::new(), ..*self }
    }

    /// Whether it has a sample of the Node with that UID.
    pub fn has_node(&self, uid: &str) -> bool {
        self.nodes.iter().any(|known| known.node == uid)
    }

    /// Whether [`add_sample`](Self::add_sample) may change anything.
    pub fn is_new_sample(&self, sample: &Sample, now: Timestamp) -> bool {
        if let Some(known) = self.nodes.iter().find(|known| known.node == sample.node) {
            return known != sample;
        }
        let mut of_group = self.nodes.iter().filter(|known| known.node_group == sample.node_group);
        let oldest = of_group.clone().map(|known| known.age_order(now)).min();
        of_group.clone().count() < MAX_SAMPLES_OF_GROUP
            || of_group.any(|known| known.relearn != sample.relearn)
            || oldest.is_some_and(|oldest| oldest < sample.age_order(now))
    }

    /// Adds the sample of a Node and removes the earlier sample of that Node, and the oldest ones above the
    /// maximum.
    pub fn add_sample(&mut self, sample: Sample, now: Timestamp) {
        let anew = |known: &Sample| known.node_group == sample.node_group && known.relearn != sample.relearn;
        self.nodes.retain(|known| known.node != sample.node && !anew(known));
        self.nodes.push(sample);
        self.nodes.sort_by(|a, b| b.age_order(now).cmp(&a.age_order(now)));
        let mut counts: BTreeMap<NodeGroupName, usize> = BTreeMap::new();
        self.nodes.retain(|known| {
            let count = counts.entry(known.node_group.clone()).or_default();
            *count += 1;
            *count <= MAX_SAMPLES_OF_GROUP
        });
        self.nodes.truncate(MAX_SAMPLES_OF_SIZE);
        self.summarize();
    }

    /// Removes the samples of other NodeGroups.
    pub fn retain_groups(&mut self, keep: impl Fn(&NodeGroupName) -> bool) {
        self.nodes.retain(|known| keep(&known.node_group));
        self.summarize();
    }

    fn summarize(&mut self) {
        if let Some(shape) = median_shape(&self.nodes.iter().take(MAX_SAMPLES_OF_GROUP).collect::<Vec<_>>()) {
            (self.capacity, self.allocatable) = (shape.capacity, shape.allocatable);
        }
    }

    /// The expected shape of a new Node of the NodeGroup, as far as it is known. `counts` selects the samples
    /// that still count.
    ///
    /// Labels, devices and huge pages come only from Nodes of the NodeGroup itself: on Nodes of another
    /// NodeGroup they may be an effect of its labels.
    pub fn shape(&self, group: &NodeGroupName, counts: impl Fn(&Sample) -> bool) -> Option<NodeShape> {
        let valid: Vec<&Sample> = self.nodes.iter().filter(|known| counts(known)).collect();
        let own: Vec<&Sample> = valid.iter().copied().filter(|known| known.node_group == *group).collect();
        if !own.is_empty() {
            return median_shape(&own);
        }
        let others = median_shape(&valid[..valid.len().min(MAX_SAMPLES_OF_GROUP)])?;
        Some(NodeShape {
            extended_capacity: Amounts::new(),
            extended_allocatable: Amounts::new(),
            labels: BTreeMap::new(),
            ..others
        })
    }

    /// The shape that an earlier release recorded.
    pub fn earlier(&self) -> Option<NodeShape> {
        self.nodes.is_empty().then(|| NodeShape::new(self.capacity, self.allocatable))
    }
}

impl NodeShape {
    /// A shape with only these resources.
    pub fn new(capacity: Resources, allocatable: Resources) -> Self {
        Self {
            capacity,
            allocatable,
            extended_capacity: Amounts::new(),
            extended_allocatable: Amounts::new(),
            architecture: None,
            operating_system: None,
            labels: BTreeMap::new(),
        }
    }
}

/// A Node as the API server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedNode {
    /// Its UID.
    pub uid: String,
    /// `metadata.creationTimestamp`.
    pub registered: Timestamp,
    /// Its resources and labels.
    pub shape: NodeShape,
}

/// The median of the Nodes' resources; of two Nodes the smaller value. Labels that all of them have.
fn median_shape(nodes: &[&Sample]) -> Option<NodeShape> {
    let last = &nodes.first()?.shape;
    let labels = last
        .labels
        .iter()
        .filter(|(key, value)| nodes.iter().all(|node| node.shape.labels.get(*key) == Some(*value)));
    Some(NodeShape {
        capacity: median_resources(nodes, |shape| shape.capacity),
        allocatable: median_resources(nodes, |shape| shape.allocatable),
        extended_capacity: median_amounts(nodes, |shape| &shape.extended_capacity),
        extended_allocatable: median_amounts(nodes, |shape| &shape.extended_allocatable),
        architecture: nodes.iter().find_map(|node| node.shape.architecture.clone()),
        operating_system: nodes.iter().find_map(|node| node.shape.operating_system.clone()),
        labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
    })
}

fn median_resources(nodes: &[&Sample], of: impl Fn(&NodeShape) -> Resources) -> Resources {
    let all = |read: fn(Resources) -> u64| median_of(nodes.iter().map(|node| read(of(&node.shape))));
    let disks = nodes.iter().map(|node| of(&node.shape).disk_gib).filter(|disk| *disk > 0);
    Resources {
        cpu_millis: all(|resources| resources.cpu_millis).unwrap_or_default(),
        memory_mib: all(|resources| resources.memory_mib).unwrap_or_default(),
        disk_gib: median_of(disks).unwrap_or_default(),
        pods: median_of(nodes.iter().map(|node| of(&node.shape).pods)).unwrap_or_default(),
    }
}

fn median_amounts(nodes: &[&Sample], of: impl Fn(&NodeShape) -> &Amounts) -> Amounts {
    let names: std::collections::BTreeSet<&String> =
        nodes.iter().flat_map(|node| of(&node.shape).keys()).collect();
    let each = |name: &String| {
        let amount = median_of(nodes.iter().map(|node| of(&node.shape).get(name).copied()))??;
        Some((name.clone(), amount))
    };
    names.into_iter().filter_map(each).collect()
}

/// The median; for an even number of values the smaller middle one.
fn median_of<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}
