//! The client: one door for every call, with its limits, repeats and logins.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tower::ServiceExt;

use super::auth::{Auth, Credentials, Token};
use super::base_url::BaseUrl;
use super::breaker::Breaker;
use super::call::Call;
use super::error::{ApiError, Kind, words};
use super::limiter::{Limiter, Purpose};
use super::metrics::Metrics;
use super::paging::Lists;
use super::reply::Reply;
use super::transport::{Timeouts, Transport, TransportError};
use crate::clock::Clock;
use crate::fleet::ClusterId;
use crate::retry_after::RetryAfter;

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
            user_agent: USER_AGENT.to_owned(),
            seed: 0,
        }
    }
}

const USER_AGENT: &str = concat!("vpsie-autoscaler/", env!("CARGO_PKG_VERSION"));

/// Most times that a call is sent, where it may be repeated.
const ATTEMPTS: u32 = 4;
/// Pause before the first repeat; each further one is twice as long. Half of it is chance.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

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

/// Talks to the VPSie API. Clones are one client: they share its token, its rate and its breaker.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    /// Where the API is when the credentials do not say.
    base: BaseUrl,
    timeouts: Timeouts,
    user_agent: HeaderValue,
    transport: Transport,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    limiter: Arc<Limiter>,
    breaker: Arc<Breaker>,
    auth: Auth,
    lists: Lists,
    /// The cluster that calls are about, once it is known. Siblings share it.
    cluster: Arc<Mutex<Option<ClusterId>>>,
    jitter: Mutex<StdRng>,
}

impl Client {
    /// A client. Sends nothing yet.
    pub fn new(config: ClientConfig, transport: Transport, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        let auth = Auth::new(config.credentials, config.base.clone());
        Self(Arc::new(Inner {
            base: config.base,
            timeouts: config.timeouts,
            user_agent: HeaderValue::from_str(&config.user_agent)
                .unwrap_or(HeaderValue::from_static(USER_AGENT)),
            transport,
            clock,
            metrics,
            limiter: Arc::new(Limiter::new(config.rate_per_minute, config.deletion_share)),
            breaker: Arc::default(),
            auth,
            lists: Lists::default(),
            cluster: Arc::default(),
            jitter: Mutex::new(StdRng::seed_from_u64(config.seed)),
        }))
    }

    /// Goes on with other credentials, from the next request on. They are for the API at `base`; without one, where
    /// the configuration says that it is.
    pub fn replace(&self, credentials: Credentials, base: Option<BaseUrl>) {
        self.0.auth.replace(credentials, base.unwrap_or_else(|| self.0.base.clone()));
    }

