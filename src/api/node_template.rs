#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{rules, text};

/// Labels and resources of the Nodes that neither the offer nor vpsie-autoscaler provides. Cluster Autoscaler
/// relies on them while the NodeGroup has no Nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeTemplate {
    /// Label `kubernetes.io/arch` of the Nodes. Default: that of its earlier Nodes, or else `amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = ["amd64", "arm64", null]))]
    pub architecture: Option<String>,
    /// Label `kubernetes.io/os` of the Nodes. Default: that of its earlier Nodes, or else `linux`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("enum" = ["linux", "windows", null]))]
    pub operating_system: Option<String>,
    /// Labels that other programs set on the Nodes, such as `region` by a CSI driver. vpsie-autoscaler does
    /// not set them.
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
    /// Devices of each Node by resource name, such as `nvidia.com/gpu: "1"`, and huge pages in bytes, such as
    /// `hugepages-2Mi: 1Gi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, text::Amount>", extend("maxProperties" = 16))]
    #[x_kube(validation = rules::resources_are_extended())]
    pub resources: BTreeMap<String, String>,
}
