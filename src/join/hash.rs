//! The hash of a payload without its credential and names: machines with equal hashes run the same payload on the same
//! image and network.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ca::{ClusterCa, sha256};
use super::config::{CloudController, JoinConfig, JoinKind};
use crate::fleet::Taint;

/// The hash of a payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PayloadHash(String);

impl fmt::Display for PayloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..12).unwrap_or(&self.0))
    }
}

/// The parts of a payload that all machines of a NodeGroup share.
pub struct PayloadInput<'a> {
    /// The declared join.
    pub config: &'a JoinConfig,
    /// The VMs that run it, as far as they can keep it from joining.
    pub vms: &'a Value,
    /// The text of the template.
    pub template: &'a str,
    /// Labels of the NodeGroup.
    pub labels: &'a BTreeMap<String, String>,
    /// Taints of the NodeGroup.
    pub taints: &'a [Taint],
    /// Values of the user's variables.
    pub variables: &'a BTreeMap<String, SecretString>,
    /// A credential that all machines share.
    pub shared_credential: Option<&'a SecretString>,
    /// The CA of the cluster.
    pub ca: &'a ClusterCa,
}

impl PayloadInput<'_> {
    /// The hash of these parts.
    pub fn hash(&self) -> PayloadHash {
        let secret = |secret: &SecretString| sha256(secret.expose_secret().as_bytes());
        let variables: BTreeMap<_, _> =
            self.variables.iter().map(|(name, value)| (name, secret(value))).collect();
        let input = json!({
            "vms": self.vms,
            "kind": kind_name(self.config.kind),
            "endpoint": self.config.endpoint,
            "cloudProviderExternal": self.config.cloud_controller == CloudController::External,
            "kubernetesVersion": self.config.kubernetes_version,
            "template": self.template,
            "labels": self.labels,
            "taints": self.taints,
            "variables": variables,
            "credential": self.shared_credential.map(secret),
            "ca": self.ca.pem,
        });
        PayloadHash(sha256(input.to_string().as_bytes()))
    }
}

fn kind_name(kind: JoinKind) -> &'static str {
    match kind {
        JoinKind::Kubeadm => "kubeadm",
        JoinKind::K3s => "k3s",
        JoinKind::Rke2 => "rke2",
        JoinKind::Custom => "custom",
    }
}
