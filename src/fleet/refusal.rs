//! Refusals of Cluster Autoscaler's commands.

use std::sync::Arc;

use super::datacenters::DatacenterBlock;
use super::ids::PoolId;
use super::spot::SpotBlock;
use crate::cost::UsdPerHour;

/// The reason why a command was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No such pool.
    #[error("pool {0:?} is unknown; the RPC NodeGroups lists the pools")]
    UnknownPool(String),
    /// A delta of the wrong sign.
    #[error("delta is {delta}, must be {allowed}")]
    Delta {
        /// The requested number.
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
        /// The requested number.
        delta: u32,
        /// Machines of the NodeGroup that are not Deleting.
        group_target: u32,
        /// `spec.maxNodes`.
        group_max: u32,
    },
    /// All NodeGroups together would grow past their maximum.
    #[error(
        "pool {pool} cannot grow by {delta}: all NodeGroups together have {machines} of at most {max} machines \
         (AutoscalerConfig, maxClusterWorkers)"
    )]
    AboveClusterMax {
        /// The pool.
        pool: PoolId,
        /// The requested number.
        delta: u32,
        /// Number of machines of all NodeGroups that are not Deleting.
        machines: u32,
        /// `spec.globalSettings.maxClusterWorkers`.
        max: u32,
    },
    /// The limits of the AutoscalerConfig are unknown.
    #[error(
        "pool {pool} cannot grow: the limits of the AutoscalerConfig are unknown: {why}; check it with `kubectl \
         get autoscalerconfigs`"
    )]
    LimitsUnknown {
        /// The pool.
        pool: PoolId,
        /// The cause.
        why: Arc<str>,
    },
    /// The runaway guard halts growth.
    #[error("pool {pool} cannot grow: {why}")]
    Halted {
        /// The pool.
        pool: PoolId,
        /// The cause, and the remedy.
        why: String,
    },
    /// VMs that may be paid for, and machines that wait for a VM, would exceed the VM limit of the runaway
    /// guard. Growth is not halted.
    #[error(
        "pool {pool} cannot grow by {delta}: the runaway guard allows at most {limit} VMs; {counted} may be paid \
         for, and {waiting} machines wait for a VM; wait until the requested VMs are listed; delete unused VMs, \
         or raise maxNodes"
    )]
    AboveVmLimit {
        /// The pool.
        pool: PoolId,
        /// The requested number.
        delta: u32,
        /// VMs that may be paid for.
        counted: u32,
        /// Machines that wait for the creation of their VM.
        waiting: u32,
        /// Maximum of VMs that may be paid for.
        limit: u32,
    },
    /// More VMs would be paid for than the maximum and its surge allow.
    #[error(
        "pool {pool} cannot grow by {delta}: {whose} may have at most {paid_max} VMs, and has {target} machines and \
         {extra_vms} extra VMs (being deleted, orphans, or unexpected nodes); wait for the deletions; delete \
         unexpected nodes at VPSie, or annotate them"
    )]
    VmsStillPaid {
        /// The pool.
        pool: PoolId,
        /// The requested number.
        delta: u32,
        /// `NodeGroup <name>` or `the cluster`.
        whose: String,
        /// Machines that are not Deleting.
        target: u32,
        /// Extra VMs: paid for, but of no machine in the target size.
        extra_vms: u32,
        /// Maximum of VMs that may be paid for: the maximum of machines and its surge.
        paid_max: u32,
    },
    /// The share of spot machines would exceed its maximum.
    #[error(
        "pool {pool} cannot grow by {delta}: NodeGroup {} has {spot} spot and {on_demand} on-demand machines, and at \
         most {percent} percent may be spot; raise spotConfig.maxSpotPercentage, or let Cluster Autoscaler add on-demand \
         machines",
        pool.node_group
    )]
    AboveSpotShare {
        /// The pool.
        pool: PoolId,
        /// The requested number.
        delta: u32,
        /// Spot machines that are not Deleting.
        spot: u32,
        /// On-demand machines that are not Deleting and have no notice.
        on_demand: u32,
        /// `spec.spotConfig.maxSpotPercentage`.
        percent: u32,
    },
    /// The circuit breaker of the pool's class is open or half-open, or its interruption rate is above the allowed one.
    #[error("pool {pool} cannot grow by {delta}: {block}")]
    SpotUnavailable {
        /// The pool.
        pool: PoolId,
        /// The requested number.
        delta: u32,
        /// The reason.
        block: SpotBlock,
    },
    /// Fallback to on-demand machines is off, and the maximum share requires no more of them.
    #[error(
        "pool {pool} cannot grow by {delta}: spotConfig.fallbackToOnDemand of NodeGroup {} is false, and {spot} spot and \
         {on_demand} on-demand machines are within maxSpotPercentage {percent}; wait for spot machines, or set \
         fallbackToOnDemand to true",
        pool.node_group
    )]
    FallbackDisabled {
        /// The pool.
        pool: PoolId,
        /// The requested number.
        delta: u32,
        /// Spot machines that are not Deleting.
        spot: u32,
        /// On-demand machines that are not Deleting and have no notice.
        on_demand: u32,
        /// `spec.spotConfig.maxSpotPercentage`.
        percent: u32,
    },
    /// The health of the datacenter, or its place in the distribution, does not allow growth.
    #[error("pool {pool} cannot grow by {delta} in datacenter {}: {block}", pool.datacenter)]
    DatacenterUnavailable {
        /// The pool.
        pool: PoolId,
        /// The requested number.
        delta: u32,
        /// The reason.
        block: DatacenterBlock,
    },
    /// The machines would cost more than the limit.
    #[error(transparent)]
    AboveCostLimit(Box<CostLimitReached>),
    /// A cost limit is set, and the price of the machine is unknown.
    #[error(
        "pool {pool} cannot grow: a cost limit is set, and the price of {offer} is unknown; set its price in \
         --price-file"
    )]
    PriceUnknown {
        /// The pool.
        pool: PoolId,
        /// Its offer.
        offer: String,
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
        /// Number of healthy nodes in the request.
        healthy: u32,
        /// Machines of the NodeGroup that are not Deleting.
        group_target: u32,
        /// `spec.minNodes`.
        group_min: u32,
    },
    /// The NodeGroup would shrink below its minimum in a datacenter.
    #[error(
        "cannot delete {healthy} healthy nodes of pool {pool}: NodeGroup {} has {machines} machines in datacenter {} and \
         must keep {minimum} there (multiRegion.minNodesPerRegion)",
        pool.node_group, pool.datacenter
    )]
    BelowDatacenterMin {
        /// The pool.
        pool: PoolId,
        /// Number of healthy nodes in the request.
        healthy: u32,
        /// Machines of the NodeGroup in the datacenter that are neither Deleting nor Failed.
        machines: u32,
        /// `spec.multiRegion.minNodesPerRegion`.
        minimum: u32,
    },
    /// Without the nodes, the share of spot machines would exceed its maximum.
    #[error(
        "cannot delete {healthy} healthy nodes of pool {pool}: NodeGroup {} has {spot} spot and {on_demand} on-demand \
         machines, and at most {percent} percent may be spot; wait until spot machines are removed, or raise \
         spotConfig.maxSpotPercentage",
        pool.node_group
    )]
    NeededForSpotShare {
        /// The pool.
        pool: PoolId,
        /// Number of healthy nodes in the request.
        healthy: u32,
        /// Spot machines that are not Deleting.
        spot: u32,
        /// On-demand machines that are not Deleting and have no notice.
        on_demand: u32,
        /// `spec.spotConfig.maxSpotPercentage`.
        percent: u32,
    },
    /// The NodeGroup is invalid, unreadable or (being) deleted, or its offer was removed from it or from VPSie's
    /// catalog.
    #[error("pool {pool} cannot grow: {why}")]
    NotGrowable {
        /// The pool.
        pool: PoolId,
        /// The cause.
        why: String,
    },
    /// A node does not belong to the pool. No node of the request is deleted.
    #[error("node {node:?} does not belong to pool {pool}; nothing was deleted")]
    ForeignNode {
        /// The pool of the request.
        pool: String,
        /// The node's name or provider id.
        node: String,
    },
}

