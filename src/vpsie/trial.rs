//! Trial of credentials before they are used.

use super::auth::Credentials;
use super::base_url::BaseUrl;
use super::client::Client;
use super::error::{ApiError, ErrorKind};
use super::limiter::Purpose;

/// Result of a trial of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// VPSie accepts them.
    Accepted,
    /// VPSie refuses them, with this message.
    Refused(String),
    /// Unknown: VPSie did not answer, or the error does not concern credentials.
    Unknown(String),
}

impl Client {
    /// Tries these credentials. The credentials in use stay, whatever the result.
    pub async fn test_credentials(&self, credentials: &Credentials, base: Option<&BaseUrl>) -> Trial {
        match self.sibling(credentials.clone(), base).prove_access().await {
            Ok(()) => Trial::Accepted,
            Err(error) => match error.kind {
                ErrorKind::Unauthenticated | ErrorKind::Forbidden | ErrorKind::NotFound => {
                    Trial::Refused(error.message)
                }
                _ => Trial::Unknown(error.message),
            },
        }
    }

    /// Sends the read-only calls that the autoscaler depends on. They do not show whether the credentials may create
    /// or delete workers.
    async fn prove_access(&self) -> Result<(), ApiError> {
        let clusters = self.list_clusters().await?;
        let cluster = self.cluster();
        let Some(cluster) = cluster else { return Ok(()) };
        if !clusters.iter().any(|known| known.id.eq_ignore_ascii_case(cluster.as_str())) {
            let known: Vec<String> =
                clusters.iter().map(|known| format!("{} ({})", known.id, known.name)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("their account has no cluster {cluster}; its clusters are: {known}");
            return Err(ApiError::new(ErrorKind::Forbidden, message));
        }
        self.read_nodes(&cluster, Purpose::Ordinary).await?;
        self.list_groups(&cluster).await.map(drop)
    }
}
