//! In-process requests to the simulator, with the active faults.

use axum::body::Body;
use axum::{Extension, Router};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use jiff::SignedDuration;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::datacenter_faults::DatacenterFaults;
use super::fault::{Effect, Execution};
use super::handle::Simulator;
use super::routes;
use super::wire::{html, reply};
use crate::vpsie::{Transport, TransportError};

/// A connection failure that the caller observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request did not arrive.
    #[error("connection refused")]
    NotSent,
    /// The request arrived; the reply did not.
    #[error("connection closed before the reply")]
    Lost,
}

impl Simulator {
    /// The HTTP API and the control endpoint, without faults: only [`call`](Self::call) applies faults.
    pub fn router(&self) -> Router {
        routes::ROUTER.clone().layer(Extension(self.clone()))
    }

    /// Executes a request with faults and delays.
    pub async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>, CallError> {
        let (parts, body) = self.handle(request).await?.into_parts();
        let body = body.collect().await.map_err(|_| CallError::Lost)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }

    /// A transport that calls the simulator in place of the network.
    pub fn transport(&self) -> Transport {
        let simulator = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let simulator = simulator.clone();
            async move {
                simulator.call(request).await.map_err(|error| match error {
                    CallError::NotSent => TransportError::NotSent(error.to_string()),
                    CallError::Lost => TransportError::Lost(error.to_string()),
                })
            }
        }))
    }

    /// Like [`call`](Self::call), with a body that may be slow.
    pub(super) async fn handle(&self, request: Request<Bytes>) -> Result<Response<Body>, CallError> {
        if request.uri().path().starts_with("/_simulator/") {
            return Ok(self.execute_request(request).await);
        }
        let effect = self.select_effect(&request)?;
        let faults = self.datacenter_faults_of(&request);
        if !faults.slow.is_zero() {
            tokio::time::sleep(faults.slow.unsigned_abs()).await;
        }
        if faults.outage {
            return Ok(self.shapes().refusal(503, "Datacenter is not available"));
        }
        match effect {
            None => Ok(self.execute_request(request).await),
            Some(effect) => self.apply_fault(request, effect).await,
        }
    }

    /// The faults of the datacenter that the request names, directly or by a VM or cluster.
    fn datacenter_faults_of(&self, request: &Request<Bytes>) -> DatacenterFaults {
        let names = routes::names_in(request);
        self.with_state(|state, cx, _| {
            let datacenter = |name: &String| {
                let own = cx.config.datacenter(name).map(|(_, own)| own.identifier.clone());
                let cluster = cx.config.cluster(name).map(|(_, cluster)| cluster.datacenter.clone());
                own.or(cluster).or_else(|| state.vm(name).map(|vm| vm.datacenter.clone()))
            };
            let named = names.iter().find_map(datacenter);
            named.map(|datacenter| cx.config.faults_at(&datacenter)).unwrap_or_default()
        })
    }

    /// Counts the request and selects the fault that applies to it.
    fn select_effect(&self, request: &Request<Bytes>) -> Result<Option<Effect>, CallError> {
        let method = request.method().as_str();
        let path = request.uri().path();
        self.world(|world| {
            *world.calls.entry(routes::endpoint_name(method, path)).or_default() += 1;
            if world.outage {
                return Err(CallError::NotSent);
            }
            Ok(world.faults.select_effect(method, path, &mut world.fault_rng))
        })
    }

    async fn apply_fault(
        &self,
        request: Request<Bytes>,
        effect: Effect,
    ) -> Result<Response<Body>, CallError> {
        match effect {
            Effect::NotSent => Err(CallError::NotSent),
            Effect::Lost => {
                self.execute_request(request).await;
                Err(CallError::Lost)
            }
            Effect::Delay(time) => {
                tokio::time::sleep(time.unsigned_abs()).await;
                Ok(self.execute_request(request).await)
            }
            Effect::Slow(time) => {
                let response = self.execute_request(request).await;
                slow(response, time).await
            }
            Effect::Duplicate => {
                self.execute_request(request.clone()).await;
                Ok(self.execute_request(request).await)
            }
            Effect::Html { code, execution } => {
                self.execute_if(request, execution).await;
                Ok(html(code))
            }
            Effect::Status { code, execution, retry_after, message } => {
                self.execute_if(request, execution).await;
                let reason = http::StatusCode::from_u16(code).ok().and_then(|s| s.canonical_reason());
                let message = message.as_deref().or(reason).unwrap_or("Error");
                let mut response = reply(code, &self.shapes().error(code, message));
                if let Some(value) = retry_after.and_then(|text| HeaderValue::try_from(text).ok()) {
                    response.headers_mut().insert(header::RETRY_AFTER, value);
                }
                Ok(response)
            }
        }
    }

    async fn execute_if(&self, request: Request<Bytes>, execution: Execution) {
        if execution == Execution::Executed {
            self.execute_request(request).await;
        }
    }

    async fn execute_request(&self, request: Request<Bytes>) -> Response<Body> {
        let shapes = self.shapes();
        if !routes::prefix_is_served(&shapes, request.uri().path()) {
            return shapes.unknown_route();
        }
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(self.clone());
        let Ok(response) = routes::ROUTER.clone().oneshot(request).await;
        if let Err(error) = self.save().await {
            tracing::error!(%error, "cannot save the state of the simulator");
        }
        response
    }
}

const PIECES: usize = 10;

/// Sends the body in pieces.
async fn slow(response: Response<Body>, time: SignedDuration) -> Result<Response<Body>, CallError> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|_| CallError::Lost)?.to_bytes();
    let pause = time.unsigned_abs() / PIECES as u32;
    let size = body.len().div_ceil(PIECES).max(1);
    let pieces = futures::stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let piece = rest.split_to(size.min(rest.len()));
        Some((Ok::<_, std::convert::Infallible>(piece), rest))
    });
    Ok(Response::from_parts(parts, Body::from_stream(pieces)))
}
