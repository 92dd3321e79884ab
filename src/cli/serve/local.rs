//! `serve` with files: NodeGroups in manifests, records in one file.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::components::{
    Ports, ServeMetrics, Tasks, VpsieObservers, build_transport, check_notice_webhook, debug_router, finish,
    listen, serve_grpc, spawn, spawn_credentials, spawn_http, spawn_notice_webhook, spawn_vpsie,
    system_clock,
};
use crate::config::Settings;
use crate::control::{Drain, FleetConfig, FleetHandle, FleetWriter, Interruptions, Nodes, NodesView};
use crate::grpc::ExpanderService;
use crate::kubernetes::{self, Events, KubernetesAccess};
use crate::store::{FileStore, Store};
use crate::telemetry::{Readiness, Unready};
use crate::validation::Manifests;
use crate::vpsie::{Backend, Client, ManagedBackend};

pub(super) async fn run(
    settings: Settings,
    manifests: &Manifests,
    data_file: &Path,
    access: Option<&KubernetesAccess>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    for note in &manifests.notes {
        tracing::warn!("{note}");
    }
    let ports = Ports::open(&settings).await?;
    let http = listen("--http-listen", settings.http_listen).await?;
    let grpc_address = ports.grpc.local_addr()?;
    let http_address = http.local_addr()?;

    let clock = system_clock();
    let managed = manifests
        .managed
        .as_ref()
        .context("NodeGroups with selfManaged need --store=kubernetes and --backend=vm")?;
    let store: Arc<dyn Store> = Arc::new(FileStore::open(data_file, &managed.cluster).await?);
    let ServeMetrics {
        registry,
        catalog,
        grpc: grpc_metrics,
        vpsie,
        audit_log,
        drain,
        interruptions,
        credentials,
        decisions,
        fleet,
        ..
    } = ServeMetrics::new(settings.vpsie.credential_source());
    let declared =
        FleetConfig { declaration: manifests.groups.clone().into(), settings: settings.fleet.clone() };
    let (writer, handle) =
        FleetWriter::load(store, Arc::clone(&clock), declared, rand::random(), audit_log).await?;
    drop(fleet.set(handle.clone()));
    let (transport, config) = build_transport(&settings.vpsie).await?;
    let vpsie = Client::new(config, transport, Arc::clone(&clock), vpsie);
    let backend = ManagedBackend::new(vpsie.clone(), managed.clone());
    if let Some(catalog) = handle.read(|fleet| fleet.records().catalog) {
        backend.restore_offers(&catalog);
    }
    let backend: Arc<dyn Backend> = Arc::new(backend);

    let mut tasks = Tasks::new();
    let writer_task = tokio::spawn(writer.run());
    let view = access.as_ref().map(|_| NodesView::default());
    let observers = VpsieObservers { metrics: catalog, events: Events::none(), nodes: view.clone() };
    let ready = std::future::ready(true);
    let listing_trigger = spawn_vpsie(&mut tasks, &settings, &handle, &backend, observers, ready, &shutdown);
    let client = match access {
        Some(access) => Some(kubernetes::connect(access).await?),
        None => None,
    };
    let kube = client.as_ref();
    spawn_credentials(&mut tasks, &settings.vpsie, &vpsie, kube, credentials, Events::none(), &shutdown)?;
    if let Some((client, view)) = client.zip(view) {
        let nodes = Nodes::new(handle.clone(), client.clone(), listing_trigger)
            .with_clock(Arc::clone(&clock))
            .with_view(view.clone());
        spawn(&mut tasks, "nodes", nodes.run(shutdown.clone()));
        let drain = Drain::new(handle.clone(), client.clone(), view.clone(), Events::none(), drain)
            .with_clock(Arc::clone(&clock))
            .with_pod_deletion(settings.spot_delete_pods);
        spawn(&mut tasks, "drain", drain.run(shutdown.clone()));
        let webhook = settings.notice_webhook.as_ref();
        check_notice_webhook(webhook).await?;
        spawn_notice_webhook(&mut tasks, webhook, &handle, &view, &clock, &shutdown);
        let interruptions =
            Interruptions::new(handle.clone(), client, view, Arc::clone(&clock), interruptions);
        spawn(&mut tasks, "interruptions", interruptions.run(shutdown.clone()));
    }
    let ready = readiness(handle.clone());
    let debug = debug_router(&decisions, &fleet);
    spawn_http(&mut tasks, http, registry, ready, debug, shutdown.clone());
    let service = ExpanderService::new(handle.clone(), clock, decisions);
    let stop = shutdown.clone();
    let grace = settings.timing.shutdown_grace;
    let shared = handle.clone();
    let data_file = data_file.to_owned();
    tasks.spawn(async move {
        if !wait_until_loaded(shared.clone(), &stop).await {
            return ("gRPC", Ok(()));
        }
        announce(&settings, &data_file, grpc_address, http_address, &shared);
        let served = serve_grpc(&settings, ports, shared, service, grpc_metrics, stop);
        ("gRPC", Box::pin(served).await)
    });
    drop((handle, backend, vpsie, fleet));
    finish(tasks, writer_task, shutdown, grace).await
}

