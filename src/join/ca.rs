//! The CA of the cluster's API server, by which a VM verifies the server before it sends its credential.

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::parse_x509_certificate;

/// The CA of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterCa {
    /// Its certificates as PEM, as the API server stores them.
    pub pem: String,
    /// `sha256:` and the SHA-256 hash of the public key (SubjectPublicKeyInfo) of each certificate, for kubeadm. During a
    /// rotation there are several.
    pub key_hashes: Vec<String>,
    /// The hash in tokens of k3s and RKE2: of the file if it has one certificate, and of the root certificate otherwise.
    pub pem_hash: String,
}

/// The CA of the cluster is unknown. Without it, a VM could not verify the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// The kubeconfig has no readable CA.
    #[error(
        "the kubeconfig of ConfigMap kube-public/cluster-info has no readable certificate-authority-data"
    )]
    NoCaInClusterInfo,
    /// The text has no certificate.
    #[error("the CA of the cluster has no certificate")]
    NoCertificate,
    /// A certificate cannot be read.
    #[error("a certificate of the cluster's CA cannot be read")]
    Unreadable,
}

impl ClusterCa {
    /// Reads PEM text.
    pub fn parse(pem: &str) -> Result<Self, CaError> {
        let encoded = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let encoded = encoded.map_err(|_| CaError::Unreadable)?;
        let parse = |der| parse_x509_certificate(der).map(|(_, certificate)| certificate);
        let certificates = encoded.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|_| CaError::Unreadable)?;
        if certificates.is_empty() {
            return Err(CaError::NoCertificate);
        }
        let key_hash = |certificate: &X509Certificate<'_>| {
            format!("sha256:{}", sha256(certificate.tbs_certificate.subject_pki.raw))
        };
        let hashed = match root_of_bundle(&certificates) {
            Some(root) => &encoded[root],
            None => pem.as_bytes(),
        };
        Ok(Self {
            pem: pem.to_owned(),
            key_hashes: certificates.iter().map(key_hash).collect(),
            pem_hash: sha256(hashed),
        })
    }
}

/// The CA in the kubeconfig of the ConfigMap `cluster-info`.
pub fn ca_of_cluster_info(kubeconfig: &str) -> Result<ClusterCa, CaError> {
    let kubeconfig: Kubeconfig =
        serde_saphyr::from_str(kubeconfig).map_err(|_| CaError::NoCaInClusterInfo)?;
    let cluster = kubeconfig.clusters.into_iter().next().ok_or(CaError::NoCaInClusterInfo)?;
    let pem = BASE64.decode(cluster.cluster.certificate_authority_data.trim().as_bytes());
    let pem = pem.ok().and_then(|pem| String::from_utf8(pem).ok()).ok_or(CaError::NoCaInClusterInfo)?;
    ClusterCa::parse(&pem)
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(rename = "certificate-authority-data")]
    certificate_authority_data: String,
}

/// The position of the root that the first certificate of a bundle leads to. None for one certificate, and if the bundle
/// has no such root: then k3s hashes the file.
fn root_of_bundle(certificates: &[X509Certificate<'_>]) -> Option<usize> {
    let mut at = 0;
    for _ in certificates {
        let current = certificates.get(at)?;
        if at > 0 && is_root(current) {
            return Some(at);
        }
        let issuer = |(position, next): &(usize, &X509Certificate<'_>)| {
            let (authority, _) = key_ids(current);
            let (_, issuer) = key_ids(next);
            *position > 0
                && *position != at
                && next.subject() == current.issuer()
                && (authority.is_none() || authority == issuer)
        };
        at = certificates.iter().enumerate().find(issuer)?.0;
    }
    None
}

/// Whether k3s counts the certificate as a root: its issuer's key is its own, or is not named.
fn is_root(certificate: &X509Certificate<'_>) -> bool {
    let (authority, own) = key_ids(certificate);
    authority.is_none() || authority == own
}

/// The identifiers of the issuer's key and of the own key.
fn key_ids<'a>(certificate: &'a X509Certificate<'_>) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
    let (mut authority, mut own) = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(key) => {
                authority = key.key_identifier.as_ref().map(|id| id.0);
            }
            ParsedExtension::SubjectKeyIdentifier(key) => own = Some(key.0),
            _ => {}
        }
    }
    (authority, own)
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}
