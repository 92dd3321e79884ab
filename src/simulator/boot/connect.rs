//! Connections of kubelets to API servers.

use std::time::Duration;

use data_encoding::BASE64;
use kube::{Client, Config};
use x509_parser::pem::Pem;

use super::plan::BootstrapToken;
use crate::simulator::plain::KubeletIdentity;

/// The trust in a server, and the credential for it.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Any server, without a credential.
    Anyone,
    /// A server of this CA (PEM), with a bootstrap token.
    Token {
        /// The CA.
        ca: &'a str,
        /// The token.
        token: &'a BootstrapToken,
    },
    /// A server of the identity's CA, with its client certificate.
    Certificate(&'a KubeletIdentity),
}

/// Opens connections to API servers.
pub trait Connect: Send + Sync {
    /// A client for the URL.
    fn connect(&self, endpoint: &str, trust: Trust<'_>) -> Result<Client, String>;
}

/// Connections over the network.
#[derive(Clone, Copy, Debug, Default)]
pub struct KubeConnect;

const TIMEOUT: Duration = Duration::from_secs(10);

impl Connect for KubeConnect {
    fn connect(&self, endpoint: &str, trust: Trust<'_>) -> Result<Client, String> {
        let mut config = Config::new(endpoint.parse().map_err(|error| format!("{endpoint}: {error}"))?);
        config.connect_timeout = Some(TIMEOUT);
        config.read_timeout = Some(TIMEOUT);
        config.default_retry = false;
        match trust {
            Trust::Anyone => config.accept_invalid_certs = true,
            Trust::Token { ca, token } => {
                config.root_cert = Some(certificates(ca)?);
                let text = format!("{}.{}", token.id, token.secret.reveal());
                config.auth_info.token = Some(text.into());
            }
            Trust::Certificate(KubeletIdentity { ca, certificate, key, .. }) => {
                config.root_cert = Some(certificates(ca)?);
                config.auth_info.client_certificate_data = Some(BASE64.encode(certificate.as_bytes()));
                config.auth_info.client_key_data = Some(BASE64.encode(key.reveal().as_bytes()).into());
            }
        }
        Client::try_from(config).map_err(|error| error.to_string())
    }
}

/// The certificates of a PEM text, DER.
fn certificates(ca: &str) -> Result<Vec<Vec<u8>>, String> {
    let pems: Result<Vec<Pem>, _> = Pem::iter_from_buffer(ca.as_bytes()).collect();
    Ok(pems.map_err(|error| error.to_string())?.into_iter().map(|pem| pem.contents).collect())
}