fn readiness(handle: FleetHandle) -> Readiness {
    Arc::new(move || {
        let has_offers = handle.read(|fleet| fleet.catalog().is_some());
        if has_offers { Ok(()) } else { Err(Unready::NoOffers) }
    })
}

/// Waits until the pools are known. Returns false at shutdown.
async fn wait_until_loaded(mut handle: FleetHandle, shutdown: &CancellationToken) -> bool {
    while handle.read(|fleet| fleet.catalog().is_none()) {
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = handle.changed() => {}
        }
    }
    true
}

/// Logs the addresses and, for the simulator, prints commands to try.
fn announce(settings: &Settings, data_file: &Path, grpc: SocketAddr, http: SocketAddr, handle: &FleetHandle) {
    let tls = if settings.grpc.tls.is_some() { "mTLS" } else { "plaintext" };
    tracing::info!(%grpc, tls, %http, "serving Cluster Autoscaler");
    if !settings.vpsie.is_simulated() {
        return;
    }
    let pool =
        handle.read(|fleet| fleet.pools().next().map(|pool| pool.text.to_string())).unwrap_or_default();
    println!("gRPC  {grpc} ({tls}), for Cluster Autoscaler and grpcurl");
    println!(
        "HTTP  http://{http}/metrics, /healthz, /readyz, /debug/decisions, /debug/offers, /debug/interruption"
    );
    println!("VPSie is simulated; records are in {}", data_file.display());
    println!();
    for command in example_commands(settings.grpc.tls.is_some(), grpc, &pool) {
        println!("  {command}");
    }
}

/// Example commands. With mutual TLS they need the files of a client.
fn example_commands(tls: bool, grpc: SocketAddr, pool: &str) -> [String; 3] {
    let service = "clusterautoscaler.cloudprovider.v1.externalgrpc.CloudProvider";
    let options = if tls {
        "-cacert SERVER-CA.pem -cert CLIENT-CERTIFICATE.pem -key CLIENT-KEY.pem -authority SERVER-NAME"
    } else {
        "-plaintext"
    };
    let call = |method: &str, data: &str| format!("grpcurl {options}{data} {grpc} {service}/{method}");
    [
        call("NodeGroups", ""),
        call("NodeGroupIncreaseSize", &format!(" -d '{{\"id\": \"{pool}\", \"delta\": 2}}'")),
        call("NodeGroupNodes", &format!(" -d '{{\"id\": \"{pool}\"}}'")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_commands_use_tls_like_the_port() {
        let grpc = SocketAddr::from(([127, 0, 0, 1], 8086));
        for tls in [false, true] {
            for command in example_commands(tls, grpc, "web/ams1/small/on-demand") {
                assert_eq!(command.contains(" -plaintext "), !tls, "{command}");
                assert_eq!(command.contains(" -cert ") && command.contains(" -key "), tls, "{command}");
            }
        }
        assert_eq!(
            example_commands(false, grpc, "web/ams1/small/on-demand")[2],
            "grpcurl -plaintext -d '{\"id\": \"web/ams1/small/on-demand\"}' 127.0.0.1:8086 \
             clusterautoscaler.cloudprovider.v1.externalgrpc.CloudProvider/NodeGroupNodes"
        );
    }
}
