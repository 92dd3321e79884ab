//! The webhook for interruption notices: signed requests on a port of its own (docs/use/spot.md#webhook).

mod message;
mod signature;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::handle::FleetHandle;
use super::nodes::NodesView;
use crate::clock::Clock;
use crate::fleet::{
    Cause, Change, Fleet, Hostname, MachineId, Names, Notice, NoticeSource, ReportedInterruption, VmId,
};
use crate::telemetry::RepeatedWarning;
use message::{LastMessages, Message, MessageTarget};
pub use signature::KeyError;
use signature::{is_signed, read_key};

/// Maximum size of a request, bytes.
const MAX_BODY: usize = 4 << 10;
/// Maximum number of concurrent requests.
const MAX_REQUESTS: usize = 16;
/// Maximum number of concurrent connections.
const MAX_CONNECTIONS: usize = 64;
/// Interval of the warning about requests that are refused for the same reason.
const REFUSAL_WARNING_INTERVAL: Duration = Duration::from_mins(1);
/// Maximum time for a request, including its record.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Receives notices, and replies once they are recorded.
pub struct NoticeWebhook {
    handle: FleetHandle,
    nodes: NodesView,
    clock: Arc<dyn Clock>,
    key_file: PathBuf,
    last: Arc<Mutex<LastMessages>>,
    permits: Semaphore,
    /// Limits the log of refused requests: every host that reaches the port can cause them.
    refusal: Mutex<RepeatedWarning>,
}

impl NoticeWebhook {
    /// Creates the webhook. `key_file` has the key of the signatures; it is read for each request, so a new key takes
    /// effect at once.
    pub fn new(handle: FleetHandle, nodes: NodesView, clock: Arc<dyn Clock>, key_file: PathBuf) -> Self {
        let permits = Semaphore::new(MAX_REQUESTS);
        let refusal = Mutex::new(RepeatedWarning::new(REFUSAL_WARNING_INTERVAL));
        Self { handle, nodes, clock, key_file, last: Arc::default(), permits, refusal }
    }

    /// Checks that the key file can be used.
    pub async fn check_key(key_file: &Path) -> Result<(), KeyError> {
        read_key(key_file).await.map(drop)
    }

