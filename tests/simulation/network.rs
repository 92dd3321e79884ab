//! The networks from the provider to VPSie and from Cluster Autoscaler to the provider. They inject crashes
//! and check each call.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};
use vpsie_autoscaler::fleet::{Hostname, Machine, Phase};
use vpsie_autoscaler::grpc::CloudProviderService;
use vpsie_autoscaler::grpc::proto::cloud_provider_server::CloudProviderServer;
use vpsie_autoscaler::simulator::{Simulator, VmKind};
use vpsie_autoscaler::vpsie::{Transport, TransportError};

use super::freezer::Freezer;
use super::observers::{IncreaseObserver, RequestObserver, UnansweredCreations};
use super::planted_bugs::PlantedBug;
use super::planted_state::PlantedState;
use super::records::Backing;

/// Number of calls to the store and to VPSie until the process crashes. The call that reaches zero never
/// returns, so that the process can be killed there.
#[derive(Clone, Default)]
pub(crate) struct CrashCountdown(Arc<CountdownState>);

#[derive(Default)]
struct CountdownState {
    remaining: Mutex<Option<u32>>,
    expired: Notify,
}

impl CrashCountdown {
    pub(crate) fn start(&self, calls: u32) {
        *self.0.remaining.lock().unwrap() = Some(calls);
    }

    pub(crate) fn stop(&self) {
        *self.0.remaining.lock().unwrap() = None;
        // Several calls may have reached zero. Consume the notification, or the next process crashes at once.
        let _ = self.0.expired.notified().now_or_never();
    }

    /// Waits until the process must be killed.
    pub(crate) async fn crashed(&self) {
        self.0.expired.notified().await;
    }

