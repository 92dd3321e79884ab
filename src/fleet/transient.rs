//! Transient state: observations of this process that have no record. After a restart they begin again, which
//! only delays decisions.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use jiff::Timestamp;

use super::datacenters::DatacenterObservations;
use super::guard::GuardStatus;
use super::ids::{Hostname, MachineId};
use super::listing::{PendingVms, ShownAttributes};
use super::payloads::PayloadFindings;
use crate::catalog::MachineClass;

/// Observations of this process that have no record.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TransientState {
    /// Consecutive listings without a VM, and the time of the first of them.
    pub(super) missing: HashMap<Hostname, (u32, Timestamp)>,
    /// Complete listings since a machine's last request that show VMs that are not created yet.
    pub(super) listings_since_request: HashMap<MachineId, u32>,
    /// Consecutive rows without the notice that VPSie's listing gave before.
    pub(super) listings_without_notice: HashMap<MachineId, u32>,
    /// Addresses of unmanaged nodes in the last listing.
    pub(super) addresses: HashMap<Hostname, Vec<IpAddr>>,
    /// Nodes that the last listing showed as control plane. The VM of a machine among them is not deleted.
    pub(super) control_plane: HashSet<Hostname>,
    /// Machines whose requests are being sent.
    pub(super) in_flight: HashSet<MachineId>,
    /// Parts of a class that the last listing with workers showed.
    pub(super) shown: ShownAttributes,
    /// Whether requests are allowed: there was a complete listing, or nodes from before the first request are
    /// recorded.
    pub(super) listed: bool,
    /// Whether the last listing was complete.
    pub(super) listed_completely: bool,
    /// Whether the last listing showed VMs that are not created yet.
    pub(super) pending: PendingVms,
    /// Time of the first listing of each node that the last listing showed and that has no record.
    pub(super) first_listed: HashMap<Hostname, Timestamp>,
    /// The last status of the runaway guard. None until the first listing.
    pub(super) guard_status: Option<GuardStatus>,
    /// Classes whose newest open request is older than [`MAX_TURN`](super::turns::MAX_TURN).
    pub(super) overdue: BTreeSet<MachineClass>,
    /// Machines that waited for requests of another class, and the time of the last wait.
    pub(super) delayed: HashMap<MachineId, Timestamp>,
    /// Observations of datacenters.
    pub(super) datacenters: DatacenterObservations,
    /// What is known of payloads.
    pub(super) payloads: PayloadFindings,
}

/// A copy-on-write value that two fleets share.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shared<T>(Arc<T>);

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}
