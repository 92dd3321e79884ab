//! The declared join of the VMs of a NodeGroup, after validation.

use std::collections::BTreeMap;

/// The join of the VMs of a NodeGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinConfig {
    /// The program by which they join.
    pub kind: JoinKind,
    /// The API server (RKE2: the supervisor), as `host:port`.
    pub endpoint: String,
    /// The template of the payload.
    pub template: PayloadTemplate,
    /// Variables of the user, by name.
    pub variables: BTreeMap<String, VariableSource>,
    /// The credential of the join.
    pub credential: Credential,
    /// The cloud controller of the cluster.
    pub cloud_controller: CloudController,
    /// `spec.kubernetesVersion`, such as `v1.33.2`.
    pub kubernetes_version: Option<String>,
}

/// Program by which a VM joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinKind {
    /// `kubeadm join`.
    Kubeadm,
    /// The k3s agent.
    K3s,
    /// The RKE2 agent.
    Rke2,
    /// Another program.
    Custom,
}

impl JoinKind {
    /// Its value in `selfManaged.joinKind`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kubeadm => "kubeadm",
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
            Self::Custom => "custom",
        }
    }
}

/// The template of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayloadTemplate {
    /// The one of the join kind.
    BuiltIn,
    /// A key of a ConfigMap.
    ConfigMap(ObjectKey),
}

/// A key of an object in the namespace of the NodeGroups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Name of the object.
    pub name: String,
    /// Key in its data.
    pub key: String,
}

/// The source of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VariableSource {
    /// The NodeGroup.
    Value(String),
    /// A key of a ConfigMap.
    ConfigMap(ObjectKey),
    /// A key of a Secret.
    Secret(ObjectKey),
}

/// The credential of a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A bootstrap token for each request.
    BootstrapToken,
    /// A key of a Secret, for all requests.
    Shared(ObjectKey),
}

/// Cloud controller of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudController {
    /// None sets `spec.providerID`: vpsie-autoscaler does.
    None,
    /// An external one sets it, and kubelet waits for it.
    External,
    /// One inside the distribution sets it.
    Embedded,
}
