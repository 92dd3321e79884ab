//! The deadline of joins. The create timeout of these tests is 40 minutes, so a VM has an hour to join.

use super::*;
use crate::control::{AuditLog, FleetConfig, FleetWriter, ListingTrigger, Nodes, NodesView};
use crate::fleet::{Cause, FailureReason, UnmanagedKind};
use crate::store::MemoryStore;

impl World {
    /// A world with a writer, whose changes are durable.
    async fn live() -> Self {
        let mut world = Self::new(config(JoinKind::Kubeadm));
        let store = MemoryStore::default();
        store.write(&[Change::SaveCatalog(Arc::new(Catalog { offers: vec![offer(2, "small")] }))]);
        let settings = FleetSettings { binding: Binding::ByName, ..FleetSettings::default() };
        let declared = FleetConfig { declaration: vec![node_group()].into(), settings };
        let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
        let loaded = FleetWriter::load(Arc::new(store), Arc::clone(&clock), declared, 1, AuditLog::default());
        let (writer, handle) = loaded.await.unwrap();
        tokio::spawn(writer.run());
        let client = world.kube.client("autoscaler", NAMESPACE);
        let payloads = JoinPayloads::new(handle.clone(), clock, &client, NAMESPACE, "cluster-uid");
        let group = SelfManagedGroup { vms: vms(), join: config(JoinKind::Kubeadm) };
        payloads.set_groups([("batch".into(), group)].into());
        (world.handle, world.payloads) = (handle, Arc::new(payloads));
        world
    }

    async fn commit(&self, machine: &Machine) {
        let change = Change::SaveMachine(machine.clone());
        let apply = move |fleet: &mut Fleet, _: Timestamp, _: crate::fleet::Names<'_>| {
            fleet.apply(&change);
            vec![change]
        };
        self.handle.update(Cause::Provisioning, apply).await.unwrap();
    }

    /// A machine whose VM is created and has not joined.
    async fn unjoined(&self, name: &str) -> Machine {
        let (mut machine, request) = self.requested(name, 1);
        self.commit(&machine).await;
        self.payload(&request).await.unwrap();
        self.bind(&mut machine);
        self.commit(&machine).await;
        machine
    }

    /// Runs a process with the clean-up and the loop over Nodes.
    async fn run(&self, minutes: u64) {
        let shutdown = CancellationToken::new();
        let view = NodesView::default();
        let client = self.kube.client("autoscaler", NAMESPACE);
        let nodes =
            Nodes::new(self.handle.clone(), client, Arc::<ListingTrigger>::default()).with_view(view.clone());
        let timeout = Duration::from_mins(40);
        let cleanup =
            JoinCleanup::new(Arc::clone(&self.payloads), self.handle.clone(), None, Events::none(), timeout)
                .with_deadlines(view);
        let loops = [tokio::spawn(nodes.run(shutdown.clone())), tokio::spawn(cleanup.run(shutdown.clone()))];
        tokio::time::sleep(Duration::from_mins(minutes)).await;
        shutdown.cancel();
        for ended in loops {
            ended.await.unwrap();
        }
    }

    fn phase(&self, machine: &Machine) -> Phase {
        self.handle.read(|fleet| fleet.machine(&machine.id).unwrap().phase.clone())
    }

    fn failure(&self, machine: &Machine) -> Option<FailureReason> {
        match self.phase(machine) {
            Phase::Failed { failure, .. } => Some(failure.reason),
            Phase::Pending | Phase::Creating { .. } | Phase::Running { .. } | Phase::Deleting { .. } => None,
        }
    }

    fn register(&self, name: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        self.kube.put_object(node).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_never_joins_fails_and_becomes_an_orphan() {
    let world = World::live().await;
    let machine = world.unjoined("batch-1").await;
    let vm = machine.vm().unwrap().clone();
    world.run(50).await;
    assert_eq!(world.failure(&machine), None);
    world.pass(50);
    world.run(15).await;
    assert_eq!(world.failure(&machine), Some(FailureReason::JoinTimeout));
    assert_eq!(FailureReason::JoinTimeout.class(), 99, "no shortage");
    let orphan = world.handle.read(|fleet| fleet.unmanaged_node(&vm.hostname).cloned().unwrap());
    assert!(matches!(orphan.kind, UnmanagedKind::Orphan { .. }) && orphan.id == vm.id, "{orphan:?}");
    assert!(world.secrets().is_empty(), "it cannot join any more");
    let counted = &world.joins()["payload.batch"];
    assert!(counted.as_str().is_some_and(|record| record.contains(r#""unjoined":1"#)), "{counted}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_after_a_restart() {
    let world = World::live().await;
    let machine = world.unjoined("batch-1").await;
    world.run(1).await;
    world.pass(61);
    world.run(1).await;
    assert_eq!(world.failure(&machine), None, "listings and Nodes come first");
    world.run(3).await;
    assert_eq!(world.failure(&machine), Some(FailureReason::JoinTimeout));
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_clock_ends_no_join() {
    let world = World::live().await;
    let machine = world.unjoined("batch-1").await;
    let clock = world.clock.clone();
    let jump = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_mins(5)).await;
        *clock.0.lock().unwrap() += Duration::from_hours(24);
    });
    world.run(50).await;
    jump.await.unwrap();
    assert_eq!(world.failure(&machine), None);
    *world.clock.0.lock().unwrap() -= Duration::from_hours(48);
    world.run(61).await;
    assert_eq!(world.failure(&machine), Some(FailureReason::JoinTimeout), "a clock that was set back");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_registered_is_not_ended() {
    let world = World::live().await;
    // Its cloud controller has not set the providerID, so it is not Running.
    let machine = world.unjoined("batch-1").await;
    world.register(machine.vm().unwrap().hostname.as_str());
    world.kube.fail(u32::MAX, |asked| asked.is_verb_on(Verb::Patch, "nodes"), RequestFault::refused(500));
    world.pass(600);
    world.run(90).await;
    assert!(matches!(world.phase(&machine), Phase::Creating { .. }), "{:?}", world.phase(&machine));

    let world = World::live().await;
    let machine = world.unjoined("batch-1").await;
    world.register(machine.vm().unwrap().hostname.as_str());
    world.pass(600);
    world.run(90).await;
    assert!(matches!(world.phase(&machine), Phase::Running { .. }), "{:?}", world.phase(&machine));
}

#[tokio::test(start_paused = true)]
async fn nothing_ends_while_nodes_cannot_be_read() {
    let world = World::live().await;
    let machine = world.unjoined("batch-1").await;
    world.pass(600);
    let by_name = |asked: &ApiRequest| asked.plural == "nodes" && asked.query.contains_key("fieldSelector");
    world.kube.fail(u32::MAX, by_name, RequestFault::refused(500));
    world.run(90).await;
    assert_eq!(world.failure(&machine), None);
    assert!(world.kube.count(by_name) > 0);
    let verbs: std::collections::BTreeSet<_> = world
        .kube
        .requests()
        .into_iter()
        .filter(|asked| asked.plural == "nodes")
        .map(|asked| asked.verb)
        .collect();
    assert!(!verbs.contains(&Verb::Get), "the ClusterRole does not permit it");
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_stays_pending_at_vpsie_fails_as_not_created() {
    let world = World::live().await;
    let mut machine = world.unjoined("batch-1").await;
    if let Phase::Creating { vm: Some(vm), .. } = &mut machine.phase {
        vm.id = None;
    }
    world.save(&machine);
    world.commit(&machine).await;
    world.run(61).await;
    assert_eq!(world.failure(&machine), Some(FailureReason::CreateTimeout));
}
