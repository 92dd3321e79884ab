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

use super::election::{Election, Step, Term, holder};
use super::{ElectionConfig, Leadership, Reached};
use crate::clock::Clock;

/// How often the one that gave the Lease back looks who has it now: a client waits for the answer.
const LOOK_FOR_SUCCESSOR: Duration = Duration::from_millis(100);

/// Stands for election, and stays elected. Its client must not be fenced.
pub struct Elector {
    api: Api<Lease>,
    config: ElectionConfig,
    clock: Arc<dyn Clock>,
    random: StdRng,
    election: Election,
    leadership: Leadership,
    follows: watch::Sender<bool>,
    /// As we wrote it last, if nothing is known to have happened to it since.
    written: Option<Lease>,
}

/// Why this process does not lead any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The Lease names another, or nobody.
    #[error("the lease names {holder:?} as its holder")]
    Taken {
        /// Who that is; empty for nobody.
        holder: String,
    },
    /// Too long without a renewal.
    #[error("the lease could not be renewed within {within:?}: {problem}")]
    NotRenewed {
        /// The renew deadline.
        within: Duration,
        /// What went wrong last.
        problem: String,
    },
}

/// How an attempt to claim the Lease ended.
enum Attempt {
    /// It is ours.
    Claimed(Term),
    /// Another's until then, as this version says.
    Waits { holder: String, until: Instant, version: Option<String> },
    /// Somebody was faster, or the outcome is not known.
    Failed(String),
}

