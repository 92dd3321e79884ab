//! Offers and their prices, as last read from VPSie.

mod ids;
mod labels;
pub(crate) mod quantity;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

pub(crate) use ids::text_id;
pub use ids::{CapacityType, DatacenterId, MachineClass, OfferRef, SizeId, UnknownCapacityType};
pub(crate) use labels::{CAPACITY_TYPE_LABELS, is_capacity_type_label};

/// A size that can be rented in a datacenter, with its list price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// `KubeSizeID`.
    pub size: SizeId,
    /// VPSie's name, such as `s-2vcpu-4gb`.
    pub name: String,
    /// UUID, if the API shows one.
    pub identifier: Option<String>,
    /// Datacenter.
    pub datacenter: DatacenterId,
    /// Capacity type. Absent in catalogs of releases with on-demand offers only.
    #[serde(default)]
    pub capacity_type: CapacityType,
    /// Nominal size.
    pub resources: Resources,
    /// List price, USD per month. None if the API shows none above 0.
    pub monthly: Option<Decimal>,
    /// List price, USD per hour. None if the API shows none above 0.
    pub hourly: Option<Decimal>,
}

/// Nominal resources of an offer, or allocatable resources of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// CPU, millicores.
    pub cpu_millis: u64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Disk (ephemeral storage), GiB.
    pub disk_gib: u64,
    /// Number of pods.
    pub pods: u32,
}

impl Resources {
    /// Whether each resource is at least that of `needed`.
    pub fn can_hold(self, needed: Self) -> bool {
        self.cpu_millis >= needed.cpu_millis
            && self.memory_mib >= needed.memory_mib
            && self.disk_gib >= needed.disk_gib
            && self.pods >= needed.pods
    }
}

/// Default maximum pods of a kubelet.
pub const DEFAULT_MAX_PODS: u32 = 110;

impl Offer {
    /// Class of its machines.
    pub fn class(&self) -> MachineClass {
        MachineClass {
            datacenter: self.datacenter.clone(),
            size: self.size,
            capacity_type: self.capacity_type,
        }
    }

    /// Whether this is its name, UUID or `KubeSizeID`, ignoring case.
    pub fn is_named(&self, wanted: &str) -> bool {
        self.name.eq_ignore_ascii_case(wanted)
            || self.identifier.as_deref().is_some_and(|id| id.eq_ignore_ascii_case(wanted))
            || wanted.parse() == Ok(self.size.0)
    }
}

/// All offers, as last read. Empty only before the first read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Catalog {
    /// The offers of every datacenter.
    pub offers: Vec<Offer>,
}

impl Catalog {
    /// Finds the offer of a NodeGroup by name, UUID or `KubeSizeID`, ignoring case.
    pub fn resolve(
        &self,
        datacenter: &DatacenterId,
        offer: &OfferRef,
        capacity_type: CapacityType,
    ) -> Option<&Offer> {
        let here = |o: &&Offer| o.datacenter == *datacenter && o.capacity_type == capacity_type;
        self.offers.iter().filter(here).find(|o| o.is_named(offer.as_str()))
    }
}
