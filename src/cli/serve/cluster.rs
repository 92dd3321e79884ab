//! Serving in a cluster: NodeGroups and records are objects there, and one of several replicas leads.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::parts::{
    Measured, Ports, Tasks, clock, debug, finish, listen, serve_grpc, spawn, spawn_credentials, spawn_http,
    spawn_vpsie, too_early, transport,
};
use crate::clock::Clock;
use crate::config::{ElectionArgs, Settings};
use crate::control::{
    Bell, Declared, Drain, DrainMetrics, FleetHandle, Keeper, NodeGroups, Nodes, NodesView, RecordsWatch,
    Target, fence_transport,
};
use crate::fleet::{ClusterId, Declaration};
use crate::grpc::{ExpanderService, hand_over};
use crate::kubernetes::{
    self, ElectionConfig, Elector, Events, KubernetesAccess, LeaderAddresses, Leadership, LossReason, Role,
    fence_client,
};
use crate::store::{KubernetesStore, StoreError};
use crate::telemetry::{Readiness, Unready};
use crate::vpsie::{Backend, Client, ManagedBackend, ManagedConfig};

/// Between two attempts to read the records at the start.
const LOAD_AGAIN: Duration = Duration::from_secs(2);

/// How long to wait, after the lease was given back, for another replica that takes it.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// How long a Service may take until it leads to the next replica only.
const HAND_OVER: Duration = Duration::from_secs(5);

/// How far a replica is. Only one that serves is ready, so that a Service leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Standby,
    Loading,
    Serving,
}

pub(super) async fn run(
    settings: Settings,
    access: &KubernetesAccess,
    namespace: &str,
    election: &ElectionArgs,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let http = listen("--http-listen", settings.http_listen).await?;
    // Only to say early that it is taken: who does not lead must not be reached.
    drop(Ports::open(&settings).await?);
    let client = kubernetes::connect(access).await?;
    let clock = clock();
    let (transport, vpsie_config) = transport(&settings.vpsie).await?;
    let Measured {
        registry,
        catalog,
        grpc: grpc_metrics,
        vpsie,
        journal,
        events,
        drain,
        credentials,
        decisions,
        fleet,
    } = Measured::new(settings.vpsie.credential_source());
    let (stage, staged) = watch::channel(Stage::Standby);
    let mut tasks = Tasks::new();

    let identity = kubernetes::identity();
    tracing::info!(identity, namespace, lease = election.leader_election_id, "standing by");
    let config = ElectionConfig {
        namespace: namespace.to_owned(),
        name: election.leader_election_id.clone(),
        identity,
        lease_duration: election.leader_election_lease_duration,
        renew_deadline: election.leader_election_renew_deadline,
        retry_period: election.leader_election_retry_period,
        addresses: election.pod_ip.map(|ip| leader_addresses(&settings, ip)),
    };
    let mut elector = Elector::new(client.clone(), config, Arc::clone(&clock), rand::random());
    let debug = debug(&decisions, &fleet);
    let ready = readiness(staged, elector.is_follower());
    spawn_http(&mut tasks, http, registry, ready, debug, shutdown.clone());
    let pod = election.pod_name.as_deref();
    if let Some(pod) = pod {
        Role::new(client.clone(), namespace, pod).remove_own_label().await;
    }
    let won = tokio::select! {
        biased;
        won = elector.acquire(&shutdown) => won,
        ended = tasks.join_next() => return Err(too_early(ended)),
    };
    let Some(leadership) = won else {
        elector.release().await;
        return Ok(());
    };
    stage.send_replace(Stage::Loading);
    let over = CancellationToken::new();
    let keeping_lease = keep(elector, &over, &mut tasks, &shutdown);

    let client = fence_client(&client, leadership.clone());
    if let Some(pod) = pod {
        let role = Role::new(client.clone(), namespace, pod);
        let serves = |stage: &Stage| *stage == Stage::Serving;
        spawn(&mut tasks, "role", role.run(stage.subscribe(), serves, shutdown.clone()));
    }
    let (events, publisher) = Events::new(client.clone(), namespace, events);
    spawn(&mut tasks, "events", publisher.run(shutdown.clone()));
    let parts = Parts {
        client,
        namespace: namespace.to_owned(),
        clock,
        leadership,
        events,
        nodes: NodesView::default(),
        drain,
        shutdown: shutdown.clone(),
    };
    let journal = journal.with_events(parts.events.clone());
    let Some(Loaded { store, keeper, handle, recorded }) = parts.load(&settings, journal).await else {
        return released(keeping_lease, over, Ok(()), None).await;
    };
    drop(fleet.set(handle.clone()));
    drop(fleet);
    let keeping = tokio::spawn(keeper.run());
    let transport = fence_transport(transport, parts.leadership.clone());
    let vpsie_client = Client::new(vpsie_config, transport, Arc::clone(&parts.clock), vpsie);
    let told = (credentials, parts.events.clone());
    spawn_credentials(&mut tasks, &settings.vpsie, &vpsie_client, Some(&parts.client), told, &shutdown)?;
    let backend = Arc::new(ManagedBackend::new(vpsie_client, recorded.clone()));
    if let Some(catalog) = handle.read(|fleet| fleet.catalog().cloned()) {
        backend.remember(&catalog);
    }
    let (in_force, target) = watch::channel(Target::Unknown);
    let begin = known(target.clone(), shutdown.clone()).boxed().shared();
    let asked: Arc<dyn Backend> = Arc::clone(&backend) as _;
    let around = (catalog, parts.events.clone(), Some(parts.nodes.clone()));
    let bell = spawn_vpsie(&mut tasks, &settings, &handle, &asked, around, begin, &shutdown);
    parts.spawn_watches(&mut tasks, &handle, bell, Targets { store, backend, recorded, in_force });
    drop(asked);
    let expander = ExpanderService::new(handle.clone(), Arc::clone(&parts.clock), decisions);
    let grace = settings.timing.shutdown_grace;
    let ending = shutdown.clone();
    let doors = Arc::new(OnceLock::new());
    let opened = Arc::clone(&doors);
    tasks.spawn(async move {
        let served = async {
            if !loaded(handle.clone(), target, &ending).await {
                return Ok(());
            }
            let ports = Ports::open(&settings).await?;
            let ports = opened.get_or_init(|| ports).clone();
            let tls = if settings.grpc.tls.is_some() { "mTLS" } else { "plaintext" };
            tracing::info!(grpc = %ports.grpc.local_addr()?, tls, "serving");
            stage.send_replace(Stage::Serving);
            let served = serve_grpc(&settings, ports, handle, expander, grpc_metrics, ending);
            let served = Box::pin(served).await;
            stage.send_replace(Stage::Standby);
            served
        };
        ("gRPC", served.await)
    });
    let finished = finish(tasks, keeping, shutdown, grace).await;
    released(keeping_lease, over, finished, doors.get()).await
}

