//! The declared VMs of a NodeGroup, after validation.

use std::collections::BTreeMap;

use crate::catalog::DatacenterId;

/// The properties of the VMs of a NodeGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmGroup {
    /// Image and network in each datacenter.
    pub places: BTreeMap<DatacenterId, VmPlace>,
    /// VPSie project. None: the default project.
    pub project: Option<String>,
    /// SSH key. VPSie accepts one.
    pub ssh_key: Option<String>,
    /// Tags, for users.
    pub tags: Vec<String>,
    /// Notes of the user, which follow the owner marker.
    pub notes: Option<String>,
    /// Channel of the payload.
    pub delivery: Delivery,
    /// Whether plans with shared memory (category A) are offers.
    pub allow_shared_memory: bool,
}

impl VmGroup {
    /// Whether its VMs in the datacenter are attached to a VPC or a firewall group.
    pub fn has_network(&self, datacenter: &DatacenterId) -> bool {
        self.places.get(datacenter).is_some_and(|place| place.network.needs_attachment())
    }
}

/// Image and network of VMs in a datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPlace {
    /// OS image.
    pub image: String,
    /// Network.
    pub network: VmNetwork,
}

/// Network of VMs in a datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmNetwork {
    /// VPC that VMs are attached to after their creation.
    pub vpc: Option<String>,
    /// Firewall group that VMs are attached to after their creation.
    pub firewall_group: Option<String>,
    /// Whether VMs have a public IPv4 address.
    pub public_ipv4: bool,
    /// Whether VMs have a public IPv6 address.
    pub public_ipv6: bool,
    /// Whether VMs have a private address.
    pub private_ip: bool,
}

impl VmNetwork {
    /// Whether VMs are attached to a VPC or a firewall group.
    pub(super) fn needs_attachment(&self) -> bool {
        self.vpc.is_some() || self.firewall_group.is_some()
    }
}

/// Channel by which VPSie passes the payload to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A VPSie script.
    Script,
    /// The field `userData` of the request.
    UserData,
}
