#![allow(unreachable_pub, reason = "KubeSchema repeats the type inside a function")]

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, text};

/// Plain VPSie VMs that join a self-managed cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::CUSTOM_HAS_PAYLOAD, validation = rules::TOKEN_KIND_FITS)]
pub struct SelfManaged {
    /// Program by which the VMs join the cluster. It selects the default payload.
    pub join_kind: JoinKind,
    /// Address of the API server (RKE2: of the supervisor, port 9345) that VMs reach at their first boot, as
    /// `host:port`.
    #[schemars(with = "text::Endpoint")]
    pub endpoint: String,
    /// Channel by which VPSie passes the payload to a VM: `script` (a VPSie script, deleted after the join), `userData`
    /// (the field `userData` of the request).
    #[serde(default)]
    pub delivery: Delivery,
    /// Template of the payload, the script that a VM runs at its first boot. Default: the template of `joinKind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// Variables of the payload in addition to those of vpsie-autoscaler.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::VARIABLES_DIFFER)]
    pub variables: Vec<Variable>,
    /// Key of a Secret with one join credential for all machines. It is readable on every VM, and valid until it is
    /// replaced. Default: a bootstrap token for each request, which expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_credential: Option<KeyRef>,
    /// Cloud controller that sets `spec.providerID` of the Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_controller: Option<CloudController>,
    /// Whether plans of category A may be used. VPSie shares their memory between VMs, so Nodes can have less than the plan
    /// shows.
    #[serde(default)]
    pub allow_shared_memory: bool,
    /// OS images of the VMs, by datacenter. Default: `osImageID`.
    #[serde(default, rename = "imageIDs", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, text::Identifier>", extend("maxProperties" = 32))]
    pub image_ids: BTreeMap<String, String>,
    /// Networks of the VMs, by datacenter. Default: a public IPv4 address and a private address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub networks: BTreeMap<String, Network>,
}

/// Program by which a VM joins a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JoinKind {
    /// `kubeadm join`.
    Kubeadm,
    /// The k3s agent.
    K3s,
    /// The RKE2 agent.
    Rke2,
    /// Another program. Needs `payload`.
    Custom,
}

/// Channel by which VPSie passes the payload to a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Delivery {
    /// A VPSie script, deleted after the join.
    #[default]
    Script,
    /// The field `userData` of the request.
    UserData,
}

/// Cloud controller that sets `spec.providerID` of the Nodes: `none` (vpsie-autoscaler sets it), `external` (kubelet
/// waits for it: `--cloud-provider=external`), `embedded` (part of the distribution). Default: `embedded` for k3s and
/// rke2, else `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloudController {
    /// No cloud controller: vpsie-autoscaler sets `spec.providerID`.
    None,
    /// An external cloud controller. Kubelet waits for it (`--cloud-provider=external`).
    External,
    /// The cloud controller of the distribution.
    Embedded,
}

/// Template of a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    /// Key of the ConfigMap with the template, in the namespace of the NodeGroup.
    pub config_map_key_ref: KeyRef,
}

/// A key of a ConfigMap or Secret in the namespace of the NodeGroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the object.
    #[schemars(with = "text::ObjectName")]
    pub name: String,
    /// Key in its data.
    #[schemars(with = "text::Key")]
    pub key: String,
}

/// A variable of a payload. It has exactly one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::VARIABLE_HAS_ONE_SOURCE)]
pub struct Variable {
    /// Name in the template, as `vars.<name>`.
    #[schemars(with = "text::VariableName")]
    pub name: String,
    /// Value of the variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// Key of a ConfigMap with the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
    /// Key of a Secret with the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
}

/// Network of the VMs in a datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// VPC that VMs are attached to after their creation.
    #[serde(default, rename = "vpcID", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Identifier>")]
    pub vpc_id: Option<String>,
    /// Firewall group that VMs are attached to after their creation.
    #[serde(default, rename = "firewallGroupID", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<text::Identifier>")]
    pub firewall_group_id: Option<String>,
    /// Whether VMs have a public IPv4 address.
    #[serde(default = "super::policies::yes", rename = "publicIPv4")]
    pub public_ipv4: bool,
    /// Whether VMs have a public IPv6 address.
    #[serde(default, rename = "publicIPv6")]
    pub public_ipv6: bool,
    /// Whether VMs have a private address.
    #[serde(default = "super::policies::yes", rename = "privateIP")]
    pub private_ip: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            vpc_id: None,
            firewall_group_id: None,
            public_ipv4: true,
            public_ipv6: false,
            private_ip: true,
        }
    }
}