    pub(crate) async fn count_down(&self) {
        let is_expired = {
            let mut remaining = self.0.remaining.lock().unwrap();
            match remaining.as_mut() {
                None => false,
                Some(0) => true,
                Some(calls) => {
                    *calls -= 1;
                    false
                }
            }
        };
        if is_expired {
            self.0.expired.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// Violations of invariants that the networks observed.
#[derive(Clone, Default)]
pub(crate) struct Violations(Arc<Mutex<Vec<String>>>);

impl Violations {
    pub(crate) fn add(&self, violation: String) {
        self.0.lock().unwrap().push(violation);
    }

    pub(crate) fn first(&self) -> Option<String> {
        self.0.lock().unwrap().first().cloned()
    }
}

/// The network to VPSie.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) simulator: Simulator,
    pub(crate) backing: Backing,
    pub(crate) countdown: CrashCountdown,
    pub(crate) violations: Violations,
    pub(crate) bug: Option<PlantedBug>,
    /// None if VMs may match no request.
    pub(crate) requests: Option<RequestObserver>,
    pub(crate) unanswered: UnansweredCreations,
    /// Whether VPSie answers creations after three seconds.
    pub(crate) has_latency: bool,
    pub(crate) planted_state: PlantedState,
}

impl Network {
    /// Treats all accepted creations as unclear, after a restart or a clock jump.
    pub(crate) fn forget_accepted(&self) {
        if let Some(requests) = &self.requests {
            requests.forget_accepted();
        }
    }

    /// Notes a clock jump: the provider may time out requests early or late.
    pub(crate) fn note_clock_jump(&self) {
        self.forget_accepted();
        if let Some(requests) = &self.requests {
            requests.note_clock_jump();
        }
    }

    pub(crate) fn transport(&self) -> Transport {
        let network = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let network = network.clone();
            async move { network.send(request).await }
        }))
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        self.countdown.count_down().await;
        self.check_call(&request);
        if self.bug == Some(PlantedBug::WrongVmDeleted) {
            self.swap_deleted_vm(&mut request);
        }
        if self.bug == Some(PlantedBug::NamesakeDeleted)
            && let Some(uuid) = Self::deleted_vm(&request)
            && let Some(other) = PlantedState::find_namesake(&self.simulator, &uuid)
        {
            let body = String::from_utf8_lossy(request.body()).replace(&uuid, &other);
            *request.body_mut() = Bytes::from(body);
            self.check_call(&request);
        }
        let creates = is_creation(&request);
        self.planted_state.delay_request(self.bug).await;
        let observed = match self.requests.as_ref().filter(|_| creates) {
            Some(requests) => requests.begin(request.uri().path(), &self.simulator, &self.backing.records()),
            None => Ok(None),
        };
        let creation = observed.unwrap_or_else(|violation| {
            self.violations.add(violation);
            None
        });
        let unanswered =
            creates.then(|| self.unanswered.begin(request.uri().path(), &self.simulator)).flatten();
        let reply = self.simulator.transport().oneshot(request).await;
        if creates && self.has_latency {
            tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        }
        self.countdown.count_down().await;
        if let Some(creation) = unanswered.filter(|_| parse_acceptance(&reply).is_some()) {
            self.unanswered.remove(creation);
        }
        if let (Some(requests), Some(creation)) = (&self.requests, creation) {
            requests.end(creation, parse_acceptance(&reply), &self.simulator);
        }
        self.planted_state.note_reply(self.bug, &reply);
        match reply {
            Err(TransportError::Lost(error))
                if creates && self.bug == Some(PlantedBug::LostReplyIsNotSent) =>
            {
                Err(TransportError::NotSent(error))
            }
            reply => reply,
        }
    }

    /// Checks that a creation has a recorded request, and that a deletion names the VM of a Deleting machine.
    fn check_call(&self, request: &Request<Bytes>) {
        let path = request.uri().path();
        if path.contains("reduce") {
            self.violations.add(format!("7: {path} lets VPSie choose the VM"));
        }
        let records = self.backing.records();
        if is_creation(request) && !records.machines.iter().any(|m| !m.requests.is_empty()) {
            self.violations.add(format!("2: {path} without a recorded request"));
        }
        if let Some(uuid) = Self::deleted_vm(request) {
            // A repeated deletion may arrive after the VM is gone.
            let vms: Vec<_> = self.simulator.vms().into_iter().chain(self.simulator.gone()).collect();
            let vm = vms.iter().find(|vm| vm.vm.uuid == uuid);
            if vm.is_some_and(|vm| vm.vm.kind != VmKind::Worker) {
                self.violations.add(format!("7: deletion of {uuid}, which the provider has not requested"));
            }
            let hostname = vm.map(|vm| Hostname::new(&vm.vm.hostname));
            let has_vm = |machine: &Machine| {
                machine.vm().is_some_and(|vm| match &vm.id {
                    Some(id) => id.as_str() == uuid,
                    None => Some(&vm.hostname) == hostname.as_ref(),
                })
            };
            let is_deleting =
                records.machines.iter().any(|m| matches!(m.phase, Phase::Deleting { .. }) && has_vm(m));
            if !is_deleting {
                self.violations.add(format!("7: deletion of {uuid}, which belongs to no Deleting machine"));
            }
        }
    }

    /// UUID of the VM that a request deletes.
    fn deleted_vm(request: &Request<Bytes>) -> Option<String> {
        if request.method() != Method::DELETE || !request.uri().path().contains("delete/slave") {
            return None;
        }
        let body: serde_json::Value = serde_json::from_slice(request.body()).ok()?;
        Some(body["identifier"].as_str()?.to_owned())
    }

    fn swap_deleted_vm(&self, request: &mut Request<Bytes>) {
        let Some(deleted) = Self::deleted_vm(request) else { return };
        let Some(other) = self.simulator.vms().into_iter().map(|vm| vm.vm.uuid).find(|uuid| *uuid != deleted)
        else {
            return;
        };
        let body = String::from_utf8_lossy(request.body()).replace(&deleted, &other);
        *request.body_mut() = Bytes::from(body);
        self.check_call(request);
    }
}

