//! The loops against a scripted VPSie and a failing store, on tokio's paused clock.

mod adoption;
mod commands;
mod disk;
mod drain;
mod events;
mod frugality;
mod guard;
mod identity;
mod interruptions;
mod notice_webhook;
mod objects;
mod outcomes;
mod refused;
mod sizes;
mod storms;
mod unread;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::catalog::{CapacityType, Catalog, Offer, Resources, SizeId};
use crate::clock::Clock;
use crate::fleet::{
    AutoscalingOptions, Change, FailureReason, FleetSettings, ListedNode, NodeGroup, NodeListing, NodeRef,
    NodeRole, Phase, Policy, Records, Refusal, Vm, VmState,
};
use crate::store::{MemoryStore, Store, StoreError};
use crate::vpsie::{Backend, BackendError, CreateRequest};
use disk::Disk;

const SMALL: &str = "web/ams1/small/on-demand";
const LARGE: &str = "web/ams1/large/on-demand";
const SIZES: [(u64, &str); 2] = [(2, "small"), (4, "large")];

/// VPSie's reaction to a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reply {
    Done,
    /// Accepted, but never executed.
    Silent,
    /// Executed, but the reply is lost.
    Lost,
    /// Not executed, and the reply is lost.
    Broken,
    Unavailable,
    Refused,
    /// Executed after this time.
    After(Duration),
    /// Accepted but never executed, or refused, after this time.
    SilentAfter(Duration),
    RefusedAfter(Duration),
    Never,
    Panic,
}

/// A scripted VPSie that records its calls.
#[derive(Default)]
struct Scripted {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: Vec<ListedNode>,
    /// Whether rows are missing from listings.
    is_cut: bool,
    made: u32,
    /// By size; default `Done`.
    creations: BTreeMap<SizeId, Reply>,
    /// By hostname.
    deletions: BTreeMap<String, Reply>,
    listings: Option<Reply>,
    /// Default: [`catalog`].
    catalog: Option<Catalog>,
    calls: Vec<(Instant, String)>,
}

impl Scripted {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn note(&self, what: String) {
        self.state().calls.push((Instant::now(), what));
    }

    fn count(&self, what: &str) -> usize {
        self.state().calls.iter().filter(|(_, call)| call.starts_with(what)).count()
    }

    async fn play<R>(&self, reply: Reply, work: impl FnOnce(&mut State) -> R) -> Result<R, BackendError> {
        let message = "by the script".to_owned();
        match reply {
            Reply::Done => Ok(work(&mut self.state())),
            Reply::Lost => {
                work(&mut self.state());
                Err(BackendError::Unclear { message })
            }
            Reply::Silent => Ok(work(&mut State::default())),
            Reply::Broken => Err(BackendError::Unclear { message }),
            Reply::Unavailable => {
                let reason = FailureReason::ApiUnavailable;
                Err(BackendError::Unavailable { reason, message, retry_after: None })
            }
            Reply::Refused => {
                Err(BackendError::Refused { reason: FailureReason::InvalidConfiguration, message })
            }
            Reply::After(time) => {
                tokio::time::sleep(time).await;
                Ok(work(&mut self.state()))
            }
            Reply::SilentAfter(time) => {
                tokio::time::sleep(time).await;
                Ok(work(&mut State::default()))
            }
            Reply::RefusedAfter(time) => {
                tokio::time::sleep(time).await;
                Err(BackendError::Refused { reason: FailureReason::InvalidConfiguration, message })
            }
            Reply::Never => std::future::pending().await,
            Reply::Panic => panic!("by the script"),
        }
    }
}

#[async_trait]
impl Backend for Scripted {
    async fn catalog(&self) -> Result<Catalog, BackendError> {
        self.note("catalog".to_owned());
        let reply = self.state().listings.unwrap_or(Reply::Done);
        self.play(reply, |state| state.catalog.clone().unwrap_or_else(catalog)).await
    }

    async fn list(&self) -> Result<NodeListing, BackendError> {
        self.note("list".to_owned());
        let reply = self.state().listings.unwrap_or(Reply::Done);
        self.play(reply, |state| NodeListing::of_nodes(state.nodes.clone(), !state.is_cut)).await
    }

    async fn create(&self, request: &CreateRequest) -> Result<Option<Vm>, BackendError> {
        let size = request.class.size;
        self.note(format!("create {size}"));
        let reply = self.state().creations.get(&size).copied().unwrap_or(Reply::Done);
        self.play(reply, |state| {
            state.made += 1;
            let node = node(state.made, size);
            state.nodes.push(node);
        })
        .await?;
        Ok(None)
    }

    async fn delete(&self, vm: &crate::fleet::DeletableVm) -> Result<(), BackendError> {
        self.note(format!("delete {}", vm.hostname));
        let reply = self.state().deletions.get(vm.hostname.as_str()).copied().unwrap_or(Reply::Done);
        self.play(reply, |state| state.nodes.retain(|node| node.hostname != vm.hostname)).await
    }
}

/// A complete listing.
fn listing(nodes: &[ListedNode]) -> NodeListing {
    NodeListing::of_nodes(nodes.to_vec(), true)
}

