//! Time and memory to watch a cluster: the loops read the records and Nodes of 5,000 machines; then the
//! status of each Node changes once, as by kubelets every few minutes. Bare watches without a cache do the
//! same on the same in-process API server. Only the ratio of both is relevant. Memory is that of the loops,
//! without the server.
//!
//! `cargo bench --bench watch_path`

// A benchmark that cannot run panics.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use fake_kube::FakeKube;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vpsie_autoscaler::api::VPSieNode;
use vpsie_autoscaler::clock::{Clock, SystemClock};
use vpsie_autoscaler::control::{
    AuditLog, FleetConfig, FleetHandle, FleetWriter, ListingTrigger, NodeGroups, Nodes, NodesView,
    RecordsWatch, ServedCluster,
};
use vpsie_autoscaler::fleet::{Declaration, FleetSettings};
use vpsie_autoscaler::store::KubernetesStore;

const MACHINES: usize = 5000;
const ROUNDS: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let kube = FakeKube::new(|| SystemClock.now());
    cluster::fill(&kube, MACHINES);
    let bare = Bare::start(&kube);
    let bare_read = timed(bare.read(MACHINES * 2)).await;
    let mut bare_followed = Vec::new();
    for round in 0..ROUNDS {
        let seen = bare.seen();
        let began = Instant::now();
        cluster::set_ready(&kube, MACHINES, round % 2 == 1);
        bare.read(seen + MACHINES).await;
        bare_followed.push(began.elapsed());
    }
    // Only one of both watches at a time.
    drop(bare);
    cluster::set_ready(&kube, MACHINES, true);
    let before = resident();
    let began = Instant::now();
    let ours = Ours::start(&kube).await;
    ours.until(MACHINES).await;
    let ours_read = began.elapsed();
    let memory = resident().saturating_sub(before);
    println!(
        "{MACHINES} VPSieNodes and Nodes read: {}; {:.1} MiB, {:.1} KiB a machine",
        compared(ours_read, bare_read),
        memory as f64 / f64::from(1 << 20),
        memory as f64 / 1024.0 / MACHINES as f64,
    );
    let mut ours_followed = Vec::new();
    for round in 0..ROUNDS {
        let began = Instant::now();
        cluster::set_ready(&kube, MACHINES, round % 2 == 1);
        ours.until(if round % 2 == 1 { MACHINES } else { 0 }).await;
        ours_followed.push(began.elapsed());
    }
    bare_followed.sort_unstable();
    ours_followed.sort_unstable();
    let (ours, bare) = (ours_followed[ROUNDS / 2], bare_followed[ROUNDS / 2]);
    println!(
        "{MACHINES} changes of Nodes followed: {}; {:.0} µs each (medians of {ROUNDS})",
        compared(ours, bare),
        ours.as_secs_f64() * 1e6 / MACHINES as f64,
    );
}

fn compared(ours: Duration, bare: Duration) -> String {
    let (ours, bare) = (ours.as_secs_f64() * 1e3, bare.as_secs_f64() * 1e3);
    format!("{ours:.0} ms, bare watches {bare:.0} ms, ratio {:.2}", ours / bare)
}

async fn timed(work: impl Future<Output = ()>) -> Duration {
    let began = Instant::now();
    work.await;
    began.elapsed()
}

/// Resident memory of the process, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Watches without a cache.
struct Bare {
    seen: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl Bare {
    fn start(kube: &FakeKube) -> Self {
        let client = kube.client("bare", cluster::NAMESPACE);
        let (count, seen) = watch::channel(0);
        let mut tasks = JoinSet::new();
        let nodes: Api<Node> = Api::all(client.clone());
        let counted = count.clone();
        tasks.spawn(async move {
            let mut events = std::pin::pin!(watcher(nodes, watcher::Config::default()));
            while let Some(event) = events.next().await {
                note(&counted, &event.unwrap());
            }
        });
        let records: Api<PartialObjectMeta<VPSieNode>> = Api::namespaced(client, cluster::NAMESPACE);
        tasks.spawn(async move {
            let mut events = std::pin::pin!(watcher(records, watcher::Config::default()));
            while let Some(event) = events.next().await {
                note(&count, &event.unwrap());
            }
        });
        Self { seen, _tasks: tasks }
    }

    fn seen(&self) -> usize {
        *self.seen.borrow()
    }

    async fn read(&self, count: usize) {
        self.seen.clone().wait_for(|seen| *seen >= count).await.unwrap();
    }
}

fn note<K: kube::Resource>(count: &watch::Sender<usize>, event: &watcher::Event<K>) {
    if let watcher::Event::Apply(object) | watcher::Event::InitApply(object) = event {
        assert!(!object.name_any().is_empty());
        count.send_modify(|count| *count += 1);
    }
}

/// The loops that watch a cluster.
struct Ours {
    handle: FleetHandle,
    nodes: NodesView,
    _tasks: JoinSet<()>,
}

impl Ours {
    async fn start(kube: &FakeKube) -> Self {
        let client = kube.client("ours", cluster::NAMESPACE);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = Arc::new(KubernetesStore::new(client.clone(), cluster::NAMESPACE));
        let declared =
            FleetConfig { declaration: Declaration::default(), settings: FleetSettings::default() };
        let (writer, handle) =
            FleetWriter::load(store, Arc::clone(&clock), declared, 0, AuditLog::default()).await.unwrap();
        let nodes = Nodes::new(handle.clone(), client.clone(), Arc::new(ListingTrigger::default()));
        let view = nodes.view();
        let (told, _) = watch::channel(ServedCluster::Unknown);
        let on_cluster = move |served: &ServedCluster| drop(told.send_replace(served.clone()));
        let groups = NodeGroups::new(
            handle.clone(),
            clock,
            view.clone(),
            client.clone(),
            cluster::NAMESPACE,
            Some(cluster::target()),
            on_cluster,
        );
        let records = RecordsWatch::new(handle.clone(), client, cluster::NAMESPACE);
        let mut tasks = JoinSet::new();
        let never = CancellationToken::new();
        tasks.spawn(writer.run());
        tasks.spawn(nodes.run(never.clone()));
        tasks.spawn(groups.run(never.clone()));
        tasks.spawn(records.run(never));
        Self { handle, nodes: view, _tasks: tasks }
    }

    /// Number of machines with a ready Node.
    fn ready(&self) -> usize {
        self.handle.read(|fleet| fleet.machines().filter(|machine| self.nodes.is_ready(&machine.id)).count())
    }

    async fn until(&self, ready: usize) {
        while self.ready() != ready {
            // Not at each of thousands of changes: the check itself takes time.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
