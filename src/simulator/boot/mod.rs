//! VMs outside managed clusters that join a cluster with the data of their payload only.
//!
//! [`JoinPlan::parse`] reads the payload; [`boot`] joins.

mod actor;
mod connect;
mod join_once;
mod k3s;
mod kubeadm;
mod payload;
mod plan;
mod plan_error;
mod script;
mod trust;

pub use actor::boot;
pub use connect::{Connect, KubeConnect, Trust};
pub use plan::{BootstrapToken, CaHash, JoinKind, JoinPlan, NodeTaint};
pub use plan_error::PlanError;
pub use trust::{TrustError, check_ca};
