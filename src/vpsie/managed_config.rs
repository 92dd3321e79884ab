//! The cluster that a [`ManagedBackend`](super::ManagedBackend) serves, and the rules that follow for NodeGroups.

use crate::catalog::DatacenterId;
use crate::fleet::ClusterId;

/// A VPSie-managed cluster. All its nodes are in one datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The datacenter whose offers are used.
    pub datacenter: DatacenterId,
}

/// A field that has the same value in all NodeGroups of a managed cluster.
#[derive(Debug)]
pub struct CommonField {
    /// Its path in the NodeGroup.
    pub path: &'static str,
    /// The reason of the rule, for errors.
    pub reason: &'static str,
    /// Its value.
    pub value: fn(&ManagedConfig) -> &str,
}

impl ManagedConfig {
    /// The fields that all NodeGroups have in common.
    pub const COMMON_FIELDS: &[CommonField] = &[
        CommonField {
            path: "spec.resourceIdentifier",
            reason: "one vpsie-autoscaler serves one cluster",
            value: |config| config.cluster.as_str(),
        },
        CommonField {
            path: "spec.datacenterID",
            reason: "a managed cluster is in one datacenter",
            value: |config| config.datacenter.as_str(),
        },
    ];

    /// The first field that differs from the other NodeGroups. None: the NodeGroup can be served with them.
    pub fn difference(&self, others: &Self) -> Option<&'static CommonField> {
        Self::COMMON_FIELDS.iter().find(|field| (field.value)(self) != (field.value)(others))
    }
}
