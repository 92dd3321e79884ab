//! Observations of datacenters that have no record. After a restart they begin again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use crate::catalog::DatacenterId;
use crate::fleet::ids::{MachineId, NodeGroupName};

/// Observations of datacenters. None: there was no observation since the process started.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::fleet) struct DatacenterObservations {
    /// Datacenters of which the last complete listing lacked more than half of the VMs.
    pub(super) missing_rows: Option<BTreeSet<DatacenterId>>,
    /// Machines with a VM that the last complete listing lacked, and the time since when.
    pub(super) missing_since: BTreeMap<MachineId, Timestamp>,
    /// Datacenters with a VM that is missing for so long that its end is believed.
    pub(super) overdue: BTreeSet<DatacenterId>,
    /// Datacenters whose only VM the last complete listing lacked, not for long.
    pub(super) only_vm_missing: BTreeSet<DatacenterId>,
    /// Running machines whose Node is not Ready.
    pub(super) unready: Option<UnreadyNodes>,
    /// Datacenters with more than half of their Nodes not Ready, and the time since when.
    pub(super) not_ready_since: BTreeMap<DatacenterId, Timestamp>,
    /// Datacenters that VPSie lists as inactive.
    pub(super) inactive: Option<BTreeSet<DatacenterId>>,
    /// Datacenters whose observable outage has ended, and the time since when.
    pub(super) ended_since: BTreeMap<DatacenterId, Timestamp>,
    /// Datacenters where every offer of the NodeGroup is or was short.
    pub(super) short: HashMap<NodeGroupName, BTreeMap<DatacenterId, Shortness>>,
}

/// Running machines whose Node is not Ready.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct UnreadyNodes {
    /// Time of the observation.
    pub(super) at: Timestamp,
    /// The machines.
    pub(super) machines: BTreeSet<MachineId>,
}

/// A shortage of every offer of a NodeGroup in a datacenter. Until a VM ends it, the other datacenters get the headroom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortness {
    /// Every offer is short.
    Short,
    /// Every offer was short, and the oldest shortage has expired: one machine is tried.
    Trial {
        /// Time of the last shortage.
        since: Timestamp,
    },
}
