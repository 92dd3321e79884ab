//! The election over the network.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::election::{Election, LeaseAction, Term, holder};
use super::{ElectionConfig, LeaderAddresses, Leadership};
use crate::clock::Clock;

/// Time between reads of the Lease after its release. Short, because clients wait for the new leader.
const SUCCESSOR_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Acquires, renews and releases the Lease. Its client must not be fenced.
pub struct Elector {
    api: Api<Lease>,
    config: ElectionConfig,
    clock: Arc<dyn Clock>,
    random: StdRng,
    election: Election,
    leadership: Leadership,
    is_on_standby: watch::Sender<bool>,
    /// The Lease as last written, unless it may have changed since.
    written: Option<Lease>,
}

/// The reason why this process no longer leads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LossReason {
    /// The Lease has another holder, or none.
    #[error("{}", name_holder(.holder))]
    Taken {
        /// The new holder; empty if there is none.
        holder: String,
    },
    /// No renewal succeeded in time.
    #[error("the Lease could not be renewed within {within:?}: {problem}")]
    NotRenewed {
        /// The renew deadline.
        within: Duration,
        /// The last failure.
        problem: String,
    },
}

fn name_holder(holder: &str) -> String {
    if holder.is_empty() {
        "the Lease has no holder".to_owned()
    } else {
        format!("{holder} holds the Lease now")
    }
}

/// The result of an attempt to claim the Lease.
enum Attempt {
    /// This process holds the Lease.
    Claimed(Term),
    /// Another process holds the Lease, in this version.
    Waits { holder: String, until: Instant, version: Option<String> },
    /// The write failed, or its result is unknown.
    Failed(String),
}

