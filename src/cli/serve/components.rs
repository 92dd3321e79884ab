//! Components of `serve`, with files and in a cluster.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::Router;
use futures::future::Either;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::config::{CredentialSource, NoticeWebhookSettings, Settings, VpsieSettings};
use crate::control::{
    AuditLog, CatalogMetrics, CatalogRefresh, CostCollector, CredentialMetrics, DrainMetrics, FleetCollector,
    FleetHandle, GuardedBackend, InterruptionMetrics, ListingTrigger, NodesView, NoticeWebhook, Provision,
    Removal, Rotation, credentials_in_file, credentials_in_secret, offer_routes, preview_routes,
};
use crate::grpc::{self, CloudProviderService, Decisions, ExpanderService, GrpcMetrics, Services};
use crate::kubernetes::{EventMetrics, Events};
#[cfg(any(feature = "simulator", test))]
use crate::simulator::{Simulator, Snapshot};
use crate::telemetry::{Readiness, Registry, serve_http};
use crate::vpsie::{Backend, Client, ClientConfig, Credentials, Metrics, Transport, https};

/// The flag of the webhook's address.
const WEBHOOK_LISTEN: &str = "--notice-webhook-listen";
/// Wait between attempts to serve the webhook.
const WEBHOOK_RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The tasks of the process. A task that ends by itself ends the process: a restart is better than a provider
/// that works in part.
pub(super) type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// All metrics. They are registered before any task starts.
pub(super) struct ServeMetrics {
    pub(super) registry: Registry,
    pub(super) catalog: CatalogMetrics,
    pub(super) grpc: GrpcMetrics,
    pub(super) vpsie: Metrics,
    pub(super) audit_log: AuditLog,
    pub(super) events: EventMetrics,
    pub(super) drain: DrainMetrics,
    pub(super) interruptions: InterruptionMetrics,
    pub(super) credentials: CredentialMetrics,
    pub(super) decisions: Arc<Decisions>,
    /// The fleet, once it is loaded.
    pub(super) fleet: Arc<OnceLock<FleetHandle>>,
}

impl ServeMetrics {
    pub(super) fn new(credential_source: &CredentialSource) -> Self {
        let mut registry = Registry::default();
        let grpc = GrpcMetrics::register(&mut registry);
        let vpsie = Metrics::default();
        vpsie.register(&mut registry);
        let audit_log = AuditLog::default();
        audit_log.register(&mut registry);
        let events = EventMetrics::default();
        events.register(&mut registry);
        let drain = DrainMetrics::default();
        drain.register(&mut registry);
        let interruptions = InterruptionMetrics::default();
        interruptions.register(&mut registry);
        let credentials = CredentialMetrics::default();
        if credential_source != &CredentialSource::Fixed {
            credentials.register(&mut registry);
        }
        let decisions = Decisions::default();
        decisions.register(&mut registry);
        let decisions = Arc::new(decisions);
        let fleet = Arc::new(OnceLock::new());
        registry.collect(FleetCollector::new(Arc::clone(&fleet)));
        registry.collect_unprefixed(CostCollector::new(Arc::clone(&fleet)));
        let catalog = CatalogMetrics::default();
        catalog.register(&mut registry);
        Self {
            registry,
            catalog,
            grpc,
            vpsie,
            audit_log,
            events,
            drain,
            interruptions,
            credentials,
            decisions,
            fleet,
        }
    }
}

pub(super) fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// Opens a port. `[::]` means all addresses of both families, or of IPv4 on a host without IPv6.
pub(super) async fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    let bound = match bound {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&error) => {
            tracing::info!(%error, "{flag} {address}: no IPv6 on this host; listening on IPv4 only");
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on {flag} {address}"))
}

/// Returns true iff the address does not exist, in contrast to a port that is in use or not permitted.
fn is_without_ipv6(error: &std::io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied)
}

pub(super) fn spawn(tasks: &mut Tasks, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        (name, Ok(()))
    });
}

/// Checks key and port of the webhook for notices, if there is one, so that a replica that cannot serve it does not lead.
pub(super) async fn check_notice_webhook(settings: Option<&NoticeWebhookSettings>) -> anyhow::Result<()> {
    if let Some(NoticeWebhookSettings { listen: address, key_file }) = settings {
        NoticeWebhook::check_key(key_file).await.context("--notice-webhook-key-file")?;
        drop(listen(WEBHOOK_LISTEN, *address).await?);
    }
    Ok(())
}

