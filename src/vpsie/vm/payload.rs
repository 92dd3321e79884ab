//! The payload that a VM runs at its first boot.

use std::fmt;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};

use crate::vpsie::CreateRequest;

/// A rendered payload: a `#!` script with a join credential. No output shows its text.
#[derive(Clone)]
pub struct Payload(SecretString);

impl Payload {
    /// Wraps the text.
    pub fn new(text: impl Into<SecretString>) -> Self {
        Self(text.into())
    }

    /// The text, only for the request to VPSie.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Payload(..)")
    }
}

/// The source of payloads.
#[async_trait]
pub trait PayloadSource: Send + Sync + 'static {
    /// Makes the payload of a request, with a new credential. An earlier credential of the machine is revoked first. The
    /// request has a hostname.
    async fn payload(&self, request: &CreateRequest) -> Result<Payload, PayloadError>;
}

/// A payload cannot be made. VPSie was not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// A user must change the NodeGroup, its template, or an object that it names.
    #[error("{0}")]
    Invalid(String),
    /// The API server is unavailable, or refuses.
    #[error("{0}")]
    Unavailable(String),
}