impl Elector {
    /// An elector that has made no attempt yet. `seed` randomizes the waits of standby replicas, so that they
    /// do not all read at once.
    pub fn new(client: Client, config: ElectionConfig, clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            api: Api::namespaced(client, &config.namespace),
            election: Election::new(config.clone()),
            config,
            clock,
            random: StdRng::seed_from_u64(seed),
            leadership: Leadership::until(Instant::now()),
            is_on_standby: watch::Sender::default(),
            written: None,
        }
    }

    /// Becomes true when this replica sees another one lead.
    pub fn is_on_standby(&self) -> watch::Receiver<bool> {
        self.is_on_standby.subscribe()
    }

    /// Waits until this process leads. Returns None after `shutdown`; call [`release`](Self::release) then,
    /// because the Lease may have been acquired at that moment.
    pub async fn acquire(&mut self, shutdown: &CancellationToken) -> Option<Leadership> {
        let mut logged = String::new();
        loop {
            let written = self.written.take();
            let attempt = shutdown.run_until_cancelled(self.attempt(written)).await?;
            let now = Instant::now();
            let pause = self.config.retry_period.mul_f64(1.0 + self.random.random::<f64>());
            let next = now + pause;
            let mut version = None;
            let (next, status) = match attempt {
                Attempt::Claimed(term) if term.from <= now && now < term.until => {
                    self.leadership = Leadership::until(term.until);
                    tracing::info!(
                        lease = self.config.name,
                        identity = self.config.identity,
                        "this replica leads now"
                    );
                    return Some(self.leadership.clone());
                }
                Attempt::Claimed(Term { from, .. }) => (
                    (now + self.config.retry_period).min(from.max(now)),
                    "this replica waits, because a deleted Lease may have had another holder".to_owned(),
                ),
                Attempt::Waits { holder, until, version: seen } => {
                    version = seen;
                    self.is_on_standby.send_replace(true);
                    (next.min(until), format!("{holder} holds the Lease"))
                }
                Attempt::Failed(problem) => (next, problem),
            };
            if status != logged {
                tracing::info!(lease = self.config.name, "this replica does not lead: {status}");
                logged = status;
            }
            let waited = tokio::time::timeout_at(next, self.wait_for_release(version));
            if let Ok(()) = shutdown.run_until_cancelled(waited).await? {
                tracing::debug!(lease = self.config.name, "the Lease has no holder; trying to acquire it");
            }
        }
    }

    /// Returns when the Lease, which had a holder in this version, has none. Never returns without a version,
    /// if the watch fails, or if the Lease is deleted: the next read handles these cases.
    async fn wait_for_release(&self, version: Option<String>) {
        let released = async {
            let params = WatchParams::default().fields(&format!("metadata.name={}", self.config.name));
            let mut changes = self.api.watch(&params, &version?).await.ok()?.boxed();
            while let Some(event) = changes.try_next().await.ok()? {
                if matches!(event, WatchEvent::Modified(lease) if holder(&lease).is_empty()) {
                    return Some(());
                }
            }
            None
        };
        if released.await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Renews until `shutdown` or until the Lease is lost. Cancel `shutdown` only after all tasks of the
    /// leader have ended. Every clone of the [`Leadership`] ends when the Lease is lost.
    pub async fn renew_until(&mut self, shutdown: &CancellationToken) -> Result<(), LossReason> {
        let renewing = self.renew();
        match shutdown.run_until_cancelled(renewing).await {
            None => Ok(()),
            Some(lost) => {
                self.leadership.end();
                self.election.resign();
                Err(lost)
            }
        }
    }

    async fn renew(&mut self) -> LossReason {
        let mut problem = "no attempt was made in time".to_owned();
        let mut next = Instant::now() + self.config.retry_period;
        loop {
            let end = self.leadership.end_time().unwrap_or(next);
            tokio::time::sleep_until(next.min(end)).await;
            if !self.leadership.holds() {
                return LossReason::NotRenewed { within: self.config.renew_deadline, problem };
            }
            next = Instant::now() + self.config.retry_period;
            let written = self.written.take();
            match tokio::time::timeout_at(end, self.attempt(written)).await {
                Ok(Attempt::Claimed(term)) => {
                    self.leadership.extend(term.until);
                }
                Ok(Attempt::Waits { holder, .. }) => return LossReason::Taken { holder },
                Ok(Attempt::Failed(what)) => {
                    tracing::warn!(
                        lease = self.config.name,
                        error = what,
                        "cannot renew the Lease; retrying"
                    );
                    problem = what;
                }
                Err(_) => "the API server did not answer".clone_into(&mut problem),
            }
        }
    }

    /// Releases the Lease if this process holds it, so that another replica takes over at once. All tasks of
    /// the leader must have ended. Returns true iff it was released.
    pub async fn release(&mut self) -> bool {
        self.leadership.end();
        self.election.resign();
        self.written = None;
        match self.clear_holder().await {
            Ok(released) => {
                if released {
                    tracing::info!(lease = self.config.name, "released the Lease");
                }
                released
            }
            Err(problem) => {
                tracing::warn!(
                    lease = self.config.name,
                    error = problem,
                    "cannot release the Lease; other replicas wait until it expires"
                );
                false
            }
        }
    }

    /// Waits for the next leader and returns its addresses. Does not time out: the caller sets the limit.
    pub async fn successor(&self) -> LeaderAddresses {
        loop {
            if let Ok(Some(lease)) = self.request(self.api.get_opt(&self.config.name)).await
                && let Some(addresses) = self.election.successor(&lease)
            {
                return addresses;
            }
            tokio::time::sleep(SUCCESSOR_POLL_INTERVAL).await;
        }
    }

    async fn clear_holder(&self) -> Result<bool, String> {
        let Some(seen) =
            self.request(self.api.get_opt(&self.config.name)).await.map_err(|e| e.to_string())?
        else {
            return Ok(false);
        };
        let Some(free) = self.election.released(&seen, self.clock.now()) else { return Ok(false) };
        let replaced = self.request(self.api.replace(&self.config.name, &PostParams::default(), &free)).await;
        replaced.map(|_| true).map_err(|error| error.to_string())
    }

    /// Reads the Lease unless it is `known`, and claims it if that is allowed.
    async fn attempt(&mut self, known: Option<Lease>) -> Attempt {
        let name = self.config.name.clone();
        let params = PostParams::default();
        let was_read = known.is_none();
        let mut action = LeaseAction::Renew;
        let seen = match known {
            Some(lease) => Some(lease),
            None => match self.request(self.api.get_opt(&name)).await {
                Ok(seen) => seen,
                Err(problem) => return Attempt::Failed(format!("cannot read Lease {name}: {problem}")),
            },
        };
        if was_read {
            let held = self.leadership.holds();
            action = self.election.observe(seen.as_ref(), Instant::now());
            match action {
                LeaseAction::Wait(until) => {
                    return Attempt::Waits {
                        holder: seen.as_ref().map(holder).unwrap_or_default().to_owned(),
                        until,
                        version: seen.and_then(|lease| lease.metadata.resource_version),
                    };
                }
                // A user cleared the holder: another replica must take over.
                LeaseAction::TakeOver if held => {
                    return Attempt::Waits { holder: String::new(), until: Instant::now(), version: None };
                }
                LeaseAction::Create | LeaseAction::TakeOver | LeaseAction::Renew => {}
            }
        }
        let claim = self.election.claim(seen.as_ref(), self.clock.now());
        // The term counts from here: the API server cannot have written the Lease earlier.
        let sent = Instant::now();
        let result = match seen {
            Some(_) => self.request(self.api.replace(&name, &params, &claim)).await,
            None => self.request(self.api.create(&params, &claim)).await,
        };
        match result {
            Ok(lease) => {
                let term = self.election.record_claim(action, &lease, sent, Instant::now());
                self.written = Some(lease);
                Attempt::Claimed(term)
            }
            // The Lease changed: read it again.
            Err(RequestError::Refused(404 | 409, _)) if !was_read => Box::pin(self.attempt(None)).await,
            Err(problem) => Attempt::Failed(format!("cannot write Lease {name}: {problem}")),
        }
    }

    /// Makes a request with a timeout that leaves time for a second attempt before the deadline.
    async fn request<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
        match tokio::time::timeout(self.config.renew_deadline / 2, request).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(kube::Error::Api(status))) => Err(RequestError::Refused(status.code, status.message)),
            Ok(Err(error)) => Err(RequestError::NoReply(crate::telemetry::chain(&error))),
            Err(_) => Err(RequestError::NoReply("the API server does not answer".to_owned())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("HTTP {0}: {1}")]
    Refused(u16, String),
    #[error("{0}")]
    NoReply(String),
}
