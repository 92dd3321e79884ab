//! Simulation of the provider in a cluster: Nodes, pods, NodeGroups and records are objects of one API
//! server. The provider, the API server and each kubelet have different clocks.

mod kubelets;
mod process;
mod workload;
mod world;

const NAMESPACE: &str = "vpsie-system";
/// Maximum number of machines of the NodeGroup.
const MAX: u32 = 4;
