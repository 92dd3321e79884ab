use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::catalog::{CapacityType, Catalog, SizeId};
use crate::fleet::{
    CreationOutcome, DeferredChanges, Failure, FailureReason, Hostname, ListedNode, Names, NodeListing,
    NodeRef, NodeRole, Phase, Policy, RecordKey, Records, Refusal, UnmanagedKind, UnmanagedNode, Vm, VmId,
    VmState,
};
use crate::store::{MemoryStore, RefusedRecord};

const POOLS: [&str; 2] = ["web/ams1/small/on-demand", "web/ams1/large/on-demand"];

/// A store that fails on demand after the first of the changes, or refuses the nth record of a commit.
#[derive(Clone, Default)]
struct Fragile {
    memory: MemoryStore,
    broken: Arc<std::sync::atomic::AtomicBool>,
    refuses: Arc<std::sync::Mutex<Option<usize>>>,
}

#[async_trait::async_trait]
impl Store for Fragile {
    async fn load(&self) -> Result<Records, StoreError> {
        self.memory.load().await
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        if self.broken.load(std::sync::atomic::Ordering::Relaxed) {
            self.memory.write(&changes[..1]);
            return Err(StoreError::Io { action: "write", problem: "by the test".to_owned() });
        }
        let records: BTreeSet<RecordKey> = changes.iter().map(Change::record).collect();
        let nth = *self.refuses.lock().unwrap();
        let refused: BTreeSet<RecordKey> =
            records.into_iter().skip(nth.unwrap_or(usize::MAX)).take(1).collect();
        let held = DeferredChanges::new(changes, refused.clone());
        let written: Vec<Change> = changes.iter().filter(|change| !held.contains(change)).cloned().collect();
        self.memory.write(&written);
        if refused.is_empty() {
            return Ok(());
        }
        let problem = || "by the test".to_owned();
        let refused = refused.into_iter().map(|record| RefusedRecord { record, problem: problem() });
        Err(StoreError::Refused(refused.collect()))
    }
}

struct Hands(std::sync::Mutex<jiff::Timestamp>);

impl Clock for Hands {
    fn now(&self) -> jiff::Timestamp {
        *self.0.lock().unwrap()
    }
}

#[derive(Clone, Debug)]
enum WriterStep {
    Increase(usize),
    List { workers: u32, sizes: bool },
    PassTime,
    Request,
    Outcome(CreationOutcome),
    Asking,
    Wait(u64),
    Declare(u32),
    Break(bool),
    Refuse(Option<usize>),
}

fn step() -> impl Strategy<Value = WriterStep> {
    let failure = |reason| Failure { reason, message: String::new() };
    let outcome = prop_oneof![
        Just(CreationOutcome::Accepted),
        Just(CreationOutcome::Unclear),
        Just(CreationOutcome::Refused(failure(FailureReason::Stockout))),
        Just(CreationOutcome::Unavailable(failure(FailureReason::ApiUnavailable))),
    ];
    prop_oneof![
        (0..2usize).prop_map(WriterStep::Increase),
        (0..4u32, any::<bool>()).prop_map(|(workers, sizes)| WriterStep::List { workers, sizes }),
        Just(WriterStep::PassTime),
        Just(WriterStep::Request),
        outcome.prop_map(WriterStep::Outcome),
        Just(WriterStep::Asking),
        (1..200u64).prop_map(WriterStep::Wait),
        (0..9u32).prop_map(WriterStep::Declare),
        any::<bool>().prop_map(WriterStep::Break),
        proptest::option::of(0..3usize).prop_map(WriterStep::Refuse),
    ]
}

fn declaration(max: u32) -> Declaration {
    let group = crate::fleet::tests::group("web", 0, max, &POOLS);
    vec![group].into()
}

fn listed(n: u32, sizes: bool) -> ListedNode {
    ListedNode {
        hostname: Hostname::new(&format!("slave-{n}")),
        id: Some(VmId::new(format!("u-{n}"))),
        size: sizes.then_some(SizeId(2 + 2 * u64::from(n % 2))),
        excluded: std::collections::BTreeSet::new(),
        datacenter: Some("ams1".into()),
        capacity_type: Some(CapacityType::OnDemand),
        role: NodeRole::Worker,
        state: VmState::Running,
        addresses: Vec::new(),
        created_at: None,
        interruption: None,
        attachment: None,
        pool: None,
    }
}

