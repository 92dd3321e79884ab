//! The client: one door for every call, with its limits.

use super::auth::Credentials;
use super::base_url::BaseUrl;
use super::transport::Timeouts;

/// How the client talks to VPSie.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Where the API is.
    pub base: BaseUrl,
    /// Who we are.
    pub credentials: Credentials,
    /// Most requests in a minute.
    pub rate_per_minute: u32,
    /// Share of them, 0 to 1, that only deletions may use.
    pub deletion_share: f64,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// The `User-Agent`.
    pub user_agent: String,
    /// Seed of the jitter between repeats.
    pub seed: u64,
}

impl ClientConfig {
    /// With defaults for all that is not given.
    pub fn new(base: BaseUrl, credentials: Credentials) -> Self {
        Self {
            base,
            credentials,
            rate_per_minute: 100,
            deletion_share: 0.2,
            timeouts: Timeouts::default(),
            user_agent: concat!("vpsie-autoscaler/", env!("CARGO_PKG_VERSION")).to_owned(),
            seed: 0,
        }
    }
}
