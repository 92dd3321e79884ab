//! Events that are published, without delaying other work.

use fake_kube::FakeKube;
use k8s_openapi::api::events::v1::Event;
use serde_json::json;

use super::*;
use crate::kubernetes::{EventMetrics, Events};
use crate::telemetry::Registry;

const NAMESPACE: &str = "kube-system";

fn kube() -> FakeKube {
    let kube = FakeKube::new(|| Timestamp::UNIX_EPOCH);
    let group = json!({
        "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
        "metadata": {"name": "web", "namespace": NAMESPACE}, "spec": {},
    });
    kube.put_object(group).unwrap();
    kube
}

/// A writer that publishes events. All are published once it is stopped.
async fn start_writer(kube: &FakeKube) -> Process {
    start_writer_with(kube, AuditLog::default()).await
}

async fn start_writer_with(kube: &FakeKube, audit_log: AuditLog) -> Process {
    let disk = Disk::default();
    disk.memory.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
    let (events, publisher) = Events::new(kube.client("me", NAMESPACE), NAMESPACE, EventMetrics::default());
    let clock = Arc::new(TokioClock(Instant::now()));
    let audit_log = audit_log.with_events(events);
    let (writer, handle) =
        FleetWriter::load(Arc::new(disk.clone()), clock, declared(), 1, audit_log).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run());
    tasks.spawn(publisher.run(CancellationToken::new()));
    Process { vpsie: Arc::default(), disk, handle, shutdown: CancellationToken::new(), tasks }
}

fn too_many() -> Command {
    Command::IncreaseSize { pool: SMALL.to_owned(), delta: 101 }
}

#[tokio::test(start_paused = true)]
async fn a_reached_maximum_is_published_once_on_the_node_group() {
    let kube = kube();
    let process = start_writer(&kube).await;
    for _ in 0..3 {
        assert!(matches!(process.handle.execute(too_many()).await, Err(CommandError::Refused(_))));
    }
    process.stop().await;
    let events: Vec<Event> = kube.all();
    assert_eq!(events.len(), 1, "{events:?}");
    let uid = kube.get("nodegroups", NAMESPACE, "web").unwrap()["metadata"]["uid"].clone();
    assert!(uid.is_string());
    assert_eq!(events[0].reason.as_deref(), Some("MaximumReached"));
    assert_eq!(json!(events[0].regarding.as_ref().unwrap().uid), uid);
    let note =
        "pool web/ams1/small/on-demand cannot grow by 101: NodeGroup web has 0 of at most 100 machines";
    assert_eq!(events[0].note.as_deref(), Some(note));
}

#[tokio::test(start_paused = true)]
async fn commands_do_not_wait_for_an_api_server_that_is_slow_or_down() {
    let kube = kube();
    kube.set_latency(Duration::from_secs(3));
    let process = start_writer(&kube).await;
    let started = Instant::now();
    assert!(process.handle.execute(too_many()).await.is_err());
    process.increase(SMALL, 50).await;
    kube.set_down(true);
    assert!(process.handle.execute(too_many()).await.is_err());
    assert_eq!(started.elapsed(), Duration::ZERO);
    process.stop().await;
}

/// Events about prices after several readings of the offers.
async fn price_events(offers: Catalog) -> Vec<Event> {
    let kube = kube();
    let (events, publisher) = Events::new(kube.client("me", NAMESPACE), NAMESPACE, EventMetrics::default());
    let mut process = Process::on(Disk::default()).await;
    process.vpsie.state().catalog = Some(offers);
    let catalog = CatalogRefresh::new(process.handle.clone(), process.vpsie.clone(), Duration::from_mins(1))
        .with_reporting(CatalogMetrics::default(), events);
    process.tasks.spawn(publisher.run(CancellationToken::new()));
    process.tasks.spawn(catalog.run(process.shutdown.clone()));
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(process.vpsie.count("catalog") > 3);
    process.stop().await;
    kube.all()
}

fn count_published(events: &[Event]) -> i32 {
    events.iter().map(|event| event.series.as_ref().map_or(1, |series| series.count)).sum()
}

#[tokio::test(start_paused = true)]
async fn a_pool_without_a_price_is_reported_once() {
    let events = price_events(catalog()).await;
    assert!(events.iter().all(|event| event.reason.as_deref() == Some("PriceUnknown")), "{events:?}");
    assert_eq!(count_published(&events), 2, "the pools are {SMALL} and {LARGE}: {events:?}");
}