fn decision(
    step: WriterStep,
) -> impl FnOnce(&mut Fleet, jiff::Timestamp, Names<'_>) -> Result<Vec<Change>, Refusal> {
    let policy = Policy::default();
    move |fleet, now, names| match step {
        WriterStep::Increase(pool) => fleet.increase(POOLS[pool], 2, now, names),
        WriterStep::List { workers, sizes } => {
            let nodes = (0..workers).map(|n| listed(n, sizes)).collect();
            Ok(fleet.observe(&NodeListing::of_nodes(nodes, true), now, &policy))
        }
        WriterStep::PassTime => Ok(fleet.apply_deadlines(now, &policy, names)),
        WriterStep::Request => {
            let wanted: Vec<_> = fleet.machines_to_request().into_iter().map(|(id, _)| id).collect();
            Ok(fleet.record_requests(&wanted, now))
        }
        WriterStep::Outcome(outcome) => {
            let machine = fleet.machines().find(|m| !m.requests.is_empty()).map(|m| m.id.clone());
            Ok(machine.map(|id| fleet.record_outcome(&id, outcome, now, &policy)).unwrap_or_default())
        }
        _ => {
            let first = fleet.machines().next().map(|m| m.id.clone());
            fleet.set_in_flight(first);
            Ok(Vec::new())
        }
    }
}

fn job(step: WriterStep, reply: oneshot::Sender<Result<Vec<Change>, CommandError>>) -> WriteJob {
    WriteJob {
        cause: Cause::VPSieListing,
        decide: Box::new(decision(step)),
        reply,
        on_partial_write: OnPartialWrite::Fail,
    }
}

fn catalog() -> Change {
    let offers = [(2, "small"), (4, "large")].map(|(size, name)| crate::fleet::tests::offer(size, name));
    Change::SaveCatalog(Arc::new(Catalog { offers: offers.to_vec() }))
}

async fn readers_agree(steps: Vec<WriterStep>) -> Result<(), TestCaseError> {
    let store = Fragile::default();
    store.memory.write(&[catalog()]);
    let clock = Arc::new(Hands(std::sync::Mutex::new(jiff::Timestamp::UNIX_EPOCH)));
    let declared = FleetConfig { declaration: declaration(6), settings: FleetSettings::default() };
    let result =
        FleetWriter::load(Arc::new(store.clone()), clock.clone(), declared, 1, AuditLog::default()).await;
    let (mut writer, handle) = result.map_err(|error| TestCaseError::fail(error.to_string()))?;
    for step in steps {
        match step {
            WriterStep::Wait(seconds) => *clock.0.lock().unwrap() += std::time::Duration::from_secs(seconds),
            WriterStep::Declare(max) => writer.declare(declaration(max)),
            WriterStep::Break(broken) => store.broken.store(broken, std::sync::atomic::Ordering::Relaxed),
            WriterStep::Refuse(nth) => *store.refuses.lock().unwrap() = nth,
            step => {
                let (reply, _receiver) = oneshot::channel();
                writer.decide(vec![job(step, reply)]).await;
            }
        }
        if let Some(working) = &writer.working {
            prop_assert!(handle.read(|shared| shared == working), "readers do not see what the writer knows");
            prop_assert_eq!(
                working.records(),
                store.memory.records(),
                "the working fleet has the recorded changes"
            );
        }
    }
    Ok(())
}

proptest! {
    /// After any batch and any reload.
    #[test]
    fn readers_see_all_that_the_writer_knows(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(readers_agree(steps))?;
    }
}