/// Starts the task of the webhook for notices, if there is one. While its key or port cannot be used, it retries: the other
/// tasks of the leader go on.
pub(super) fn spawn_notice_webhook(
    tasks: &mut Tasks,
    settings: Option<&NoticeWebhookSettings>,
    handle: &FleetHandle,
    nodes: &NodesView,
    clock: &Arc<dyn Clock>,
    shutdown: &CancellationToken,
) {
    let Some(NoticeWebhookSettings { listen: address, key_file }) = settings.cloned() else { return };
    let (handle, nodes, clock) = (handle.clone(), nodes.clone(), Arc::clone(clock));
    let stop = shutdown.clone();
    let serve = async move {
        loop {
            let opened = async {
                NoticeWebhook::check_key(&key_file).await.context("--notice-webhook-key-file")?;
                listen(WEBHOOK_LISTEN, address).await
            };
            match opened.await {
                Ok(listener) => {
                    tracing::info!(%address, "serving the webhook for interruption notices");
                    let webhook = NoticeWebhook::new(handle, nodes, clock, key_file);
                    return webhook.serve(listener, stop).await;
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(error, "cannot serve the webhook for interruption notices; retrying");
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(WEBHOOK_RETRY_INTERVAL)).await.is_none() {
                return;
            }
        }
    };
    spawn(tasks, "notice webhook", serve);
}

/// The debug endpoints of the HTTP port.
pub(super) fn debug_router(decisions: &Arc<Decisions>, fleet: &Arc<OnceLock<FleetHandle>>) -> Router {
    grpc::debug_routes(Arc::clone(decisions))
        .merge(offer_routes(Arc::clone(fleet)))
        .merge(preview_routes(Arc::clone(fleet), system_clock()))
}

pub(super) fn spawn_http(
    tasks: &mut Tasks,
    http: TcpListener,
    registry: Registry,
    readiness: Readiness,
    debug: Router,
    shutdown: CancellationToken,
) {
    tasks.spawn(async move {
        let served = serve_http(http, Arc::new(registry), readiness, debug, shutdown).await;
        ("HTTP", served.map_err(Into::into))
    });
}

/// The transport to VPSie or to the simulator.
pub(super) async fn build_transport(vpsie: &VpsieSettings) -> anyhow::Result<(Transport, ClientConfig)> {
    match vpsie {
        VpsieSettings::Real { client, .. } => Ok((https(&client.timeouts), client.clone())),
        #[cfg(any(feature = "simulator", test))]
        VpsieSettings::Simulated { simulator, state, client } => {
            let simulator = match Snapshot::load(state)? {
                Some(snapshot) => Simulator::restore((**simulator).clone(), system_clock(), snapshot)?,
                None => Simulator::new((**simulator).clone(), system_clock())?,
            };
            simulator.persist_to(state.clone()).await?;
            Ok((simulator.transport(), client.clone()))
        }
    }
}

/// The observers of the VPSie loops.
pub(super) struct VpsieObservers {
    pub(super) metrics: CatalogMetrics,
    pub(super) events: Events,
    pub(super) nodes: Option<NodesView>,
}

/// Starts the loops that call VPSie once `ready` is true. The returned trigger makes a new listing due.
pub(super) fn spawn_vpsie(
    tasks: &mut Tasks,
    settings: &Settings,
    handle: &FleetHandle,
    backend: &Arc<dyn Backend>,
    observers: VpsieObservers,
    ready: impl Future<Output = bool> + Clone + Send + 'static,
    shutdown: &CancellationToken,
) -> Arc<ListingTrigger> {
    let VpsieObservers { metrics, events, nodes } = observers;
    let timing = &settings.timing;
    let listing_trigger = Arc::new(ListingTrigger::default());
    let guarded = GuardedBackend::new(Arc::clone(backend), handle.clone(), nodes.clone(), events.clone());
    let backend: Arc<dyn Backend> = Arc::new(guarded);
    let provision = Provision::new(
        handle.clone(),
        Arc::clone(&backend),
        settings.policy(),
        timing.observe_interval,
        Arc::clone(&listing_trigger),
    )
    .with_nodes(nodes)
    .with_events(events.clone());
    let removal = Removal::new(handle.clone(), Arc::clone(&backend), Arc::clone(&listing_trigger));
    let catalog = CatalogRefresh::new(handle.clone(), Arc::clone(&backend), timing.catalog_interval)
        .with_reporting(metrics, events)
        .run(shutdown.clone());
    spawn(tasks, "provision", run_after(ready.clone(), provision.run(shutdown.clone())));
    spawn(tasks, "removal", run_after(ready.clone(), removal.run(shutdown.clone())));
    spawn(tasks, "catalog", run_after(ready, catalog));
    listing_trigger
}

/// Starts the rotation of credentials, if their source can change.
pub(super) fn spawn_credentials(
    tasks: &mut Tasks,
    settings: &VpsieSettings,
    vpsie: &Client,
    kubernetes: Option<&kube::Client>,
    metrics: CredentialMetrics,
    events: Events,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let credentials = &settings.client().credentials;
    let (rotation, candidates) = match settings.credential_source().clone() {
        CredentialSource::Fixed => return Ok(()),
        CredentialSource::TokenFile(file) => (
            Rotation::from_file(vpsie.clone(), &file, credentials.clone(), metrics),
            credentials_in_file(file, Credentials::token),
        ),
        CredentialSource::ClientSecretFile { id, file } => (
            Rotation::from_file(vpsie.clone(), &file, credentials.clone(), metrics),
            credentials_in_file(file, move |secret| Credentials::client(&id, secret)),
        ),
        CredentialSource::Secret { namespace, name } => {
            let client = kubernetes.context("--vpsie-secret-name needs --kubeconfig")?.clone();
            let candidates = credentials_in_secret(client, &namespace, &name);
            (Rotation::from_secret(vpsie.clone(), &namespace, &name, metrics, events), candidates)
        }
    };
    spawn(tasks, "credentials", rotation.run(candidates, shutdown.clone()));
    Ok(())
}

/// The ports that Cluster Autoscaler calls.
#[derive(Clone)]
pub(super) struct Ports {
    pub(super) grpc: Arc<TcpListener>,
    /// The port of the expander.
    pub(super) expander: Option<Arc<TcpListener>>,
}

impl Ports {
    pub(super) async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let expander = match &settings.expander {
            Some((address, _)) => Some(Arc::new(listen("--expander-listen", *address).await?)),
            None => None,
        };
        Ok(Self { grpc: Arc::new(listen("--grpc-listen", settings.grpc_listen).await?), expander })
    }
}

