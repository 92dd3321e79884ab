//! The messages of the protocol, defined independently of the provider's own schema, so that tests detect an
//! error in either. Each request sets only the fields of its release.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ById {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeGroup {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(int32, tag = "2")]
    pub min_size: i32,
    #[prost(int32, tag = "3")]
    pub max_size: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeGroups {
    #[prost(message, repeated, tag = "1")]
    pub groups: Vec<NodeGroup>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExternalNode {
    #[prost(string, tag = "1")]
    pub provider_id: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(map = "string, string", tag = "3")]
    pub labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "4")]
    pub annotations: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ForNode {
    #[prost(message, optional, tag = "1")]
    pub node: Option<ExternalNode>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ForNodeReply {
    #[prost(message, optional, tag = "1")]
    pub group: Option<NodeGroup>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Label {
    #[prost(string, tag = "1")]
    pub label: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TargetSize {
    #[prost(int32, tag = "1")]
    pub size: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Delta {
    #[prost(int32, tag = "1")]
    pub delta: i32,
    #[prost(string, tag = "2")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteNodes {
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<ExternalNode>,
    #[prost(string, tag = "2")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Instances {
    #[prost(message, repeated, tag = "1")]
    pub instances: Vec<InstanceMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InstanceMessage {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "2")]
    pub status: Option<StatusMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusMessage {
    #[prost(int32, tag = "1")]
    pub state: i32,
    #[prost(message, optional, tag = "2")]
    pub error: Option<ErrorMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ErrorMessage {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(int32, tag = "3")]
    pub class: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TemplateReply {
    /// Read up to 1.34.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub node_info: Option<Vec<u8>>,
    /// Read from 1.34.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub node_bytes: Option<Vec<u8>>,
}

/// `meta.v1.Duration`: nanoseconds.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct MetaDuration {
    #[prost(int64, tag = "1")]
    pub nanos: i64,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct WellKnownDuration {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Options {
    #[prost(double, tag = "1")]
    pub utilization: f64,
    #[prost(double, tag = "2")]
    pub gpu_utilization: f64,
    #[prost(message, optional, tag = "3")]
    pub unneeded: Option<MetaDuration>,
    #[prost(message, optional, tag = "4")]
    pub unready: Option<MetaDuration>,
    #[prost(message, optional, tag = "5")]
    pub provision: Option<MetaDuration>,
    #[prost(bool, tag = "6")]
    pub zero_or_max: bool,
    #[prost(bool, tag = "7")]
    pub ignore_daemon_sets: bool,
    #[prost(message, optional, tag = "8")]
    pub unneeded_duration: Option<WellKnownDuration>,
    #[prost(message, optional, tag = "9")]
    pub unready_duration: Option<WellKnownDuration>,
    #[prost(message, optional, tag = "10")]
    pub provision_duration: Option<WellKnownDuration>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OptionsRequest {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "2")]
    pub defaults: Option<Options>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OptionsReply {
    #[prost(message, optional, tag = "1")]
    pub options: Option<Options>,
}

/// `meta.v1.Time` and `google.protobuf.Timestamp`: both are seconds and nanoseconds.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Moment {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodePrice {
    #[prost(message, optional, tag = "1")]
    pub node: Option<ExternalNode>,
    #[prost(message, optional, tag = "2")]
    pub start_time: Option<Moment>,
    #[prost(message, optional, tag = "3")]
    pub end_time: Option<Moment>,
    #[prost(message, optional, tag = "4")]
    pub start_timestamp: Option<Moment>,
    #[prost(message, optional, tag = "5")]
    pub end_timestamp: Option<Moment>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodPrice {
    #[prost(bytes = "vec", tag = "1")]
    pub pod: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub start_time: Option<Moment>,
    #[prost(message, optional, tag = "3")]
    pub end_time: Option<Moment>,
    #[prost(bytes = "vec", tag = "4")]
    pub pod_bytes: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub start_timestamp: Option<Moment>,
    #[prost(message, optional, tag = "6")]
    pub end_timestamp: Option<Moment>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Price {
    #[prost(double, tag = "1")]
    pub price: f64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BestOptions {
    #[prost(message, repeated, tag = "1")]
    pub options: Vec<ExpanderOption>,
    /// Up to 1.34, each a `core.v1.Node`.
    #[prost(btree_map = "string, bytes", tag = "2")]
    pub nodes: BTreeMap<String, Vec<u8>>,
    /// From 1.34.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub node_bytes: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExpanderOption {
    #[prost(string, tag = "1")]
    pub group: String,
    #[prost(int32, tag = "2")]
    pub nodes: i32,
    #[prost(string, tag = "3")]
    pub debug: String,
    /// Up to 1.34, each a `core.v1.Pod`.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub pods: Vec<Vec<u8>>,
    /// From 1.34.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub pod_bytes: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BestOptionsReply {
    #[prost(message, repeated, tag = "1")]
    pub options: Vec<ExpanderOption>,
}
