//! PURE. Pools and machines: what Cluster Autoscaler may ask, what VPSie shows, and what follows.
//!
//! Nothing here waits, reads a clock, draws chance or does I/O. A command or an observation is *decided*
//! against the fleet as it is and yields [`Change`]s; once those are durable they are *applied*.

mod command;
mod group;
mod ids;
mod listing;
mod machine;
mod query;
mod template;

pub use command::{NodeRef, Refusal};
pub use group::{AutoscalingOptions, NodeGroup, Taint, TaintEffect};
pub use ids::{
    CapacityType, ClusterId, DatacenterId, Hostname, MachineId, NodeGroupName, OfferRef, PLACEHOLDER_PREFIX,
    PROVIDER_ID_PREFIX, PoolId, PoolIdError, SizeId, VmId,
};
pub use listing::{ListedNode, NodeRole, VmState};
pub use machine::{Ask, AskOutcome, Failure, FailureReason, Machine, Phase, Vm};
pub use query::Limits;
pub use template::{Learned, Reserved, Template, names, node_labels, template};

/// The fleet, as it is in memory.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    groups: std::collections::BTreeMap<NodeGroupName, NodeGroup>,
    pools: std::collections::BTreeMap<std::sync::Arc<str>, Pool>,
    machines: std::collections::BTreeMap<MachineId, Machine>,
}

/// A pool: what Cluster Autoscaler calls a node group.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its id as text, as on the wire.
    pub text: std::sync::Arc<str>,
    /// The offer it rents; kept while machines need it, also when the catalog has it no more.
    pub offer: crate::catalog::Offer,
    members: std::collections::BTreeSet<MachineId>,
}

/// One durable write.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Writes a machine's record, new or not.
    SaveMachine(Machine),
    /// Removes a machine's record.
    DropMachine(MachineId),
    /// Writes the record of a listed node that is no machine's.
    SaveStranger(Stranger),
    /// Removes that record.
    DropStranger(Hostname),
    /// Writes what nodes of a size were seen to have.
    SaveLearned(SizeId, Learned),
    /// Keeps the last good catalog, so that a start while VPSie is down has one.
    SaveCatalog(std::sync::Arc<crate::catalog::Catalog>),
}

/// All that is durable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// The machines.
    pub machines: Vec<Machine>,
    /// Listed nodes that are no machine's.
    pub strangers: Vec<Stranger>,
    /// What nodes of a size were seen to have.
    pub learned: Vec<(SizeId, Learned)>,
    /// The last good catalog.
    pub catalog: Option<std::sync::Arc<crate::catalog::Catalog>>,
}

/// A node that VPSie listed and that is no machine's.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stranger {
    /// Its hostname.
    pub hostname: Hostname,
    /// Its UUID, where known.
    pub id: Option<VmId>,
    /// When it was first listed.
    pub first_seen: jiff::Timestamp,
    /// What it is to us.
    pub kind: StrangerKind,
}

/// What a node that is no machine's is to us.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum StrangerKind {
    /// Not made by us: control plane, or a worker that was there or that somebody added. Never touched.
    Foreign,
    /// Made by a request of ours that no machine waits for any more: adopted, or deleted after a grace.
    Orphan {
        /// The pool that it was asked for.
        pool: PoolId,
        /// Its size, where it can be told.
        size: Option<SizeId>,
    },
    /// Was a machine's VM and is not listed any more. Known again should it come back.
    Gone {
        /// The machine it was.
        machine: MachineId,
        /// Its pool.
        pool: PoolId,
        /// Its size.
        size: SizeId,
        /// Whether we had asked for its deletion.
        deleted: bool,
    },
}
