//! Identifiers. Each is a type of its own, so that they cannot be confused.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::catalog::{CapacityType, DatacenterId, MachineClass, OfferRef, SizeId, text_id};

text_id! {
    /// Name of a NodeGroup, as in its `metadata.name`.
    NodeGroupName
}
text_id! {
    /// The UUID of a VPSie-managed Kubernetes cluster (`spec.resourceIdentifier`).
    ClusterId
}
text_id! {
    /// Name of a machine and of its VPSieNode: `<nodegroup>-<8 hex digits>`. It is never reused.
    MachineId
}
text_id! {
    /// The UUID of a VM at VPSie (`identifier`). A deletion names it.
    VmId
}

text_id! {
    /// `spec.providerID` of a Node, byte for byte.
    ProviderId
}

impl MachineId {
    /// The `Instance` id of a machine whose VM is unknown yet
    /// (docs/reference/cluster-autoscaler.md#target-size).
    pub fn placeholder(&self) -> String {
        format!("{PLACEHOLDER_PREFIX}{self}")
    }
}

impl VmId {
    /// The `Instance` id of a machine whose VM is known, byte-equal to the Node's `spec.providerID`
    /// (docs/reference/cluster-autoscaler.md#provider-id).
    pub fn provider_id(&self) -> String {
        format!("{PROVIDER_ID_PREFIX}{self}")
    }
}

/// Prefix of the `spec.providerID` of managed Nodes.
pub const PROVIDER_ID_PREFIX: &str = "vpsie://";

/// Prefix of placeholder ids. No UUID of a VM begins with it.
pub const PLACEHOLDER_PREFIX: &str = "vpsie://machine/";

/// A hostname in lower case: VPSie's API and Kubernetes differ in case
/// (docs/reference/vpsie-api.md#identifiers).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Hostname(Arc<str>);

/// Separates a hostname from the UUID of a VM that has the same hostname as another one.
const DUPLICATE: &str = ".duplicate-";

impl Hostname {
    /// The name of a VM whose hostname another VM has.
    pub fn duplicate(&self, id: &VmId) -> Self {
        Self::new(&format!("{self}{DUPLICATE}{id}"))
    }

    /// The hostname that VPSie knows.
    pub fn without_duplicate(&self) -> Self {
        match self.0.split_once(DUPLICATE) {
            Some((real, _)) => Self::new(real),
            None => self.clone(),
        }
    }

    /// Converts the name to lower case.
    pub fn new(name: &str) -> Self {
        Self(name.trim().to_lowercase().into())
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Hostname {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&String::deserialize(deserializer)?))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node group id of Cluster Autoscaler: `<nodegroup>/<datacenter>/<offer>/<on-demand|spot>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId {
    /// The NodeGroup that the pool belongs to.
    pub node_group: NodeGroupName,
    /// The datacenter of its VMs.
    pub datacenter: DatacenterId,
    /// The offer of its VMs.
    pub offer: OfferRef,
    /// On demand or spot.
    pub capacity_type: CapacityType,
}

/// A text is not a [`PoolId`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("pool id is {0:?}, must be <nodegroup>/<datacenter>/<offer>/<on-demand|spot>")]
pub struct PoolIdError(pub String);

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.node_group, self.datacenter, self.offer, self.capacity_type)
    }
}

impl fmt::Debug for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl PoolId {
    /// The class of its machines of a size.
    pub fn class(&self, size: SizeId) -> MachineClass {
        MachineClass { datacenter: self.datacenter.clone(), size, capacity_type: self.capacity_type }
    }
}

impl FromStr for PoolId {
    type Err = PoolIdError;

    fn from_str(text: &str) -> Result<Self, PoolIdError> {
        let fields: Vec<&str> = text.split('/').collect();
        let [node_group, datacenter, offer, capacity_type] = fields[..] else {
            return Err(PoolIdError(text.to_owned()));
        };
        let capacity_type = capacity_type.parse().map_err(|_| PoolIdError(text.to_owned()))?;
        if [node_group, datacenter, offer].contains(&"") {
            return Err(PoolIdError(text.to_owned()));
        }
        Ok(Self {
            node_group: node_group.into(),
            datacenter: datacenter.into(),
            offer: offer.into(),
            capacity_type,
        })
    }
}

impl Serialize for PoolId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PoolId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_id_is_its_text() {
        let text = "workers/ams1/s-2vcpu-4gb/on-demand";
        let id: PoolId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("{text:?}"));
    }

    #[test]
    fn pool_id_refuses_other_texts() {
        for text in ["", "a/b/c", "a/b/c/reserved", "a//c/spot", "a/b/c/spot/e"] {
            assert_eq!(text.parse::<PoolId>(), Err(PoolIdError(text.to_owned())));
        }
    }

    #[test]
    fn hostnames_are_case_blind() {
        assert_eq!(
            Hostname::new("HEL-Kubernetes-49ab-slave-1"),
            Hostname::new("hel-kubernetes-49ab-SLAVE-1")
        );
    }
}
