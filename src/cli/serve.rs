//! `serve`: everything together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::config::{Manifests, ServeArgs, Settings, StoreSettings, VpsieSettings};
use crate::control::{
    Bell, Clock, Declared, FleetCollector, FleetHandle, Journal, Keeper, Nodes, Provision, Removal,
    SystemClock, refresh_catalog,
};
use crate::grpc::{self, GrpcMetrics};
use crate::kubernetes;
use crate::simulator::{Simulator, Snapshot};
use crate::store::{FileStore, Store};
use crate::telemetry::{Readiness, init_logs, registry, serve_http};
use crate::vpsie::{Backend, Client, ClientConfig, ManagedBackend, ManagedConfig, Metrics, Transport, https};

/// What runs until the end. One that ends by itself ends the process: a provider that does half of its work is
/// worse than one that is started again.
type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

pub(super) async fn run(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let settings = Settings::new(args)?;
    init_logs(&settings.log)?;
    let StoreSettings::File { manifests, data_file, .. } = &settings.store else {
        bail!("--store=kubernetes: cannot be served yet: use --store=file with --node-groups");
    };
    for note in &manifests.notes {
        tracing::warn!("{note}");
    }
    let grpc = listen("--grpc-listen", settings.grpc_listen).await?;
    let http = listen("--http-listen", settings.http_listen).await?;
    let addresses = (grpc.local_addr()?, http.local_addr()?);

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store: Arc<dyn Store> = Arc::new(FileStore::open(data_file.clone(), &manifests.cluster).await?);
    let mut registry = registry();
    let grpc_metrics = GrpcMetrics::register(&mut registry);
    let journal = Journal::default();
    journal.register(&mut registry);
    let declared = Declared { declaration: manifests.groups.clone().into(), reserved: settings.reserved };
    let (keeper, handle) = Keeper::load(store, Arc::clone(&clock), declared, rand::random(), journal).await?;
    registry.register_collector(Box::new(FleetCollector::new(handle.clone(), settings.hours_per_month)));
    let known = handle.read(|fleet| fleet.catalog().cloned());
    let backend = backend(&settings.vpsie, manifests, known.as_deref(), clock, &mut registry).await?;

    let mut tasks = Tasks::new();
    let keeping = tokio::spawn(keeper.run());
    spawn_loops(&mut tasks, &settings, &handle, &backend, &shutdown).await?;
    let readiness = readiness(handle.clone());
    let ending = shutdown.clone();
    tasks.spawn(async move {
        let served = serve_http(http, Arc::new(registry), readiness, ending).await;
        ("HTTP", served.map_err(Into::into))
    });
    let (config, ending, grace) = (settings.grpc.clone(), shutdown.clone(), settings.timing.shutdown_grace);
    let shared = handle.clone();
    tasks.spawn(async move {
        if !loaded(shared.clone(), &ending).await {
            return ("gRPC", Ok(()));
        }
        announce(&settings, addresses, &shared);
        let served = grpc::serve(config, shared, grpc_metrics, grpc, ending).await;
        ("gRPC", served.map_err(Into::into))
    });
    drop((handle, backend));
    finish(tasks, keeping, shutdown, grace).await
}

async fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}: cannot listen there"))
}

/// VPSie, or the simulator in its place: the rest is the same.
async fn backend(
    vpsie: &VpsieSettings,
    manifests: &Manifests,
    known: Option<&Catalog>,
    clock: Arc<dyn Clock>,
    registry: &mut Registry,
) -> anyhow::Result<Arc<dyn Backend>> {
    let (transport, config): (Transport, ClientConfig) = match vpsie {
        VpsieSettings::Real(config) => (https(&config.timeouts), config.clone()),
        VpsieSettings::Simulated { simulator, state, client } => {
            let simulator = match Snapshot::load(state)? {
                Some(snapshot) => Simulator::restore((**simulator).clone(), Arc::clone(&clock), snapshot)?,
                None => Simulator::new((**simulator).clone(), Arc::clone(&clock))?,
            };
            simulator.keep_in(state.clone()).await?;
            (simulator.transport(), client.clone())
        }
    };
    let metrics = Metrics::default();
    metrics.register(registry);
    let managed =
        ManagedConfig { cluster: manifests.cluster.clone(), datacenters: vec![manifests.datacenter.clone()] };
    let backend = ManagedBackend::new(Client::new(config, transport, clock, metrics), managed);
    if let Some(catalog) = known {
        backend.remember(catalog);
    }
    Ok(Arc::new(backend))
}

