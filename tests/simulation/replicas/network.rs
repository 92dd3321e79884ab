//! What is around a replica: its process, which may stand still, and its network, which may be slow.

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

use super::{LEASE, NAMESPACE, PlantedState};
use crate::clock::VirtualClock;
use crate::freezer::Freezer;
use crate::network::Violations;

/// A replica's own way to the API server. What was sent arrives, also when nobody waits for the answer any more.
pub(super) fn client(
    kube: &FakeKube,
    name: &str,
    clock: &VirtualClock,
    planted: Option<PlantedState>,
) -> kube::Client {
    let connection = kube.connection(name);
    let clock = clock.clone();
    let service =
        tower::service_fn(move |request| carry(connection.clone(), clock.clone(), planted, request));
    kube::Client::new(service, NAMESPACE)
}

async fn carry(
    connection: Connection,
    clock: VirtualClock,
    planted: Option<PlantedState>,
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
    if reads_lease && planted == Some(PlantedState::WallClockTrusted) {
        body = without_expired(&body, &clock);
    }
    Ok(Response::from_parts(parts, Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()))
}

/// The Lease as one reads it who takes the holder's time for its own.
fn without_expired(body: &[u8], clock: &VirtualClock) -> Vec<u8> {
    let mut lease: Value = serde_json::from_slice(body).unwrap_or_default();
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    if renewed.is_some_and(|renewed| clock.now().duration_since(renewed).as_secs() > 15) {
        lease["spec"]["holderIdentity"] = "".into();
    }
    lease.to_string().into_bytes()
}

/// A frozen process sends nothing.
pub(super) fn frozen_client(client: &kube::Client, freezer: &Freezer) -> kube::Client {
    let inner = client.clone();
    let freezer = freezer.clone();
    let service = tower::service_fn(move |request| {
        let client = inner.clone();
        let freezer = freezer.clone();
        async move { freezer.run(client.send(request)).await.map_err(BoxError::from) }
    });
    kube::Client::new(service, NAMESPACE)
}

/// The same for VPSie.
pub(super) fn frozen_transport(transport: Transport, freezer: Freezer) -> Transport {
    BoxCloneSyncService::new(tower::service_fn(move |request| {
        let transport = transport.clone();
        let freezer = freezer.clone();
        async move { freezer.run(transport.oneshot(request)).await }
    }))
}

/// Who has ever led.
pub(super) type Led = Arc<Mutex<HashSet<String>>>;

/// Sees what a replica begins to do, and complains if it is not the one that the Lease names.
#[derive(Clone)]
pub(super) struct Witness {
    pub(super) kube: FakeKube,
    pub(super) identity: String,
    pub(super) led: Led,
    pub(super) violations: Violations,
}

impl Witness {
    fn check_call(&self, method: &Method, path: &str) {
        if matches!(*method, Method::GET | Method::HEAD) {
            return;
        }
        // Deleted by hand, it names nobody; others wait for as long as it may be held.
        let Some(lease) = self.kube.get("leases", NAMESPACE, LEASE) else { return };
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        // Made anew after it was deleted, it names one that waits, too.
        let taken = lease["spec"]["leaseTransitions"] != 0;
        if holder != self.identity && (taken || self.led.lock().unwrap().contains(holder)) {
            let Self { identity, .. } = self;
            self.violations.add(format!("9: {identity} begins {method} {path} while {holder:?} leads"));
        }
    }

    pub(super) fn client(&self, client: &kube::Client) -> kube::Client {
        let inner = client.clone();
        let witness = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let client = inner.clone();
            let witness = witness.clone();
            async move {
                witness.check_call(request.method(), request.uri().path());
                client.send(request).await.map_err(BoxError::from)
            }
        });
        kube::Client::new(service, NAMESPACE)
    }

    /// VPSie goes on with what it was asked, also when nobody waits for the answer any more.
    pub(super) fn transport(&self, transport: Transport) -> Transport {
        let witness = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
            let transport = transport.clone();
            let witness = witness.clone();
            async move {
                witness.check_call(request.method(), request.uri().path());
                let sent = tokio::spawn(transport.oneshot(request)).await;
                sent.unwrap_or_else(|broken| Err(TransportError::Lost(broken.to_string())))
            }
        }))
    }
}

/// What a hostile API server does with a request: each of five faults happens once in `one_in` requests.
pub(super) fn fault_effect(rng: &mut StdRng, one_in: u32) -> FaultEffect {
    match rng.random_range(0..one_in) {
        0 => FaultEffect::ReplyLost,
        1 => FaultEffect::RequestLost,
        2 => FaultEffect::Hangs,
        3 => FaultEffect::DoneAndHangs,
        4 => FaultEffect::Refused(StatusError::new(500, "etcdserver: leader changed")),
        _ => FaultEffect::Done,
    }
}
