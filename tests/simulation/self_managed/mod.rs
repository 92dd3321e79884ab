//! Simulation of a self-managed cluster: plain VMs that join with their payload.

mod boot;
mod one_account;
mod process;
mod scenarios;
mod world;

pub(crate) const NAMESPACE: &str = "vpsie-system";
/// UID of the cluster.
const CLUSTER: &str = "0c1d-cluster";
/// Maximum number of machines of the NodeGroup.
const MAX: u32 = 4;
