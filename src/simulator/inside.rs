//! The simulator as a whole, called in process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::Body;
use axum::{Extension, Router};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use jiff::SignedDuration;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use tokio::sync::watch;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::config::{ConfigError, SimulatorConfig};
use super::fault::{Effect, Faults, Work};
use super::persist::{Saver, Snapshot};
use super::routes;
use super::state::{Context, State};
use super::wire::{html, reply};
use super::work::RateLimit;
use crate::clock::Clock;
use crate::vpsie::{Transport, TransportError};

/// A VPSie in a process. Cheap to clone: clones share one state.
#[derive(Clone)]
pub struct Simulator {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    clock: Arc<dyn Clock>,
    world: Mutex<World>,
    changes: watch::Sender<u64>,
    pub(super) saver: OnceLock<Saver>,
}

/// What is behind the lock.
pub(super) struct World {
    pub config: SimulatorConfig,
    pub state: State,
    pub rng: Xoshiro256PlusPlus,
    pub faults: Faults,
    pub fault_rng: Xoshiro256PlusPlus,
    pub rate: RateLimit,
    pub outage: bool,
    pub calls: BTreeMap<String, u64>,
}

/// What a caller sees of a connection that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request did not arrive: nothing was done.
    #[error("connection refused")]
    NotSent,
    /// The request arrived; the reply did not.
    #[error("connection closed before the reply")]
    Lost,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").finish_non_exhaustive()
    }
}

impl Simulator {
    /// Starts with what the configuration says is there.
    pub fn new(config: SimulatorConfig, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(config.seed);
        let state = State::new(&mut Context { config: &config, now: clock.now(), rng: &mut rng });
        Ok(Self::assemble(config, clock, state, rng))
    }

    /// Goes on from a snapshot. The configuration rules how things behave from here; what exists, how much
    /// room there is and the quota come from the snapshot.
    pub fn restore(
        config: SimulatorConfig,
        clock: Arc<dyn Clock>,
        snapshot: Snapshot,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self::assemble(config, clock, snapshot.state, snapshot.rng))
    }

    fn assemble(
        config: SimulatorConfig,
        clock: Arc<dyn Clock>,
        state: State,
        rng: Xoshiro256PlusPlus,
    ) -> Self {
        let mut faults = Faults::default();
        for rule in &config.faults {
            faults.add(rule.clone());
        }
        let rate = RateLimit::full(config.rate_limit.unwrap_or_default(), clock.now());
        let fault_rng = Xoshiro256PlusPlus::seed_from_u64(!config.seed);
        let changes = watch::Sender::new(state.revision);
        let calls = BTreeMap::new();
        let world = World { config, state, rng, faults, fault_rng, rate, outage: false, calls };
        let inner = Inner { clock, world: Mutex::new(world), changes, saver: OnceLock::new() };
        Self { inner: Arc::new(inner) }
    }

    /// What it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.world(|world| Snapshot::new(world.state.clone(), world.rng.clone()))
    }

    /// The HTTP API and the control endpoint, without faults: those are struck by [`call`](Self::call).
    pub fn router(&self) -> Router {
        routes::ROUTER.clone().layer(Extension(self.clone()))
    }

    /// Carries out a request, faults and delays included.
    pub async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>, CallError> {
        let (parts, body) = self.handle(request).await?.into_parts();
        let body = body.collect().await.map_err(|_| CallError::Lost)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }

    /// The simulator in the place of the network.
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

    /// Like [`call`](Self::call), with a body that may come slowly.
    pub(super) async fn handle(&self, request: Request<Bytes>) -> Result<Response<Body>, CallError> {
        if request.uri().path().starts_with("/_simulator/") {
            return Ok(self.work(request).await);
        }
        match self.admit(&request)? {
            None => Ok(self.work(request).await),
            Some(effect) => self.strike(request, effect).await,
        }
    }

    /// Counts the request and says what goes wrong with it.
    fn admit(&self, request: &Request<Bytes>) -> Result<Option<Effect>, CallError> {
        let (method, path) = (request.method().as_str(), request.uri().path());
        self.world(|world| {
            *world.calls.entry(routes::endpoint_name(method, path)).or_default() += 1;
            if world.outage {
                return Err(CallError::NotSent);
            }
            Ok(world.faults.strike(method, path, &mut world.fault_rng))
        })
    }

    async fn strike(&self, request: Request<Bytes>, effect: Effect) -> Result<Response<Body>, CallError> {
        match effect {
            Effect::NotSent => Err(CallError::NotSent),
            Effect::Lost => {
                self.work(request).await;
                Err(CallError::Lost)
            }
            Effect::Delay(time) => {
                tokio::time::sleep(time.unsigned_abs()).await;
                Ok(self.work(request).await)
            }
            Effect::Slow(time) => {
                let response = self.work(request).await;
                slow(response, time).await
            }
            Effect::Duplicate => {
                self.work(request.clone()).await;
                Ok(self.work(request).await)
            }
            Effect::Html { code, work } => {
                self.work_if(request, work).await;
                Ok(html(code))
            }
            Effect::Status { code, work, retry_after, message } => {
                self.work_if(request, work).await;
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

    async fn work_if(&self, request: Request<Bytes>, work: Work) {
        if work == Work::Done {
            self.work(request).await;
        }
    }

    async fn work(&self, request: Request<Bytes>) -> Response<Body> {
        let shapes = self.shapes();
        if !routes::prefix_is_served(&shapes, request.uri().path()) {
            return shapes.unknown_route();
        }
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(self.clone());
        let Ok(response) = routes::ROUTER.clone().oneshot(request).await;
        if let Some(saver) = self.inner.saver.get()
            && let Err(error) = saver.save(self).await
        {
            tracing::error!(%error, "the simulator's state is not saved");
        }
        response
    }

    pub(super) fn world<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        let mut world = self.inner.world.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut world)
    }

    /// Does something to the state, at this moment.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State, &mut Context<'_>, &mut RateLimit) -> R) -> R {
        let now = self.now();
        self.world(|world| {
            world.state.settle(now);
            let World { config, state, rng, rate, .. } = world;
            let result = f(state, &mut Context { config, now, rng }, rate);
            self.inner.changes.send_if_modified(|seen| {
                let changed = *seen != state.revision;
                *seen = state.revision;
                changed
            });
            result
        })
    }

    pub(super) fn now(&self) -> jiff::Timestamp {
        self.inner.clock.now()
    }

    /// Wakes up when something is made, deleted or changed; not when time alone changes something.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
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
