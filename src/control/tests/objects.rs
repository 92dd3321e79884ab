//! The loops over objects of the cluster, against an API server in the process.

use fake_kube::FakeKube;
use serde_json::{Value, json};

use super::*;
use crate::fleet::{Cause, ClusterId, DeletionReason, DrainState, Hostname, Machine};
use crate::vpsie::ManagedConfig;

pub(super) const NAMESPACE: &str = "vpsie-system";

pub(super) struct Cluster {
    pub(super) kube: FakeKube,
    pub(super) handle: FleetHandle,
    clusters: Arc<Mutex<Vec<ClusterId>>>,
    pub(super) served: tokio::sync::watch::Receiver<ServedCluster>,
    store: MemoryStore,
    tasks: JoinSet<()>,
}

impl Cluster {
    pub(super) async fn new(machines: Vec<Machine>) -> Self {
        Self::on(machines, Duration::ZERO).await
    }

    /// A cluster whose store takes `delay` to write.
    async fn on(machines: Vec<Machine>, delay: Duration) -> Self {
        let store = MemoryStore::new();
        store.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
        store.write(&machines.into_iter().map(Change::SaveMachine).collect::<Vec<_>>());
        let declared = FleetConfig { declaration: Vec::new().into(), settings: FleetSettings::default() };
        let clock: Arc<dyn Clock> = Arc::new(TokioClock(Instant::now()));
        let slow = Arc::new(Slow { memory: store.clone(), delay });
        let (writer, handle) =
            FleetWriter::load(slow, Arc::clone(&clock), declared, 0, AuditLog::default()).await.unwrap();
        let now = Arc::clone(&clock);
        let kube = FakeKube::new(move || now.now());
        for machine in store.records().machines {
            kube.put_object(vpsie_node(&machine)).unwrap();
        }
        let client = kube.client("provider", NAMESPACE);
        let clusters = Arc::new(Mutex::new(Vec::new()));
        let seen_clusters = Arc::clone(&clusters);
        let recorded = handle
            .read(|fleet| fleet.machines().next().is_some())
            .then(|| ManagedConfig { cluster: "c-1".into(), datacenter: "ams1".into() });
        let view = NodesView::default();
        let (sender, served) = tokio::sync::watch::channel(ServedCluster::Unknown);
        let on_cluster = move |served: &ServedCluster| {
            if let ServedCluster::Managed(config) = served {
                seen_clusters.lock().unwrap().push(config.cluster.clone());
            }
        };
        let groups =
            NodeGroups::new(handle.clone(), clock, view, client.clone(), NAMESPACE, recorded, on_cluster)
                .with_in_force(sender);
        let records = RecordsWatch::new(handle.clone(), client, NAMESPACE);
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        tasks.spawn(groups.run(CancellationToken::new()));
        tasks.spawn(records.run(CancellationToken::new()));
        Self { kube, handle, clusters, served, store, tasks }
    }

    pub(super) fn save_node_group(&self, name: &str, more: &Value) {
        let mut spec = json!({
            "minNodes": 0, "maxNodes": 4, "datacenterID": "ams1", "resourceIdentifier": "c-1",
            "offeringIDs": ["small"],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup",
            "metadata": {"name": name, "namespace": NAMESPACE, "generation": 1}, "spec": spec,
        });
        self.kube.put_object(object).unwrap();
    }

    pub(super) fn edit(&self, name: &str, spec: &Value) {
        self.kube.patch("nodegroups", NAMESPACE, name, json!({ "spec": spec })).unwrap();
    }

    pub(super) fn object(&self, name: &str) -> Value {
        self.kube.get("nodegroups", NAMESPACE, name).unwrap_or_default()
    }

    pub(super) fn condition(&self, name: &str, kind: &str) -> Value {
        let object = self.object(name);
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
    }

    /// Maximum size of a pool. None if it is unknown.
    pub(super) fn max(&self, pool: &str) -> Option<u32> {
        self.handle.read(|fleet| fleet.pool(pool).map(|pool| fleet.limits(pool).max))
    }

