//! The client: sends calls with a token, and repeats them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use uuid::{Builder, Uuid};

use super::auth::{Auth, Credentials};
use super::base_url::BaseUrl;
use super::call::Call;
use super::connection::Connection;
use super::error::{ApiError, ErrorKind};
use super::limiter::Limiter;
use super::lists::Lists;
use super::metrics::Metrics;
use super::reply::Reply;
use super::transport::{Timeouts, Transport};
use super::wire::InterruptionFields;
use crate::clock::Clock;
use crate::fleet::ClusterId;
use crate::retry_after::RetryAfter;

/// Settings of the client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// URL of the API.
    pub base: BaseUrl,
    /// Credentials.
    pub credentials: Credentials,
    /// Maximum requests per minute.
    pub rate_per_minute: u32,
    /// Share of the rate, 0 to 1, that is reserved for deletions.
    pub deletion_share: f64,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// The `User-Agent`.
    pub user_agent: String,
    /// Seed of the jitter of pauses.
    pub seed: u64,
    /// Names of the fields that announce the interruption of a VM.
    pub interruption_fields: InterruptionFields,
}

impl ClientConfig {
    /// Settings with defaults for the other fields.
    pub fn new(base: BaseUrl, credentials: Credentials) -> Self {
        Self {
            base,
            credentials,
            rate_per_minute: 100,
            deletion_share: 0.2,
            timeouts: Timeouts::default(),
            user_agent: USER_AGENT.to_owned(),
            seed: 0,
            interruption_fields: InterruptionFields::default(),
        }
    }
}

const USER_AGENT: &str = concat!("vpsie-autoscaler/", env!("CARGO_PKG_VERSION"));

/// Maximum attempts of a repeatable call.
const ATTEMPTS: u32 = 4;
/// Pause before the second attempt. Each further pause is twice as long. Half of a pause is random.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Client of the VPSie API. Clones share token, rate limit and circuit breaker.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    /// URL of the API, unless the credentials have their own.
    base: BaseUrl,
    connection: Connection,
    auth: Auth,
    lists: Lists,
    /// Cluster of the calls, once it is known. Siblings share it.
    cluster: Arc<Mutex<Option<ClusterId>>>,
    jitter: Mutex<StdRng>,
    interruption_fields: InterruptionFields,
}

impl Client {
    /// Creates a client. Sends no request.
    pub fn new(config: ClientConfig, transport: Transport, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        let auth = Auth::new(config.credentials, config.base.clone());
        let connection = Connection {
            timeouts: config.timeouts,
            user_agent: HeaderValue::from_str(&config.user_agent)
                .unwrap_or(HeaderValue::from_static(USER_AGENT)),
            transport,
            clock,
            metrics,
            limiter: Arc::new(Limiter::new(config.rate_per_minute, config.deletion_share)),
            breaker: Arc::default(),
        };
        Self(Arc::new(Inner {
            base: config.base,
            connection,
            auth,
            lists: Lists::default(),
            cluster: Arc::default(),
            jitter: Mutex::new(StdRng::seed_from_u64(config.seed)),
            interruption_fields: config.interruption_fields,
        }))
    }

    /// Replaces the credentials, from the next request on. They are sent to `base`, by default to the
    /// configured URL.
    pub fn replace_credentials(&self, credentials: Credentials, base: Option<BaseUrl>) {
        self.0.auth.replace(credentials, base.unwrap_or_else(|| self.0.base.clone()));
    }

    /// Sets the cluster that the credentials must give access to.
    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        *self.0.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
    }

    pub(super) fn interruption_fields(&self) -> &InterruptionFields {
        &self.0.interruption_fields
    }

    /// A client with other credentials and the same rate limit. For another server it has a circuit breaker
    /// of its own.
    pub(super) fn sibling(&self, credentials: Credentials, base: Option<&BaseUrl>) -> Self {
        let inner = &*self.0;
        let base = base.unwrap_or(&inner.base).clone();
        let connection = if inner.auth.is_at(&base) {
            inner.connection.clone()
        } else {
            inner.connection.to_other_server()
        };
        let seed = inner.jitter.lock().unwrap_or_else(PoisonError::into_inner).random();
        Self(Arc::new(Inner {
            auth: Auth::new(credentials, base.clone()),
            base,
            connection,
            lists: Lists::default(),
            cluster: Arc::clone(&inner.cluster),
            jitter: Mutex::new(StdRng::seed_from_u64(seed)),
            interruption_fields: inner.interruption_fields.clone(),
        }))
    }

    /// Sends a call with a token, and repeats it if that is safe and useful.
    pub(super) async fn send(&self, call: &Call) -> Result<Reply, ApiError> {
        let connection = &self.0.connection;
        let deadline = Instant::now() + connection.timeouts.call;
        let mut stale = None;
        let mut attempt = 1;
        loop {
            let (error, generation) = match self.0.auth.token(connection, stale, call.purpose, deadline).await
            {
                Ok(token) => {
                    let token_text = token.secret.expose_secret().trim();
                    let secrets: Vec<&str> = [token_text].into_iter().chain(call.body.secrets()).collect();
                    let sent =
                        connection.exchange(call, &token.base, Some(&token.secret), &secrets, deadline).await;
                    match sent {
                        Ok(reply) => return Ok(reply),
                        Err(error) => (error, Some(token.generation)),
                    }
                }
                Err(error) => (error, None),
            };
            // VPSie did nothing, so even a call that must not be repeated may be sent again.
            if error.kind == ErrorKind::Unauthenticated && stale.is_none() && generation.is_some() {
                stale = generation;
                continue;
            }
            let Some(pause) = self.retry_pause(call, &error, attempt, deadline) else { return Err(error) };
            tracing::debug!(
                endpoint = call.endpoint,
                attempt,
                ?pause,
                error = error.message,
                "repeating a request to VPSie"
            );
            connection.metrics.count_retry(call.endpoint);
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// Pause before the next attempt. None if there must not be one, or if it is useless.
    fn retry_pause(
        &self,
        call: &Call,
        error: &ApiError,
        attempt: u32,
        deadline: Instant,
    ) -> Option<Duration> {
        let may_help = matches!(error.kind, ErrorKind::RateLimited | ErrorKind::NotSent | ErrorKind::Unclear);
        if !call.repeatable || !may_help || attempt >= ATTEMPTS {
            return None;
        }
        let backoff = FIRST_PAUSE * 2_u32.pow(attempt - 1);
        let chance = self.0.jitter.lock().unwrap_or_else(PoisonError::into_inner).random_range(0.5..1.0);
        let pause = backoff.mul_f64(chance).max(error.retry_after.map_or(Duration::ZERO, RetryAfter::get));
        (pause < deadline.saturating_duration_since(Instant::now())).then_some(pause)
    }

    /// The cluster that the credentials must give access to.
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.0.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A random UUID, for a request.
    pub(super) fn random_uuid(&self) -> Uuid {
        let bytes = self.0.jitter.lock().unwrap_or_else(PoisonError::into_inner).random();
        Builder::from_random_bytes(bytes).into_uuid()
    }

    pub(super) fn lists(&self) -> &Lists {
        &self.0.lists
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.connection.metrics
    }
}