/// Machines would cost more than the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool {pool} cannot grow by {delta}: {whose} costs {cost} of at most {limit}, and one machine of the pool \
     costs {price}; raise costLimit (or --cost-limit-hourly, --cost-limit-monthly), or choose cheaper offers"
)]
pub struct CostLimitReached {
    /// The pool.
    pub pool: PoolId,
    /// The requested number.
    pub delta: u32,
    /// `NodeGroup <name>` or `the cluster`.
    pub whose: String,
    /// Cost of the existing machines.
    pub cost: UsdPerHour,
    /// The limit.
    pub limit: UsdPerHour,
    /// Price of one machine.
    pub price: UsdPerHour,
}

impl Refusal {
    /// The pool that the command names. None if there is no such pool, or if the command is a mistake of the
    /// caller.
    pub fn pool(&self) -> Option<&PoolId> {
        match self {
            Self::AboveMax { pool, .. }
            | Self::AboveClusterMax { pool, .. }
            | Self::LimitsUnknown { pool, .. }
            | Self::Halted { pool, .. }
            | Self::AboveVmLimit { pool, .. }
            | Self::VmsStillPaid { pool, .. }
            | Self::AboveSpotShare { pool, .. }
            | Self::SpotUnavailable { pool, .. }
            | Self::FallbackDisabled { pool, .. }
            | Self::NeededForSpotShare { pool, .. }
            | Self::DatacenterUnavailable { pool, .. }
            | Self::BelowDatacenterMin { pool, .. }
            | Self::PriceUnknown { pool, .. }
            | Self::BelowMin { pool, .. }
            | Self::NotGrowable { pool, .. } => Some(pool),
            Self::AboveCostLimit(reached) => Some(&reached.pool),
            Self::UnknownPool(_) | Self::Delta { .. } | Self::ForeignNode { .. } => None,
        }
    }

