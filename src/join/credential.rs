//! The join credential in the form that the program of the VM expects.

use secrecy::{ExposeSecret as _, SecretString};

use super::ca::ClusterCa;
use super::config::JoinKind;

/// Prefix of the tokens of k3s and RKE2 that pin the server's CA: `K10<CA hash>::<credential>`.
const PINNED: &str = "K10";

/// A join credential cannot be used. No message has its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// A server token gives full access to the cluster.
    #[error(
        "the join credential is a server token, which makes its holder an administrator of the cluster: use a bootstrap \
         token or an agent token"
    )]
    ServerToken,
    /// It pins another CA.
    #[error("the join credential names another CA than the cluster has: create the token again")]
    OtherCa,
    /// It is not a bootstrap token, and kubeadm accepts no other credential.
    #[error(
        "the join credential is not a bootstrap token (<6 characters>.<16 characters>), which kubeadm needs"
    )]
    NotBootstrapToken,
    /// It is empty, or has characters that no credential has.
    #[error("the join credential is empty, or has spaces or line breaks")]
    Malformed,
}

/// The token for the program of the VM: `<id>.<secret>` for kubeadm, and `K10<CA hash>::<credential>` for k3s and RKE2,
/// whose agents do not verify the server without the hash. `credential` is a bootstrap token, or the shared
/// credential of the user.
pub fn join_token(
    kind: JoinKind,
    credential: &SecretString,
    ca: &ClusterCa,
) -> Result<SecretString, CredentialError> {
    let text = credential.expose_secret().trim();
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(CredentialError::Malformed);
    }
    if text.contains("::server:") {
        return Err(CredentialError::ServerToken);
    }
    match kind {
        JoinKind::Kubeadm if !is_bootstrap_token(text) => Err(CredentialError::NotBootstrapToken),
        JoinKind::Kubeadm | JoinKind::Custom => Ok(text.into()),
        JoinKind::K3s | JoinKind::Rke2 => pin(text, &ca.pem_hash),
    }
}

fn pin(text: &str, hash: &str) -> Result<SecretString, CredentialError> {
    if let Some((pinned, _)) = text.strip_prefix(PINNED).and_then(|rest| rest.split_once("::")) {
        return if pinned == hash { Ok(text.into()) } else { Err(CredentialError::OtherCa) };
    }
    let user = if is_bootstrap_token(text) { "" } else { "node:" };
    Ok(format!("{PINNED}{hash}::{user}{text}").into())
}

fn is_bootstrap_token(text: &str) -> bool {
    let is_of = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    text.split_once('.').is_some_and(|(id, secret)| is_of(id, 6) && is_of(secret, 16))
}
