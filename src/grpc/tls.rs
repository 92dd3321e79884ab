//! TLS for Cluster Autoscaler (docs/reference/cluster-autoscaler.md#transport). It verifies our certificate
//! against the host that it dials, and shows its own certificate to a cloud provider, none to an expander.
//! Changed files apply to new connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use x509_parser::parse_x509_certificate;

use super::metrics::Expiry;

/// Time between comparisons of the files.
pub(super) const RELOAD: Duration = Duration::from_secs(10);

/// The PEM files of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, then its intermediates. It must name the host that Cluster Autoscaler dials.
    pub cert: PathBuf,
    /// The private key of `cert`.
    pub key: PathBuf,
    /// The authorities of client certificates. None: clients show no certificate, as Cluster Autoscaler to an
    /// expander (docs/reference/cluster-autoscaler.md#grpc-expander).
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// All three files of mTLS, or none for plaintext.
    pub fn from_parts(
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> Result<Option<Self>, TlsError> {
        match (cert, key, client_ca) {
            (None, None, None) => Ok(None),
            (Some(cert), Some(key), client_ca @ Some(_)) => Ok(Some(Self { cert, key, client_ca })),
            (cert, key, client_ca) => {
                let missing = [
                    ("certificate", cert.is_none()),
                    ("private key", key.is_none()),
                    ("client CA", client_ca.is_none()),
                ];
                let missing: Vec<&str> =
                    missing.into_iter().filter_map(|(name, missing)| missing.then_some(name)).collect();
                Err(TlsError::Partial { missing: missing.join(" and ") })
            }
        }
    }
}

/// TLS cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Some files are named, others are not.
    #[error(
        "TLS is incomplete: the file of the {missing} is missing; set certificate, private key and client CA, or \
         none of them"
    )]
    Partial {
        /// The missing files.
        missing: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file has invalid content.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
}

/// The current TLS configuration and its files.
pub(super) struct Tls {
    files: TlsFiles,
    expiry: Expiry,
    current: ArcSwap<TlsState>,
}

struct TlsState {
    content: PemFiles,
    config: Arc<ServerConfig>,
}

#[derive(PartialEq, Eq)]
struct PemFiles {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// Reads the files.
    pub(super) async fn load(files: TlsFiles, expiry: Expiry) -> Result<Self, TlsError> {
        let content = PemFiles::read(&files).await?;
        let config = server_config(&files, &content, &expiry)?;
        Ok(Self { files, expiry, current: ArcSwap::from_pointee(TlsState { content, config }) })
    }

    /// An acceptor with the current configuration.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.current.load().config.clone().into()
    }

    /// Reads the files again. Returns true iff they changed. After an error the previous files stay in use.
    pub(super) async fn reload(&self) -> Result<bool, TlsError> {
        let content = PemFiles::read(&self.files).await?;
        if content == self.current.load().content {
            return Ok(false);
        }
        let config = server_config(&self.files, &content, &self.expiry)?;
        self.current.store(Arc::new(TlsState { content, config }));
        Ok(true)
    }

    /// Records the expiry of a client's certificates.
    pub(super) fn record_client(&self, client: Option<&[CertificateDer<'_>]>) {
        if let Some(until) = client.and_then(expires) {
            self.expiry.client(until);
        }
    }

    /// Reloads the files periodically, without end.
    pub(super) async fn watch(&self) {
        let mut failing = false;
        loop {
            tokio::time::sleep(RELOAD).await;
            match self.reload().await {
                Ok(changed) => {
                    if changed {
                        tracing::info!(cert = %self.files.cert.display(), "TLS files changed; new connections use them");
                    }
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "cannot use the TLS files; the previous ones stay in use");
                    }
                    failing = true;
                }
            }
        }
    }
}

impl PemFiles {
    async fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let client_ca = match &files.client_ca {
            Some(file) => Some(read(file).await?),
            None => None,
        };
        Ok(Self { cert: read(&files.cert).await?, key: read(&files.key).await?, client_ca })
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path).await.map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn server_config(
    files: &TlsFiles,
    content: &PemFiles,
    expiry: &Expiry,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match (&files.client_ca, &content.client_ca) {
        (Some(file), Some(pem)) => verifier(file, pem, provider.clone())?,
        _ => WebPkiClientVerifier::no_client_auth(),
    };
    let key = PrivateKeyDer::from_pem_slice(&content.key)
        .map_err(|_| wrong(&files.key, "contains no private key in PEM"))?;
    let certificates = certificates(&files.cert, &content.cert)?;
    let until = expires(&certificates);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&files.cert, error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .map_err(|error| wrong(&files.cert, format!("does not match {}: {error}", files.key.display())))?;
    config.alpn_protocols.push(b"h2".to_vec());
    if let Some(until) = until {
        expiry.server(until);
    }
    Ok(Arc::new(config))
}