    /// Serves `POST /v1/notices` until `shutdown`, on at most [`MAX_CONNECTIONS`] connections.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let service = TowerToHyperService::new(self.router().into_service());
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => TokioIo::new(stream),
                Err(error) => {
                    tracing::warn!(%error, "the webhook cannot accept a connection");
                    tokio::time::sleep(TIMEOUT).await;
                    continue;
                }
            };
            let service = service.clone();
            connections.spawn(async move {
                let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
                builder.http1().timer(TokioTimer::new()).header_read_timeout(TIMEOUT).keep_alive(false);
                let connection = builder.serve_connection(stream, service);
                // A client that reads or sends too slowly loses its connection.
                if !matches!(tokio::time::timeout(3 * TIMEOUT, connection).await, Ok(Ok(()))) {
                    tracing::debug!("a connection to the webhook was closed");
                }
            });
        }
        // A request in progress has its record within this time.
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(TIMEOUT, ended).await;
    }

    /// The route, with its limits.
    pub(super) fn router(self) -> Router {
        let webhook = Arc::new(self);
        Router::new()
            .route("/v1/notices", post(receive))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(from_fn_with_state(Arc::clone(&webhook), limit_requests))
            .with_state(webhook)
    }

    async fn receive(&self, headers: &HeaderMap, body: &[u8]) -> Result<String, Refused> {
        let key = read_key(&self.key_file).await.map_err(|error| {
            tracing::error!(%error, "cannot read --notice-webhook-key-file; the webhook refuses all requests");
            Refused(StatusCode::SERVICE_UNAVAILABLE, "the server cannot read its key; retry".to_owned())
        })?;
        if !is_signed(headers, body, &key) {
            let text = format!("{}: is missing, or is not the signature of the body", signature::SIGNATURE);
            return Err(Refused(StatusCode::UNAUTHORIZED, text));
        }
        let now = self.clock.now();
        let invalid = |error: message::Invalid| Refused(StatusCode::BAD_REQUEST, error.to_string());
        let message = Message::parse(body, now).map_err(invalid)?;
        let target = message.target().map_err(invalid)?;
        if matches!(target, MessageTarget::Node(_)) && !self.nodes.has_listed() {
            let text = "the Nodes have not been read yet; retry".to_owned();
            return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        let machine = self.find_machine(target).ok_or_else(|| {
            Refused(StatusCode::NOT_FOUND, "no machine of this cluster has this VM or Node".to_owned())
        })?;
        self.record(machine.clone(), message).await?;
        let deadline =
            self.handle.read(|fleet| fleet.machine(&machine)?.notice.as_ref().map(Notice::deadline));
        Ok(match deadline {
            Some(deadline) => format!("the VM of machine {machine} will be interrupted at {deadline}"),
            None => format!("machine {machine} has no interruption notice"),
        })
    }

    /// Records a message, unless it is outdated. The writer decides that, so that the order of messages is that of their
    /// records.
    async fn record(&self, machine: MachineId, message: Message) -> Result<(), Refused> {
        let last = Arc::clone(&self.last);
        let outdated = Arc::new(Mutex::new(None));
        let refusal = Arc::clone(&outdated);
        let record = move |fleet: &mut Fleet, now: Timestamp, _: Names<'_>| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            last.remove_old(now);
            match last.accept(&machine, &message) {
                Ok(()) => record_message(fleet, &machine, &message, now),
                Err(error) => {
                    *refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Vec::new()
                }
            }
        };
        let recorded = self.handle.update(Cause::InterruptionNotice, record).await;
        recorded.map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
        match outdated.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(Refused(StatusCode::CONFLICT, error.to_string())),
            None => Ok(()),
        }
    }

    /// The machine of a VM or Node.
    fn find_machine(&self, target: MessageTarget<'_>) -> Option<MachineId> {
        match target {
            MessageTarget::Vm(vm) => self.handle.read(|fleet| {
                let by_id = fleet.machine_by_vm(&VmId::from(vm));
                by_id
                    .or_else(|| fleet.machine_by_hostname(&Hostname::new(vm)))
                    .map(|machine| machine.id.clone())
            }),
            MessageTarget::Node(node) => {
                let node = self.nodes.node_named(&Hostname::new(node))?;
                let machine = node.machine?;
                let is_own = self.nodes.node_of(&machine).is_some_and(|own| own.name == node.name);
                is_own.then_some(machine)
            }
        }
    }
}

fn record_message(fleet: &mut Fleet, id: &MachineId, message: &Message, now: Timestamp) -> Vec<Change> {
    let source = NoticeSource::Webhook;
    if message.withdrawn {
        return fleet.withdraw_notice(id, source);
    }
    let reported = ReportedInterruption { deadline: message.deadline };
    let deadline = fleet.machine(id).and_then(|m| fleet.reported_deadline(m, source, reported, now));
    deadline.map(|deadline| fleet.record_notice(id, source, deadline, now)).unwrap_or_default()
}

/// A request that is refused: the status, and the reason.
struct Refused(StatusCode, String);

async fn receive(State(webhook): State<Arc<NoticeWebhook>>, headers: HeaderMap, body: Bytes) -> Response {
    match webhook.receive(&headers, &body).await {
        Ok(text) => (StatusCode::OK, text + "\n").into_response(),
        Err(Refused(status, reason)) => {
            let mut warning = webhook.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            if warning.is_due(&reason) {
                tracing::warn!(status = status.as_u16(), reason, "the webhook refused a request");
            }
            drop(warning);
            (status, reason + "\n").into_response()
        }
    }
}

/// Bounds the number of concurrent requests, and the time of each.
async fn limit_requests(State(webhook): State<Arc<NoticeWebhook>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = webhook.permits.try_acquire() else {
        return (StatusCode::TOO_MANY_REQUESTS, "too many concurrent requests; retry\n").into_response();
    };
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the notice is not recorded yet; retry\n").into_response()
        }
    }
}
