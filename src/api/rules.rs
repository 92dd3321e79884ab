//! Validation rules over several fields, in CEL, with the message of the API server.
//!
//! `validation::node_group` checks manifests from files by the same rules, except for transition rules.

use std::borrow::Cow;

use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{reserved, text};

type Text = (&'static str, &'static str);

/// Maximum length of a NodeGroup's name. Names of machines are 9 characters longer and must fit a label.
pub(crate) const NAME_MAX: usize = 54;

pub(super) const NAME_FITS: Text = (
    "self.metadata.name.size() <= 54",
    "metadata.name must be at most 54 characters long: machines are named after it",
);

pub(super) const SIZE_STAYS: Text = (
    "!has(self.status) || self.status.currentNodes == 0 && self.status.desiredNodes == 0 || \
     (has(self.spec.kubeSizeID) ? has(oldSelf.spec.kubeSizeID) && self.spec.kubeSizeID == oldSelf.spec.kubeSizeID \
     : !has(oldSelf.spec.kubeSizeID))",
    "spec.kubeSizeID cannot be changed while the NodeGroup has machines: create another NodeGroup, or scale this one \
     to 0 first",
);

pub(super) const MIN_AT_MOST_MAX: Text =
    ("self.minNodes <= self.maxNodes", "minNodes must be at most maxNodes: lower minNodes or raise maxNodes");

pub(super) const PREFERRED_IS_OFFERED: Text = (
    "!has(self.preferredInstanceType) || self.offeringIDs.exists(offer, offer.lowerAscii() == \
     self.preferredInstanceType.lowerAscii())",
    "preferredInstanceType must be one of offeringIDs: add it to offeringIDs, or remove it",
);

pub(super) const REGIONS_FIT: Text = (
    "!has(self.selfManaged) || !has(self.multiRegion) || !self.multiRegion.enabled || \
     !has(self.multiRegion.datacenterIDs) || self.multiRegion.minNodesPerRegion * \
     self.multiRegion.datacenterIDs.filter(datacenter, !has(self.multiRegion.weightedDistribution) || \
     self.multiRegion.weightedDistribution.size() == 0 || datacenter in self.multiRegion.weightedDistribution && \
     self.multiRegion.weightedDistribution[datacenter] > 0).size() <= self.maxNodes",
    "multiRegion.minNodesPerRegion times the number of its datacenterIDs (with weights: those above 0) must be at most \
     maxNodes: lower minNodesPerRegion or raise maxNodes",
);

pub(super) const DATACENTER_IS_LISTED: Text = (
    "!has(self.multiRegion) || !self.multiRegion.enabled || !has(self.multiRegion.datacenterIDs) || \
     self.multiRegion.datacenterIDs.size() == 0 || self.datacenterID in self.multiRegion.datacenterIDs",
    "datacenterID must be one of multiRegion.datacenterIDs: add it to datacenterIDs",
);

pub(super) const DATACENTER_STAYS: Text =
    ("self == oldSelf", "datacenterID cannot be changed: create another NodeGroup for another datacenter");

pub(super) const CLUSTER_STAYS: Text =
    ("self == oldSelf", "resourceIdentifier cannot be changed: create another NodeGroup for another cluster");

pub(super) const ONE_PRODUCT: Text = (
    "has(self.resourceIdentifier) != has(self.selfManaged)",
    "exactly one of resourceIdentifier (a VPSie-managed cluster) and selfManaged (plain VMs) must be set",
);

pub(super) const PRODUCT_STAYS: Text = (
    "has(self.selfManaged) == has(oldSelf.selfManaged)",
    "resourceIdentifier and selfManaged cannot replace each other: create another NodeGroup",
);

pub(super) const SELF_MANAGED_HAS_IMAGE: Text = (
    "!has(self.selfManaged) || has(self.osImageID) || has(self.selfManaged.imageIDs)",
    "selfManaged needs osImageID, or selfManaged.imageIDs for each datacenter",
);

pub(super) const CUSTOM_HAS_PAYLOAD: Text = (
    "self.joinKind != 'custom' || has(self.payload)",
    "joinKind custom needs payload: name the ConfigMap with the template",
);

pub(super) const TOKEN_KIND_FITS: Text = (
    "self.joinKind != 'rke2' || !self.endpoint.endsWith(':6443')",
    "joinKind rke2 joins at the supervisor: endpoint must have its port, 9345 by default",
);

pub(super) const VARIABLES_DIFFER: Text = (
    "self.all(a, self.exists_one(b, a.name == b.name))",
    "variables must have different names: remove duplicates",
);

pub(super) const VARIABLE_HAS_ONE_SOURCE: Text = (
    "[has(self.value), has(self.configMapKeyRef), has(self.secretKeyRef)].filter(set, set).size() == 1",
    "a variable must have exactly one of value, configMapKeyRef and secretKeyRef",
);

pub(super) const OFFERS_DIFFER: Text = (
    "self.all(a, self.exists_one(b, a.lowerAscii() == b.lowerAscii()))",
    "offeringIDs must not have duplicates (case does not matter): remove them",
);

