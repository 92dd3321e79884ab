//! The join that a payload asks for, and the forms of its values. Pure.

use std::collections::BTreeMap;
use std::fmt;

use super::plan_error::PlanError;
use crate::simulator::plain::Hidden;

/// A join of a cluster, as a payload describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinPlan {
    /// The kind of the cluster.
    pub kind: JoinKind,
    /// URL of the API server.
    pub endpoint: String,
    /// The bootstrap token.
    pub token: BootstrapToken,
    /// Hashes, one of which the CA of the API server must have.
    pub ca_hashes: Vec<CaHash>,
    /// Name of the Node. None: the hostname.
    pub node_name: Option<String>,
    /// Labels of the first version of the Node, without the kubelet's own.
    pub labels: BTreeMap<String, String>,
    /// Taints of the first version of the Node.
    pub taints: Vec<NodeTaint>,
    /// `--provider-id` of the kubelet.
    pub provider_id: Option<String>,
    /// Whether the kubelet waits for an external cloud provider.
    pub external_cloud_provider: bool,
}

/// The kind of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// kubeadm.
    Kubeadm,
    /// k3s.
    K3s,
    /// RKE2.
    Rke2,
}

/// A bootstrap token, `id.secret`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapToken {
    /// Its public part.
    pub id: String,
    /// Its secret part.
    pub secret: Hidden,
}

/// A hash of a CA.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CaHash {
    /// SHA-256 of the public key of a certificate, as kubeadm has it.
    PublicKey([u8; 32]),
    /// SHA-256 of the PEM text of the CA, as k3s has it.
    Bundle([u8; 32]),
}

impl fmt::Debug for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, hash) = match self {
            Self::PublicKey(hash) => ("PublicKey", hash),
            Self::Bundle(hash) => ("Bundle", hash),
        };
        write!(f, "{name}({})", data_encoding::HEXLOWER.encode(hash))
    }
}

/// A taint of a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTaint {
    /// Key.
    pub key: String,
    /// Value. None: no value.
    pub value: Option<String>,
    /// Effect.
    pub effect: String,
}

impl JoinPlan {
    /// The provider id of the Node at its registration.
    pub fn provider_id(&self, node: &str) -> Option<String> {
        let of_kind = match self.kind {
            JoinKind::Kubeadm => None,
            JoinKind::K3s => Some(format!("k3s://{node}")),
            JoinKind::Rke2 => Some(format!("rke2://{node}")),
        };
        self.provider_id.clone().or(of_kind)
    }
}

pub(super) fn value_error(field: &'static str, problem: impl Into<String>) -> PlanError {
    PlanError::Value { field, problem: problem.into() }
}

/// A token `id.secret`, as Kubernetes defines bootstrap tokens.
pub(super) fn token(field: &'static str, text: &str) -> Result<BootstrapToken, PlanError> {
    let is_part = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    match text.split_once('.') {
        Some((id, secret)) if is_part(id, 6) && is_part(secret, 16) => {
            Ok(BootstrapToken { id: id.to_owned(), secret: Hidden::from(secret.to_owned()) })
        }
        _ => Err(value_error(field, "must be a bootstrap token, 6 and 16 lower-case letters or digits")),
    }
}

/// A SHA-256 in hexadecimal.
pub(super) fn sha256(field: &'static str, hex: &str) -> Result<[u8; 32], PlanError> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
    let hash = bytes.and_then(|bytes| bytes.try_into().ok());
    hash.ok_or_else(|| value_error(field, "must be 64 hexadecimal digits"))
}

/// Labels `key=value`, separated by commas.
pub(super) fn add_labels(
    field: &'static str,
    text: &str,
    labels: &mut BTreeMap<String, String>,
) -> Result<(), PlanError> {
    for label in text.split(',').filter(|label| !label.is_empty()) {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| value_error(field, format!("{label:?} must be key=value")))?;
        labels.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(())
}

/// Taints `key=value:effect` or `key:effect`, separated by commas.
pub(super) fn add_taints(
    field: &'static str,
    text: &str,
    taints: &mut Vec<NodeTaint>,
) -> Result<(), PlanError> {
    for taint in text.split(',').filter(|taint| !taint.is_empty()) {
        let malformed = || value_error(field, format!("{taint:?} must be key=value:effect"));
        let (left, effect) = taint.rsplit_once(':').ok_or_else(malformed)?;
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return Err(malformed());
        }
        let (key, value) = left.split_once('=').map_or((left, None), |(key, value)| (key, Some(value)));
        let value = value.filter(|value| !value.is_empty()).map(ToOwned::to_owned);
        taints.push(NodeTaint { key: key.to_owned(), value, effect: effect.to_owned() });
    }
    Ok(())
}

/// Applies an argument of the kubelet.
pub(super) fn apply_kubelet_argument(plan: &mut JoinPlan, name: &str, value: &str) -> Result<(), PlanError> {
    match name {
        "node-labels" => add_labels("node-labels", value, &mut plan.labels)?,
        "register-with-taints" => add_taints("register-with-taints", value, &mut plan.taints)?,
        "provider-id" => plan.provider_id = Some(value.to_owned()),
        "hostname-override" => plan.node_name = Some(value.to_owned()),
        "cloud-provider" => match value {
            "" => {}
            "external" => plan.external_cloud_provider = true,
            other => {
                return Err(value_error(
                    "cloud-provider",
                    format!("a kubelet does not start with {other:?}"),
                ));
            }
        },
        _ => {}
    }
    Ok(())
}

/// Parses YAML. Errors show the place, not the text, which has secrets.
pub(super) fn yaml<T: serde::de::DeserializeOwned>(path: &str, text: &str) -> Result<T, PlanError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let at = error.location().map_or_else(String::new, |at| format!(" in line {}", at.line()));
        PlanError::Invalid { path: path.to_owned(), at }
    })
}
