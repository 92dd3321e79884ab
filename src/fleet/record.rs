//! Durable records, and the writes that change them.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::datacenters::DatacenterHistory;
use super::ids::{Hostname, MachineId, PoolId, VmId};
use super::machine::{Machine, RequestRef};
use super::request_history::{AbandonedRef, RequestHistory};
use super::size_profile::SizeProfile;
use super::spot::SpotHistory;
use crate::catalog::{Catalog, SizeId};

/// One durable write. Lists of changes are ordered so that any prefix of a list loses nothing: a VM is
/// written to its new record before it is removed from the old one.
/// [`DeferredChanges`](super::DeferredChanges) selects the writes that wait while a record is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Writes a machine's record, new or not.
    SaveMachine(Machine),
    /// Removes a machine's record.
    DropMachine(MachineId),
    /// Writes the record of an unmanaged node.
    SaveUnmanaged(UnmanagedNode),
    /// Removes that record.
    DropUnmanaged(Hostname),
    /// Writes the profile of a size.
    SaveProfile(SizeId, SizeProfile),
    /// Writes the request history.
    SaveRequestHistory(RequestHistory),
    /// Writes the record of spot classes.
    SaveSpotHistory(SpotHistory),
    /// Writes the record of datacenters.
    SaveDatacenterHistory(DatacenterHistory),
    /// Writes the last good catalog, for a start while VPSie is down.
    SaveCatalog(Arc<Catalog>),
}

/// The record that a change writes or removes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKey {
    /// A machine.
    Machine(MachineId),
    /// An unmanaged node.
    Unmanaged(Hostname),
    /// The profile of a size.
    Profile(SizeId),
    /// The request history.
    RequestHistory,
    /// The record of spot classes.
    SpotHistory,
    /// The record of datacenters.
    DatacenterHistory,
    /// The catalog.
    Catalog,
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(id) => write!(f, "machine {id}"),
            Self::Unmanaged(hostname) => write!(f, "node {hostname}"),
            Self::Profile(size) => write!(f, "size {size}"),
            Self::RequestHistory => f.write_str("request history"),
            Self::SpotHistory => f.write_str("spot history"),
            Self::DatacenterHistory => f.write_str("datacenter history"),
            Self::Catalog => f.write_str("catalog"),
        }
    }
}

impl RecordKey {
    /// The kind of record, as in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Machine(_) => "machine",
            Self::Unmanaged(_) => "node",
            Self::Profile(_) => "size",
            Self::RequestHistory => "request_history",
            Self::SpotHistory => "spot_history",
            Self::DatacenterHistory => "datacenter_history",
            Self::Catalog => "catalog",
        }
    }
}

impl Change {
    /// The record that it writes or removes.
    pub fn record(&self) -> RecordKey {
        match self {
            Self::SaveMachine(machine) => RecordKey::Machine(machine.id.clone()),
            Self::DropMachine(id) => RecordKey::Machine(id.clone()),
            Self::SaveUnmanaged(unmanaged) => RecordKey::Unmanaged(unmanaged.hostname.clone()),
            Self::DropUnmanaged(hostname) => RecordKey::Unmanaged(hostname.clone()),
            Self::SaveProfile(size, _) => RecordKey::Profile(*size),
            Self::SaveRequestHistory(_) => RecordKey::RequestHistory,
            Self::SaveSpotHistory(_) => RecordKey::SpotHistory,
            Self::SaveDatacenterHistory(_) => RecordKey::DatacenterHistory,
            Self::SaveCatalog(_) => RecordKey::Catalog,
        }
    }
}

/// All durable records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// The machines.
    pub machines: Vec<Machine>,
    /// Listed nodes that belong to no machine.
    pub unmanaged: Vec<UnmanagedNode>,
    /// The profile of a size.
    pub profiles: Vec<(SizeId, SizeProfile)>,
    /// The request history.
    pub request_history: RequestHistory,
    /// The record of spot classes.
    pub spot_history: SpotHistory,
    /// The record of datacenters.
    pub datacenter_history: DatacenterHistory,
    /// The last good catalog.
    pub catalog: Option<Arc<Catalog>>,
    /// Number of records that this version cannot read. They stay unchanged.
    pub unreadable: u32,
}

impl Records {
    /// Whether a record has the node's VM.
    pub(crate) fn knows_vm(&self, node: &UnmanagedNode) -> bool {
        self.unmanaged.iter().any(|unmanaged| unmanaged.hostname == node.hostname)
            || self.machines.iter().any(|m| m.vm().is_some_and(|vm| vm.hostname == node.hostname))
    }
}

/// A node that VPSie listed and that belongs to no machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmanagedNode {
    /// Its hostname.
    pub hostname: Hostname,
    /// Its UUID, where known.
    pub id: Option<VmId>,
    /// Time of its first listing.
    pub first_seen: Timestamp,
    /// Its kind.
    pub kind: UnmanagedKind,
    /// The pool that waited for a VM when this foreign node appeared and matched none of the open requests.
    /// The node may still be the result of one, so it counts as paid for in the NodeGroup of the pool. Once
    /// its role is known, it is compared with the requests again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited_by: Option<PoolId>,
    /// The request that created its VM, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestRef>,
    /// The abandoned request that this foreign node counts as the result of. No other node counts as its
    /// result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandoned_request: Option<AbandonedRef>,
}

impl UnmanagedNode {
    /// A node that is not the result of a known request.
    pub fn new(hostname: Hostname, id: Option<VmId>, first_seen: Timestamp, kind: UnmanagedKind) -> Self {
        Self { hostname, id, first_seen, kind, awaited_by: None, request: None, abandoned_request: None }
    }
}

/// The kind of an unmanaged node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum UnmanagedKind {
    /// Not requested by vpsie-autoscaler: control plane, or a worker that existed before or was added by
    /// hand. Never touched.
    Foreign,
    /// Created by a request that no machine waits for any more. It is adopted, or deleted after a grace
    /// period.
    Orphan {
        /// The pool that it was requested for.
        pool: PoolId,
        /// Its size, if it is known.
        size: Option<SizeId>,
    },
    /// Was the VM of a machine and is no longer listed. It is recognized if it returns.
    Gone {
        /// Its machine.
        machine: MachineId,
        /// Its pool.
        pool: PoolId,
        /// Its size.
        size: SizeId,
        /// Whether its machine was Deleting or failed: if the VM returns, it is drained and deleted.
        deleted: bool,
        /// Whether VPSie had accepted its deletion. Otherwise the VM may still run although no listing shows
        /// it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        deletion_accepted: bool,
    },
}
