//! What Cluster Autoscaler can ask of the fleet, and why it may be refused.

use super::ids::PoolId;

/// A node as Cluster Autoscaler names it in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRef {
    /// `spec.providerID`, or an Instance id for a node that never registered.
    pub provider_id: String,
    /// Name of the Node, or the Instance id for a node that never registered.
    pub name: String,
    /// Cluster Autoscaler made the node up for an instance that never registered or failed (contract §3.2).
    pub fake: bool,
}

/// Why a command was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such pool.
    #[error("pool {0:?} is not known; NodeGroups lists the pools")]
    UnknownPool(String),
    /// A delta of the wrong sign.
    #[error("delta is {delta}, must be {allowed}")]
    Delta {
        /// What was asked.
        delta: i32,
        /// `above 0` or `below 0`.
        allowed: &'static str,
    },
    /// The NodeGroup would grow past its maximum.
    #[error(
        "pool {pool} cannot grow by {delta}: NodeGroup {} has {group_target} of at most {group_max} machines",
        pool.node_group
    )]
    AboveMax {
        /// The pool.
        pool: PoolId,
        /// What was asked.
        delta: u32,
        /// Machines of the NodeGroup that count.
        group_target: u32,
        /// `spec.maxNodes`.
        group_max: u32,
    },
    /// The NodeGroup would shrink below its minimum.
    #[error(
        "cannot delete {healthy} healthy nodes of pool {pool}: NodeGroup {} has {group_target} machines and \
         must keep {group_min}",
        pool.node_group
    )]
    BelowMin {
        /// The pool.
        pool: PoolId,
        /// How many healthy ones were named.
        healthy: u32,
        /// Machines of the NodeGroup that count.
        group_target: u32,
        /// `spec.minNodes`.
        group_min: u32,
    },
    /// The offer is not in the catalog (any more), or the NodeGroup is gone.
    #[error("pool {pool} cannot grow: {why}")]
    NotGrowable {
        /// The pool.
        pool: PoolId,
        /// What is missing.
        why: String,
    },
    /// A node that is not the pool's to delete. None of the request was done.
    #[error("node {node:?} does not belong to pool {pool}; nothing was deleted")]
    ForeignNode {
        /// The pool.
        pool: PoolId,
        /// The node's name or provider id.
        node: String,
    },
    /// Everything that the pool counts exists already; only DeleteNodes can remove it.
    #[error("pool {pool} has no machine left that was not asked for yet")]
    NothingToCancel {
        /// The pool.
        pool: PoolId,
    },
}
