//! The provider in a cluster: Nodes, pods, NodeGroups and records are objects of one API server, whose clock, like
//! each kubelet's, is not the provider's.

mod kubelets;
mod process;
mod workload;
mod world;

const NAMESPACE: &str = "vpsie-system";
/// Most machines of the NodeGroup.
const MAX: u32 = 4;