fn node(n: u32, size: SizeId) -> ListedNode {
    ListedNode {
        addresses: Vec::new(),
        hostname: crate::fleet::Hostname::new(&format!("slave-{n}")),
        id: Some(crate::fleet::VmId::new(format!("00000000-0000-4000-8000-{n:012}"))),
        size: Some(size),
        excluded: std::collections::BTreeSet::new(),
        datacenter: None,
        capacity_type: None,
        role: NodeRole::Worker,
        state: VmState::Running,
        created_at: None,
        interruption: None,
        attachment: None,
        pool: None,
    }
}

fn catalog() -> Catalog {
    let offer = |(size, name): (u64, &str)| Offer {
        size: SizeId(size),
        name: name.to_owned(),
        identifier: None,
        datacenter: "ams1".into(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources { cpu_millis: size * 1000, memory_mib: size * 2048, disk_gib: 40, pods: 110 },
        monthly: None,
        hourly: None,
    };
    Catalog { offers: SIZES.into_iter().map(offer).collect() }
}

fn declared() -> FleetConfig {
    FleetConfig { declaration: vec![group()].into(), settings: FleetSettings::default() }
}

fn group() -> NodeGroup {
    NodeGroup {
        name: "web".into(),
        min: 0,
        max: 100,
        pools: vec![SMALL.parse().unwrap(), LARGE.parse().unwrap()],
        size: None,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        preferred: None,
        options: AutoscalingOptions::default(),
        adopt: false,
        cost_limit: crate::cost::CostLimit::default(),
        deletion: None,
        node: crate::fleet::DeclaredNode::default(),
        spot: None,
        has_cloud_controller: false,
        distribution: None,
    }
}

/// Wall time that follows tokio's clock.
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + self.0.elapsed()
    }
}

