//! Identity of Nodes, against an API server in the process.

use fake_kube::FakeKube;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};

use super::*;
use crate::fleet::{Cause, Machine, RequestOutcome, VmRequest};
use crate::kubernetes::{EventMetrics, Events};

const NAMESPACE: &str = "vpsie-system";
const ID: &str = "vpsie://00000000-0000-4000-8000-000000000001";

struct Cluster {
    kube: FakeKube,
    handle: FleetHandle,
    tasks: JoinSet<()>,
}

impl Cluster {
    /// One requested machine; the loop over Nodes, whose clock is far from the API server's.
    async fn new() -> Self {
        let store = MemoryStore::new();
        let machine = Machine {
            id: "web-00000001".into(),
            pool: SMALL.parse().unwrap(),
            size: SizeId(2),
            created_at: "2030-01-01T00:00:00Z".parse().unwrap(),
            phase: Phase::Pending,
            requests: Vec::new(),
            notice: None,
            replaces: None,
        };
        store.write(&[Change::SaveCatalog(Arc::new(catalog())), Change::SaveMachine(machine)]);
        let clock = Arc::new(TokioClock(Instant::now()));
        let (writer, handle) =
            FleetWriter::load(Arc::new(store), clock, declared(), 1, AuditLog::default()).await.unwrap();
        let kube = FakeKube::new(|| Timestamp::UNIX_EPOCH);
        let client = kube.client("provider", NAMESPACE);
        let (events, publisher) = Events::new(client.clone(), NAMESPACE, EventMetrics::default());
        let nodes = Nodes::new(handle.clone(), client, Arc::default()).with_events(events);
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        tasks.spawn(publisher.run(CancellationToken::new()));
        tasks.spawn(nodes.run(CancellationToken::new()));
        seconds(5).await;
        Self { kube, handle, tasks }
    }

    /// VPSie lists the machine's VM, at 10.0.0.7.
    async fn list(&self) {
        let bind = |fleet: &mut crate::fleet::Fleet, now, _: crate::fleet::Names<'_>| {
            let policy = Policy { running_when_listed: false, ..Policy::default() };
            let mut changes = fleet.observe(&listing(&[]), now, &policy);
            let mut machine = fleet.machines().next().unwrap().clone();
            machine.requests = vec![VmRequest { at: now, outcome: RequestOutcome::Accepted, hostname: None }];
            machine.phase = Phase::Creating { vm: None, since: now };
            fleet.apply(&Change::SaveMachine(machine.clone()));
            changes.push(Change::SaveMachine(machine));
            let listed = ListedNode { addresses: vec![[10, 0, 0, 7].into()], ..node(1, SizeId(2)) };
            changes.extend(fleet.observe(&listing(&[listed]), now, &policy));
            changes
        };
        self.handle.update(Cause::VPSieListing, bind).await.unwrap();
        seconds(3).await;
    }

    fn register(&self, name: &str, spec: &Value, address: &str) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec,
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "1970-01-01T00:00:00Z"}],
                "addresses": [{"type": "InternalIP", "address": address}],
            },
        });
        self.kube.put_object(node).unwrap();
    }

    fn node(&self, name: &str) -> Value {
        self.kube.get("nodes", "", name).unwrap()
    }

    fn id(&self) -> String {
        self.handle.read(|fleet| fleet.machines().next().unwrap().instance_id())
    }

    /// Objects that have events of that reason.
    fn objects_with_event(&self, reason: &str) -> Vec<String> {
        let events: Vec<Event> = self.kube.all();
        let mut on: Vec<String> = events
            .iter()
            .filter(|event| event.reason.as_deref() == Some(reason))
            .filter_map(|event| event.regarding.as_ref()?.kind.clone())
            .collect();
        on.sort();
        on
    }
}

#[tokio::test(start_paused = true)]
async fn identifies_a_ready_node_at_once_whatever_the_clocks_say() {
    let cluster = Cluster::new().await;
    cluster.list().await;
    cluster.register("slave-1", &json!({}), "10.0.0.7");
    seconds(2).await;
    assert_eq!(cluster.node("slave-1")["spec"]["providerID"], ID);
    assert!(
        cluster.handle.read(|fleet| matches!(fleet.machines().next().unwrap().phase, Phase::Running { .. }))
    );
}

#[tokio::test(start_paused = true)]
async fn leaves_a_node_of_another_site_with_the_address_of_a_vm() {
    let cluster = Cluster::new().await;
    cluster.list().await;
    cluster.register("edge-1", &json!({}), "10.0.0.7");
    cluster.register("slave-1", &json!({}), "10.0.0.7");
    seconds(120).await;
    assert_eq!(cluster.node("edge-1")["spec"], json!({}));
    assert_eq!(cluster.node("slave-1")["spec"]["providerID"], ID);
    let deleted = cluster.handle.update(Cause::VPSieNodeDeleted, |fleet, now, _| {
        let id = fleet.machines().next().unwrap().id.clone();
        fleet.retire(&id, crate::fleet::DeletionReason::VPSieNodeDeleted, now)
    });
    deleted.await.unwrap();
    seconds(60).await;
    assert_eq!(cluster.node("edge-1")["spec"], json!({}), "nor cordoned");
    assert_eq!(cluster.node("slave-1")["spec"]["unschedulable"], true);
}

#[tokio::test(start_paused = true)]
async fn adopts_the_provider_id_that_another_controller_set_first() {
    let cluster = Cluster::new().await;
    cluster.list().await;
    cluster.register("slave-1", &json!({"providerID": "talos://vpsie/10.0.0.7"}), "10.0.0.7");
    seconds(3).await;
    assert_eq!(cluster.id(), "talos://vpsie/10.0.0.7");
    let node = cluster.node("slave-1");
    assert_eq!(node["metadata"]["labels"]["autoscaler.vpsie.com/nodegroup"], "web");
    assert!(
        cluster.handle.read(|fleet| matches!(fleet.machines().next().unwrap().phase, Phase::Running { .. }))
    );
    assert_eq!(cluster.objects_with_event("IdentityAdopted"), ["Node", "VPSieNode"]);
}

#[tokio::test(start_paused = true)]
async fn reports_once_a_node_that_no_cloud_controller_initializes() {
    let cluster = Cluster::new().await;
    cluster.list().await;
    let taints = json!([{"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true",
        "effect": "NoSchedule"}]);
    cluster.register("slave-1", &json!({ "taints": taints }), "10.0.0.7");
    cluster.register("other", &json!({ "taints": taints }), "10.0.0.9");
    seconds(100).await;
    assert_eq!(cluster.objects_with_event("NodeUninitialized"), Vec::<String>::new());
    seconds(600).await;
    assert_eq!(cluster.objects_with_event("NodeUninitialized"), ["Node", "VPSieNode"]);
}

#[tokio::test(start_paused = true)]
async fn reports_once_a_node_that_matches_no_waiting_machine() {
    let mut cluster = Cluster::new().await;
    cluster.list().await;
    cluster.register("worker-x", &json!({}), "10.0.0.9");
    seconds(30).await;
    assert!(cluster.objects_with_event("NodeUnmatched").is_empty(), "its VM may be listed late");
    seconds(600).await;
    assert_eq!(cluster.objects_with_event("NodeUnmatched"), ["Node", "VPSieNode"]);
    assert_eq!(cluster.node("worker-x")["spec"], json!({}));
    assert!(cluster.tasks.try_join_next().is_none(), "a loop ended");
}
