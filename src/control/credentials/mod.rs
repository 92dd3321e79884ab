//! Rotation of credentials: new ones are checked with VPSie before they replace those in use.

mod metrics;
mod sources;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use futures::{Stream, StreamExt as _, future};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use crate::kubernetes::{EventType, Events, ObjectEvent};
use crate::vpsie::{BaseUrl, Client, CredentialCheck, Credentials};

pub use metrics::CredentialMetrics;
pub use sources::{credentials_in_file, credentials_in_secret};

/// Interval of checks of refused credentials while none are in use.
const RETRY_WITHOUT_CREDENTIALS: Duration = Duration::from_mins(1);

/// New credentials.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateCredentials {
    /// The credentials.
    pub credentials: Credentials,
    /// Address of the API. None: the address in the settings.
    pub url: Option<BaseUrl>,
}

/// The loop that checks and replaces credentials.
pub struct Rotation {
    client: Client,
    /// Their file or Secret, for messages.
    source: String,
    /// The Secret for events.
    secret: Option<String>,
    in_use: Option<CandidateCredentials>,
    /// Whether VPSie accepted the credentials in use.
    is_accepted: bool,
    waiting: Option<PendingCheck>,
    metrics: CredentialMetrics,
    events: Events,
}

/// New credentials that wait for a check.
struct PendingCheck {
    candidate: CandidateCredentials,
    next: Instant,
    after_refusal: Backoff,
    after_unknown: Backoff,
}

impl PendingCheck {
    fn new(candidate: CandidateCredentials) -> Self {
        let minute = Duration::from_mins(1);
        Self {
            candidate,
            next: Instant::now(),
            after_refusal: Backoff::new(minute, 10 * minute),
            after_unknown: Backoff::new(Duration::from_secs(5), minute),
        }
    }
}

enum RotationStep {
    NewCredentials(Result<CandidateCredentials, String>),
    Check(CredentialCheck),
}

impl Rotation {
    /// Creates the loop for a client without credentials; they come from a Secret.
    pub fn from_secret(
        client: Client,
        namespace: &str,
        name: &str,
        metrics: CredentialMetrics,
        events: Events,
    ) -> Self {
        Self {
            client,
            source: format!("Secret {namespace}/{name}"),
            secret: Some(name.to_owned()),
            in_use: None,
            is_accepted: false,
            waiting: None,
            metrics,
            events,
        }
    }

    /// Creates the loop for a client with unchecked credentials from a file.
    pub fn from_file(client: Client, file: &Path, in_use: Credentials, metrics: CredentialMetrics) -> Self {
        Self {
            client,
            source: file.display().to_string(),
            secret: None,
            in_use: Some(CandidateCredentials { credentials: in_use, url: None }),
            is_accepted: false,
            waiting: None,
            metrics,
            events: Events::none(),
        }
    }

    /// Processes new credentials, or problems of their source, until `shutdown`. Repeated items are ignored.
    pub async fn run(
        mut self,
        candidates: impl Stream<Item = Result<CandidateCredentials, String>>,
        shutdown: CancellationToken,
    ) {
        let mut last = None;
        let changed = candidates.filter(move |next| {
            let is_new = last.as_ref() != Some(next);
            if is_new {
                last = Some(next.clone());
            }
            future::ready(is_new)
        });
        let mut changed = std::pin::pin!(changed.fuse());
        loop {
            let check = async {
                let Some(waiting) = &self.waiting else { return future::pending().await };
                tokio::time::sleep_until(waiting.next).await;
                let CandidateCredentials { credentials, url } = &waiting.candidate;
                self.client.check_credentials(credentials, url.as_ref()).await
            };
            let step = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(next) = changed.next() => RotationStep::NewCredentials(next),
                check = check => RotationStep::Check(check),
            };
            match (step, self.waiting.take()) {
                (RotationStep::NewCredentials(Ok(candidate)), _) => self.schedule_check(candidate),
                (RotationStep::NewCredentials(Err(problem)), _) => self.report_invalid(&problem),
                (RotationStep::Check(check), Some(waiting)) => {
                    self.waiting = self.apply_check(waiting, check);
                }
                (RotationStep::Check(_), None) => {}
            }
        }
    }

    fn schedule_check(&mut self, candidate: CandidateCredentials) {
        if self.is_accepted && self.in_use.as_ref() == Some(&candidate) {
            tracing::info!(source = self.source, "the credentials did not change; they stay in use");
            self.metrics.set_valid(true);
        } else {
            self.waiting = Some(PendingCheck::new(candidate));
        }
    }

    fn report_invalid(&self, problem: &str) {
        self.metrics.count_result("invalid");
        self.metrics.set_valid(false);
        self.set_unavailable(problem);
        let remaining = self.remaining();
        tracing::warn!(error = problem, "cannot read VPSie's credentials; {remaining}");
        self.publish(EventType::Warning, "CredentialsInvalid", format!("{problem}; {remaining}"));
    }

    /// Applies the result of a check. Returns the credentials if they must be checked again.
    fn apply_check(&mut self, mut waiting: PendingCheck, check: CredentialCheck) -> Option<PendingCheck> {
        let source = &self.source;
        match check {
            CredentialCheck::Accepted => {
                let candidate = waiting.candidate;
                if self.in_use.as_ref() != Some(&candidate) {
                    self.client.replace_credentials(candidate.credentials.clone(), candidate.url.clone());
                }
                self.metrics.count_result("accepted");
                self.metrics.set_valid(true);
                tracing::info!(source, "VPSie accepts the credentials; they are in use now");
                self.publish(
                    EventType::Normal,
                    "CredentialsAccepted",
                    "VPSie accepts the credentials; they are in use now".into(),
                );
                self.in_use = Some(candidate);
                self.is_accepted = true;
                return None;
            }
            CredentialCheck::Refused(error) => {
                self.metrics.count_result("refused");
                self.metrics.set_valid(false);
                self.set_unavailable(&format!("VPSie refuses the credentials of {source}: {error}"));
                let remaining = self.remaining();
                tracing::warn!(source, error, "VPSie refuses the credentials; {remaining}");
                let message = format!("VPSie refuses the credentials: {error}; {remaining}");
                self.publish(EventType::Warning, "CredentialsRefused", message);
                waiting.after_refusal.record_failure(None);
                waiting.after_unknown.record_success();
                waiting.next = match self.in_use {
                    Some(_) => waiting.after_refusal.until(),
                    None => Instant::now() + RETRY_WITHOUT_CREDENTIALS,
                };
            }
            CredentialCheck::Unknown(error) => {
                self.metrics.count_result("unknown");
                self.set_unavailable(&format!("cannot check the credentials of {source}: {error}"));
                tracing::warn!(source, error, "cannot check the credentials with VPSie; retrying");
                waiting.after_unknown.record_failure(None);
                waiting.next = waiting.after_unknown.until();
            }
        }
        Some(waiting)
    }

    /// Sets the reason that calls return while no credentials are in use.
    fn set_unavailable(&self, reason: &str) {
        if self.in_use.is_none() {
            self.client.replace_credentials(Credentials::missing(reason), None);
        }
    }

    fn remaining(&self) -> &'static str {
        match self.in_use {
            Some(_) => "the earlier credentials stay in use",
            None => "there are no earlier credentials, so VPSie cannot be called",
        }
    }

    fn publish(&self, kind: EventType, reason: &'static str, message: String) {
        if let Some(name) = &self.secret {
            self.events.publish(ObjectEvent::secret(name, kind, reason, message));
        }
    }
}
