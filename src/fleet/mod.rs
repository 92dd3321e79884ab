//! PURE. Pools and machines: commands of Cluster Autoscaler, listings of VPSie, and their effects.
//!
//! The code is synchronous and reads no clock, no randomness and no I/O. A command or a listing changes the
//! fleet and returns the [`Change`]s. The writer works on its own copy, makes the changes durable, and then
//! applies them to the fleet that readers see.

mod abandoned_requests;
mod adoption;
mod age;
mod binding;
mod cause;
mod clock_skew;
mod command;
mod consistency;
mod creation;
mod datacenters;
mod deadlines;
mod deferred;
mod extra_vms;
mod group;
mod growth_block;
mod guard;
mod halt;
mod headroom;
mod ids;
pub(crate) mod lenient;
mod limits;
mod listing;
mod machine;
mod node_samples;
mod observe;
mod payload_limits;
mod payloads;
mod policy;
mod pools;
mod query;
mod record;
mod refusal;
mod request_history;
mod shortages;
mod size_profile;
mod spot;
mod state;
mod taint;
mod template;
mod transient;
mod turns;
mod used_requests;

#[cfg(test)]
pub(crate) mod tests;

pub use cause::Cause;
pub use command::{Names, NodeRef};
pub use creation::CreationOutcome;
pub use datacenters::{
    CreationFailure, CreationFailureKind, DatacenterBlock, DatacenterBreaker, DatacenterHealth,
    DatacenterHistory, DatacenterReport, DatacenterState, DatacenterStrategy, Distribution, Outage,
    OutageCause,
};
pub use deferred::DeferredChanges;
pub use extra_vms::surge;
pub use group::{AutoscalingOptions, Declaration, DeclaredNode, DeletionPolicy, NodeGroup};
pub use growth_block::GrowthBlock;
pub use guard::{CreationPermit, Guard, GuardOutcome, GuardStatus, Maxima, PriorRecords};
pub use halt::Halt;
pub use ids::{
    ClusterId, Hostname, MachineId, NodeGroupName, PLACEHOLDER_PREFIX, PROVIDER_ID_PREFIX, PoolId,
    PoolIdError, ProviderId, VmId,
};
pub use limits::{Limits, PoolLimits};
pub use listing::{Attachment, ListedNode, NodeListing, NodeRole, PendingVms, VmState};
pub use machine::{
    DeletableVm, DeletionReason, DrainState, Failure, FailureReason, MAX_REQUESTS, Machine, Phase,
    RequestOutcome, RequestRef, Vm, VmRequest,
};
pub use payloads::PayloadFindings;
pub use policy::{Binding, Policy};
pub use record::{Change, RecordKey, Records, UnmanagedKind, UnmanagedNode};
pub use refusal::{CostLimitReached, Refusal};
pub use request_history::{AbandonedRef, AbandonedRequests, MovedRequest, RequestHistory};
pub use size_profile::{Amounts, NodeShape, ObservedNode, Sample, SizeProfile};
pub use spot::{
    BreakerState, CircuitBreaker, InterruptionPreview, Interruptions, MAX_NOTICE, MaxSpotShare, Notice,
    NoticeSource, ReplacementState, ReportedInterruption, SpotBlock, SpotClass, SpotDefaults, SpotFailure,
    SpotFailureReason, SpotHistory, SpotPolicy, StartupTime, Visibility,
};
pub use state::{Fleet, Pool};
pub use taint::{Taint, TaintEffect};
pub(crate) use template::is_label_value;
pub use template::{FleetSettings, Reserved, Template, names, network_taint, template};