/// Serves Cluster Autoscaler until `shutdown`.
pub(super) async fn serve_grpc(
    settings: &Settings,
    ports: Ports,
    handle: FleetHandle,
    expander: ExpanderService,
    metrics: GrpcMetrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let expander = expander.with_assumed_usage(settings.expander.is_some());
    let provider = CloudProviderService::new(handle).with_expander(&expander);
    let own = Services { provider: None, expander: expander.clone() };
    let both = Services { provider: Some(provider), expander };
    let own = match (ports.expander, &settings.expander) {
        (Some(listener), Some((_, config))) => {
            Either::Left(grpc::serve(config.clone(), own, metrics.clone(), listener, shutdown.clone()))
        }
        _ => Either::Right(std::future::ready(Ok(()))),
    };
    let both = grpc::serve(settings.grpc.clone(), both, metrics, ports.grpc, shutdown);
    tokio::try_join!(both, own)?;
    Ok(())
}

async fn run_after(ready: impl Future<Output = bool>, task: impl Future<Output = ()>) {
    if ready.await {
        task.await;
    }
}

/// Waits for `shutdown` or for a task that ends unexpectedly, then lets the other tasks end within `grace`.
pub(super) async fn finish(
    mut tasks: Tasks,
    writer_task: JoinHandle<()>,
    shutdown: CancellationToken,
    grace: Duration,
) -> anyhow::Result<()> {
    let first = tokio::select! {
        biased; // After `shutdown` some tasks may have ended already.
        () = shutdown.cancelled() => Ok(()),
        ended = tasks.join_next() => Err(unexpected_end(ended)),
    };
    shutdown.cancel();
    tracing::info!("shutting down");
    let remaining = async {
        while let Some(ended) = tasks.join_next().await {
            if let Ok((name, Err(error))) = ended {
                tracing::warn!(task = name, error = format!("{error:#}"), "a task failed at shutdown");
            }
        }
        // All handles are dropped now, so the writer ends after its last write.
        writer_task.await
    };
    if tokio::time::timeout(grace, remaining).await.is_err() {
        tracing::warn!(
            ?grace,
            "some tasks did not stop in time; their requests are recorded and resolved at the next start"
        );
    }
    first
}

pub(super) fn unexpected_end(
    ended: Option<Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>>,
) -> anyhow::Error {
    match ended {
        Some(Ok((name, Err(error)))) => error.context(format!("{name} failed")),
        Some(Ok((name, Ok(())))) => anyhow!("{name} ended unexpectedly"),
        Some(Err(error)) => anyhow!("a task panicked: {error}"),
        None => anyhow!("no task is running"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_includes_both_families() {
        let listener = listen("--grpc-listen", (Ipv6Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).await.is_ok(), "{address}");
        if address.is_ipv6() {
            assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).await.is_ok(), "{address}");
        }
        let taken = listen("--grpc-listen", address).await.unwrap_err();
        assert!(format!("{taken:#}").contains("cannot listen on"), "{taken:#}");
    }

    #[test]
    fn ipv4_replaces_only_missing_ipv6() {
        let without = |kind: ErrorKind| is_without_ipv6(&kind.into());
        assert!(without(ErrorKind::AddrNotAvailable) && without(ErrorKind::Unsupported));
        assert!(!without(ErrorKind::AddrInUse) && !without(ErrorKind::PermissionDenied));
    }
}