    /// Sets the cluster that credentials must give access to.
    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        *self.0.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
    }

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
        let cluster = self.0.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone();
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

    /// A client for other credentials that keeps to the same rate. When it is for another server, what that one
    /// does is not held against ours.
    fn sibling(&self, credentials: Credentials, base: Option<&BaseUrl>) -> Self {
        let inner = &*self.0;
        let base = base.unwrap_or(&inner.base).clone();
        let breaker = if inner.auth.is_at(&base) { Arc::clone(&inner.breaker) } else { Arc::default() };
        let seed = inner.jitter.lock().unwrap_or_else(PoisonError::into_inner).random();
        Self(Arc::new(Inner {
            auth: Auth::new(credentials, base.clone()),
            base,
            timeouts: inner.timeouts,
            user_agent: inner.user_agent.clone(),
            transport: inner.transport.clone(),
            clock: Arc::clone(&inner.clock),
            metrics: inner.metrics.clone(),
            limiter: Arc::clone(&inner.limiter),
            breaker,
            lists: Lists::default(),
            cluster: Arc::clone(&inner.cluster),
            jitter: Mutex::new(StdRng::seed_from_u64(seed)),
        }))
    }

    /// Sends a call, with a token, and again where that is safe and may help.
    pub(super) async fn send(&self, call: &Call) -> Result<Reply, ApiError> {
        let deadline = Instant::now() + self.0.timeouts.call;
        let mut stale = None;
        let mut attempt = 1;
        loop {
            let (error, generation) = match self.token(stale, call.purpose, deadline).await {
                Ok(token) => {
                    let secret = token.secret.expose_secret().trim();
                    match self.exchange(call, &token.base, Some(&token), &[secret], deadline).await {
                        Ok(reply) => return Ok(reply),
                        Err(error) => (error, Some(token.generation)),
                    }
                }
                Err(error) => (error, None),
            };
            // Nothing was done, so a call that must not be repeated may be sent again, too.
            if error.kind == Kind::Unauthenticated && stale.is_none() && generation.is_some() {
                stale = generation;
                continue;
            }
            let Some(pause) = self.pause(call, &error, attempt, deadline) else { return Err(error) };
            tracing::debug!(
                endpoint = call.endpoint,
                attempt,
                ?pause,
                error = error.message,
                "VPSie is asked again"
            );
            self.0.metrics.retry(call.endpoint);
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// How long to wait before the call is sent again. None when it must not be, or would not help.
    fn pause(&self, call: &Call, error: &ApiError, attempt: u32, deadline: Instant) -> Option<Duration> {
        let may_help = matches!(error.kind, Kind::RateLimited | Kind::NotSent | Kind::Unclear);
        if !call.repeatable || !may_help || attempt >= ATTEMPTS {
            return None;
        }
        let backoff = FIRST_PAUSE * 2_u32.pow(attempt - 1);
        let chance = self.0.jitter.lock().unwrap_or_else(PoisonError::into_inner).random_range(0.5..1.0);
        let pause = backoff.mul_f64(chance).max(error.retry_after.map_or(Duration::ZERO, RetryAfter::get));
        (pause < deadline.saturating_duration_since(Instant::now())).then_some(pause)
    }

    /// Sends one request, once the breaker and the rate limit let it, and reads its reply. `secrets` are
    /// kept out of what it says.
    pub(super) async fn exchange(
        &self,
        call: &Call,
        base: &BaseUrl,
        token: Option<&Token>,
        secrets: &[&str],
        deadline: Instant,
    ) -> Result<Reply, ApiError> {
        let inner = &*self.0;
        let request = self.request(call, base, token)?;
        let held_back = |message: &str, wait| ApiError {
            retry_after: Some(RetryAfter::new(wait)),
            ..ApiError::new(Kind::HeldBack, message)
        };
        let permit = inner.breaker.admit().map_err(|wait| {
            held_back("it did not answer several times in a row and is left alone for a while", wait)
        })?;
        let asked = Instant::now();
        inner
            .limiter
            .acquire(call.purpose, deadline)
            .await
            .map_err(|wait| held_back("the rate limit leaves no room in time", wait))?;
        let sent = Instant::now();
        inner.metrics.waited(sent - asked);

        let reply =
            tokio::time::timeout(inner.timeouts.request, inner.transport.clone().oneshot(request)).await;
        let result = match reply {
            Ok(Ok(reply)) => Reply::read(&reply, self.now(), secrets),
            Ok(Err(error)) => {
                let kind = match error {
                    TransportError::NotSent(_) => Kind::NotSent,
                    TransportError::Lost(_) => Kind::Unclear,
                };
                Err(ApiError::new(kind, words(&error.to_string(), secrets)))
            }
            Err(_) => {
                let message = format!("no reply within {:?}", inner.timeouts.request);
                Err(ApiError::new(Kind::Unclear, message))
            }
        };
        let outcome = result.as_ref().err().map_or("ok", |error| error.kind.name());
        tracing::debug!(endpoint = call.endpoint, outcome, took = ?sent.elapsed(), "VPSie was asked");
        inner.metrics.request(call.endpoint, outcome, sent.elapsed());
        match &result {
            Err(error) if matches!(error.kind, Kind::NotSent | Kind::Unclear) => {
                if permit.failed() {
                    tracing::warn!(
                        error = error.message,
                        "VPSie does not answer; it is left alone for a while"
                    );
                }
            }
            _ => permit.answered(),
        }
        inner.metrics.breaker(inner.breaker.is_open());
        if let Err(ApiError { kind: Kind::RateLimited, retry_after: Some(wait), .. }) = &result {
            inner.limiter.pause(*wait);
        }
        result
    }

    fn request(
        &self,
        call: &Call,
        base: &BaseUrl,
        token: Option<&Token>,
    ) -> Result<Request<Bytes>, ApiError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(base.join(&call.path))
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .header(header::USER_AGENT, self.0.user_agent.clone());
        if let Some(content_type) = call.body.content_type() {
            request = request.header(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if let Some(token) = token {
            let secret = token.secret.expose_secret().trim();
            // Clients send one, the other or both (docs/reference/vpsie-api.md#token); both are taken.
            request = request
                .header(HeaderName::from_static("vpsie-auth"), sensitive(secret)?)
                .header(header::AUTHORIZATION, sensitive(&format!("Bearer {secret}"))?);
        }
        request
            .body(call.body.bytes())
            .map_err(|_| ApiError::new(Kind::BadConfiguration, format!("{base} makes no valid URL")))
    }

    pub(super) fn auth(&self) -> &Auth {
        &self.0.auth
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(super) fn lists(&self) -> &Lists {
        &self.0.lists
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

fn sensitive(secret: &str) -> Result<HeaderValue, ApiError> {
    let mut value = HeaderValue::from_str(secret).map_err(|_| {
        let message = "the VPSie token has characters that a token cannot have";
        ApiError::new(Kind::Forbidden, message)
    })?;
    value.set_sensitive(true);
    Ok(value)
}
