//! Credentials are tried before they are used.

use super::auth::Credentials;
use super::base_url::BaseUrl;
use super::client::Client;
use super::error::{ApiError, Kind};
use super::limiter::Purpose;

/// What VPSie says to credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// They are good.
    Accepted,
    /// They are not, in these words.
    Refused(String),
    /// Nobody knows: VPSie did not answer, or said something else.
    Unknown(String),
}

impl Client {
    /// Asks VPSie whether it accepts these credentials, and goes on with those in use whatever it says.
    pub async fn try_out(&self, credentials: &Credentials, base: Option<&BaseUrl>) -> Trial {
        match self.sibling(credentials.clone(), base).prove_access().await {
            Ok(()) => Trial::Accepted,
            Err(error) => match error.kind {
                Kind::Unauthenticated | Kind::Forbidden | Kind::NotFound => Trial::Refused(error.message),
                _ => Trial::Unknown(error.message),
            },
        }
    }

    /// Makes the calls that change nothing and that the autoscaler depends on. No such call shows whether the
    /// credentials may change anything.
    async fn prove_access(&self) -> Result<(), ApiError> {
        let clusters = self.clusters().await?;
        let cluster = self.cluster();
        let Some(cluster) = cluster else { return Ok(()) };
        if !clusters.iter().any(|known| known.id.eq_ignore_ascii_case(cluster.as_str())) {
            let known: Vec<String> =
                clusters.iter().map(|known| format!("{} ({})", known.id, known.name)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("their account has no cluster {cluster}; it has: {known}");
            return Err(ApiError::new(Kind::Forbidden, message));
        }
        self.nodes(&cluster, Purpose::Ordinary).await?;
        self.groups(&cluster).await.map(drop)
    }
}
