//! A listing of the cluster's nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;

use super::ids::{Hostname, PoolId, VmId};
use super::spot::ReportedInterruption;
use crate::catalog::{CapacityType, DatacenterId, MachineClass, SizeId};

/// A listing of all nodes of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeListing {
    /// The readable nodes.
    pub nodes: Vec<ListedNode>,
    /// No created node is missing. Otherwise the absence of a node does not prove that its VM is gone.
    pub complete: bool,
    /// Whether VMs that are requested and not created yet are among the nodes.
    pub pending: PendingVms,
    /// VPSie listed VMs, of the cluster or of others. A listing without any does not prove that VMs are gone.
    pub has_rows: bool,
}

impl NodeListing {
    /// A listing of these nodes only.
    pub fn of_nodes(nodes: Vec<ListedNode>, complete: bool) -> Self {
        Self { has_rows: !nodes.is_empty(), nodes, complete, pending: PendingVms::Listed }
    }

    /// Whether a complete listing without the VM of a request proves that VPSie has not created it yet.
    pub(super) fn shows_requests(&self) -> bool {
        match self.pending {
            PendingVms::Listed | PendingVms::Unsupported => self.complete,
            PendingVms::Unknown => false,
        }
    }
}

/// Whether a listing shows VMs that are requested and not created yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PendingVms {
    /// They are listed.
    #[default]
    Listed,
    /// They could not be listed now. A request whose VM is not listed is not repeated until they can.
    Unknown,
    /// The API has no list of them. A request whose VM is not listed counts as lost after the create timeout.
    Unsupported,
}

/// A node of the cluster as VPSie lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedNode {
    /// Its hostname.
    pub hostname: Hostname,
    /// Its UUID, if the listing shows it.
    pub id: Option<VmId>,
    /// Its size, if the listing shows it without doubt.
    pub size: Option<SizeId>,
    /// Sizes that its resources exclude, if `size` is unknown.
    pub excluded: BTreeSet<SizeId>,
    /// Its datacenter, if the listing shows it.
    pub datacenter: Option<DatacenterId>,
    /// Its capacity type, if the listing shows it.
    pub capacity_type: Option<CapacityType>,
    /// Its role.
    pub role: NodeRole,
    /// Whether it is up.
    pub state: VmState,
    /// Its addresses, as far as the listing shows them.
    pub addresses: Vec<IpAddr>,
    /// Time of its creation at VPSie, if the listing shows a readable time.
    pub created_at: Option<Timestamp>,
    /// Interruption of the VM, if the listing announces one.
    pub interruption: Option<ReportedInterruption>,
    /// Its attachment to the network of its NodeGroup. None for products without attachments, and while VPSie does
    /// not list the VM as created.
    pub attachment: Option<Attachment>,
    /// The pool in its owner marker. None for products without owner markers.
    pub pool: Option<PoolId>,
}

/// The attachment of a VM to the VPC and the firewall group of its NodeGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// Attached, or its NodeGroup has neither.
    Done,
    /// Not attached yet.
    Open,
    /// Not attached: VPSie refused, with this message. It is retried.
    Failed(String),
}

impl Attachment {
    pub(super) fn is_done(&self) -> bool {
        *self == Self::Done
    }
}

impl ListedNode {
    /// Whether a record with this UUID can be of its VM. A missing UUID proves nothing.
    pub(super) fn can_have_id(&self, id: Option<&VmId>) -> bool {
        self.id.is_none() || id.is_none() || self.id.as_ref() == id
    }

    /// Whether it can be of this class: no part of the class that the listing shows differs.
    pub fn can_be(&self, class: &MachineClass) -> bool {
        self.size.map_or(!self.excluded.contains(&class.size), |size| size == class.size)
            && self.datacenter.as_ref().is_none_or(|datacenter| *datacenter == class.datacenter)
            && self.capacity_type.is_none_or(|capacity_type| capacity_type == class.capacity_type)
    }
}

/// The parts of a class that a listing shows for all of its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ShownAttributes {
    pub(super) size: bool,
    datacenter: bool,
    capacity_type: bool,
}

/// The parts of a class that a listing shows. Classes with equal shown parts cannot be distinguished.
pub(super) type ShownClass = (Option<SizeId>, Option<DatacenterId>, Option<CapacityType>);

impl ShownAttributes {
    /// None for a listing without workers.
    pub(super) fn of_listing(nodes: &[ListedNode]) -> Option<Self> {
        let workers = || nodes.iter().filter(|node| node.role == NodeRole::Worker);
        workers().next()?;
        Some(Self {
            size: workers().all(|node| node.size.is_some()),
            datacenter: workers().all(|node| node.datacenter.is_some()),
            capacity_type: workers().all(|node| node.capacity_type.is_some()),
        })
    }

    pub(super) fn shown_class(self, class: &MachineClass) -> ShownClass {
        (
            self.size.then_some(class.size),
            self.datacenter.then(|| class.datacenter.clone()),
            self.capacity_type.then_some(class.capacity_type),
        )
    }
}

/// The role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// Never touched.
    ControlPlane,
    /// A worker, requested by vpsie-autoscaler or not.
    Worker,
    /// Unknown: nothing in VPSie's reply shows it. Such a node is never touched.
    Unknown,
}

/// State of a VM, as far as VPSie shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmState {
    /// Being created or started.
    Provisioning,
    /// Running, or without a state: a listing without states lists existing nodes.
    Running,
    /// Stopped, suspended, locked or failed. It exists and is billed.
    Down,
    /// Being deleted.
    Terminating,
}
