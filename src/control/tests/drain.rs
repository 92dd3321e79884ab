//! Nodes of machines that users delete, against an API server in the process.

use fake_kube::{ApiRequest, FakeKube, FaultEffect, Verb};
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};

use super::objects::running;
use super::*;
use crate::fleet::{Cause, DeletionReason, Machine, MachineId};
use crate::kubernetes::{EventMetrics, Events};

pub(super) struct Cluster {
    pub(super) kube: FakeKube,
    store: MemoryStore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) handle: FleetHandle,
    pub(super) nodes: NodesView,
    tasks: JoinSet<()>,
}

impl Cluster {
    /// A cluster with this number of machines and their Nodes.
    pub(super) async fn new(count: u32) -> Self {
        let store = MemoryStore::new();
        store.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
        store.write(&(1..=count).map(running).map(Change::SaveMachine).collect::<Vec<_>>());
        let clock: Arc<dyn Clock> = Arc::new(TokioClock(Instant::now()));
        let now = Arc::clone(&clock);
        let kube = FakeKube::new(move || now.now());
        let handle = FleetHandle::fixed(crate::fleet::Fleet::default());
        let nodes = NodesView::default();
        let mut cluster = Self { kube, store, clock, handle, nodes, tasks: JoinSet::new() };
        (1..=count).for_each(|n| cluster.node(n));
        cluster.start().await;
        cluster
            .until("all Nodes have their identity", |c| {
                c.kube.list("nodes").iter().all(|node| node["spec"]["providerID"].is_string())
            })
            .await;
        cluster
    }

    /// Restarts the loops.
    pub(super) async fn start(&mut self) {
        self.tasks.shutdown().await;
        let store = Arc::new(self.store.clone());
        let (writer, handle) =
            FleetWriter::load(store, Arc::clone(&self.clock), declared(), 0, AuditLog::default())
                .await
                .unwrap();
        let client = self.kube.client("provider", "vpsie-system");
        let nodes = Nodes::new(handle.clone(), client.clone(), Arc::default());
        let view = nodes.view();
        let metrics = DrainMetrics::default();
        let (events, publisher) = Events::new(client.clone(), "vpsie-system", EventMetrics::default());
        let drain = Drain::new(handle.clone(), client.clone(), view.clone(), events, metrics)
            .with_clock(Arc::clone(&self.clock));
        let metrics = InterruptionMetrics::default();
        let interruptions =
            Interruptions::new(handle.clone(), client, view.clone(), Arc::clone(&self.clock), metrics);
        self.handle = handle;
        self.nodes = view;
        self.tasks.spawn(writer.run());
        self.tasks.spawn(publisher.run(CancellationToken::new()));
        self.tasks.spawn(nodes.run(CancellationToken::new()));
        self.tasks.spawn(drain.run(CancellationToken::new()));
        self.tasks.spawn(interruptions.run(CancellationToken::new()));
    }