/// Returns whether VPSie accepted a creation. None if the reply does not show it.
fn parse_acceptance(reply: &Result<Response<Bytes>, TransportError>) -> Option<bool> {
    match reply {
        Ok(reply) if reply.status().is_success() => {
            let body: serde_json::Value = serde_json::from_slice(reply.body()).ok()?;
            Some(matches!(body["error"].as_str(), None | Some("false")) && body["error"] != true)
        }
        Ok(reply) if reply.status().is_client_error() => Some(false),
        Err(TransportError::NotSent(_)) => Some(false),
        _ => None,
    }
}

fn is_creation(request: &Request<Bytes>) -> bool {
    request.method() == Method::POST && request.uri().path().contains("/add/slave/")
}

/// Cluster Autoscaler's connection to the provider. It is refused if no provider runs.
#[derive(Clone)]
pub(crate) struct CaChannel {
    pub(crate) server: Arc<Mutex<Option<CloudProviderServer<CloudProviderService>>>>,
    pub(crate) violations: Violations,
    pub(crate) bug: Option<PlantedBug>,
    pub(crate) known: Arc<Mutex<KnownPools>>,
    /// Pauses the process that serves.
    pub(crate) freezer: Arc<Mutex<Freezer>>,
    /// The observer of increases, and the records that it compares.
    pub(crate) increases: Option<(IncreaseObserver, Backing)>,
}

/// Pools in earlier replies.
#[derive(Default)]
pub(crate) struct KnownPools {
    pub(crate) pools: BTreeSet<String>,
    /// Whether a reply contained pools.
    pub(crate) answered: bool,
}

/// Returns true iff a reply is no error. A reply without a body has its gRPC status in the headers.
fn is_ok(reply: &Response<Body>) -> bool {
    reply.headers().get("grpc-status").is_none_or(|status| status == "0")
}

impl Service<Request<Body>> for CaChannel {
    type Response = Response<Body>;
    type Error = tonic::Status;
    type Future = BoxFuture<'static, Result<Response<Body>, tonic::Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move { channel.forward(request).await })
    }
}

impl CaChannel {
    pub(crate) fn note_process_end(&self) {
        if let Some((increases, _)) = &self.increases {
            increases.note_process_end();
        }
    }

    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, tonic::Status> {
        let freezer = self.freezer.lock().unwrap().clone();
        freezer.run(async {}).await;
        let server = self.server.lock().unwrap().clone();
        let Some(mut server) = server else {
            return Err(tonic::Status::unavailable("connection refused"));
        };
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let started = Instant::now();
        let observed = self.increases.as_ref().filter(|_| rpc == "NodeGroupIncreaseSize");
        let before = observed.map(|(_, backing)| IncreaseObserver::machine_ids(&backing.records()));
        if let Some((increases, _)) = observed {
            increases.begin();
        }
        let Ok::<_, Infallible>(reply) = server.call(request).await;
        if let Some(((increases, backing), before)) = observed.zip(before) {
            increases.end(is_ok(&reply), &before, &backing.records());
        }
        if self.bug == Some(PlantedBug::ReadsWait) && rpc == "NodeGroupNodes" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let reads = !["NodeGroupIncreaseSize", "NodeGroupDecreaseTargetSize", "NodeGroupDeleteNodes"]
            .contains(&rpc.as_str());
        if reads && started.elapsed() > std::time::Duration::ZERO {
            self.violations.add(format!("3: the read RPC {rpc} took {:?}", started.elapsed()));
        }
        self.alter_reply(&rpc, reply).await
    }

    /// Changes a reply as the planted bug requires.
    async fn alter_reply(&self, rpc: &str, reply: Response<Body>) -> Result<Response<Body>, tonic::Status> {
        let ((Some(bug @ PlantedBug::TargetOffByOne), "NodeGroupTargetSize")
        | (Some(bug @ PlantedBug::PoolHidden), "NodeGroups")) = (self.bug, rpc)
        else {
            return Ok(reply);
        };
        let (parts, body) = reply.into_parts();
        let collected = body.collect().await?;
        let bytes = collected.to_bytes();
        let changed = bug.change_reply(&bytes);
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let body = http_body_util::Full::new(changed)
            .with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) });
        Ok(Response::from_parts(parts, Body::new(body)))
    }
}
