//! A model of the loop of Kubernetes Cluster Autoscaler, for tests and cost replays.
//!
//! An [`Autoscaler`] is one process of it. [`Autoscaler::loop_once`] is one run of its loop: it reads a
//! [`Cluster`], calls a [`Provider`] over gRPC, changes both, and reports every RPC, every decision and the
//! result. It follows upstream's code where a provider can observe the difference: the order of RPCs, the
//! caches and their expiry, the effects of errors, and the changes from [`Minor`] to [`Minor`]. It has no
//! clock and no threads: the same calls with the same times and seed have the same results.
//!
//! ```no_run
//! # async fn example(service: tonic::transport::Channel, allocatable: ca_model::Resources) {
//! use std::time::Duration;
//! use ca_model::{Autoscaler, Config, Link, Memory, Minor, Node, LoopResult, Pod, Provider};
//!
//! let mut now = jiff::Timestamp::UNIX_EPOCH;
//! let cluster = Memory::default();
//! cluster.deploy("web", 3, Pod::new("", 1_000, 512, now));
//! // `service` is a channel, or `CloudProviderServer::new(…)` of tonic, called in process.
//! let provider = Provider::new(Minor::V1_33, Link::new(Duration::from_secs(5), service));
//! let mut autoscaler = Autoscaler::new(Config::default(), provider);
//! for _ in 0..10 {
//!     cluster.step(now); // scheduler and controllers
//!     let report = autoscaler.loop_once(&cluster, now).await;
//!     assert_eq!(report.outcome, LoopResult::Done);
//!     // The kubelet simulation joins nodes here: cluster.join(Node::new("vm-1", "vpsie://…", allocatable, now));
//!     now += Duration::from_secs(10);
//! }
//! # }
//! ```
//!
//! [`LoopResult::Aborted`]: no group is scaled in this loop. [`LoopResult::Crashed`]: a reply of the provider
//! makes the real process panic. To simulate a restart of Cluster Autoscaler, create a new [`Autoscaler`] on
//! the same cluster. Pods that are not [`Pod::controlled`] keep their node; [`Memory`] recreates evicted pods
//! of workloads.
//!
//! Not modelled, because a provider cannot observe them: priorities, affinity, volumes, DaemonSets of
//! upcoming nodes, PodDisruptionBudgets (but a real API server applies them to evictions), status ConfigMap,
//! events. Also not modelled: balancing of similar groups, GPUs, node group auto-provisioning.

mod cluster;
mod expander;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod link;
mod minor;
mod model;
mod object;
mod provider;
mod registry;
mod scale_down;
mod scale_up;
mod wire;

pub use cluster::{Cluster, ClusterError, Memory};
pub use expander::Expander;
#[cfg(feature = "kubernetes")]
pub use kubernetes::Kubernetes;
pub use link::Link;
pub use minor::Minor;
pub use model::{Autoscaler, Config, Event, LoopResult, Report};
pub use object::{Node, Pod, Resources, TO_BE_DELETED, Taint, Toleration, quantity, resources};
pub use provider::{Call, Group, Instance, InstanceError, InstanceState, Options, Provider};

#[cfg(test)]
mod tests;