    pub(super) fn node(&self, n: u32) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("slave-{n}")}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        self.kube.put_object(node).unwrap();
    }

    pub(super) fn pod(&self, name: &str, node: u32, more: &Value) {
        let mut metadata = json!({"name": name, "namespace": "default"});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.kube
            .put_object(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                "spec": {"nodeName": format!("slave-{node}")}, "status": {"phase": "Running"},
            }))
            .unwrap();
    }

    async fn retire(&self, n: u32) {
        let id = id(n);
        let done = self.handle.update(Cause::VPSieNodeDeleted, move |fleet, now, _| {
            fleet.retire(&id, DeletionReason::VPSieNodeDeleted, now)
        });
        assert_eq!(done.await.unwrap().len(), 1);
    }

    pub(super) fn drained(&self, n: u32) -> bool {
        self.handle.read(|fleet| fleet.machine(&id(n)).is_some_and(Machine::needs_vm_deletion))
    }

    pub(super) fn evictions(&self) -> usize {
        self.kube.count(is_eviction)
    }

    pub(super) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_mins(5);
        while !holds(self) {
            assert!(Instant::now() < end, "{what}: not within five minutes");
            assert!(self.tasks.try_join_next().is_none(), "a loop ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(super) fn id(n: u32) -> MachineId {
    format!("web-{n:08x}").as_str().into()
}

pub(super) fn is_eviction(request: &ApiRequest) -> bool {
    request.subresource == "eviction"
}

/// Whether the request lists the pods of the Node.
pub(super) fn lists_pods_on(request: &ApiRequest, n: u32) -> bool {
    let selector = request.query.get("fieldSelector");
    request.is_verb_on(Verb::List, "pods")
        && selector.is_some_and(|on| *on == format!("spec.nodeName=slave-{n}"))
}

pub(super) fn refused(code: u16, cause: &str) -> FaultEffect {
    FaultEffect::Refused(fake_kube::StatusError::new(code, "no").with_cause(cause, "web needs 2"))
}

#[tokio::test(start_paused = true)]
async fn a_node_is_cordoned_and_emptied_before_its_vm_is_deleted() {
    let mut cluster = Cluster::new(2).await;
    cluster.pod("web", 1, &json!({}));
    cluster.pod("other", 2, &json!({}));
    let owner =
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true}]);
    cluster.pod("daemon", 1, &json!({"ownerReferences": owner}));
    cluster.retire(1).await;
    assert!(!cluster.drained(1));
    cluster.until("it is drained", |c| c.drained(1)).await;
    let node = |n: u32| cluster.kube.get("nodes", "", &format!("slave-{n}")).unwrap();
    assert_eq!(
        (&node(1)["spec"]["unschedulable"], &node(2)["spec"]["unschedulable"]),
        (&json!(true), &json!(null))
    );
    let left: Vec<_> = cluster.kube.list("pods").iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    assert_eq!(left, ["daemon", "other"]);
    let requests = cluster.kube.requests();
    let cordoned = requests.iter().rposition(|request| request.is_verb_on(Verb::Patch, "nodes")).unwrap();
    assert!(cordoned < requests.iter().position(is_eviction).unwrap(), "cordoned first");
}

#[tokio::test(start_paused = true)]
async fn respects_a_disruption_budget_without_a_time_limit() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    cluster.kube.fail(u32::MAX, is_eviction, refused(429, "DisruptionBudget"));
    cluster.retire(1).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(!cluster.drained(1));
    let count = cluster.evictions();
    assert!((400..=720).contains(&count), "about every five seconds: {count}");
    cluster.kube.clear_faults();
    cluster.until("it is drained", |c| c.drained(1)).await;
}

