//! Simulation of the provider in a cluster: Nodes, pods, NodeGroups and records are objects of one API
//! server. The provider, the API server and each kubelet have different clocks.

pub(crate) mod kubelets;
pub(crate) mod process;
pub(crate) mod workload;
mod world;

pub(crate) use world::{is_ready, observe_deletions};

pub(crate) const NAMESPACE: &str = "vpsie-system";
/// Maximum number of machines of the NodeGroup.
const MAX: u32 = 4;
