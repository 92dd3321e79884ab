//! TransientState: what this process has seen and no record has. Counting again after a restart only delays a conclusion.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use jiff::Timestamp;

use super::guard::GuardStatus;
use super::ids::{Hostname, MachineId};
use super::listing::ShownAttributes;
use crate::catalog::MachineClass;

/// What this process has seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TransientState {
    /// Listings that a VM was missing from in a row, and since when.
    pub(super) missing: HashMap<Hostname, (u32, Timestamp)>,
    /// Complete listings since a machine's last request.
    pub(super) listings_since_request: HashMap<MachineId, u32>,
    /// Addresses of listed VMs that are no machine's, as last listed.
    pub(super) addresses: HashMap<Hostname, Vec<IpAddr>>,
    /// Requests that this process is making right now.
    pub(super) in_flight: HashSet<MachineId>,
    /// What the last listing with workers showed of their classes.
    pub(super) shown: ShownAttributes,
    /// Whether there was a complete listing.
    pub(super) listed: bool,
    /// The runaway guard's last verdict. None until the first listing.
    pub(super) guard_status: Option<GuardStatus>,
    /// Classes with open requests, the newest of which is older than [`HOLD_UP`](super::turns::HOLD_UP).
    pub(super) overdue: BTreeSet<MachineClass>,
    /// Machines that requests for another class held up, and until when.
    pub(super) held_up: HashMap<MachineId, Timestamp>,
}

/// A value that two fleets share until one of them changes it.
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