#[tokio::test]
async fn observations_outlive_a_reload() {
    let store = Fragile::default();
    store.memory.write(&[catalog()]);
    let clock = Arc::new(Hands(std::sync::Mutex::new(jiff::Timestamp::UNIX_EPOCH)));
    let declared = FleetConfig { declaration: declaration(6), settings: FleetSettings::default() };
    let (mut writer, handle) =
        FleetWriter::load(Arc::new(store.clone()), clock, declared, 1, AuditLog::default()).await.unwrap();
    let mut decide = async |step: WriterStep, broken: bool| {
        store.broken.store(broken, std::sync::atomic::Ordering::Relaxed);
        let (reply, _receiver) = oneshot::channel();
        writer.decide(vec![job(step, reply)]).await;
    };
    decide(WriterStep::List { workers: 2, sizes: true }, false).await;
    decide(WriterStep::Increase(0), false).await;
    decide(WriterStep::Increase(1), false).await;
    let wanted = || handle.read(Fleet::machines_to_request).len();
    assert_eq!(wanted(), 4, "both sizes, because listings have sizes");
    decide(WriterStep::List { workers: 3, sizes: true }, true).await;
    decide(WriterStep::Asking, false).await;
    assert_eq!(wanted(), 4);
}

fn command(nodes: Vec<NodeRef>, reply: oneshot::Sender<Result<Vec<Change>, CommandError>>) -> WriteJob {
    let decide = move |fleet: &mut Fleet, now, _: Names<'_>| fleet.delete_nodes(POOLS[0], &nodes, now);
    WriteJob {
        cause: Cause::ClusterAutoscaler,
        decide: Box::new(decide),
        reply,
        on_partial_write: OnPartialWrite::Undo,
    }
}

fn saved_machine(n: u32, phase: Phase) -> Change {
    Change::SaveMachine(Machine {
        id: MachineId::new(format!("web-0000000{n}")),
        pool: POOLS[0].parse().unwrap(),
        size: SizeId(2),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        phase,
        requests: Vec::new(),
        notice: None,
        replaces: None,
    })
}

/// Job 1 adopts an orphan to a waiting machine; job 2, in the same batch, deletes that machine, and its
/// caller is gone.
#[tokio::test]
async fn undo_keeps_an_orphan_that_the_batch_adopted() {
    let store = Fragile::default();
    let orphan = UnmanagedNode {
        hostname: Hostname::new("slave-0"),
        id: Some(VmId::new("u-0".to_owned())),
        first_seen: jiff::Timestamp::UNIX_EPOCH,
        kind: UnmanagedKind::Orphan { pool: POOLS[0].parse().unwrap(), size: Some(SizeId(2)) },
        awaited_by: None,
        request: None,
        abandoned_request: None,
    };
    store.memory.write(&[catalog(), saved_machine(1, Phase::Pending), Change::SaveUnmanaged(orphan)]);
    let clock = Arc::new(Hands(std::sync::Mutex::new(jiff::Timestamp::UNIX_EPOCH)));
    let config = FleetConfig { declaration: declaration(6), settings: FleetSettings::default() };
    let (mut writer, handle) =
        FleetWriter::load(Arc::new(store.clone()), clock, config, 1, AuditLog::default()).await.unwrap();
    let placeholder = handle.read(|f| f.machines().next().unwrap().instance_id());
    let node = NodeRef { provider_id: placeholder.clone(), name: placeholder, fake: true };
    let (listing, _receiver) = oneshot::channel();
    let (reply, receiver) = oneshot::channel();
    let decide = decision(WriterStep::List { workers: 1, sizes: true });
    // The caller leaves while the batch is written: here, within the decision before.
    let first = WriteJob {
        cause: Cause::VPSieListing,
        decide: Box::new(decide),
        reply: listing,
        on_partial_write: OnPartialWrite::Keep,
    };
    let second = WriteJob {
        cause: Cause::ClusterAutoscaler,
        decide: Box::new(move |fleet: &mut Fleet, now, _: Names<'_>| {
            drop(receiver);
            fleet.delete_nodes(POOLS[0], &[node], now)
        }),
        reply,
        on_partial_write: OnPartialWrite::Undo,
    };
    writer.decide(vec![first, second]).await;
    let known = |records: &Records| {
        records.unmanaged.iter().any(|s| s.hostname.as_str() == "slave-0")
            || records.machines.iter().any(|m| m.vm().is_some())
    };
    let records = store.memory.records();
    assert!(
        known(&records),
        "VM slave-0 is in no record any more: {:?} {:?}",
        records.machines,
        records.unmanaged
    );
}