#[tokio::test(start_paused = true)]
async fn sends_no_eviction_while_the_api_server_throttles() {
    let mut cluster = Cluster::new(1).await;
    for n in 0..4 {
        cluster.pod(&format!("web-{n}"), 1, &json!({}));
    }
    let busy =
        fake_kube::StatusError { retry_after: Some(20), ..fake_kube::StatusError::new(429, "slow down") };
    cluster.kube.fail(4, is_eviction, FaultEffect::Refused(busy));
    cluster.retire(1).await;
    cluster.until("evictions are requested", |c| c.evictions() == 4).await;
    tokio::time::sleep(Duration::from_secs(18)).await;
    assert_eq!(cluster.evictions(), 4);
    cluster.until("it is drained", |c| c.drained(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_its_kubelet_never_ends_is_not_waited_for() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({"finalizers": ["example.com/held"]}));
    cluster.retire(1).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((cluster.drained(1), cluster.evictions()), (false, 1), "it is on its way out");
    cluster.until("a minute later it is drained", |c| c.drained(1)).await;
    assert_eq!(cluster.evictions(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_pod_of_the_same_name_is_not_evicted_for_the_first() {
    let mut cluster = Cluster::new(2).await;
    cluster.pod("web-0", 1, &json!({}));
    let kube = cluster.kube.clone();
    let once = std::sync::Once::new();
    // The pod is recreated on another Node between the list and the eviction.
    cluster.kube.on_request(move |request| {
        if is_eviction(request) {
            once.call_once(|| {
                kube.vanish("pods", "default", "web-0");
                kube.put_object(json!({
                    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "namespace": "default"},
                    "spec": {"nodeName": "slave-2"}, "status": {"phase": "Running"},
                }))
                .unwrap();
            });
        }
        fake_kube::RequestFault::default()
    });
    cluster.retire(1).await;
    cluster.until("it is drained", |c| c.drained(1)).await;
    assert_eq!(cluster.kube.get("pods", "default", "web-0").unwrap()["spec"]["nodeName"], "slave-2");
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_a_node_needs_no_drain() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    cluster.kube.fail(u32::MAX, is_eviction, refused(429, "DisruptionBudget"));
    cluster.retire(1).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!cluster.drained(1));
    cluster.kube.delete("nodes", "", "slave-1").unwrap();
    cluster.until("it is drained", |c| c.drained(1)).await;
}

#[tokio::test(start_paused = true)]
async fn drains_three_nodes_at_a_time_without_blocked_ones() {
    let mut cluster = Cluster::new(6).await;
    for n in 1..=6 {
        cluster.pod(&format!("web-{n}"), n, &json!({}));
    }
    let held = |request: &ApiRequest| {
        is_eviction(request) && ["web-1", "web-2", "web-3"].contains(&request.name.as_str())
    };
    cluster.kube.fail(u32::MAX, held, refused(500, ""));
    for n in 1..=6 {
        cluster.retire(n).await;
    }
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(cluster.kube.count(|request| is_eviction(request) && !held(request)), 0);
    cluster.until("all but those that are held up are drained", |c| (4..=6).all(|n| c.drained(n))).await;
    assert!((1..=3).all(|n| !cluster.drained(n)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_continues_after_a_restart_and_an_outage() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("web", 1, &json!({}));
    cluster.pod("held", 1, &json!({}));
    let held = |request: &ApiRequest| is_eviction(request) && request.name == "held";
    cluster.kube.fail(u32::MAX, held, refused(429, "DisruptionBudget"));
    cluster.retire(1).await;
    cluster.until("one pod is evicted", |c| c.kube.get("pods", "default", "web").is_none()).await;
    cluster.kube.set_down(true);
    cluster.start().await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(!cluster.drained(1), "it is not known whether a Node is there");
    cluster.kube.set_down(false);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(!cluster.drained(1), "the budget holds still");
    cluster.kube.clear_faults();
    cluster.until("it is drained", |c| c.drained(1)).await;
    assert!(cluster.kube.list("pods").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_few_requests_and_changes_nothing() {
    let mut cluster = Cluster::new(3).await;
    (1..=3).for_each(|n| cluster.pod(&format!("web-{n}"), n, &json!({"finalizers": ["example.com/held"]})));
    for n in 1..=3 {
        cluster.retire(n).await;
    }
    cluster.until("all evictions are requested", |c| c.evictions() == 3).await;
    cluster.kube.set_down(true);
    cluster.kube.forget_requests();
    tokio::time::sleep(Duration::from_mins(5)).await;
    let count = cluster.kube.count(|request| request.plural == "pods");
    assert!((40..=60).contains(&count), "about every six seconds: {count}");
    assert!((1..=3).all(|n| !cluster.drained(n)));
}

#[tokio::test(start_paused = true)]
async fn nodes_with_unlistable_pods_delay_no_other_drain() {
    let mut cluster = Cluster::new(6).await;
    (1..=6).for_each(|n| cluster.pod(&format!("web-{n}"), n, &json!({})));
    let fails = |request: &ApiRequest| (1..=4).any(|n| lists_pods_on(request, n));
    cluster.kube.fail(u32::MAX, fails, refused(500, ""));
    for n in 1..=6 {
        cluster.retire(n).await;
    }
    let begun = Instant::now();
    cluster.until("the others are drained", |c| (5..=6).all(|n| c.drained(n))).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!((1..=4).all(|n| !cluster.drained(n)));
    tokio::time::sleep(Duration::from_mins(10)).await;
    let events: Vec<Event> = cluster.kube.all();
    for n in 1..=4 {
        let node = format!("slave-{n}");
        let about =
            |event: &&Event| event.regarding.as_ref().is_some_and(|on| on.name.as_ref() == Some(&node));
        let event = events.iter().find(about).unwrap();
        let note = event.note.as_deref().unwrap();
        assert_eq!(event.reason.as_deref(), Some("DrainBlocked"));
        assert!(note.starts_with("the Node cannot be drained yet: cannot list its pods: "), "{note}");
    }
    cluster.kube.forget_requests();
    tokio::time::sleep(Duration::from_mins(5)).await;
    let count = cluster.kube.count(fails);
    assert!(count <= 60, "no more than in an outage: {count}");
    cluster.kube.clear_faults();
    cluster.until("all are drained", |c| (1..=4).all(|n| c.drained(n))).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_looked_up_holds_up_no_other_drain() {
    let mut cluster = Cluster::new(2).await;
    cluster.pod("web-2", 2, &json!({}));
    cluster.kube.delete("nodes", "", "slave-1").unwrap();
    let looks_up = |request: &ApiRequest| {
        let selector = request.query.get("fieldSelector");
        request.is_verb_on(Verb::List, "nodes") && selector.is_some_and(|of| of == "metadata.name=slave-1")
    };
    cluster.kube.fail(u32::MAX, looks_up, refused(500, ""));
    cluster.retire(1).await;
    cluster.until("its Node is looked up", |c| c.kube.count(looks_up) > 0).await;
    cluster.retire(2).await;
    cluster.until("the other one is drained", |c| c.drained(2)).await;
    assert!(!cluster.drained(1));
    cluster.kube.clear_faults();
    cluster.until("both are drained", |c| c.drained(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_watch_has_not_shown_is_drained() {
    let mut cluster = Cluster::new(1).await;
    cluster.kube.delete("nodes", "", "slave-1").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.kube.hold_watches(true);
    cluster.node(1);
    cluster.pod("web", 1, &json!({}));
    cluster.retire(1).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!cluster.drained(1));
    cluster.kube.hold_watches(false);
    cluster.until("it is drained", |c| c.drained(1)).await;
    assert!(cluster.kube.list("pods").is_empty(), "and its pod was evicted");
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_nodes_that_died_silently_is_replaced_soon() {
    let mut cluster = Cluster::new(2).await;
    cluster.kube.vanish("nodes", "", "slave-2");
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.kube.silence_watches();
    let died = Instant::now();
    cluster.node(2);
    cluster
        .until("the Node has its identity", |c| {
            c.kube.get("nodes", "", "slave-2").is_some_and(|node| node["spec"]["providerID"].is_string())
        })
        .await;
    assert!(died.elapsed() < Duration::from_mins(1), "{:?}", died.elapsed());
}

#[tokio::test(start_paused = true)]
async fn throttled_evictions_are_not_followed_by_more() {
    let cluster = Cluster::new(1).await;
    (0..40).for_each(|n| cluster.pod(&format!("web-{n}"), 1, &json!({})));
    let busy =
        fake_kube::StatusError { retry_after: Some(20), ..fake_kube::StatusError::new(429, "slow down") };
    cluster.kube.fail(40, is_eviction, FaultEffect::Refused(busy));
    cluster.retire(1).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(cluster.evictions(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_node_costs_one_patch_though_the_watch_is_behind() {
    let cluster = Cluster::new(3).await;
    cluster.kube.forget_requests();
    cluster.kube.hold_watches(true);
    cluster.kube.vanish("nodes", "", "slave-2");
    cluster.node(2);
    // A status of its kubelet reaches the watch after the reply to the patch.
    for status in ["False", "True"] {
        let conditions = json!([{"type": "Ready", "status": status}]);
        cluster.kube.patch("nodes", "", "slave-2", json!({"status": {"conditions": conditions}})).unwrap();
    }
    cluster.kube.hold_watches(false);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(cluster.kube.get("nodes", "", "slave-2").unwrap()["spec"]["providerID"].is_string());
    assert_eq!(cluster.kube.count(|request| request.is_verb_on(Verb::Patch, "nodes")), 1);
}

/// A VPSie in front of the cluster, with an orphan that was found when the process began.
async fn with_orphan(cluster: &mut Cluster) -> Arc<Scripted> {
    let kind = crate::fleet::UnmanagedKind::Orphan { pool: SMALL.parse().unwrap(), size: Some(SizeId(2)) };
    let hostname = super::node(2, SizeId(2)).hostname;
    let id = super::node(2, SizeId(2)).id;
    let unmanaged = crate::fleet::UnmanagedNode {
        hostname,
        id,
        first_seen: Timestamp::UNIX_EPOCH,
        kind,
        awaited_by: None,
        request: None,
        abandoned_request: None,
    };
    cluster.store.write(&[Change::SaveUnmanaged(unmanaged)]);
    cluster.start().await;
    let vpsie = Arc::new(Scripted::default());
    vpsie.state().nodes = vec![super::node(2, SizeId(2)), super::node(999, SizeId(2))];
    serve(cluster, &vpsie);
    vpsie
}

/// Starts the loops that call VPSie.
fn serve(cluster: &mut Cluster, vpsie: &Arc<Scripted>) {
    let backend: Arc<dyn Backend> = vpsie.clone();
    let listing_trigger = Arc::new(ListingTrigger::default());
    let policy = Policy { running_when_listed: false, ..Policy::default() };
    let idle = Duration::from_secs(30);
    let provision = Provision::new(
        cluster.handle.clone(),
        Arc::clone(&backend),
        policy,
        idle,
        Arc::clone(&listing_trigger),
    );
    let removal = Removal::new(cluster.handle.clone(), backend, listing_trigger);
    cluster.tasks.spawn(provision.run(CancellationToken::new()));
    cluster.tasks.spawn(removal.run(CancellationToken::new()));
}

#[tokio::test(start_paused = true)]
async fn drains_the_node_of_an_orphan_before_its_vm_is_deleted() {
    let mut cluster = Cluster::new(0).await;
    cluster.node(2);
    cluster.pod("db-0", 2, &json!({}));
    let vpsie = with_orphan(&mut cluster).await;
    cluster
        .until("it takes no pods", |c| {
            let node = c.kube.get("nodes", "", "slave-2").unwrap();
            let orphan = |taint: &Value| taint["key"] == crate::fleet::names::ORPHAN;
            node["spec"]["unschedulable"] == true
                && node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().any(orphan))
        })
        .await;
    assert_eq!(cluster.evictions(), 0, "a machine may adopt it");
    let held = refused(429, "DisruptionBudget");
    cluster.kube.fail(u32::MAX, is_eviction, held);
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert!(cluster.evictions() > 0);
    assert_eq!(vpsie.count("delete"), 0, "its budget holds");
    cluster.kube.clear_faults();
    cluster.until("its VM is deleted", |_| vpsie.count("delete slave-2") > 0).await;
    assert!(cluster.kube.list("pods").is_empty(), "evicted before");
}

#[tokio::test(start_paused = true)]
async fn drains_a_node_that_registers_while_a_deletion_is_refused() {
    let mut cluster = Cluster::new(0).await;
    let vpsie = with_orphan(&mut cluster).await;
    vpsie.state().deletions.insert("slave-2".to_owned(), Reply::Unavailable);
    tokio::time::sleep(Duration::from_mins(20)).await;
    assert!(vpsie.count("delete slave-2") > 0, "it has no Node");
    cluster.kube.fail(u32::MAX, is_eviction, refused(429, "DisruptionBudget"));
    cluster.pod("db-0", 2, &json!({}));
    cluster.node(2);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let before = vpsie.count("delete slave-2");
    vpsie.state().deletions.clear();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(vpsie.count("delete slave-2"), before, "pods run on it");
    cluster.kube.clear_faults();
    cluster.until("its VM is deleted", |_| vpsie.count("delete slave-2") > before).await;
    assert!(cluster.kube.list("pods").is_empty(), "evicted before");
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_grace_of_a_pod_whatever_the_clocks_say() {
    let mut cluster = Cluster::new(1).await;
    cluster.pod("db-0", 1, &json!({"finalizers": ["example.com/held"]}));
    // The API server is far behind.
    let ended = json!({"deletionTimestamp": "1969-01-01T00:00:00Z", "deletionGracePeriodSeconds": 600});
    cluster.kube.patch("pods", "default", "db-0", json!({ "metadata": ended })).unwrap();
    cluster.retire(1).await;
    tokio::time::sleep(Duration::from_mins(9)).await;
    assert!(!cluster.drained(1), "its grace is not over");
    cluster.until("it is not waited for", |c| c.drained(1)).await;
}
