#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type and a path")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cost_limit::CostLimit;
use super::rules;

/// What holds for all NodeGroups together. There is one, `default`; without it nothing more holds.
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
    doc = "What holds for all NodeGroups together.",
    validation = rules::CONFIG_IS_DEFAULT,
    printcolumn(name = "MaxWorkers", type_ = "integer", json_path = ".spec.globalSettings.maxClusterWorkers"),
    printcolumn(name = "Active", type_ = "boolean", json_path = ".status.active"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalerConfigSpec {
    /// The settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_settings: Option<GlobalSettings>,
}

/// Settings for the whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GlobalSettings {
    /// Most machines over all NodeGroups. 0 stops all growth. If left out, only the NodeGroups' own maxima hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_cluster_workers: Option<i32>,
    /// The most that the machines of all NodeGroups may cost together. Nothing that exists is deleted for it. The
    /// stricter one holds where `--cost-limit-hourly` or `--cost-limit-monthly` says something, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_limit: Option<CostLimit>,
    /// How long a machine may wait for VPSie to accept it, and then for its VM to be listed, before it has failed,
    /// seconds. If left out, `--create-timeout` holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60))]
    pub node_ready_timeout_seconds: Option<i32>,
}

/// Whether the settings are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalerConfigStatus {
    /// The generation of the spec that is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When it came into force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<Time>,
    /// Whether it is in force.
    #[serde(default)]
    pub active: bool,
    /// What holds, in a sentence.
    #[serde(default)]
    pub message: String,
}
