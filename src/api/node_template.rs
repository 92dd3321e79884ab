#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{rules, text};

/// What the Nodes of a NodeGroup have in addition to their offer and to what vpsie-autoscaler sets. Cluster Autoscaler
/// relies on it while the NodeGroup has no Nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeTemplate {
    /// The label `kubernetes.io/arch` of its Nodes. If left out: what its Nodes showed, or else `amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = ["amd64", "arm64", null]))]
    pub architecture: Option<String>,
    /// The label `kubernetes.io/os` of its Nodes. If left out: what its Nodes showed, or else `linux`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = ["linux", "windows", null]))]
    pub operating_system: Option<String>,
    /// Labels that others give its Nodes, such as `region` by a CSI driver. vpsie-autoscaler does not set them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, text::LabelValue>", extend("maxProperties" = 64))]
    #[x_kube(
        validation = rules::labels_have_keys(),
        validation = rules::labels_leave_out(0),
        validation = rules::labels_leave_out(1),
        validation = rules::labels_leave_out(2),
        validation = rules::labels_leave_out(3)
    )]
    pub labels: BTreeMap<String, String>,
    /// Devices of each Node by resource name, such as `nvidia.com/gpu: "1"`, and bytes of huge pages, such as
    /// `hugepages-2Mi: 1Gi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, text::Amount>", extend("maxProperties" = 16))]
    #[x_kube(validation = rules::resources_are_extended())]
    pub resources: BTreeMap<String, String>,
}