impl Elector {
    /// One that has not stood yet. Followers' waits are drawn from `seed`, so that they do not all look at once.
    pub fn new(client: Client, config: ElectionConfig, clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            api: Api::namespaced(client, &config.namespace),
            election: Election::new(config.clone()),
            config,
            clock,
            random: StdRng::seed_from_u64(seed),
            leadership: Leadership::until(Instant::now()),
            follows: watch::Sender::default(),
            written: None,
        }
    }

    /// Whether another replica was seen to lead, so that this one stands by for it.
    pub fn follows(&self) -> watch::Receiver<bool> {
        self.follows.subscribe()
    }

    /// Waits until this process leads. None: `shutdown` came first; [`release`](Self::release) then gives back what
    /// may have been won at that moment.
    pub async fn acquire(&mut self, shutdown: &CancellationToken) -> Option<Leadership> {
        let mut told = String::new();
        loop {
            let written = self.written.take();
            let attempt = shutdown.run_until_cancelled(self.attempt(written)).await?;
            let now = Instant::now();
            let pause = self.config.retry_period.mul_f64(1.0 + self.random.random::<f64>());
            let next = now + pause;
            let mut version = None;
            let (next, tell) = match attempt {
                Attempt::Claimed(term) if term.from <= now && now < term.until => {
                    self.leadership = Leadership::until(term.until);
                    tracing::info!(lease = self.config.name, identity = self.config.identity, "leading");
                    return Some(self.leadership.clone());
                }
                Attempt::Claimed(Term { from, .. }) => (
                    (now + self.config.retry_period).min(from.max(now)),
                    "waiting, in case a Lease was just deleted that another held".to_owned(),
                ),
                Attempt::Waits { holder, until, version: seen } => {
                    version = seen;
                    self.follows.send_replace(true);
                    (next.min(until), format!("{holder} leads"))
                }
                Attempt::Failed(problem) => (next, problem),
            };
            if tell != told {
                tracing::info!(lease = self.config.name, "not leading: {tell}");
                told = tell;
            }
            let waited = tokio::time::timeout_at(next, self.given_back(version));
            if let Ok(()) = shutdown.run_until_cancelled(waited).await? {
                tracing::debug!(lease = self.config.name, "the lease was given back");
            }
        }
    }

    /// Returns when the Lease, which was held in this version, has no holder any more. Never without a version, and when it
    /// cannot be watched: looking again is what finds out then. Nor when it is deleted: its holder makes it anew.
    async fn given_back(&self, version: Option<String>) {
        let gone = async {
            let params = WatchParams::default().fields(&format!("metadata.name={}", self.config.name));
            let mut changes = self.api.watch(&params, &version?).await.ok()?.boxed();
            while let Some(event) = changes.try_next().await.ok()? {
                if matches!(event, WatchEvent::Modified(lease) if holder(&lease).is_empty()) {
                    return Some(());
                }
            }
            None
        };
        if gone.await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Renews until `shutdown`, which must come after all that acts as the one that leads has ended, or until the
    /// lease is lost. Whoever holds the [`Leadership`] knows by itself.
    pub async fn keep(&mut self, shutdown: &CancellationToken) -> Result<(), Lost> {
        let renewing = self.renew();
        match shutdown.run_until_cancelled(renewing).await {
            None => Ok(()),
            Some(lost) => {
                self.leadership.end();
                self.election.gave_up();
                Err(lost)
            }
        }
    }

    async fn renew(&mut self) -> Lost {
        let mut problem = "no attempt was made in time".to_owned();
        let mut next = Instant::now() + self.config.retry_period;
        loop {
            let end = self.leadership.end_time().unwrap_or(next);
            tokio::time::sleep_until(next.min(end)).await;
            if !self.leadership.holds() {
                return Lost::NotRenewed { within: self.config.renew_deadline, problem };
            }
            next = Instant::now() + self.config.retry_period;
            let written = self.written.take();
            match tokio::time::timeout_at(end, self.attempt(written)).await {
                Ok(Attempt::Claimed(term)) => {
                    self.leadership.extend(term.until);
                }
                Ok(Attempt::Waits { holder, .. }) => return Lost::Taken { holder },
                Ok(Attempt::Failed(what)) => {
                    tracing::warn!(lease = self.config.name, "the lease could not be renewed: {what}");
                    problem = what;
                }
                Err(_) => "the API server did not answer".clone_into(&mut problem),
            }
        }
    }

    /// Gives the Lease up so that another replica takes over at once, if it is still ours. What acts as the one that
    /// leads must have ended before. Whether it was given up.
    pub async fn release(&mut self) -> bool {
        self.leadership.end();
        self.election.gave_up();
        self.written = None;
        match self.give_back().await {
            Ok(released) => {
                if released {
                    tracing::info!(lease = self.config.name, "the lease is released");
                }
                released
            }
            Err(problem) => {
                tracing::warn!(
                    lease = self.config.name,
                    "the lease is not released, others wait for it: {problem}"
                );
                false
            }
        }
    }

    /// Where the one is reached that leads after this process, once there is one that says so. Not for ever, if none
    /// comes: who asks sets the limit.
    pub async fn successor(&self) -> Reached {
        loop {
            if let Ok(Some(lease)) = self.ask(self.api.get_opt(&self.config.name)).await
                && let Some(reached) = self.election.successor(&lease)
            {
                return reached;
            }
            tokio::time::sleep(LOOK_FOR_SUCCESSOR).await;
        }
    }

    async fn give_back(&self) -> Result<bool, String> {
        let Some(seen) = self.ask(self.api.get_opt(&self.config.name)).await.map_err(|e| e.to_string())?
        else {
            return Ok(false);
        };
        let Some(free) = self.election.released(&seen, self.clock.now()) else { return Ok(false) };
        let replaced = self.ask(self.api.replace(&self.config.name, &PostParams::default(), &free)).await;
        replaced.map(|_| true).map_err(|error| error.to_string())
    }

    /// Looks, unless it is known what is there, and claims what may be claimed.
    async fn attempt(&mut self, known: Option<Lease>) -> Attempt {
        let (name, params) = (self.config.name.clone(), PostParams::default());
        let looked = known.is_none();
        let mut step = Step::Renew;
        let seen = match known {
            Some(lease) => Some(lease),
            None => match self.ask(self.api.get_opt(&name)).await {
                Ok(seen) => seen,
                Err(problem) => return Attempt::Failed(format!("Lease {name} cannot be read: {problem}")),
            },
        };
        if looked {
            let held = self.leadership.holds();
            step = self.election.saw(seen.as_ref(), Instant::now());
            match step {
                Step::Wait(until) => {
                    return Attempt::Waits {
                        holder: seen.as_ref().map(holder).unwrap_or_default().to_owned(),
                        until,
                        version: seen.and_then(|lease| lease.metadata.resource_version),
                    };
                }
                // Somebody took it from us by hand: it is for another.
                Step::TakeOver if held => {
                    return Attempt::Waits { holder: String::new(), until: Instant::now(), version: None };
                }
                Step::Create | Step::TakeOver | Step::Renew => {}
            }
        }
        let claim = self.election.claim(seen.as_ref(), self.clock.now());
        // What is counted from: the API server cannot have written it earlier.
        let sent = Instant::now();
        let wrote = match seen {
            Some(_) => self.ask(self.api.replace(&name, &params, &claim)).await,
            None => self.ask(self.api.create(&params, &claim)).await,
        };
        match wrote {
            Ok(lease) => {
                let term = self.election.claimed(step, &lease, sent, Instant::now());
                self.written = Some(lease);
                Attempt::Claimed(term)
            }
            // Not as it was known: what it is now decides.
            Err(Unanswered::Refused(404 | 409, _)) if !looked => Box::pin(self.attempt(None)).await,
            Err(problem) => Attempt::Failed(format!("Lease {name} cannot be written: {problem}")),
        }
    }

    /// Asks, but not for so long that no second attempt would be left before the deadline.
    async fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Unanswered> {
        match tokio::time::timeout(self.config.renew_deadline / 2, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(Unanswered::Refused(status.code, status.message)),
            Ok(Err(error)) => Err(Unanswered::Lost(crate::telemetry::chain(&error))),
            Err(_) => Err(Unanswered::Lost("the API server does not answer".to_owned())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("HTTP {0}: {1}")]
    Refused(u16, String),
    #[error("{0}")]
    Lost(String),
}