/// A process with a writer; the loops are started on demand of a test.
struct Process {
    vpsie: Arc<Scripted>,
    disk: Disk,
    handle: FleetHandle,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Process {
    /// With a known catalog, and one foreign worker that shows that listings have sizes.
    async fn new() -> Self {
        let disk = Disk::default();
        disk.memory.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
        let mut process = Self::on(disk).await;
        process.vpsie.state().nodes.push(node(999, SizeId(2)));
        process.start();
        process
    }

    async fn on(disk: Disk) -> Self {
        Self::with_disk(disk, declared()).await
    }

    async fn with_disk(disk: Disk, declared: FleetConfig) -> Self {
        let clock = Arc::new(TokioClock(Instant::now()));
        let store = Arc::new(disk.clone());
        let (writer, handle) =
            FleetWriter::load(store, clock, declared, 1, AuditLog::default()).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        Self { vpsie: Arc::default(), disk, handle, shutdown: CancellationToken::new(), tasks }
    }

    fn start(&mut self) {
        let backend: Arc<dyn Backend> = self.vpsie.clone();
        self.start_with(&backend);
    }

    fn start_with(&mut self, backend: &Arc<dyn Backend>) {
        let listing_trigger = Arc::new(ListingTrigger::default());
        let handle = self.handle.clone();
        let idle = Duration::from_secs(30);
        let provision = Provision::new(
            handle,
            Arc::clone(backend),
            Policy::default(),
            idle,
            Arc::clone(&listing_trigger),
        );
        let removal = Removal::new(self.handle.clone(), Arc::clone(backend), listing_trigger);
        self.tasks.spawn(provision.run(self.shutdown.clone()));
        self.tasks.spawn(removal.run(self.shutdown.clone()));
    }

    fn watch_prices(&mut self, interval: Duration) {
        self.watch_prices_of(self.vpsie.clone(), interval);
    }

    fn watch_prices_of(&mut self, backend: Arc<dyn Backend>, interval: Duration) {
        let catalog = CatalogRefresh::new(self.handle.clone(), backend, interval);
        self.tasks.spawn(catalog.run(self.shutdown.clone()));
    }

    async fn increase(&self, pool: &str, delta: i32) {
        let command = Command::IncreaseSize { pool: pool.to_owned(), delta };
        self.handle.execute(command).await.unwrap();
    }

    fn in_phase(&self, phase: &str) -> usize {
        self.handle.read(|fleet| fleet.machines().filter(|m| m.phase.name() == phase).count())
    }

    async fn delete_all(&self, pool: &str) {
        let victims: Vec<NodeRef> = self.handle.read(|fleet| {
            let machines = fleet.machines_of(fleet.pool(pool).unwrap());
            machines
                .map(|m| NodeRef {
                    provider_id: m.instance_id(),
                    name: m.vm().map(|vm| vm.hostname.to_string()).unwrap_or_default(),
                    fake: false,
                })
                .collect()
        });
        let command = Command::DeleteNodes { pool: pool.to_owned(), nodes: victims };
        self.handle.execute(command).await.unwrap();
    }

    /// Stops it, and returns the duration.
    async fn stop(mut self) -> Duration {
        let start = Instant::now();
        self.shutdown.cancel();
        drop(self.handle);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(Duration::from_hours(1), all).await);
        start.elapsed()
    }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn commands_that_come_together_see_each_other_and_share_a_write() {
    let disk = Disk::default();
    disk.memory.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
    let process = Process::on(disk).await;
    let increase = |delta| {
        let handle = process.handle.clone();
        async move { handle.execute(Command::IncreaseSize { pool: SMALL.to_owned(), delta }).await }
    };
    let (first, second, third) = tokio::join!(increase(60), increase(60), increase(40));
    assert!(first.is_ok() && third.is_ok());
    assert!(matches!(second, Err(CommandError::Refused(Refusal::AboveMax { group_target: 60, .. }))));
    assert_eq!(*process.disk.commits.lock().unwrap(), [100]);
    assert_eq!(process.disk.memory.records().machines.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn readers_do_not_see_a_command_that_was_not_written() {
    let process = Process::new().await;
    seconds(1).await;
    process.disk.fill(true);
    let command = || Command::IncreaseSize { pool: SMALL.to_owned(), delta: 3 };
    assert!(matches!(process.handle.execute(command()).await, Err(CommandError::Store(_))));
    assert_eq!(process.handle.read(|fleet| fleet.machines().count()), 0);
    process.disk.fill(false);
    process.handle.execute(command()).await.unwrap();
    seconds(60).await;
    assert_eq!((process.in_phase("Running"), process.vpsie.count("create")), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_for_minutes_costs_few_calls_and_no_vm() {
    let process = Process::new().await;
    seconds(1).await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::Unavailable);
    process.increase(SMALL, 3).await;
    seconds(1).await;
    process.vpsie.state().creations.clear();
    process.disk.fill(true);
    let before = process.vpsie.state().calls.len();
    seconds(300).await;
    let calls = process.vpsie.state().calls.len() - before;
    assert_eq!(process.vpsie.count("create"), 3, "nothing that costs money without a record");
    assert!(calls <= 25, "{calls} calls in five minutes");
    process.disk.fill(false);
    seconds(60).await;
    assert_eq!((process.in_phase("Running"), process.vpsie.count("create")), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn a_slow_creation_is_not_repeated_after_a_reload() {
    let process = Process::new().await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::After(Duration::from_mins(4)));
    process.increase(SMALL, 1).await;
    seconds(10).await;
    process.disk.fill(true);
    let refused = Command::IncreaseSize { pool: LARGE.to_owned(), delta: 1 };
    assert!(process.handle.execute(refused).await.is_err());
    process.disk.fill(false);
    seconds(300).await;
    assert_eq!((process.in_phase("Running"), process.vpsie.count("create")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn vms_that_cannot_be_deleted_hold_up_no_others() {
    let process = Process::new().await;
    process.increase(SMALL, 20).await;
    seconds(60).await;
    assert_eq!(process.in_phase("Running"), 20);
    for n in 1..=12 {
        process.vpsie.state().deletions.insert(format!("slave-{n}"), Reply::Unavailable);
    }
    process.delete_all(SMALL).await;
    seconds(30).await;
    assert_eq!(process.vpsie.state().nodes.len(), 1 + 12);
    process.vpsie.state().deletions.clear();
    seconds(150).await;
    assert_eq!(process.vpsie.state().nodes.len(), 1);
    assert_eq!(process.handle.read(|fleet| fleet.machines().count()), 0);
}

#[tokio::test(start_paused = true)]
async fn deletions_continue_while_creations_hang() {
    let process = Process::new().await;
    process.increase(LARGE, 3).await;
    seconds(60).await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::Never);
    process.increase(SMALL, 50).await;
    seconds(5).await;
    process.delete_all(LARGE).await;
    seconds(60).await;
    assert_eq!(process.vpsie.state().nodes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_reads() {
    let mut process = Process::new().await;
    process.vpsie.state().listings = Some(Reply::Never);
    process.watch_prices(Duration::from_mins(30));
    process.increase(SMALL, 1).await;
    seconds(100).await;
    assert!(process.stop().await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_replies_to_requests() {
    let process = Process::new().await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::After(Duration::from_secs(9)));
    process.increase(SMALL, 1).await;
    seconds(5).await;
    let disk = process.disk.clone();
    assert!(process.stop().await < Duration::from_secs(9));
    let machines = disk.memory.records().machines;
    assert_eq!(machines[0].requests[0].outcome, crate::fleet::RequestOutcome::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_could_not_be_recorded_is_read_again_soon() {
    let mut process = Process::on(Disk::default()).await;
    process.disk.fill(true);
    process.watch_prices(Duration::from_mins(30));
    seconds(10).await;
    process.disk.fill(false);
    seconds(60).await;
    assert!(process.handle.read(|fleet| fleet.catalog().is_some()));
}

#[tokio::test(start_paused = true)]
async fn an_idle_hour_costs_a_listing_each_interval_and_no_write() {
    let process = Process::new().await;
    process.increase(SMALL, 3).await;
    seconds(600).await;
    let calls = process.vpsie.state().calls.len();
    let commits = process.disk.commits.lock().unwrap().len();
    seconds(3600).await;
    assert_eq!(process.vpsie.state().calls.len() - calls, 120);
    assert_eq!(process.disk.commits.lock().unwrap().len(), commits);
}
