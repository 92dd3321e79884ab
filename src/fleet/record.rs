//! What is durable, and the writes that change it.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{Hostname, MachineId, PoolId, VmId};
use super::ledger::Ledger;
use super::machine::Machine;
use super::size_profile::SizeProfile;
use crate::catalog::{Catalog, SizeId};

/// One durable write. Lists of them are ordered so that any part of one, from the front, loses nothing: a VM is
/// recorded in its new place before it is dropped from the old one. [`DeferredChanges`](super::DeferredChanges) says which writes
/// wait while a record is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Writes a machine's record, new or not.
    SaveMachine(Machine),
    /// Removes a machine's record.
    DropMachine(MachineId),
    /// Writes the record of a listed node that is no machine's.
    SaveUnmanaged(UnmanagedNode),
    /// Removes that record.
    DropUnmanaged(Hostname),
    /// Writes what nodes of a size were seen to have.
    SaveProfile(SizeId, SizeProfile),
    /// Writes what is remembered of requests and listings.
    SaveLedger(Ledger),
    /// Keeps the last good catalog, so that a start while VPSie is down has one.
    SaveCatalog(Arc<Catalog>),
}

/// The record that a change writes or removes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKey {
    /// That of a machine.
    Machine(MachineId),
    /// That of a listed node that is no machine's.
    Unmanaged(Hostname),
    /// What nodes of a size were seen to have.
    Profile(SizeId),
    /// What is remembered of requests and listings.
    Ledger,
    /// The catalog.
    Catalog,
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(id) => write!(f, "machine {id}"),
            Self::Unmanaged(hostname) => write!(f, "node {hostname}"),
            Self::Profile(size) => write!(f, "size {size}"),
            Self::Ledger => f.write_str("ledger"),
            Self::Catalog => f.write_str("catalog"),
        }
    }
}

impl RecordKey {
    /// The kind of record in one word, as in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Machine(_) => "machine",
            Self::Unmanaged(_) => "node",
            Self::Profile(_) => "size",
            Self::Ledger => "ledger",
            Self::Catalog => "catalog",
        }
    }
}

impl Change {
    /// The record that it is about.
    pub fn record(&self) -> RecordKey {
        match self {
            Self::SaveMachine(machine) => RecordKey::Machine(machine.id.clone()),
            Self::DropMachine(id) => RecordKey::Machine(id.clone()),
            Self::SaveUnmanaged(unmanaged) => RecordKey::Unmanaged(unmanaged.hostname.clone()),
            Self::DropUnmanaged(hostname) => RecordKey::Unmanaged(hostname.clone()),
            Self::SaveProfile(size, _) => RecordKey::Profile(*size),
            Self::SaveLedger(_) => RecordKey::Ledger,
            Self::SaveCatalog(_) => RecordKey::Catalog,
        }
    }
}

/// All that is durable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// The machines.
    pub machines: Vec<Machine>,
    /// Listed nodes that are no machine's.
    pub unmanaged: Vec<UnmanagedNode>,
    /// What nodes of a size were seen to have.
    pub profiles: Vec<(SizeId, SizeProfile)>,
    /// What is remembered of requests and listings.
    pub ledger: Ledger,
    /// The last good catalog.
    pub catalog: Option<Arc<Catalog>>,
    /// How many records this version cannot read. They are left as they are.
    pub unreadable: u32,
}

impl Records {
    /// Whether a record has the node's VM.
    pub(crate) fn knows_vm(&self, node: &UnmanagedNode) -> bool {
        self.unmanaged.iter().any(|unmanaged| unmanaged.hostname == node.hostname)
            || self.machines.iter().any(|m| m.vm().is_some_and(|vm| vm.hostname == node.hostname))
    }
}

/// A node that VPSie listed and that is no machine's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmanagedNode {
    /// Its hostname.
    pub hostname: Hostname,
    /// Its UUID, where known.
    pub id: Option<VmId>,
    /// When it was first listed.
    pub first_seen: Timestamp,
    /// What it is to us.
    pub kind: UnmanagedKind,
    /// The pool that waited for a VM when this foreign node appeared, where none of the waiting requests fits the node.
    /// The node may be the result of one all the same, so it counts as paid for in that pool's NodeGroup. It is compared
    /// with those requests again once its role is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited_by: Option<PoolId>,
}

/// What a node that is no machine's is to us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum UnmanagedKind {
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
