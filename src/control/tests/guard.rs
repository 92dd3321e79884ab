//! The runaway guard between the loops and VPSie.

use super::*;
use crate::control::GuardedBackend;
use crate::kubernetes::Events;
use crate::vpsie::CreateRequest;

/// Lists requested workers as parts of the control plane.
struct Misread(Arc<Scripted>);

#[async_trait]
impl Backend for Misread {
    async fn catalog(&self) -> Result<Catalog, BackendError> {
        self.0.catalog().await
    }

    async fn list(&self) -> Result<NodeListing, BackendError> {
        let mut listing = self.0.list().await?;
        for node in listing.nodes.iter_mut().filter(|node| node.hostname.as_str() != "slave-999") {
            node.role = NodeRole::ControlPlane;
        }
        Ok(listing)
    }

    async fn create(&self, request: &CreateRequest) -> Result<Option<Vm>, BackendError> {
        self.0.create(request).await
    }

    async fn delete(&self, vm: &crate::fleet::DeletableVm) -> Result<(), BackendError> {
        self.0.delete(vm).await
    }
}

/// A NodeGroup of at most 2 machines, and so of at most 5 VMs.
async fn begin(misread: bool) -> Process {
    let disk = Disk::default();
    disk.memory.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
    let declaration = vec![NodeGroup { max: 2, ..group() }].into();
    let mut process =
        Process::with_disk(disk, FleetConfig { declaration, settings: FleetSettings::default() }).await;
    process.vpsie.state().nodes.push(node(999, SizeId(2)));
    let vpsie: Arc<dyn Backend> =
        if misread { Arc::new(Misread(process.vpsie.clone())) } else { process.vpsie.clone() };
    let guarded = GuardedBackend::new(vpsie, process.handle.clone(), None, Events::default());
    process.start_with(&(Arc::new(guarded) as Arc<dyn Backend>));
    process
}

async fn hours(hours: u64) {
    tokio::time::sleep(Duration::from_hours(hours)).await;
}

fn headroom(process: &Process) -> i32 {
    process.handle.read(|fleet| {
        let limits = fleet.limits(fleet.pool(SMALL).unwrap());
        (limits.max - limits.target) as i32
    })
}

async fn grow(process: &Process) {
    let headroom = headroom(process);
    if headroom > 0 {
        process.increase(SMALL, headroom).await;
    }
}

#[tokio::test(start_paused = true)]
async fn halts_when_new_nodes_are_matched_to_others() {
    let process = begin(true).await;
    hours(1).await;
    for _ in 0..16 {
        process.delete_all(SMALL).await;
        grow(&process).await;
        hours(1).await;
    }
    assert!(process.vpsie.count("create") <= 5, "{} creations", process.vpsie.count("create"));
    let (halt, block) = process.handle.read(|fleet| {
        let halt = fleet.guard_status().unwrap().halt.clone().unwrap();
        (halt, fleet.growth_block(SMALL, 1, Timestamp::UNIX_EPOCH).unwrap())
    });
    assert_eq!((halt.reason(), block.reason, headroom(&process)), ("TooManyVMs", "GROWTH_HALTED", 0));
    assert_eq!(process.vpsie.count("delete"), 0, "none is touched");

    process.vpsie.state().nodes.truncate(1);
    hours(25).await;
    assert_eq!(
        process.handle.read(|fleet| fleet.guard_status().unwrap().halt.clone()),
        None,
        "it lifts by itself"
    );
    assert_eq!(headroom(&process), 2);
}

#[tokio::test(start_paused = true)]
async fn halts_while_vpsie_refuses_deletions() {
    let process = begin(false).await;
    let refused = (1..100).map(|n| (format!("slave-{n}"), Reply::Unavailable)).collect();
    process.vpsie.state().deletions = refused;
    hours(1).await;
    for _ in 0..6 {
        grow(&process).await;
        hours(3).await;
        process.delete_all(SMALL).await;
        hours(3).await;
    }
    let vms = process.vpsie.state().nodes.len() - 1;
    assert!(vms <= 5, "{vms} VMs");
    let halt = process.handle.read(|fleet| fleet.guard_status().unwrap().halt.clone().unwrap());
    assert_eq!(halt.reason(), "DeletionsOverdue");
}

#[tokio::test(start_paused = true)]
async fn records_nodes_that_were_listed_before_the_first_request() {
    let process = begin(false).await;
    hours(1).await;
    process.increase(SMALL, 1).await;
    hours(1).await;
    let known = process.disk.memory.records().request_history.known_before.unwrap();
    assert_eq!(known.iter().map(crate::fleet::Hostname::as_str).collect::<Vec<_>>(), ["slave-999"]);
    assert_eq!(process.handle.read(|fleet| fleet.guard_status().unwrap().counted), 1);
}

#[tokio::test(start_paused = true)]
async fn requests_no_vm_before_the_first_complete_listing() {
    let process = begin(false).await;
    process.vpsie.state().is_cut = true;
    process.increase(SMALL, 1).await;
    hours(1).await;
    assert_eq!(process.vpsie.count("create"), 0);
    assert_eq!(process.handle.read(|fleet| fleet.guard_status().cloned()), None);

    process.vpsie.state().is_cut = false;
    process.increase(SMALL, 1).await;
    hours(1).await;
    assert_eq!(process.vpsie.count("create"), 1);
    process.vpsie.state().is_cut = true;
    process.increase(SMALL, 1).await;
    hours(1).await;
    assert_eq!(process.vpsie.count("create"), 2, "nodes of before are recorded");
}

#[tokio::test(start_paused = true)]
async fn publishes_a_status_again_that_a_failed_write_lost() {
    let process = begin(false).await;
    hours(1).await;
    // Between two listings.
    seconds(7).await;
    let status = || process.handle.read(|fleet| fleet.guard_status().cloned().unwrap());
    let expected = status();
    // The effect of an interrupted write: the fleet has the earlier status.
    let before = crate::fleet::GuardStatus { headroom: 0, ..expected.clone() };
    let lost = process.handle.update(crate::fleet::Cause::RunawayGuard, move |fleet, _, _| {
        fleet.set_guard_status(before);
        Vec::new()
    });
    lost.await.unwrap();
    assert_eq!(headroom(&process), 0);
    hours(1).await;
    assert_eq!((status(), headroom(&process)), (expected, 2));
}

#[tokio::test(start_paused = true)]
async fn counts_no_known_node_as_requested_after_a_restart() {
    let process = begin(false).await;
    hours(1).await;
    process.increase(SMALL, 1).await;
    hours(1).await;
    process.delete_all(SMALL).await;
    hours(2).await;
    // A user adds these, long after the last creation.
    process.vpsie.state().nodes.extend((501..507).map(|n| node(n, SizeId(2))));
    hours(1).await;
    assert_eq!(process.handle.read(|fleet| fleet.guard_status().unwrap().counted), 0);

    let disk = process.disk.clone();
    let vpsie = Arc::clone(&process.vpsie);
    process.stop().await;
    let declaration = vec![NodeGroup { max: 2, ..group() }].into();
    let mut process =
        Process::with_disk(disk, FleetConfig { declaration, settings: FleetSettings::default() }).await;
    let guarded = GuardedBackend::new(vpsie, process.handle.clone(), None, Events::default());
    process.start_with(&(Arc::new(guarded) as Arc<dyn Backend>));
    hours(1).await;
    let verdict = process.handle.read(|fleet| fleet.guard_status().cloned().unwrap());
    assert_eq!((verdict.counted, verdict.halt), (0, None));
}
