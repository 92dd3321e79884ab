//! Check of credentials before they are used.

use super::auth::Credentials;
use super::base_url::BaseUrl;
use super::client::Client;
use super::error::{ApiError, ErrorKind};
use super::limiter::Purpose;

/// Result of a check of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialCheck {
    /// VPSie accepts them.
    Accepted,
    /// VPSie refuses them, with this message.
    Refused(String),
    /// Unknown: VPSie did not answer, or the error does not concern credentials.
    Unknown(String),
}

impl Client {
    /// Checks these credentials with VPSie. The credentials in use are not replaced.
    pub async fn check_credentials(
        &self,
        credentials: &Credentials,
        base: Option<&BaseUrl>,
    ) -> CredentialCheck {
        match self.sibling(credentials.clone(), base).check_access().await {
            Ok(()) => CredentialCheck::Accepted,
            Err(error) => match error.kind {
                ErrorKind::Unauthenticated | ErrorKind::Forbidden | ErrorKind::NotFound => {
                    CredentialCheck::Refused(error.message)
                }
                _ => CredentialCheck::Unknown(error.message),
            },
        }
    }

    /// Sends the read-only calls that the autoscaler depends on. They do not show whether the credentials may
    /// create or delete workers.
    async fn check_access(&self) -> Result<(), ApiError> {
        let clusters = self.list_clusters().await?;
        let cluster = self.cluster();
        let Some(cluster) = cluster else { return Ok(()) };
        if !clusters.iter().any(|known| known.id.eq_ignore_ascii_case(cluster.as_str())) {
            let known: Vec<String> =
                clusters.iter().map(|known| format!("{} ({})", known.id, known.name)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("the account of the credentials has no cluster {cluster}; it has: {known}");
            return Err(ApiError::new(ErrorKind::Forbidden, message));
        }
        self.read_nodes(&cluster, Purpose::Ordinary).await?;
        self.list_groups(&cluster).await.map(drop)
    }
}