async fn spawn_loops(
    tasks: &mut Tasks,
    settings: &Settings,
    handle: &FleetHandle,
    backend: &Arc<dyn Backend>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let timing = &settings.timing;
    let bell = Arc::new(Bell::default());
    let provision = Provision::new(
        handle.clone(),
        Arc::clone(backend),
        settings.policy(),
        timing.observe_interval,
        Arc::clone(&bell),
    );
    let removal = Removal::new(handle.clone(), Arc::clone(backend), Arc::clone(&bell));
    let catalog =
        refresh_catalog(handle.clone(), Arc::clone(backend), timing.catalog_interval, shutdown.clone());
    let (provision, removal) = (provision.run(shutdown.clone()), removal.run(shutdown.clone()));
    spawn(tasks, "provision", provision);
    spawn(tasks, "removal", removal);
    spawn(tasks, "catalog", catalog);
    if let Some(access) = settings.kubernetes() {
        let nodes = Nodes::new(handle.clone(), kubernetes::connect(access).await?, bell);
        spawn(tasks, "nodes", nodes.run(shutdown.clone()));
    }
    Ok(())
}

fn spawn(tasks: &mut Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        work.await;
        (name, Ok(()))
    });
}

fn readiness(handle: FleetHandle) -> Readiness {
    Arc::new(move || {
        let missing = "VPSie's offers were not read yet; the log says why";
        handle.read(|fleet| fleet.catalog().map(drop)).ok_or_else(|| missing.to_owned())
    })
}

/// Waits until there are pools to tell of. Whether there will be.
async fn loaded(mut handle: FleetHandle, shutdown: &CancellationToken) -> bool {
    while handle.read(|fleet| fleet.catalog().is_none()) {
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = handle.changed() => {}
        }
    }
    true
}

/// Runs until told to stop, or until something ends that should not; then gives what is under way its time.
async fn finish(
    mut tasks: Tasks,
    keeping: tokio::task::JoinHandle<()>,
    shutdown: CancellationToken,
    grace: Duration,
) -> anyhow::Result<()> {
    let first = tokio::select! {
        biased; // Told to stop, some may have ended before this looks.
        () = shutdown.cancelled() => Ok(()),
        ended = tasks.join_next() => Err(too_early(ended)),
    };
    shutdown.cancel();
    tracing::info!("stopping");
    let rest = async {
        while let Some(ended) = tasks.join_next().await {
            if let Ok((name, Err(error))) = ended {
                tracing::warn!(name, error = format!("{error:#}"), "ended badly");
            }
        }
        // Every handle is gone now, so the keeper ends when it has written what it was given.
        keeping.await
    };
    if tokio::time::timeout(grace, rest).await.is_err() {
        tracing::warn!(
            ?grace,
            "something was still under way; its requests are recorded, and settle at the next start"
        );
    }
    first
}

fn too_early(
    ended: Option<Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>>,
) -> anyhow::Error {
    match ended {
        Some(Ok((name, Err(error)))) => error.context(format!("{name} failed")),
        Some(Ok((name, Ok(())))) => anyhow!("{name} ended by itself"),
        Some(Err(error)) => anyhow!("a task broke: {error}"),
        None => anyhow!("nothing runs"),
    }
}

/// Says where it listens, and when simulating how to try it.
fn announce(settings: &Settings, (grpc, http): (SocketAddr, SocketAddr), handle: &FleetHandle) {
    let tls = if settings.grpc.tls.is_some() { "mTLS" } else { "plaintext" };
    tracing::info!(%grpc, tls, %http, "serving");
    let (VpsieSettings::Simulated { .. }, StoreSettings::File { data_file, .. }) =
        (&settings.vpsie, &settings.store)
    else {
        return;
    };
    let service = "clusterautoscaler.cloudprovider.v1.externalgrpc.CloudProvider";
    let pool =
        handle.read(|fleet| fleet.pools().next().map(|pool| pool.text.to_string())).unwrap_or_default();
    println!("gRPC  {grpc} ({tls}), for Cluster Autoscaler and grpcurl");
    println!("HTTP  http://{http}/metrics, /healthz, /readyz");
    println!("VPSie is simulated; records are kept in {}", data_file.display());
    println!();
    println!("  grpcurl -plaintext {grpc} {service}/NodeGroups");
    println!(
        "  grpcurl -plaintext -d '{{\"id\": \"{pool}\", \"delta\": 2}}' {grpc} {service}/NodeGroupIncreaseSize"
    );
    println!("  grpcurl -plaintext -d '{{\"id\": \"{pool}\"}}' {grpc} {service}/NodeGroupNodes");
}
