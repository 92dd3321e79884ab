//! Outcomes of requests to VPSie, also while the records cannot be written.

use super::*;
use crate::fleet::{Machine, MachineId, RequestOutcome};

#[tokio::test(start_paused = true)]
async fn records_an_outcome_once_the_store_works_again() {
    let process = Process::new().await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::SilentAfter(Duration::from_secs(2)));
    seconds(1).await;
    process.increase(SMALL, 4).await;
    seconds(1).await;
    process.disk.fill(true);
    seconds(12).await;
    process.disk.fill(false);
    seconds(180).await;
    assert_eq!(process.vpsie.count("create"), 4, "VPSie accepted each of them");
    let accepted = |m: &Machine| m.requests.iter().all(|request| request.outcome == RequestOutcome::Accepted);
    assert!(process.handle.read(|fleet| fleet.machines().all(accepted)));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_recorded_once_the_store_is_back() {
    let process = Process::new().await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::RefusedAfter(Duration::from_secs(2)));
    seconds(1).await;
    process.increase(SMALL, 1).await;
    seconds(1).await;
    process.disk.fill(true);
    seconds(12).await;
    process.disk.fill(false);
    seconds(30).await;
    assert_eq!((process.in_phase("Failed"), process.vpsie.count("create")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_accepted_deletion_is_recorded_and_not_repeated() {
    let process = Process::new().await;
    process.increase(SMALL, 1).await;
    seconds(30).await;
    process.vpsie.state().deletions.insert("slave-1".to_owned(), Reply::SilentAfter(Duration::from_secs(2)));
    process.delete_all(SMALL).await;
    process.disk.fill(true);
    seconds(12).await;
    process.disk.fill(false);
    seconds(60).await;
    assert_eq!(process.vpsie.count("delete"), 1);
    assert!(process.handle.read(|fleet| fleet.machines_to_delete().is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_recorded_and_not_sent_is_made_at_once() {
    let process = Process::new().await;
    seconds(1).await;
    // A waiting machine, so that the next write is its request.
    process.vpsie.state().creations.insert(SizeId(2), Reply::Unavailable);
    process.increase(SMALL, 2).await;
    seconds(1).await;
    process.vpsie.state().creations.clear();
    process.disk.lose_replies(true);
    seconds(8).await;
    assert_eq!(process.vpsie.count("create"), 2, "no request is sent without a record");
    process.disk.lose_replies(false);
    seconds(40).await;
    assert_eq!((process.in_phase("Running"), process.vpsie.count("create")), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn concurrent_failures_double_the_backoff_once() {
    let process = Process::new().await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::Unavailable);
    process.increase(SMALL, 8).await;
    seconds(1).await;
    assert_eq!(process.vpsie.count("create"), 8);
    process.vpsie.state().creations.clear();
    seconds(9).await;
    assert_eq!(process.vpsie.count("create"), 16, "a short failure causes a short delay");
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_counts_as_a_lost_reply() {
    let process = Process::new().await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::Panic);
    process.increase(SMALL, 1).await;
    seconds(10).await;
    process.vpsie.state().creations.clear();
    seconds(180).await;
    assert_eq!((process.in_phase("Running"), process.vpsie.count("create")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_makes_no_second_vm() {
    let process = Process::new().await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::Lost);
    process.increase(SMALL, 5).await;
    seconds(600).await;
    assert_eq!((process.in_phase("Running"), process.vpsie.count("create")), (5, 5));
}

/// Whether the change records that VPSie accepted a request of the machine.
fn records_acceptance(change: &Change, machine: &MachineId) -> bool {
    let accepted = |m: &Machine| m.requests.iter().any(|request| request.outcome == RequestOutcome::Accepted);
    matches!(change, Change::SaveMachine(m) if m.id == *machine && accepted(m))
}

#[tokio::test(start_paused = true)]
async fn keeps_an_accepted_outcome_while_its_record_is_refused() {
    let process = Process::new().await;
    seconds(1).await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::SilentAfter(Duration::from_secs(2)));
    process.increase(SMALL, 2).await;
    seconds(1).await;
    let refused = process.disk.memory.records().machines[0].id.clone();
    let poisoned = refused.clone();
    process.disk.refuse(move |change| records_acceptance(change, &poisoned));
    seconds(100).await;
    process.increase(SMALL, 1).await;
    seconds(200).await;
    assert_eq!(process.vpsie.count("create"), 3, "VPSie accepted each of them");
    process.disk.refuse(|_| false);
    seconds(180).await;
    assert_eq!(process.vpsie.count("create"), 3, "VPSie accepted each of them");
    let requests = process.handle.read(|fleet| fleet.machine(&refused).map(|m| m.requests.clone())).unwrap();
    assert_eq!(
        requests.iter().map(|request| request.outcome).collect::<Vec<_>>(),
        [RequestOutcome::Accepted]
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_kept_while_its_record_is_refused() {
    let process = Process::new().await;
    seconds(1).await;
    process.vpsie.state().creations.insert(SizeId(2), Reply::RefusedAfter(Duration::from_secs(2)));
    process.increase(SMALL, 1).await;
    seconds(1).await;
    let fails = |m: &Machine| matches!(m.phase, Phase::Failed { .. });
    process.disk.refuse(move |change| matches!(change, Change::SaveMachine(m) if fails(m)));
    seconds(300).await;
    process.disk.refuse(|_| false);
    seconds(180).await;
    assert_eq!((process.in_phase("Failed"), process.vpsie.count("create")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_ignored_deletion_is_retried_beside_a_refused_record() {
    let process = Process::new().await;
    process.increase(SMALL, 2).await;
    seconds(30).await;
    for n in 1..=2 {
        let reply = Reply::SilentAfter(Duration::from_secs(1));
        process.vpsie.state().deletions.insert(format!("slave-{n}"), reply);
    }
    process.delete_all(SMALL).await;
    // Both outcomes wait for the store together.
    process.disk.fill(true);
    seconds(5).await;
    let accepted = |phase: &Phase| matches!(phase, Phase::Deleting { accepted_at: Some(_), .. });
    let first = |m: &Machine| m.vm().is_some_and(|vm| vm.hostname.as_str() == "slave-1");
    process
        .disk
        .refuse(move |change| matches!(change, Change::SaveMachine(m) if first(m) && accepted(&m.phase)));
    process.disk.fill(false);
    seconds(600).await;
    assert_eq!(process.vpsie.count("delete slave-1"), 1, "VPSie accepted it");
    assert!(process.vpsie.count("delete slave-2") > 1, "VPSie still lists it");
}