/// What everything that acts in the cluster is made of.
struct Parts {
    client: kube::Client,
    namespace: String,
    clock: Arc<dyn Clock>,
    leadership: Leadership,
    events: Events,
    nodes: NodesView,
    drain: DrainMetrics,
    shutdown: CancellationToken,
}

struct Loaded {
    store: Arc<KubernetesStore>,
    keeper: Keeper,
    handle: FleetHandle,
    /// The cluster that the records are of.
    recorded: Option<ManagedConfig>,
}

impl Parts {
    /// Reads the records, however often that fails. None when the process is to end first.
    async fn load(&self, settings: &Settings, journal: crate::control::Journal) -> Option<Loaded> {
        let store = Arc::new(KubernetesStore::new(self.client.clone(), &self.namespace));
        let (keeper, handle) = loop {
            let declared = Declared { declaration: Declaration::default(), basis: settings.basis.clone() };
            let (seed, clock) = (rand::random(), Arc::clone(&self.clock));
            let loading = Keeper::load(Arc::clone(&store) as _, clock, declared, seed, journal.clone());
            let error: StoreError = match self.unless_over(loading).await? {
                Ok(loaded) => break loaded,
                Err(error) => error,
            };
            tracing::warn!(%error, "the records cannot be read; trying again");
            self.unless_over(tokio::time::sleep(LOAD_AGAIN)).await?;
        };
        let datacenter = handle.read(|fleet| fleet.machines().next().map(|m| m.pool.datacenter.clone()));
        let of = |cluster: ClusterId| Some(ManagedConfig { cluster, datacenters: vec![datacenter?] });
        let recorded = store.cluster().and_then(of);
        Some(Loaded { store, keeper, handle, recorded })
    }

    async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            () = self.leadership.ended() => None,
            done = work => Some(done),
        }
    }

    /// The loops over objects of the cluster.
    fn spawn_watches(&self, tasks: &mut Tasks, handle: &FleetHandle, bell: Arc<Bell>, targets: Targets) {
        let (client, namespace, shutdown) = (&self.client, &self.namespace, &self.shutdown);
        let Targets { store, backend, recorded, in_force } = targets;
        let view = self.nodes.clone();
        let nodes = Nodes::new(handle.clone(), client.clone(), bell)
            .with_events(self.events.clone())
            .with_view(view.clone());
        let (events, drained) = (self.events.clone(), self.drain.clone());
        let drain = Drain::new(handle.clone(), client.clone(), view.clone(), events, drained);
        let on_target = move |target: &Target| {
            if let Target::Cluster(config) = target {
                tracing::info!(cluster = %config.cluster, datacenters = ?config.datacenters, "serving this cluster");
                store.set_cluster(config.cluster.clone());
                backend.set_target(config.clone());
            }
        };
        let clock = Arc::clone(&self.clock);
        let groups =
            NodeGroups::new(handle.clone(), clock, view, client.clone(), namespace, recorded, on_target)
                .with_in_force(in_force);
        let records = RecordsWatch::new(handle.clone(), client.clone(), namespace);
        spawn(tasks, "nodes", nodes.run(shutdown.clone()));
        spawn(tasks, "drain", drain.run(shutdown.clone()));
        spawn(tasks, "nodegroups", groups.run(shutdown.clone()));
        spawn(tasks, "records", records.run(shutdown.clone()));
    }
}

