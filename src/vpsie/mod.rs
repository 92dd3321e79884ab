//! The VPSie API: client, lenient wire types, backends.

mod auth;
mod backend;
mod base_url;
mod breaker;
mod call;
mod client;
mod connection;
mod credential_check;
mod endpoints;
mod error;
mod identity;
mod limiter;
mod lists;
mod managed;
mod managed_config;
mod metrics;
mod paging;
mod reply;
mod sizes;
#[cfg(test)]
mod tests;
mod transport;
mod vm;
mod wire;

pub use auth::Credentials;
pub use backend::{Backend, BackendError, CreateRequest};
pub use base_url::{BaseUrl, BaseUrlError};
pub use client::{Client, ClientConfig};
pub use credential_check::CredentialCheck;
pub use managed::ManagedBackend;
pub use managed_config::{CommonField, ManagedConfig};
pub use metrics::Metrics;
pub use transport::{Timeouts, Transport, TransportError, https};
pub use vm::{
    DeletionKey, Delivery, Payload, PayloadError, PayloadSource, Script, Scripts, VmBackend, VmGroup,
    VmNetwork, VmPlace, cluster_code,
};
pub use wire::{INTERRUPTION_FIELDS, InterruptionFields};