/// The caller of a command stops waiting while the undo of another command of the batch is written.
#[tokio::test]
async fn undoes_a_command_that_times_out_during_an_undo() {
    type Receivers = Vec<oneshot::Receiver<Result<Vec<Change>, CommandError>>>;
    /// Counts commits, and drops the receiver of a reply at each.
    #[derive(Clone, Default)]
    struct Slow(MemoryStore, Arc<std::sync::Mutex<(usize, Receivers)>>);
    #[async_trait::async_trait]
    impl Store for Slow {
        async fn load(&self) -> Result<Records, StoreError> {
            self.0.load().await
        }
        async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
            let mut state = self.1.lock().unwrap();
            state.0 += 1;
            state.1.pop();
            self.0.write(changes);
            Ok(())
        }
    }
    let running = |n: u32| Phase::Running {
        vm: Vm {
            hostname: Hostname::new(&format!("slave-{n}")),
            id: Some(VmId::new(format!("u-{n}"))),
            addresses: Vec::new(),
            provider_id: None,
            attached: None,
            request: None,
        },
        since: jiff::Timestamp::UNIX_EPOCH,
    };
    let store = Slow::default();
    store.0.write(&[catalog(), saved_machine(1, running(1)), saved_machine(2, running(2))]);
    let clock = Arc::new(Hands(std::sync::Mutex::new(jiff::Timestamp::UNIX_EPOCH)));
    let config = FleetConfig { declaration: declaration(6), settings: FleetSettings::default() };
    let (mut writer, handle) =
        FleetWriter::load(Arc::new(store.clone()), clock, config, 1, AuditLog::default()).await.unwrap();
    let node =
        |n: u32| NodeRef { provider_id: format!("vpsie://u-{n}"), name: format!("slave-{n}"), fake: false };
    let ((one, first), (two, second)) = (oneshot::channel(), oneshot::channel());
    *store.1.lock().unwrap() = (0, vec![second, first]);
    writer.decide(vec![command(vec![node(1)], one), command(vec![node(2)], two)]).await;
    assert_eq!(store.1.lock().unwrap().0, 3, "each command is undone");
    let unwanted =
        handle.read(|f| f.machines_to_delete().iter().map(|m| m.id.to_string()).collect::<Vec<_>>());
    assert_eq!(unwanted, Vec::<String>::new(), "both callers saw an error, and this VM is deleted undrained");
}

/// Accepts commands, and refuses their undo on demand.
#[derive(Clone, Default)]
struct RefusesUndo {
    memory: MemoryStore,
    refuses: Arc<std::sync::atomic::AtomicBool>,
    attempts: Arc<std::sync::atomic::AtomicUsize>,
}