fn verifier(
    file: &Path,
    pem: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(file, pem)? {
        roots.add(authority).map_err(|error| wrong(file, error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| wrong(file, error))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(path, format!("is not PEM: {error}")))?;
    if certificates.is_empty() {
        Err(wrong(path, "contains no certificate in PEM"))
    } else {
        Ok(certificates)
    }
}

/// The earliest expiry, seconds since 1970. None if no certificate can be read.
fn expires(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let of = |certificate: &CertificateDer<'_>| {
        let (_, certificate) = parse_x509_certificate(certificate).ok()?;
        Some(certificate.validity().not_after.timestamp())
    };
    chain.iter().filter_map(of).min()
}

fn wrong(path: &Path, problem: impl std::fmt::Display) -> TlsError {
    TlsError::Content { path: path.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

    use super::super::metrics::GrpcMetrics;
    use super::*;
    use crate::telemetry::Registry;

    /// Signs certificates.
    pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        pub(crate) fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        pub(crate) fn pem(&self) -> String {
            self.0.pem()
        }

        /// A certificate for the name, and its key. That of a server holds until 2098, others until 2099.
        pub(crate) fn leaf(&self, name: &str) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.not_after = date_time_ymd(if name == "localhost" { 2098 } else { 2099 }, 1, 1);
            (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
        }
    }

    fn expiry() -> Expiry {
        GrpcMetrics::register(&mut Registry::default()).expiry("grpc")
    }

    /// Writes the files of a server at localhost.
    pub(crate) fn write(dir: &Path, authority: &Authority) -> TlsFiles {
        let files = TlsFiles {
            cert: dir.join("tls.crt"),
            key: dir.join("tls.key"),
            client_ca: Some(dir.join("ca.crt")),
        };
        let (cert, key) = authority.leaf("localhost");
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        std::fs::write(dir.join("ca.crt"), authority.pem()).unwrap();
        files
    }

    #[test]
    fn a_part_of_the_files_is_refused_by_name() {
        let path = || Some(PathBuf::from("/x"));
        assert_eq!(TlsFiles::from_parts(None, None, None).unwrap(), None);
        assert!(TlsFiles::from_parts(path(), path(), path()).unwrap().is_some());
        for (cert, key, client_ca, missing) in [
            (path(), None, None, "of the private key and client CA is"),
            (None, path(), path(), "of the certificate is"),
            (path(), path(), None, "of the client CA is"),
        ] {
            let error = TlsFiles::from_parts(cert, key, client_ca).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[tokio::test]
    async fn invalid_files_are_refused_and_the_previous_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), &Authority::new());
        let tls = Tls::load(files.clone(), expiry()).await.unwrap();
        let before = tls.current.load().config.clone();
        assert!(!tls.reload().await.unwrap());

        let other = KeyPair::generate().unwrap();
        std::fs::write(&files.key, other.serialize_pem()).unwrap();
        let error = tls.reload().await.unwrap_err().to_string();
        assert!(error.contains("tls.crt: does not match") && error.contains("tls.key"), "{error}");
        std::fs::write(&files.key, "no key").unwrap();
        assert!(tls.reload().await.unwrap_err().to_string().contains("contains no private key"));
        std::fs::remove_file(&files.key).unwrap();
        assert!(tls.reload().await.unwrap_err().to_string().contains("cannot read"));
        assert!(Arc::ptr_eq(&before, &tls.current.load().config));

        write(dir.path(), &Authority::new());
        assert!(tls.reload().await.unwrap());
        assert!(!Arc::ptr_eq(&before, &tls.current.load().config));
    }

    #[tokio::test]
    async fn a_client_ca_without_certificates_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), &Authority::new());
        std::fs::write(dir.path().join("ca.crt"), "").unwrap();
        let error = Tls::load(files, expiry()).await.err().unwrap().to_string();
        assert!(error.contains("ca.crt: contains no certificate"), "{error}");
    }
}
