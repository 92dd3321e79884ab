//! The VPSie API: client, lenient wire types, backends.

mod auth;
mod backend;
mod base_url;
mod breaker;
mod client;
mod limiter;
mod metrics;
mod transport;

pub use auth::Credentials;
pub use backend::{Backend, BackendError};
pub use base_url::{BaseUrl, BaseUrlError};
pub use client::ClientConfig;
pub use metrics::Metrics;
pub use transport::{Timeouts, Transport, TransportError, https};
