//! Records of new machines for VMs that exist, while the store refuses them. Each attempt draws another name.

use std::collections::BTreeSet;

use super::*;
use crate::fleet::{Fleet, Hostname, MachineId, UnmanagedKind, UnmanagedNode};

/// Names of the machines that were to be written.
type Attempts = Arc<Mutex<BTreeSet<MachineId>>>;

/// Refuses to write machines.
fn refuse_machines(disk: &Disk) -> Attempts {
    let attempts = Attempts::default();
    let noted = Arc::clone(&attempts);
    disk.refuse(move |change| {
        let Change::SaveMachine(machine) = change else { return false };
        noted.lock().unwrap().insert(machine.id.clone());
        true
    });
    attempts
}

async fn process(group: NodeGroup, unmanaged: Option<UnmanagedNode>) -> (Process, Attempts) {
    let disk = Disk::default();
    disk.memory.write(&[Change::SaveCatalog(Arc::new(catalog()))]);
    disk.memory.write(&unmanaged.map(Change::SaveUnmanaged).into_iter().collect::<Vec<_>>());
    let attempts = refuse_machines(&disk);
    let declared = FleetConfig { declaration: vec![group].into(), settings: FleetSettings::default() };
    let mut process = Process::with_disk(disk, declared).await;
    process.vpsie.state().nodes.push(node(999, SizeId(2)));
    process.start();
    (process, attempts)
}

async fn assert_backs_off(process: Process, attempts: Attempts) {
    let hours = 3;
    tokio::time::sleep(Duration::from_hours(hours)).await;
    let made = attempts.lock().unwrap().len();
    assert!((2..=8 * hours as usize).contains(&made), "{made} attempts in {hours} hours");
    process.disk.refuse(|_| false);
    tokio::time::sleep(Duration::from_mins(11)).await;
    let bound = |fleet: &Fleet| fleet.machine_at(&Hostname::new("slave-999")).is_some();
    assert!(process.handle.read(bound) || process.vpsie.count("delete") > 0);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_adoption_backs_off() {
    let (process, attempts) = process(NodeGroup { adopt: true, ..group() }, None).await;
    assert_backs_off(process, attempts).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_removal_of_an_orphan_backs_off() {
    let vm = node(999, SizeId(2));
    let orphan = UnmanagedNode {
        hostname: vm.hostname,
        id: vm.id,
        first_seen: Timestamp::UNIX_EPOCH,
        kind: UnmanagedKind::Orphan { pool: SMALL.parse().unwrap(), size: vm.size },
        awaited_by: None,
        request: None,
        abandoned_request: None,
    };
    let (process, attempts) = process(group(), Some(orphan)).await;
    assert_backs_off(process, attempts).await;
}
