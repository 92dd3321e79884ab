#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type and a path")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cost_limit::CostLimit;
use super::{rules, text};

/// Limits for all NodeGroups together. The only object is `default`; without it there are no such limits.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "autoscaler.vpsie.com",
    version = "v1alpha1",
    kind = "AutoscalerConfig",
    plural = "autoscalerconfigs",
    shortname = "asc",
    category = "vpsie",
    status = "AutoscalerConfigStatus",
    derive = "PartialEq",
    doc = "Limits for all NodeGroups together. The only object is `default`.",
    validation = rules::CONFIG_IS_DEFAULT,
    printcolumn(name = "MaxWorkers", type_ = "integer", json_path = ".spec.globalSettings.maxClusterWorkers"),
    printcolumn(name = "Active", type_ = "boolean", json_path = ".status.active"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalerConfigSpec {
    /// Limits and timeouts of the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_settings: Option<GlobalSettings>,
}

/// Limits and timeouts of the whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GlobalSettings {
    /// Maximum number of machines of all NodeGroups together. 0 stops all growth. Default: only `maxNodes` of
    /// each NodeGroup applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_cluster_workers: Option<i32>,
    /// Maximum cost of the machines of all NodeGroups together. NodeGroups do not grow above it. Existing
    /// machines stay. If `--cost-limit-hourly` or `--cost-limit-monthly` is set, too, the lower limit
    /// applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_limit: Option<CostLimit>,
    /// Timeout of each step of a creation, in seconds: until VPSie accepts the request, and from then until
    /// VPSie lists the VM. A machine that exceeds it fails. Overrides `--create-timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60))]
    pub node_ready_timeout_seconds: Option<i32>,
}

/// Whether the limits are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalerConfigStatus {
    /// The generation of the spec that is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Time since when the spec is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Time>")]
    pub last_updated: Option<Time>,
    /// Whether the spec is in force.
    #[serde(default)]
    pub active: bool,
    /// Limits in force, or the reason why the spec is not in force.
    #[serde(default)]
    pub message: String,
}
