//! The networks of a replica to the API server and to VPSie: with pauses, slow replies and the check of
//! invariant 9.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fake_kube::{Answer, Connection, FakeKube, FaultEffect, StatusError};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt as _};
use vpsie_autoscaler::clock::Clock;
use vpsie_autoscaler::vpsie::{Transport, TransportError};

use super::{LEASE, NAMESPACE, PlantedReplicaBug};
use crate::clock::VirtualClock;
use crate::freezer::Freezer;
use crate::network::Violations;

/// Creates a replica's client of the API server. A request that was sent is executed even if its caller has
/// dropped it.
pub(super) fn client(
    kube: &FakeKube,
    name: &str,
    clock: &VirtualClock,
    bug: Option<PlantedReplicaBug>,
) -> kube::Client {
    let connection = kube.connection(name);
    let clock = clock.clone();
    let service = tower::service_fn(move |request| send(connection.clone(), clock.clone(), bug, request));
    kube::Client::new(service, NAMESPACE)
}

async fn send(
    connection: Connection,
    clock: VirtualClock,
    bug: Option<PlantedReplicaBug>,
    request: Request<Body>,
) -> Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError> {
    let reads_lease = request.method() == Method::GET && request.uri().path().ends_with(LEASE);
    let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    let reply = tokio::spawn(connection.oneshot(request)).await??;
    let (parts, body): (_, Answer) = reply.into_parts();
    if watches {
        return Ok(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()));
    }
    let bytes = body.collect().await?.to_bytes();
    let mut body = bytes.to_vec();
    if reads_lease && bug == Some(PlantedReplicaBug::WallClockTrusted) {
        body = clear_expired_holder(&body, &clock);
    }
    Ok(Response::from_parts(parts, Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()))
}

/// Removes the holder from a Lease whose `renewTime` has passed by this replica's clock.
fn clear_expired_holder(body: &[u8], clock: &VirtualClock) -> Vec<u8> {
    let mut lease: Value = serde_json::from_slice(body).unwrap_or_default();
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    if renewed.is_some_and(|renewed| clock.now().duration_since(renewed).as_secs() > 15) {
        lease["spec"]["holderIdentity"] = "".into();
    }
    lease.to_string().into_bytes()
}

/// Wraps a client so that it sends and receives nothing while the process is paused.
pub(super) fn freezable_client(client: &kube::Client, freezer: &Freezer) -> kube::Client {
    let inner = client.clone();
    let freezer = freezer.clone();
    let service = tower::service_fn(move |request| {
        let client = inner.clone();
        let freezer = freezer.clone();
        async move { freezer.run(client.send(request)).await.map_err(BoxError::from) }
    });
    kube::Client::new(service, NAMESPACE)
}

/// Wraps the transport to VPSie so that it sends and receives nothing while the process is paused.
pub(super) fn freezable_transport(transport: Transport, freezer: Freezer) -> Transport {
    BoxCloneSyncService::new(tower::service_fn(move |request| {
        let transport = transport.clone();
        let freezer = freezer.clone();
        async move { freezer.run(transport.oneshot(request)).await }
    }))
}

/// Identities of all leaders so far.
pub(super) type PastLeaders = Arc<Mutex<HashSet<String>>>;

/// Observes the calls of one replica, and reports each write that it starts while the Lease names another
/// holder.
#[derive(Clone)]
pub(super) struct FenceObserver {
    pub(super) kube: FakeKube,
    pub(super) identity: String,
    pub(super) past_leaders: PastLeaders,
    pub(super) violations: Violations,
}

impl FenceObserver {
    fn check_call(&self, method: &Method, path: &str) {
        if matches!(*method, Method::GET | Method::HEAD) {
            return;
        }
        // A deleted Lease names no holder. Candidates wait for a lease duration before they lead.
        let Some(lease) = self.kube.get("leases", NAMESPACE, LEASE) else { return };
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        // A candidate that creates a deleted Lease is its holder, but does not lead before it has waited.
        let is_taken_over = lease["spec"]["leaseTransitions"] != 0;
        if holder != self.identity && (is_taken_over || self.past_leaders.lock().unwrap().contains(holder)) {
            let Self { identity, .. } = self;
            self.violations.add(format!("9: {identity} starts {method} {path} while {holder:?} leads"));
        }
    }

    /// Wraps a client of the API server.
    pub(super) fn client(&self, client: &kube::Client) -> kube::Client {
        let inner = client.clone();
        let observer = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let client = inner.clone();
            let observer = observer.clone();
            async move {
                observer.check_call(request.method(), request.uri().path());
                client.send(request).await.map_err(BoxError::from)
            }
        });
        kube::Client::new(service, NAMESPACE)
    }

    /// Wraps the transport to VPSie. VPSie executes a request even if its caller has dropped it.
    pub(super) fn transport(&self, transport: Transport) -> Transport {
        let observer = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
            let transport = transport.clone();
            let observer = observer.clone();
            async move {
                observer.check_call(request.method(), request.uri().path());
                let sent = tokio::spawn(transport.oneshot(request)).await;
                sent.unwrap_or_else(|error| Err(TransportError::Lost(error.to_string())))
            }
        }))
    }
}

/// Draws the effect of a request to an API server with faults. Each of five faults has the probability
/// 1/`one_in`.
pub(super) fn draw_effect(rng: &mut StdRng, one_in: u32) -> FaultEffect {
    match rng.random_range(0..one_in) {
        0 => FaultEffect::ReplyLost,
        1 => FaultEffect::RequestLost,
        2 => FaultEffect::Hangs,
        3 => FaultEffect::DoneAndHangs,
        4 => FaultEffect::Refused(StatusError::new(500, "etcdserver: leader changed")),
        _ => FaultEffect::Done,
    }
}
