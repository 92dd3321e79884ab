//! Rotation: credentials that changed are tried before those in use are dropped.

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
use crate::vpsie::{BaseUrl, Client, Credentials, Trial};

pub use metrics::CredentialMetrics;
pub use sources::{credentials_in_file, credentials_in_secret};

/// While there are none that work, refused ones are tried this often.
const WITHOUT_ANY: Duration = Duration::from_mins(1);

/// Credentials that may be put in use.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What VPSie knows us by.
    pub credentials: Credentials,
    /// Where the API is; None: where the settings say.
    pub url: Option<BaseUrl>,
}

/// The loop that puts new credentials in use.
pub struct Rotation {
    client: Client,
    /// Where they come from, in words.
    place: String,
    /// The Secret that events are about.
    secret: Option<String>,
    in_use: Option<Candidate>,
    /// Whether VPSie accepted those in use.
    proven: bool,
    waiting: Option<PendingTrial>,
    metrics: CredentialMetrics,
    events: Events,
}

/// A candidate that is to be tried.
struct PendingTrial {
    candidate: Candidate,
    next: Instant,
    refusals: Backoff,
    silences: Backoff,
}

impl PendingTrial {
    fn new(candidate: Candidate) -> Self {
        let minute = Duration::from_mins(1);
        Self {
            candidate,
            next: Instant::now(),
            refusals: Backoff::new(minute, 10 * minute),
            silences: Backoff::new(Duration::from_secs(5), minute),
        }
    }
}

enum Step {
    News(Result<Candidate, String>),
    Trial(Trial),
}

impl Rotation {
    /// For a client that has no credentials yet; they come from a Secret.
    pub fn of_secret(
        client: Client,
        namespace: &str,
        name: &str,
        metrics: CredentialMetrics,
        events: Events,
    ) -> Self {
        Self {
            client,
            place: format!("Secret {namespace}/{name}"),
            secret: Some(name.to_owned()),
            in_use: None,
            proven: false,
            waiting: None,
            metrics,
            events,
        }
    }

    /// For a client that has credentials from a file, which nobody tried yet.
    pub fn of_file(client: Client, file: &Path, in_use: Credentials, metrics: CredentialMetrics) -> Self {
        Self {
            client,
            place: file.display().to_string(),
            secret: None,
            in_use: Some(Candidate { credentials: in_use, url: None }),
            proven: false,
            waiting: None,
            metrics,
            events: Events::none(),
        }
    }

    /// Takes candidates, or what is wrong where they come from, until `shutdown`. The same may come again.
    pub async fn run(
        mut self,
        candidates: impl Stream<Item = Result<Candidate, String>>,
        shutdown: CancellationToken,
    ) {
        let mut told = None;
        let changed = candidates.filter(move |next| {
            let is_new = told.as_ref() != Some(next);
            if is_new {
                told = Some(next.clone());
            }
            future::ready(is_new)
        });
        let mut changed = std::pin::pin!(changed.fuse());
        loop {
            let trial = async {
                let Some(waiting) = &self.waiting else { return future::pending().await };
                tokio::time::sleep_until(waiting.next).await;
                let Candidate { credentials, url } = &waiting.candidate;
                self.client.try_out(credentials, url.as_ref()).await
            };
            let step = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(next) = changed.next() => Step::News(next),
                trial = trial => Step::Trial(trial),
            };
            match (step, self.waiting.take()) {
                (Step::News(Ok(candidate)), _) => self.take(candidate),
                (Step::News(Err(problem)), _) => self.invalid(&problem),
                (Step::Trial(trial), Some(waiting)) => self.waiting = self.judge(waiting, trial),
                (Step::Trial(_), None) => {}
            }
        }
    }

    fn take(&mut self, candidate: Candidate) {
        if self.proven && self.in_use.as_ref() == Some(&candidate) {
            tracing::info!(place = self.place, "the credentials did not change; they stay in use");
            self.metrics.valid(true);
        } else {
            self.waiting = Some(PendingTrial::new(candidate));
        }
    }

    fn invalid(&self, problem: &str) {
        self.metrics.count("invalid");
        self.metrics.valid(false);
        self.without(problem);
        let kept = self.kept();
        tracing::warn!("cannot read VPSie's credentials: {problem}; {kept}");
        self.tell(EventType::Warning, "CredentialsInvalid", format!("{problem}; {kept}"));
    }

    /// What comes of a trial. The candidate again when it is to be tried once more.
    fn judge(&mut self, mut waiting: PendingTrial, trial: Trial) -> Option<PendingTrial> {
        let place = &self.place;
        match trial {
            Trial::Accepted => {
                let candidate = waiting.candidate;
                if self.in_use.as_ref() != Some(&candidate) {
                    self.client.replace(candidate.credentials.clone(), candidate.url.clone());
                }
                self.metrics.count("accepted");
                self.metrics.valid(true);
                tracing::info!(place, "VPSie accepts the credentials; they are in use now");
                self.tell(
                    EventType::Normal,
                    "CredentialsAccepted",
                    "VPSie accepts the credentials; they are in use now".into(),
                );
                self.in_use = Some(candidate);
                self.proven = true;
                return None;
            }
            Trial::Refused(words) => {
                self.metrics.count("refused");
                self.metrics.valid(false);
                self.without(&format!("VPSie refuses the credentials of {place}: {words}"));
                let kept = self.kept();
                tracing::warn!(place, error = words, "VPSie refuses the credentials; {kept}");
                let message = format!("VPSie refuses the credentials: {words}; {kept}");
                self.tell(EventType::Warning, "CredentialsRefused", message);
                waiting.refusals.failure(None);
                waiting.silences.success();
                waiting.next = match self.in_use {
                    Some(_) => waiting.refusals.until(),
                    None => Instant::now() + WITHOUT_ANY,
                };
            }
            Trial::Unknown(words) => {
                self.metrics.count("unknown");
                self.without(&format!("cannot check the credentials of {place}: {words}"));
                tracing::warn!(
                    place,
                    error = words,
                    "cannot check the credentials with VPSie; it is retried"
                );
                waiting.silences.failure(None);
                waiting.next = waiting.silences.until();
            }
        }
        Some(waiting)
    }

    /// While no credentials are in use, calls say why.
    fn without(&self, reason: &str) {
        if self.in_use.is_none() {
            self.client.replace(Credentials::missing(reason), None);
        }
    }

    fn kept(&self) -> &'static str {
        match self.in_use {
            Some(_) => "the earlier credentials stay in use",
            None => "there are no earlier credentials, so VPSie cannot be called",
        }
    }

    fn tell(&self, kind: EventType, reason: &'static str, message: String) {
        if let Some(name) = &self.secret {
            self.events.publish(ObjectEvent::secret(name, kind, reason, message));
        }
    }
}
