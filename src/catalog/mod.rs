//! Offers and their prices, as last read from VPSie.

mod ids;
pub(crate) mod quantity;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

pub(crate) use ids::text_id;
pub use ids::{CapacityType, DatacenterId, MachineClass, OfferRef, SizeId, UnknownCapacityType};

/// A size that can be rented in a datacenter, with its list price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// `KubeSizeID`.
    pub size: SizeId,
    /// What VPSie calls it, such as `s-2vcpu-4gb`.
    pub name: String,
    /// Its UUID, where the API gives one.
    pub identifier: Option<String>,
    /// Where it can be rented.
    pub datacenter: DatacenterId,
    /// On demand or spot. Catalogs of releases that knew on-demand offers only lack it.
    #[serde(default)]
    pub capacity_type: CapacityType,
    /// Nominal size.
    pub resources: Resources,
    /// List price, USD per month. None when the API gives none or one that is not above 0.
    pub monthly: Option<Decimal>,
    /// Price, USD per hour, as the API gives it. None when it gives none or one that is not above 0.
    pub hourly: Option<Decimal>,
}

/// Nominal size of an offer, or what a node can give to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// CPU, millicores.
    pub cpu_millis: u64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Disk (ephemeral storage), GiB.
    pub disk_gib: u64,
    /// Pods.
    pub pods: u32,
}

/// Pods that a kubelet takes unless told otherwise.
pub const DEFAULT_MAX_PODS: u32 = 110;

impl Offer {
    /// The class of its machines.
    pub fn class(&self) -> MachineClass {
        MachineClass {
            datacenter: self.datacenter.clone(),
            size: self.size,
            capacity_type: self.capacity_type,
        }
    }

    /// Whether that is its name, identifier or `KubeSizeID`, case-blind.
    pub fn answers_to(&self, wanted: &str) -> bool {
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
    /// The offer that a NodeGroup means: by name, identifier or `KubeSizeID`, case-blind.
    pub fn resolve(
        &self,
        datacenter: &DatacenterId,
        offer: &OfferRef,
        capacity_type: CapacityType,
    ) -> Option<&Offer> {
        let here = |o: &&Offer| o.datacenter == *datacenter && o.capacity_type == capacity_type;
        self.offers.iter().filter(here).find(|o| o.answers_to(offer.as_str()))
    }
}
