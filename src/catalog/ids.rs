//! Identifiers of sizes, offers and datacenters. Each has its own type, so that the compiler detects
//! a wrong one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares the type of a text identifier.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Wraps the text unchanged.
            pub fn new(text: impl Into<std::sync::Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

pub(crate) use text_id;

text_id! {
    /// A datacenter as the NodeGroup writes it (`spec.datacenterID`): a VPSie identifier.
    DatacenterId
}
text_id! {
    /// An offer as the NodeGroup writes it (an entry of `spec.offeringIDs`): a name, an identifier or a
    /// `KubeSizeID`. The catalog resolves it to a [`SizeId`].
    OfferRef
}

/// The numeric id of a size of managed Kubernetes workers: `KubeSizeID`, the `id` of an offer, the
/// `boxsize_id` of a VPSie group (docs/reference/vpsie-api.md#identifiers). VPSie has one group a size in
/// each cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SizeId(pub u64);

impl SizeId {
    /// Placeholder for an unknown size; VPSie has no size with this id.
    pub const UNKNOWN: Self = Self(0);

    /// The size of a plan of plain VMs. Plans have no numeric id that holds in all datacenters, so it is derived from the
    /// plan's name, ignoring case (FNV-1a). It fits a JSON number, and differs from every `KubeSizeID` (2^52 and above).
    pub fn from_plan(name: &str) -> Self {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = name.bytes().map(|byte| byte.to_ascii_lowercase()).fold(0xcbf2_9ce4_8422_2325, mix);
        Self(hash >> 12 | 1 << 52)
    }

    /// The size, unless it is unknown. Labels and statuses use this, so that they never show the placeholder.
    pub fn known(self) -> Option<Self> {
        (self != Self::UNKNOWN).then_some(self)
    }
}

impl fmt::Display for SizeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Capacity type. VPSie may interrupt a spot VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CapacityType {
    /// The VM exists until it is deleted.
    #[default]
    OnDemand,
    /// The VM is cheaper, and VPSie may interrupt it.
    Spot,
}

impl CapacityType {
    /// `on-demand` or `spot`, as in pool ids and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        }
    }
}

impl std::str::FromStr for CapacityType {
    type Err = UnknownCapacityType;

    fn from_str(text: &str) -> Result<Self, UnknownCapacityType> {
        match text {
            "on-demand" => Ok(Self::OnDemand),
            "spot" => Ok(Self::Spot),
            _ => Err(UnknownCapacityType(text.to_owned())),
        }
    }
}

/// A text that is not a capacity type.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a capacity type: must be on-demand or spot")]
pub struct UnknownCapacityType(pub String);

impl fmt::Display for CapacityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A class of machines. All machines of a class draw on the same capacity of VPSie, so matching, shortages
/// and backoff go by class (docs/designs/machine-class.md).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineClass {
    /// Datacenter of its VMs.
    pub datacenter: DatacenterId,
    /// Size of its VMs.
    pub size: SizeId,
    /// Capacity type of its VMs.
    pub capacity_type: CapacityType,
}
