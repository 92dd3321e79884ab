//! What a listing of the cluster's nodes shows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;

use super::ids::{Hostname, VmId};
use crate::catalog::SizeId;

/// A node of the cluster as VPSie lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedNode {
    /// Its hostname.
    pub hostname: Hostname,
    /// Its UUID, where the listing gives one.
    pub id: Option<VmId>,
    /// Its size, where the listing lets it be told without doubt.
    pub size: Option<SizeId>,
    /// Sizes that its resources exclude, if `size` is unknown.
    pub excluded: BTreeSet<SizeId>,
    /// Control plane, worker, or not to be told.
    pub role: NodeRole,
    /// Whether it is up.
    pub state: VmState,
    /// Its addresses, as far as the listing gives any.
    pub addresses: Vec<IpAddr>,
    /// When VPSie says that it was created, where it says so readably.
    pub created_at: Option<Timestamp>,
}

impl ListedNode {
    /// Whether it may have this size.
    pub fn may_have(&self, size: SizeId) -> bool {
        self.size.map_or(!self.excluded.contains(&size), |told| told == size)
    }
}

/// What a node of the cluster is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// Never touched.
    ControlPlane,
    /// A worker, ours or not.
    Worker,
    /// Unknown: nothing in VPSie's reply shows it. Such a node is never touched.
    Unknown,
}

/// State of a VM, as far as VPSie tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmState {
    /// Being made or started.
    Provisioning,
    /// Up, or no state is given (a listing without states lists what exists).
    Running,
    /// Stopped, suspended, locked or in error: exists, and is billed.
    Down,
    /// Being removed.
    Terminating,
}
