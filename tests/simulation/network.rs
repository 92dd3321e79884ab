//! What is around the provider: its network to VPSie, and Cluster Autoscaler's network to it. Each may
//! kill the process at any step, and each watches what passes.

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
use super::ledger::{Increases, Requests, Unanswered};
use super::planted_bugs::PlantedBug;
use super::planted_state::PlantedState;
use super::records::Backing;

/// Burns by one with each call to store or VPSie; when it is burnt, the process stands still and is killed.
#[derive(Clone, Default)]
pub(crate) struct CrashCountdown(Arc<CountdownState>);

#[derive(Default)]
struct CountdownState {
    left: Mutex<Option<u32>>,
    blown: Notify,
}

impl CrashCountdown {
    pub(crate) fn start(&self, steps: u32) {
        *self.0.left.lock().unwrap() = Some(steps);
    }

    pub(crate) fn stop(&self) {
        *self.0.left.lock().unwrap() = None;
        // Two calls may have blown it; the process is dead once.
        let _ = self.0.blown.notified().now_or_never();
    }

    pub(crate) async fn crashed(&self) {
        self.0.blown.notified().await;
    }

    pub(crate) async fn count_down(&self) {
        let blows = {
            let mut left = self.0.left.lock().unwrap();
            match left.as_mut() {
                None => false,
                Some(0) => true,
                Some(steps) => {
                    *steps -= 1;
                    false
                }
            }
        };
        if blows {
            self.0.blown.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// What the wires saw go wrong.
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
    /// Not where VMs may fit no request.
    pub(crate) requests: Option<Requests>,
    pub(crate) unanswered: Unanswered,
    /// Whether VPSie takes its time for creations.
    pub(crate) latency: bool,
    pub(crate) planted: PlantedState,
}

impl Network {
    /// The process is another one, or its clock is.
    pub(crate) fn forget_requests(&self) {
        if let Some(requests) = &self.requests {
            requests.forget();
        }
    }

    /// The process gives up requests early, or late.
    pub(crate) fn clock_jumped(&self) {
        self.forget_requests();
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
        self.watch(&request);
        if self.bug == Some(PlantedBug::AnotherVictim) {
            self.swap_victim(&mut request);
        }
        if self.bug == Some(PlantedBug::NamesakeDeleted)
            && let Some(victim) = Self::victim(&request)
            && let Some(other) = PlantedState::namesake(&self.simulator, &victim)
        {
            let body = String::from_utf8_lossy(request.body()).replace(&victim, &other);
            *request.body_mut() = Bytes::from(body);
            self.watch(&request);
        }
        let creates = is_creation(&request);
        self.planted.before(self.bug).await;
        let begun = match self.requests.as_ref().filter(|_| creates) {
            Some(requests) => requests.begin(request.uri().path(), &self.simulator, &self.backing.records()),
            None => Ok(None),
        };
        let creation = begun.unwrap_or_else(|violation| {
            self.violations.add(violation);
            None
        });
        let unanswered =
            creates.then(|| self.unanswered.begin(request.uri().path(), &self.simulator)).flatten();
        let answer = self.simulator.transport().oneshot(request).await;
        if creates && self.latency {
            tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        }
        self.countdown.count_down().await;
        if let Some(creation) = unanswered.filter(|_| accepted(&answer).is_some()) {
            self.unanswered.answered(creation);
        }
        if let (Some(requests), Some(creation)) = (&self.requests, creation) {
            requests.end(creation, accepted(&answer), &self.simulator);
        }
        self.planted.after(self.bug, &answer);
        match answer {
            Err(TransportError::Lost(why))
                if creates && self.bug == Some(PlantedBug::LostTakenForNotDone) =>
            {
                Err(TransportError::NotSent(why))
            }
            answer => answer,
        }
    }

    /// Money is spent only on what is on disk, and only what is to go is deleted.
    fn watch(&self, request: &Request<Bytes>) {
        let path = request.uri().path();
        if path.contains("reduce") {
            self.violations.add(format!("7: {path} lets VPSie choose the victim"));
        }
        let records = self.backing.records();
        if is_creation(request) && !records.machines.iter().any(|m| !m.requests.is_empty()) {
            self.violations.add(format!("2: {path} without a recorded request"));
        }
        if let Some(victim) = Self::victim(request) {
            // A deletion that is repeated may come when the VM is gone.
            let victims: Vec<_> = self.simulator.vms().into_iter().chain(self.simulator.gone()).collect();
            let vm = victims.iter().find(|vm| vm.vm.uuid == victim);
            if vm.is_some_and(|vm| vm.vm.kind != VmKind::Worker) {
                self.violations.add(format!("7: deletion of {victim}, which is none of our VMs"));
            }
            let name = vm.map(|vm| Hostname::new(&vm.vm.hostname));
            let is_victim = |machine: &Machine| {
                machine.vm().is_some_and(|vm| match &vm.id {
                    Some(id) => id.as_str() == victim,
                    None => Some(&vm.hostname) == name.as_ref(),
                })
            };
            let given_up =
                records.machines.iter().any(|m| matches!(m.phase, Phase::Deleting { .. }) && is_victim(m));
            if !given_up {
                self.violations.add(format!("7: deletion of {victim}, which nobody gave up"));
            }
        }
    }

    fn victim(request: &Request<Bytes>) -> Option<String> {
        if request.method() != Method::DELETE || !request.uri().path().contains("delete/slave") {
            return None;
        }
        let body: serde_json::Value = serde_json::from_slice(request.body()).ok()?;
        Some(body["identifier"].as_str()?.to_owned())
    }

    fn swap_victim(&self, request: &mut Request<Bytes>) {
        let Some(victim) = Self::victim(request) else { return };
        let Some(other) = self.simulator.vms().into_iter().map(|vm| vm.vm.uuid).find(|uuid| *uuid != victim)
        else {
            return;
        };
        let body = String::from_utf8_lossy(request.body()).replace(&victim, &other);
        *request.body_mut() = Bytes::from(body);
        self.watch(request);
    }
}

/// Whether a creation was accepted. None: the reply does not tell.
fn accepted(answer: &Result<Response<Bytes>, TransportError>) -> Option<bool> {
    match answer {
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

/// Cluster Autoscaler's connection to the provider, if one runs.
#[derive(Clone)]
pub(crate) struct CaChannel {
    pub(crate) server: Arc<Mutex<Option<CloudProviderServer<CloudProviderService>>>>,
    pub(crate) violations: Violations,
    pub(crate) bug: Option<PlantedBug>,
    pub(crate) known: Arc<Mutex<KnownPools>>,
    /// Of the process behind it.
    pub(crate) freezer: Arc<Mutex<Freezer>>,
    /// What increases came to, and where machines are recorded.
    pub(crate) increases: Option<(Increases, Backing)>,
}

/// What was answered before.
#[derive(Default)]
pub(crate) struct KnownPools {
    pub(crate) pools: BTreeSet<String>,
    pub(crate) answered: bool,
}

/// Whether a reply is no error: one without a body tells its status in its head.
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
        Box::pin(async move { channel.pass(request).await })
    }
}

impl CaChannel {
    pub(crate) fn process_died(&self) {
        if let Some((increases, _)) = &self.increases {
            increases.process_died();
        }
    }

    async fn pass(&self, request: Request<Body>) -> Result<Response<Body>, tonic::Status> {
        let freezer = self.freezer.lock().unwrap().clone();
        freezer.run(async {}).await;
        let server = self.server.lock().unwrap().clone();
        let Some(mut server) = server else {
            return Err(tonic::Status::unavailable("connection refused"));
        };
        let rpc = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let started = Instant::now();
        let watched = self.increases.as_ref().filter(|_| rpc == "NodeGroupIncreaseSize");
        let before = watched.map(|(_, backing)| Increases::before(&backing.records()));
        if let Some((increases, _)) = watched {
            increases.begin();
        }
        let Ok::<_, Infallible>(reply) = server.call(request).await;
        if let Some(((increases, backing), before)) = watched.zip(before) {
            increases.answered(is_ok(&reply), &before, &backing.records());
        }
        if self.bug == Some(PlantedBug::ReadsWait) && rpc == "NodeGroupNodes" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let reads = !["NodeGroupIncreaseSize", "NodeGroupDecreaseTargetSize", "NodeGroupDeleteNodes"]
            .contains(&rpc.as_str());
        if reads && started.elapsed() > std::time::Duration::ZERO {
            self.violations.add(format!("3: {rpc} waited for {:?}", started.elapsed()));
        }
        self.alter_reply(&rpc, reply).await
    }

    /// Where a planted bug changes what is answered.
    async fn alter_reply(&self, rpc: &str, reply: Response<Body>) -> Result<Response<Body>, tonic::Status> {
        let ((Some(bug @ PlantedBug::TargetOffByOne), "NodeGroupTargetSize")
        | (Some(bug @ PlantedBug::PoolHidden), "NodeGroups")) = (self.bug, rpc)
        else {
            return Ok(reply);
        };
        let (parts, body) = reply.into_parts();
        let collected = body.collect().await?;
        let bytes = collected.to_bytes();
        let changed = bug.change(&bytes);
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let body = http_body_util::Full::new(changed)
            .with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) });
        Ok(Response::from_parts(parts, Body::new(body)))
    }
}