pub(super) fn labels_have_keys() -> Rule {
    let rule = format!("self.all(key, {})", text::is_qualified_name("key"));
    Rule::new(rule).message(
        "the keys of labels must be 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends, \
         after an optional DNS name and '/'",
    )
}

/// Labels must not have the reserved keys of entry `n`.
pub(super) fn labels_leave_out(n: usize) -> Rule {
    let reserved = &reserved::LABELS[n];
    let message = format!("labels must not have {}: {}", reserved.list(), reserved.why);
    Rule::new(format!("!self.exists(key, {})", reserved.cel("key"))).message(&*message)
}

/// Taints must not have the reserved keys of entry `n`.
pub(super) fn taints_leave_out(n: usize) -> Rule {
    let reserved = &reserved::TAINTS[n];
    let message = format!("taints must not have {}: {}", reserved.list(), reserved.why);
    Rule::new(format!("!self.exists(taint, {})", reserved.cel("taint.key"))).message(&*message)
}

/// Keys of resources must be names of devices or huge pages. Others follow from the offer.
pub(super) fn resources_are_extended() -> Rule {
    let rule = format!(
        "self.all(key, key.matches('^hugepages-[0-9]{{1,6}}(Ki|Mi|Gi)$') || key.contains('/') && {} && \
         !key.matches('^([^/]*[.])?kubernetes[.]io/') && !key.startsWith('requests.'))",
        text::is_qualified_name("key")
    );
    Rule::new(rule).message(
        "the keys of resources must be names of devices with a DNS name and '/', such as nvidia.com/gpu, or \
         hugepages-2Mi or the like: cores, memory, disk and pods follow from the offer",
    )
}

pub(super) const TAINTS_DIFFER: Text = (
    "self.all(a, self.exists_one(b, a.key == b.key && a.effect == b.effect))",
    "taints must not have two entries with the same key and effect: remove one",
);

pub(super) const DATACENTERS_DIFFER: Text =
    ("self.all(a, self.exists_one(b, a == b))", "datacenterIDs must not have duplicates: remove them");

pub(super) const WEIGHTS_ARE_USED: Text = (
    "self.distributionStrategy == 'weighted' || !has(self.weightedDistribution) || \
     self.weightedDistribution.size() == 0",
    "weightedDistribution is only for distributionStrategy weighted: set that strategy, or remove the weights",
);

pub(super) const A_WEIGHT_IS_ABOVE_0: Text = (
    "!has(self.weightedDistribution) || self.weightedDistribution.size() == 0 || \
     self.weightedDistribution.exists(datacenter, self.weightedDistribution[datacenter] > 0)",
    "weightedDistribution must have a weight above 0: a datacenter with weight 0 does not grow",
);

pub(super) const WEIGHTS_ARE_COMPLETE: Text = (
    "self.distributionStrategy != 'weighted' || has(self.datacenterIDs) && has(self.weightedDistribution) && \
     self.datacenterIDs.size() > 0 && self.datacenterIDs.size() == self.weightedDistribution.size() && \
     self.datacenterIDs.all(datacenter, datacenter in self.weightedDistribution)",
    "distributionStrategy weighted needs weightedDistribution with a weight for each of datacenterIDs, and for no \
     other",
);

pub(super) const PRIMARY_IS_LISTED: Text = (
    "!has(self.primaryDatacenter) || has(self.datacenterIDs) && self.primaryDatacenter in self.datacenterIDs",
    "primaryDatacenter must be one of datacenterIDs: add it to datacenterIDs, or remove it",
);

pub(super) const CONFIG_IS_DEFAULT: Text = (
    "self.metadata.name == 'default'",
    "metadata.name must be default: there is one AutoscalerConfig in a cluster",
);

pub(super) const MACHINE_NAME_FITS: Text = (
    "self.metadata.name.size() <= 63",
    "metadata.name must be at most 63 characters long: it is the value of a label",
);

pub(super) const MACHINE_STAYS: Text = (
    "self.nodeGroupName == oldSelf.nodeGroupName && self.datacenterID == oldSelf.datacenterID && \
     self.instanceType == oldSelf.instanceType && self.capacityType == oldSelf.capacityType && \
     self.resourceIdentifier == oldSelf.resourceIdentifier",
    "nodeGroupName, datacenterID, instanceType, capacityType and resourceIdentifier cannot be changed: the VM \
     was requested with them. To delete the VM, delete the VPSieNode",
);

pub(super) const MACHINE_KEEPS_SIZE: Text = (
    "!has(oldSelf.kubeSizeID) || has(self.kubeSizeID) && self.kubeSizeID == oldSelf.kubeSizeID",
    "kubeSizeID cannot be changed: the VM is in the VPSie group of that size",
);

/// The weight of a datacenter.
pub(super) struct Weight;

impl JsonSchema for Weight {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Weight".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 1_000_000})
    }
}
