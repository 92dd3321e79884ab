//! Commands that fail, and records that are refused.

use super::*;
use crate::fleet::{Machine, MachineId};

fn increase(delta: i32) -> Command {
    Command::IncreaseSize { pool: SMALL.to_owned(), delta }
}

#[tokio::test(start_paused = true)]
async fn a_failed_increase_leaves_no_machine_behind() {
    let process = Process::new().await;
    seconds(5).await;
    process.disk.lose_replies(true);
    assert!(matches!(process.handle.execute(increase(5)).await, Err(CommandError::Store(_))));
    seconds(20).await;
    process.disk.lose_replies(false);
    seconds(60).await;
    assert_eq!(
        (process.handle.read(|fleet| fleet.machines().count()), process.vpsie.count("create")),
        (0, 0)
    );
    assert_eq!(process.disk.memory.records().machines, []);
    process.handle.execute(increase(1)).await.unwrap();
    seconds(60).await;
    assert_eq!(process.in_phase("Running"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_deletion_leaves_the_machine_in_use() {
    let process = Process::new().await;
    process.increase(SMALL, 1).await;
    seconds(30).await;
    let before = process.disk.memory.records().machines;
    process.disk.lose_replies(true);
    let nodes =
        vec![NodeRef { provider_id: before[0].instance_id(), name: "slave-1".to_owned(), fake: false }];
    let command = Command::DeleteNodes { pool: SMALL.to_owned(), nodes };
    assert!(process.handle.execute(command).await.is_err());
    process.disk.lose_replies(false);
    seconds(120).await;
    assert_eq!(process.disk.memory.records().machines, before);
    assert_eq!((process.in_phase("Running"), process.vpsie.count("delete")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_increase_without_a_caller_is_undone() {
    let process = Process::new().await;
    seconds(5).await;
    process.disk.slow_down(Duration::from_secs(3));
    let start = Instant::now();
    let result = process.handle.execute_within(increase(2), Some(Duration::from_secs(2))).await;
    assert!(matches!(result, Err(CommandError::Deadline)));
    assert_eq!(start.elapsed(), Duration::from_secs(2), "the caller still gets the result");
    process.disk.slow_down(Duration::ZERO);
    seconds(60).await;
    assert_eq!((process.disk.memory.records().machines.len(), process.vpsie.count("create")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_increase_with_a_refused_record_fails() {
    let process = Process::new().await;
    seconds(5).await;
    let first: Arc<Mutex<Option<MachineId>>> = Arc::default();
    process.disk.refuse(move |change| match change {
        Change::SaveMachine(m) => *first.lock().unwrap().get_or_insert_with(|| m.id.clone()) == m.id,
        _ => false,
    });
    let error = process.handle.execute(increase(3)).await.unwrap_err().to_string();
    assert!(error.contains("kubeSizeID: must be at least 1"), "{error}");
    seconds(60).await;
    assert_eq!((process.disk.memory.records().machines.len(), process.vpsie.count("create")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_does_not_hold_up_the_others() {
    let process = Process::new().await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::Unavailable);
    process.increase(SMALL, 3).await;
    seconds(2).await;
    process.vpsie.state().creations.clear();
    let before = process.vpsie.count("create");
    let poisoned = process.disk.memory.records().machines[1].id.clone();
    let poison = poisoned.clone();
    process.disk.refuse(move |change| matches!(change, Change::SaveMachine(m) if m.id == poison));
    let writes = process.disk.commits.lock().unwrap().len();
    seconds(600).await;
    let running = |m: &Machine| matches!(m.phase, Phase::Running { .. });
    assert!(process.handle.read(|fleet| fleet.machines().all(|m| running(m) != (m.id == poisoned))));
    assert_eq!(process.vpsie.count("create") - before, 2, "no request is sent without a record");
    let writes = process.disk.commits.lock().unwrap().len() - writes;
    assert!(writes < 30, "{writes} writes in ten minutes");
    process.disk.refuse(|_| false);
    seconds(600).await;
    assert!(process.handle.read(|fleet| fleet.machine(&poisoned).is_none_or(|m| m.phase != Phase::Pending)));
}