#[async_trait::async_trait]
impl Store for RefusesUndo {
    async fn load(&self) -> Result<Records, StoreError> {
        self.memory.load().await
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let is_undo = |change: &&Change| match change {
            Change::SaveMachine(machine) => matches!(machine.phase, Phase::Running { .. }),
            change => matches!(change, Change::DropMachine(_)),
        };
        let Some(undo) = changes.iter().find(is_undo) else {
            self.memory.write(changes);
            return Ok(());
        };
        self.attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if self.refuses.load(std::sync::atomic::Ordering::Relaxed) {
            let problem = "by the test".to_owned();
            return Err(StoreError::Refused(vec![RefusedRecord { record: undo.record(), problem }]));
        }
        self.memory.write(changes);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn retries_an_undo_that_the_store_refuses() {
    let vm = Vm {
        hostname: Hostname::new("slave-1"),
        id: Some(VmId::new("u-1".to_owned())),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    };
    let running = Phase::Running { vm, since: jiff::Timestamp::UNIX_EPOCH };
    for increases in [false, true] {
        let store = RefusesUndo::default();
        store.memory.write(&[catalog(), saved_machine(1, running.clone())]);
        let before = store.memory.records();
        store.refuses.store(true, std::sync::atomic::Ordering::Relaxed);
        let clock = Arc::new(Hands(std::sync::Mutex::new(jiff::Timestamp::UNIX_EPOCH)));
        let config = FleetConfig { declaration: declaration(6), settings: FleetSettings::default() };
        let (mut writer, handle) =
            FleetWriter::load(Arc::new(store.clone()), clock, config, 1, AuditLog::default()).await.unwrap();
        let (reply, receiver) = oneshot::channel();
        let node = NodeRef { provider_id: "vpsie://u-1".to_owned(), name: "slave-1".to_owned(), fake: false };
        // The caller leaves while its command is written.
        let decide = move |fleet: &mut Fleet, now: jiff::Timestamp, names: Names<'_>| {
            drop(receiver);
            if increases {
                fleet.increase(POOLS[0], 1, now, names)
            } else {
                fleet.delete_nodes(POOLS[0], &[node], now)
            }
        };
        writer.decide(vec![WriteJob { decide: Box::new(decide), ..command(Vec::new(), reply) }]).await;
        assert_ne!(store.memory.records(), before, "the undo is refused");
        let mut pass = async |minutes: u64| {
            for _ in 0..minutes * 6 {
                tokio::time::advance(std::time::Duration::from_secs(10)).await;
                let (reply, _receiver) = oneshot::channel();
                writer.decide(vec![job(WriterStep::PassTime, reply)]).await;
                assert_eq!(handle.read(Fleet::records), before, "readers see no failed command");
            }
        };
        pass(60).await;
        let attempts = store.attempts.load(std::sync::atomic::Ordering::Relaxed);
        assert!((4..20).contains(&attempts), "{attempts} attempts");
        store.refuses.store(false, std::sync::atomic::Ordering::Relaxed);
        pass(11).await;
        assert_eq!(store.memory.records(), before, "the undo is written at last");
    }
}

/// A fleet with a replacement of a machine that is gone.
fn replacement() -> (MemoryStore, Machine) {
    let Change::SaveMachine(machine) = saved_machine(1, Phase::Pending) else { unreachable!() };
    let replacement = Machine { replaces: Some("web-0000000f".into()), ..machine };
    let store = MemoryStore::new();
    store.write(&[catalog(), Change::SaveMachine(replacement.clone())]);
    (store, replacement)
}

#[tokio::test]
async fn undoes_a_take_over_whose_caller_is_gone() {
    let (store, _) = replacement();
    let before = store.records();
    let clock = Arc::new(Hands(std::sync::Mutex::new(jiff::Timestamp::UNIX_EPOCH)));
    let config = FleetConfig { declaration: declaration(6), settings: FleetSettings::default() };
    let (mut writer, handle) =
        FleetWriter::load(Arc::new(store.clone()), clock, config, 1, AuditLog::default()).await.unwrap();
    let (reply, receiver) = oneshot::channel();
    let decide = move |fleet: &mut Fleet, now: jiff::Timestamp, names: Names<'_>| {
        drop(receiver);
        fleet.increase(POOLS[0], 2, now, names)
    };
    writer.decide(vec![WriteJob { decide: Box::new(decide), ..command(Vec::new(), reply) }]).await;
    assert_eq!(store.records(), before);
    let available = |fleet: &Fleet| fleet.available_replacements(fleet.pool(POOLS[0]).unwrap());
    assert_eq!(handle.read(available), 1, "it can be taken over again");
}

#[test]
fn an_undo_of_a_take_over_keeps_the_progress_of_the_machine() {
    let (store, replacement) = replacement();
    let taken_over = Machine { replaces: None, ..replacement.clone() };
    let command = FailedCommand::new(Some(replacement.clone()), taken_over.clone());
    let since = jiff::Timestamp::UNIX_EPOCH;
    let creating = Machine { phase: Phase::Creating { vm: None, since }, ..taken_over };
    let mut fleet = Fleet::restore(declaration(6), store.records(), FleetSettings::default());
    assert_eq!(undo::undo_all([command.clone()].iter(), &fleet), [], "it is not recorded");
    fleet.apply(&Change::SaveMachine(creating.clone()));
    let undone = Machine { replaces: replacement.replaces, ..creating.clone() };
    assert_eq!(undo::undo_all([command.clone()].iter(), &fleet), [Change::SaveMachine(undone)]);
    let failure = Failure { reason: FailureReason::Stockout, message: String::new() };
    fleet.apply(&Change::SaveMachine(Machine { phase: Phase::Failed { failure, at: since }, ..creating }));
    assert_eq!(undo::undo_all([command].iter(), &fleet), [], "Cluster Autoscaler deletes it");
}