    pub(super) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_mins(2);
        while !holds(self) {
            assert!(Instant::now() < end, "{what}: not within two minutes");
            assert!(self.tasks.try_join_next().is_none(), "a loop ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn writes(&self) -> usize {
        self.kube.count(|request| request.verb.writes())
    }
}

/// A slow store.
struct Slow {
    memory: MemoryStore,
    delay: Duration,
}

#[async_trait]
impl Store for Slow {
    async fn load(&self) -> Result<Records, StoreError> {
        self.memory.load().await
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        tokio::time::sleep(self.delay).await;
        self.memory.commit(changes).await
    }
}

pub(super) fn running(n: u32) -> Machine {
    let vm = Vm {
        hostname: Hostname::new(&format!("slave-{n}")),
        id: Some(crate::fleet::VmId::new(format!("00000000-0000-4000-8000-{n:012}"))),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    };
    Machine {
        id: format!("web-{n:08x}").as_str().into(),
        pool: SMALL.parse().unwrap(),
        size: SizeId(2),
        created_at: Timestamp::UNIX_EPOCH,
        phase: Phase::Running { vm, since: Timestamp::UNIX_EPOCH },
        requests: Vec::new(),
        notice: None,
        replaces: None,
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_node_groups_are_in_force() {
    let mut cluster = Cluster::new(Vec::new()).await;
    cluster.until("they were read", |c| *c.served.borrow() == ServedCluster::None).await;
    cluster.save_node_group("web", &json!({}));
    cluster.until("the pool is there", |c| c.max(SMALL) == Some(4)).await;
    assert_eq!(*cluster.clusters.lock().unwrap(), ["c-1".into()]);
    cluster.until("it has a status", |c| c.condition("web", "Ready")["status"] == "True").await;
    assert_eq!(cluster.object("web")["metadata"]["finalizers"], json!([NODE_GROUP_FINALIZER]));

    cluster.edit("web", &json!({"maxNodes": 2}));
    cluster.until("the new maximum holds", |c| c.max(SMALL) == Some(2)).await;
    cluster.edit("web", &json!({"minNodes": 3}));
    cluster
        .until("the problem is in the status", |c| c.condition("web", "Ready")["reason"] == "Invalid")
        .await;
    assert_eq!(cluster.max(SMALL), Some(2), "what was right holds");
    let message = cluster.condition("web", "Ready")["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("spec.minNodes: is 3, must be at most maxNodes"), "{message}");

    cluster.save_node_group("batch", &json!({"resourceIdentifier": "c-2"}));
    cluster
        .until("another cluster is refused", |c| {
            c.condition("batch", "Ready")["message"].as_str().is_some_and(|m| m.contains("must be \"c-1\""))
        })
        .await;
    cluster.kube.delete("nodegroups", NAMESPACE, "web").unwrap();
    cluster.until("an empty one goes at once", |c| c.object("web").is_null()).await;
    cluster.until("the other cluster is ours then", |c| c.clusters.lock().unwrap().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_published_once_its_node_groups_are_in_force() {
    let mut cluster = Cluster::on(vec![running(1)], Duration::from_secs(30)).await;
    let handle = cluster.handle.clone();
    let retire = move |_: &mut crate::fleet::Fleet, _, _: crate::fleet::Names<'_>| {
        vec![Change::SaveCatalog(Arc::new(catalog()))]
    };
    cluster.save_node_group("web", &json!({"offeringIDs": ["small", "large"], "maxNodes": 7}));
    // The records are being written when the NodeGroups are read.
    let written = tokio::spawn(async move { handle.update(Cause::NodeGroupDeleted, retire).await });
    tokio::task::yield_now().await;
    let is_known = |served: &ServedCluster| matches!(served, ServedCluster::Managed(_));
    tokio::time::timeout(Duration::from_mins(2), cluster.served.wait_for(is_known)).await.unwrap().unwrap();
    assert_eq!((cluster.max(SMALL), cluster.max(LARGE)), (Some(7), Some(6)));
    written.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_when_it_changes_and_not_otherwise() {
    let mut cluster = Cluster::new(Vec::new()).await;
    cluster.save_node_group("web", &json!({}));
    cluster.until("it has a status", |c| c.condition("web", "Ready")["status"] == "True").await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let before = cluster.writes();
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(cluster.writes(), before);
    let command = Command::IncreaseSize { pool: SMALL.to_owned(), delta: 2 };
    cluster.handle.execute(command).await.unwrap();
    cluster.until("it is noted", |c| c.object("web")["status"]["desiredNodes"] == 2).await;
    assert_eq!(cluster.writes(), before + 1);
    assert_eq!(cluster.condition("web", "Scaling")["message"], "machines being created: 2");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_group_waits_for_its_machines() {
    let mut cluster = Cluster::new(vec![running(1)]).await;
    cluster.save_node_group("web", &json!({"minNodes": 1}));
    cluster.until("it is held", |c| c.object("web")["metadata"]["finalizers"].is_array()).await;
    cluster.kube.delete("nodegroups", NAMESPACE, "web").unwrap();
    cluster.until("it grows no more", |c| c.max(SMALL) == Some(1)).await;
    cluster.until("the condition is written", |c| c.condition("web", "Deleting")["status"] == "True").await;
    assert!(cluster.handle.read(|fleet| fleet.machines().all(Machine::counts)));
    cluster.edit("web", &json!({"deletionPolicy": "Drain"}));
    cluster.until("it is emptied", |c| c.handle.read(|fleet| !fleet.machines().any(Machine::counts))).await;
    assert!(matches!(
        cluster.store.records().machines[0].phase,
        Phase::Deleting { reason: DeletionReason::NodeGroupDeleted, drain: DrainState::Pending, .. }
    ));
    assert!(!cluster.object("web").is_null(), "its machine is still there");
    let gone = |fleet: &mut crate::fleet::Fleet, now, _: crate::fleet::Names<'_>| {
        let id = "web-00000001".into();
        let mut changes = fleet.note_drain(&id, DrainState::Done);
        changes.extend(fleet.deletion_accepted(&id, now));
        for _ in 0..2 {
            changes.extend(fleet.observe(&listing(&[]), now, &Policy::default()));
        }
        changes
    };
    cluster.handle.update(Cause::VPSieListing, gone).await.unwrap();
    cluster.until("it goes with the last", |c| c.object("web").is_null()).await;
}

#[tokio::test(start_paused = true)]
async fn the_config_limits_all_of_them() {
    let mut cluster = Cluster::new(Vec::new()).await;
    cluster.save_node_group("web", &json!({}));
    cluster.until("the pool is there", |c| c.max(SMALL) == Some(4)).await;
    let config = json!({
        "apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "AutoscalerConfig",
        "metadata": {"name": "default", "generation": 1}, "spec": {"globalSettings": {"maxClusterWorkers": 1}},
    });
    cluster.kube.put_object(config).unwrap();
    cluster.until("it is in force", |c| c.max(SMALL) == Some(1)).await;
    let active =
        |c: &Cluster| c.kube.get("autoscalerconfigs", "", "default").unwrap()["status"]["active"] == true;
    cluster.until("the condition is written", active).await;
    cluster.kube.delete("autoscalerconfigs", "", "default").unwrap();
    cluster.until("it is gone", |c| c.max(SMALL) == Some(4)).await;
}

#[tokio::test(start_paused = true)]
async fn refuses_another_cluster_while_machines_exist() {
    let mut cluster = Cluster::new(vec![running(1)]).await;
    cluster.save_node_group("web", &json!({"resourceIdentifier": "c-2"}));
    cluster.until("another is refused", |c| c.condition("web", "Ready")["reason"] == "Invalid").await;
    assert_eq!(*cluster.clusters.lock().unwrap(), ["c-1".into()]);
}

fn vpsie_node(machine: &Machine) -> Value {
    let mut object =
        serde_json::to_value(crate::api::VPSieNode::from_machine(machine, &"c-1".into())).unwrap();
    object["metadata"]["namespace"] = json!(NAMESPACE);
    object["metadata"]["finalizers"] = json!(["vpsienode.autoscaler.vpsie.com/finalizer"]);
    object
}

#[tokio::test(start_paused = true)]
async fn deletes_the_machine_of_a_deleted_vpsienode() {
    let mut cluster = Cluster::new(vec![running(1), running(2)]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(cluster.handle.read(|fleet| fleet.machines().all(Machine::counts)));
    cluster.kube.delete("vpsienodes", NAMESPACE, "web-00000001").unwrap();
    let retired = |n: usize| {
        move |c: &Cluster| {
            let reason = |m: &Machine| match m.phase {
                Phase::Deleting { reason, drain: DrainState::Pending, .. } => Some(reason),
                _ => None,
            };
            c.store.records().machines.iter().filter_map(reason).collect::<Vec<_>>()
                == vec![DeletionReason::VPSieNodeDeleted; n]
        }
    };
    cluster.until("it is given up", retired(1)).await;
    cluster.kube.vanish("vpsienodes", NAMESPACE, "web-00000002");
    cluster.until("so is one without a record", retired(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_vpsienode_deleted_without_a_watch_is_noticed() {
    let mut cluster = Cluster::new(vec![running(1)]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.kube.set_down(true);
    cluster.kube.vanish("vpsienodes", NAMESPACE, "web-00000001");
    cluster.kube.compact();
    tokio::time::sleep(Duration::from_mins(1)).await;
    cluster.kube.set_down(false);
    cluster.until("it is given up", |c| c.handle.read(|fleet| !fleet.machines().any(Machine::counts))).await;
}

#[tokio::test(start_paused = true)]
async fn watches_of_objects_that_died_silently_are_replaced_soon() {
    let mut cluster = Cluster::new(vec![running(1)]).await;
    cluster.save_node_group("web", &json!({"offeringIDs": ["small"]}));
    cluster.until("it is known", |c| c.max(SMALL) == Some(4)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.kube.silence_watches();
    let died = Instant::now();
    cluster.edit("web", &json!({"maxNodes": 7}));
    cluster.kube.delete("vpsienodes", NAMESPACE, "web-00000001").unwrap();
    cluster.until("the new maximum holds", |c| c.max(SMALL) == Some(7)).await;
    cluster
        .until("the machine is given up", |c| c.handle.read(|fleet| !fleet.machines().any(Machine::counts)))
        .await;
    assert!(died.elapsed() < Duration::from_mins(1), "{:?}", died.elapsed());
}

#[tokio::test(start_paused = true)]
async fn applies_a_change_that_a_reply_to_a_status_write_shows() {
    let mut cluster = Cluster::new(vec![running(1)]).await;
    cluster.save_node_group("web", &json!({}));
    cluster.until("it has a status", |c| c.condition("web", "Ready")["status"] == "True").await;
    cluster.kube.hold_watches(true);
    cluster.edit("web", &json!({"maxNodes": 7}));
    // Its status is written because a machine is deleted.
    let retired = cluster.handle.update(Cause::VPSieNodeDeleted, |fleet, now, _| {
        fleet.retire(&running(1).id, DeletionReason::VPSieNodeDeleted, now)
    });
    assert_eq!(retired.await.unwrap().len(), 1);
    cluster.until("the new maximum holds", |c| c.max(SMALL) == Some(7)).await;
    cluster.kube.hold_watches(false);
}

#[tokio::test(start_paused = true)]
async fn an_annotation_of_a_node_group_is_in_force_at_once() {
    let mut cluster = Cluster::new(Vec::new()).await;
    cluster.save_node_group("web", &json!({}));
    cluster.until("it is known", |c| c.max(SMALL) == Some(4)).await;
    let annotation = json!({"metadata": {"annotations": {crate::fleet::names::RELEARN: "1"}}});
    cluster.kube.patch("nodegroups", NAMESPACE, "web", annotation).unwrap();
    let anew = |fleet: &crate::fleet::Fleet| {
        let group = fleet.pool(SMALL).and_then(|pool| fleet.group(pool));
        group.and_then(|group| group.node.relearn.clone())
    };
    cluster.until("it is known", |c| c.handle.read(anew).as_deref() == Some("1")).await;
}