/// Who must know which cluster the NodeGroups are of.
struct Targets {
    store: Arc<KubernetesStore>,
    backend: Arc<ManagedBackend>,
    /// The cluster that the records are of.
    recorded: Option<ManagedConfig>,
    /// Set once the NodeGroups are in force. Only then requests to VPSie begin and gRPC opens.
    in_force: watch::Sender<Target>,
}

type Kept = JoinHandle<(Elector, Result<(), LossReason>)>;

/// Renews the lease beside everything else. To lose it ends the process.
fn keep(
    mut elector: Elector,
    over: &CancellationToken,
    tasks: &mut Tasks,
    shutdown: &CancellationToken,
) -> Kept {
    let (over, lost) = (over.clone(), CancellationToken::new());
    let (told, shutdown) = (lost.clone(), shutdown.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = told.cancelled() => ("leadership", Err(anyhow::anyhow!("another replica may lead now"))),
            () = shutdown.cancelled() => ("leadership", Ok(())),
        }
    });
    tokio::spawn(async move {
        let kept = elector.renew_until(&over).await;
        if kept.is_err() {
            lost.cancel();
        }
        (elector, kept)
    })
}

/// Gives the lease back once nothing acts any more, so that another replica takes over at once, and leads those there
/// who come to these ports.
async fn released(
    kept: Kept,
    over: CancellationToken,
    finished: anyhow::Result<()>,
    ports: Option<&Ports>,
) -> anyhow::Result<()> {
    over.cancel();
    match kept.await {
        Ok((mut elector, Ok(()))) => {
            if elector.release().await
                && let Some(ports) = ports
            {
                handed_over(&elector, ports).await;
            }
            finished
        }
        Ok((_, Err(lost))) => Err(anyhow::Error::new(lost).context("this replica does not lead any more")),
        Err(broken) => Err(anyhow::anyhow!("the election broke: {broken}")),
    }
}

async fn handed_over(elector: &Elector, ports: &Ports) {
    let Ok(next) = tokio::time::timeout(TAKEN_WITHIN, elector.successor()).await else {
        tracing::info!("no other replica took over that could be reached");
        return;
    };
    let grpc = hand_over(Arc::clone(&ports.grpc), next.grpc, HAND_OVER);
    let expander = async {
        match ports.expander.clone().zip(next.expander) {
            Some((listener, next)) => hand_over(listener, next, HAND_OVER).await,
            None => 0,
        }
    };
    let (grpc, expander) = tokio::join!(grpc, expander);
    tracing::info!(next = %next.grpc, connections = grpc + expander, "handed over");
}

/// Where the other replicas find the ports of this one.
fn leader_addresses(settings: &Settings, ip: IpAddr) -> LeaderAddresses {
    let expander = settings.expander.as_ref().map(|(address, _)| SocketAddr::new(ip, address.port()));
    LeaderAddresses { grpc: SocketAddr::new(ip, settings.grpc_listen.port()), expander }
}

/// Who waits for the first leader ever does not stand by for one: whether all is well is not known yet.
fn readiness(stage: watch::Receiver<Stage>, follows: watch::Receiver<bool>) -> Readiness {
    Arc::new(move || match *stage.borrow() {
        Stage::Standby if *follows.borrow() => Err(Unready::StandsBy),
        Stage::Standby => Err(Unready::Waits("who leads was")),
        Stage::Loading => Err(Unready::Waits("NodeGroups or VPSie's offers were")),
        Stage::Serving => Ok(()),
    })
}

/// Waits until it is known which cluster it is. Whether it will be.
async fn known(mut target: watch::Receiver<Target>, shutdown: CancellationToken) -> bool {
    let named = target.wait_for(|target| matches!(target, Target::Cluster(_)));
    tokio::select! {
        biased;
        () = shutdown.cancelled() => false,
        named = named => named.is_ok(),
    }
}

/// Waits until there are pools to tell of, or nobody declares any. Whether there will be.
async fn loaded(
    mut handle: FleetHandle,
    mut target: watch::Receiver<Target>,
    shutdown: &CancellationToken,
) -> bool {
    loop {
        let target_now = target.borrow_and_update().clone();
        let catalog = handle.read(|fleet| fleet.catalog().is_some());
        if target_now == Target::None || target_now != Target::Unknown && catalog {
            return true;
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return false,
            changed = target.changed() => if changed.is_err() { return false },
            () = handle.changed() => {}
        }
    }
}
