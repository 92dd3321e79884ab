//! The connection to VPSie that logins and calls share: its transport, rate limit and circuit breaker.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tower::ServiceExt;

use super::base_url::BaseUrl;
use super::breaker::Breaker;
use super::call::Call;
use super::error::{ApiError, ErrorKind, clean_message};
use super::limiter::Limiter;
use super::metrics::Metrics;
use super::reply::{Reply, Shown};
use super::transport::{Timeouts, Transport, TransportError};
use crate::clock::Clock;
use crate::retry_after::RetryAfter;

/// Sends one request at a time. Clones share the rate limit and the circuit breaker.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) timeouts: Timeouts,
    pub(super) user_agent: HeaderValue,
    pub(super) transport: Transport,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    pub(super) limiter: Arc<Limiter>,
    pub(super) breaker: Arc<Breaker>,
}

impl Connection {
    /// A connection to another server, whose failures do not open this circuit breaker. It shares the rate
    /// limit.
    pub(super) fn to_other_server(&self) -> Self {
        Self { breaker: Arc::default(), ..self.clone() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Sends one request, once circuit breaker and rate limit admit it, and reads its reply. Errors do not
    /// show `secrets`.
    pub(super) async fn exchange(
        &self,
        call: &Call,
        base: &BaseUrl,
        secret: Option<&SecretString>,
        secrets: &[&str],
        deadline: Instant,
    ) -> Result<Reply, ApiError> {
        let request = self.build_request(call, base, secret)?;
        let not_admitted = |message: &str, wait| ApiError {
            retry_after: Some(RetryAfter::new(wait)),
            ..ApiError::new(ErrorKind::NotAdmitted, message)
        };
        let permit = self.breaker.admit().map_err(|wait| {
            not_admitted("the circuit breaker is open, because VPSie did not answer", wait)
        })?;
        let waiting_since = Instant::now();
        self.limiter.acquire(call.purpose, deadline).await.map_err(|wait| {
            not_admitted("the rate limit allows no request before the call times out", wait)
        })?;
        let sent = Instant::now();
        self.metrics.add_wait(sent - waiting_since);

        let reply =
            tokio::time::timeout(self.timeouts.request, self.transport.clone().oneshot(request)).await;
        let result = match reply {
            Ok(Ok(reply)) => {
                let shown = if call.reply_is_secret { Shown::Nothing } else { Shown::Excerpt };
                Reply::read(&reply, self.now(), secrets, shown)
            }
            Ok(Err(error)) => {
                let kind = match error {
                    TransportError::NotSent(_) => ErrorKind::NotSent,
                    TransportError::Lost(_) => ErrorKind::Unclear,
                };
                Err(ApiError::new(kind, clean_message(&error.to_string(), secrets)))
            }
            Err(_) => {
                let message = format!("no reply within {:?}", self.timeouts.request);
                Err(ApiError::new(ErrorKind::Unclear, message))
            }
        };
        let outcome = result.as_ref().err().map_or("ok", |error| error.kind.name());
        tracing::debug!(endpoint = call.endpoint, outcome, took = ?sent.elapsed(), "sent a request to VPSie");
        self.metrics.count_request(call.endpoint, outcome, sent.elapsed());
        match &result {
            Err(error) if matches!(error.kind, ErrorKind::NotSent | ErrorKind::Unclear) => {
                if permit.failed() {
                    tracing::warn!(error = error.message, "VPSie does not answer: circuit breaker open");
                }
            }
            _ => permit.replied(),
        }
        self.metrics.set_breaker_open(self.breaker.is_open());
        if let Err(ApiError { kind: ErrorKind::RateLimited, retry_after: Some(wait), .. }) = &result {
            self.limiter.pause(*wait);
        }
        result
    }

    fn build_request(
        &self,
        call: &Call,
        base: &BaseUrl,
        secret: Option<&SecretString>,
    ) -> Result<Request<Bytes>, ApiError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(base.join(&call.path))
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .header(header::USER_AGENT, self.user_agent.clone());
        if let Some(content_type) = call.body.content_type() {
            request = request.header(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if let Some(secret) = secret {
            let secret = secret.expose_secret().trim();
            // Clients send one of these headers or both (docs/reference/vpsie-api.md#token). VPSie accepts
            // both.
            request = request
                .header(HeaderName::from_static("vpsie-auth"), sensitive(secret)?)
                .header(header::AUTHORIZATION, sensitive(&format!("Bearer {secret}"))?);
        }
        request.body(call.body.bytes()).map_err(|_| {
            ApiError::new(ErrorKind::BadConfiguration, format!("{base} does not form a valid URL"))
        })
    }
}

fn sensitive(secret: &str) -> Result<HeaderValue, ApiError> {
    let mut value = HeaderValue::from_str(secret).map_err(|_| {
        let message = "the VPSie token has characters that are not allowed in an HTTP header";
        ApiError::new(ErrorKind::Forbidden, message)
    })?;
    value.set_sensitive(true);
    Ok(value)
}