    /// The reason in events and conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AboveMax { .. } => "MaximumReached",
            Self::AboveClusterMax { .. } => "ClusterMaximumReached",
            Self::Halted { .. } => "GrowthHalted",
            Self::AboveVmLimit { .. } => "VMLimitReached",
            Self::VmsStillPaid { .. } => "VMsStillPaid",
            Self::AboveSpotShare { .. } => "SpotShareReached",
            Self::SpotUnavailable { .. } => "SpotUnavailable",
            Self::FallbackDisabled { .. } => "FallbackDisabled",
            Self::NeededForSpotShare { .. } => "NeededForSpotShare",
            Self::DatacenterUnavailable { .. } => "DatacenterUnavailable",
            Self::BelowDatacenterMin { .. } => "DatacenterMinimumReached",
            Self::AboveCostLimit(_) => "CostLimitReached",
            Self::PriceUnknown { .. } => "PriceUnknown",
            Self::LimitsUnknown { .. } => "LimitsUnknown",
            Self::BelowMin { .. } => "MinimumReached",
            Self::NotGrowable { .. } => "NotGrowable",
            Self::UnknownPool(_) => "UnknownPool",
            Self::Delta { .. } => "InvalidDelta",
            Self::ForeignNode { .. } => "ForeignNode",
        }
    }

    /// The reason why a pool cannot grow as a code, as in `explain`: [`reason`](Self::reason) in upper case.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::AboveMax { .. } => "MAXIMUM_REACHED",
            Self::AboveClusterMax { .. } => "CLUSTER_MAXIMUM_REACHED",
            Self::Halted { .. } => "GROWTH_HALTED",
            Self::AboveVmLimit { .. } => "VM_LIMIT_REACHED",
            Self::VmsStillPaid { .. } => "VMS_STILL_PAID",
            Self::AboveSpotShare { .. } => "SPOT_SHARE_REACHED",
            Self::SpotUnavailable { .. } => "SPOT_UNAVAILABLE",
            Self::FallbackDisabled { .. } => "FALLBACK_DISABLED",
            Self::DatacenterUnavailable { .. } => "DATACENTER_UNAVAILABLE",
            Self::AboveCostLimit(_) => "COST_LIMIT_REACHED",
            Self::PriceUnknown { .. } => "PRICE_UNKNOWN",
            Self::LimitsUnknown { .. } => "LIMITS_UNKNOWN",
            Self::UnknownPool(_)
            | Self::Delta { .. }
            | Self::BelowMin { .. }
            | Self::BelowDatacenterMin { .. }
            | Self::NeededForSpotShare { .. }
            | Self::NotGrowable { .. }
            | Self::ForeignNode { .. } => "NOT_GROWABLE",
        }
    }
}