#[tokio::test(start_paused = true)]
async fn contradictory_prices_are_reported_once() {
    let mut offers = catalog();
    for (offer, hourly) in offers.offers.iter_mut().zip(["73", "0.1"]) {
        (offer.monthly, offer.hourly) = (Some("73".parse().unwrap()), Some(hourly.parse().unwrap()));
    }
    let events = price_events(offers).await;
    assert_eq!(count_published(&events), 1, "{events:?}");
    assert_eq!(events[0].reason.as_deref(), Some("PriceContradicted"));
    let note = events[0].note.as_deref().unwrap();
    assert!(note.contains("hourly price of small") && note.contains("the monthly price is used"), "{note}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_is_counted_and_published() {
    let kube = kube();
    let mut registry = Registry::default();
    let audit_log = AuditLog::default();
    audit_log.register(&mut registry);
    let process = start_writer_with(&kube, audit_log).await;
    process.disk.refuse(|change| matches!(change, Change::SaveMachine(_)));
    let command = Command::IncreaseSize { pool: SMALL.to_owned(), delta: 1 };
    assert!(matches!(process.handle.execute(command).await, Err(CommandError::Store(_))));
    process.stop().await;
    let events: Vec<Event> = kube.all();
    let about = |event: &Event| event.regarding.as_ref().and_then(|on| on.kind.clone());
    let mut published: Vec<_> = events.iter().filter_map(about).collect();
    published.sort();
    assert_eq!(published, ["NodeGroup", "VPSieNode"]);
    assert!(events.iter().all(|event| event.reason.as_deref() == Some("RecordRefused")), "{events:?}");
    let note = events[0].note.as_deref().unwrap();
    assert!(note.ends_with("vpsie-autoscaler retries it: kubeSizeID: must be at least 1"), "{note}");
    let counted = "vpsie_autoscaler_refused_records_total{record=\"machine\"} 1";
    let text = registry.encode().unwrap();
    assert!(text.contains(counted), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_listed_as_control_plane_is_reported_once() {
    let kube = kube();
    let (events, publisher) = Events::new(kube.client("me", NAMESPACE), NAMESPACE, EventMetrics::default());
    let disk = Disk::default();
    disk.memory.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
    let mut process = Process::on(disk).await;
    process.vpsie.state().nodes.push(node(999, SizeId(2)));
    let backend: Arc<dyn Backend> = process.vpsie.clone();
    let idle = Duration::from_secs(30);
    let provision = Provision::new(process.handle.clone(), backend, Policy::default(), idle, Arc::default())
        .with_events(events);
    process.tasks.spawn(publisher.run(CancellationToken::new()));
    process.tasks.spawn(provision.run(process.shutdown.clone()));
    process.increase(SMALL, 1).await;
    let machine = process.handle.read(|fleet| fleet.machines().next().unwrap().id.to_string());
    let object = json!({
        "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "VPSieNode",
        "metadata": {"name": machine, "namespace": NAMESPACE}, "spec": {},
    });
    kube.put_object(object).unwrap();
    for role in [NodeRole::Worker, NodeRole::ControlPlane, NodeRole::Worker] {
        tokio::time::sleep(Duration::from_mins(5)).await;
        process
            .vpsie
            .state()
            .nodes
            .iter_mut()
            .filter(|node| node.hostname.as_str() != "slave-999")
            .for_each(|node| node.role = role);
    }
    tokio::time::sleep(Duration::from_mins(5)).await;
    process.stop().await;
    let events: Vec<Event> = kube.all();
    let about = |event: &Event| Some((event.reason.clone()?, event.regarding.as_ref()?.name.clone()?));
    let published: BTreeMap<(String, String), usize> =
        events.iter().filter_map(about).fold(BTreeMap::new(), |mut counts, event| {
            *counts.entry(event).or_default() += 1;
            counts
        });
    let expected = ["ListedAsControlPlane", "NotControlPlane"]
        .into_iter()
        .flat_map(|reason| [(reason.to_owned(), "web".to_owned()), (reason.to_owned(), machine.clone())]);
    assert_eq!(published, expected.map(|event| (event, 1)).collect());
    assert!(events.iter().all(|event| event.series.is_none()), "each once: {events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_attachment_is_reported_once_for_each_message() {
    let kube = kube();
    let (events, publisher) = Events::new(kube.client("me", NAMESPACE), NAMESPACE, EventMetrics::default());
    let disk = Disk::default();
    disk.memory.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
    let mut process = Process::on(disk).await;
    process.vpsie.state().nodes.push(node(999, SizeId(2)));
    let backend: Arc<dyn Backend> = process.vpsie.clone();
    let idle = Duration::from_secs(30);
    let provision = Provision::new(process.handle.clone(), backend, Policy::default(), idle, Arc::default())
        .with_events(events);
    process.tasks.spawn(publisher.run(CancellationToken::new()));
    process.tasks.spawn(provision.run(process.shutdown.clone()));
    process.increase(SMALL, 1).await;
    for error in ["no such VPC", "no such group"] {
        tokio::time::sleep(Duration::from_mins(5)).await;
        let mut state = process.vpsie.state();
        let vms = state.nodes.iter_mut().filter(|node| node.hostname.as_str() != "slave-999");
        vms.for_each(|node| node.attachment = Some(crate::fleet::Attachment::Failed(error.to_owned())));
    }
    tokio::time::sleep(Duration::from_mins(5)).await;
    process.stop().await;
    let events: Vec<Event> = kube.all();
    let regarding = |event: &Event| event.regarding.as_ref()?.kind.clone();
    let mut on: Vec<_> = events.iter().filter_map(regarding).collect();
    on.sort();
    assert_eq!(on, ["NodeGroup", "VPSieNode"]);
    for event in &events {
        let note = event.note.as_deref().unwrap();
        assert!(note.contains("takes no pods: no such VPC; retrying"), "{note}");
        assert_eq!(event.reason.as_deref(), Some("VMNotAttached"));
    }
    assert_eq!(count_published(&events), 4, "two messages on two objects: {events:?}");
}
