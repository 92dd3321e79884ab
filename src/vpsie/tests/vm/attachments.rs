use std::time::Duration;

use serde_json::json;

use super::*;
use crate::fleet::{Attachment, VmState};
use crate::vpsie::Backend;
use crate::vpsie::tests::script::refuse;

const ADD_TO_VPC: &str = "POST vm/add/vpc";
const ATTACH: &str = "POST firewall/attach/group";

fn attached_group(vpc: Option<&str>, firewall_group: Option<&str>) -> VmGroup {
    let mut group = group();
    for place in group.places.values_mut() {
        place.network.vpc = vpc.map(str::to_owned);
        place.network.firewall_group = firewall_group.map(str::to_owned);
    }
    group
}

fn backend(script: &Script, vpc: Option<&str>, firewall_group: Option<&str>) -> VmBackend {
    backend_with(script, Ok(PAYLOAD), attached_group(vpc, firewall_group))
}

/// States of the VMs in a listing. Then the attachments that it started have their replies.
async fn states(backend: &VmBackend, script: &Script, vms: &[Value]) -> Vec<VmState> {
    script.first([(PENDING, none()), (LIST, rows(vms))]);
    let nodes = backend.list().await.unwrap().nodes;
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes.iter().map(|node| node.state).collect()
}

fn running() -> [Value; 1] {
    [row("u-1", HOSTNAME, &json!({}))]
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_attached_before_it_counts_as_running() {
    let script = Script::new([(ADD_TO_VPC, accepted()), (ATTACH, accepted())]);
    let backend = backend(&script, Some("12"), Some("fw-1"));
    assert_eq!(states(&backend, &script, &running()).await, [VmState::Provisioning]);
    assert_eq!(states(&backend, &script, &running()).await, [VmState::Running]);
    let seen = script.seen();
    assert_eq!(seen[2].json(), json!({"vmIdentifier": "u-1", "vpcId": 12, "dcIdentifier": "dc-1"}));
    assert_eq!(seen[3].json(), json!({"vmId": "u-1", "groupId": "fw-1"}));
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_not_active_is_not_attached() {
    let script = Script::default();
    let backend = backend(&script, Some("12"), None);
    let vms = [
        row("u-1", HOSTNAME, &json!({"is_active": 0})),
        row("u-2", "workers-0a1b2c3d-2", &json!({"power": 0})),
    ];
    assert_eq!(states(&backend, &script, &vms).await, [VmState::Provisioning, VmState::Down]);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn an_attachment_that_exists_is_done() {
    let script = Script::new([(ATTACH, refuse("The VM is already attached to this group"))]);
    let backend = backend(&script, None, Some("fw-1"));
    assert_eq!(states(&backend, &script, &running()).await, [VmState::Provisioning]);
    assert_eq!(states(&backend, &script, &running()).await, [VmState::Running]);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_refused_attachment_is_repeated_after_a_pause() {
    let script = Script::new([(ADD_TO_VPC, accepted()), (ATTACH, refuse("ipSetNotCreated"))]);
    let backend = backend(&script, Some("12"), Some("fw-1"));
    assert_eq!(states(&backend, &script, &running()).await, [VmState::Provisioning]);
    assert_eq!(states(&backend, &script, &running()).await, [VmState::Provisioning]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    script.then([(ATTACH, accepted())]);
    assert_eq!(states(&backend, &script, &running()).await, [VmState::Provisioning]);
    assert_eq!(states(&backend, &script, &running()).await, [VmState::Running]);
    script.seen();
}

/// The attachments of the VMs in a listing. Then the attachments that it started have their replies.
async fn attachments(backend: &VmBackend, script: &Script, vms: &[Value]) -> Vec<Option<Attachment>> {
    script.first([(PENDING, none()), (LIST, rows(vms))]);
    let nodes = backend.list().await.unwrap().nodes;
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes.into_iter().map(|node| node.attachment).collect()
}

#[tokio::test(start_paused = true)]
async fn a_listing_shows_the_progress_of_attachments() {
    let script = Script::new([(ADD_TO_VPC, refuse("The VPC is full"))]);
    let backend = backend(&script, Some("12"), None);
    assert_eq!(attachments(&backend, &script, &running()).await, [Some(Attachment::Open)]);
    let failed = Attachment::Failed("The VPC is full".to_owned());
    assert_eq!(attachments(&backend, &script, &running()).await, [Some(failed.clone())]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    script.then([(ADD_TO_VPC, accepted())]);
    assert_eq!(attachments(&backend, &script, &running()).await, [Some(failed)]);
    assert_eq!(attachments(&backend, &script, &running()).await, [Some(Attachment::Done)]);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_vm_without_a_network_needs_no_attachment() {
    let script = Script::default();
    let backend = backend(&script, None, None);
    let vms = [row("u-1", HOSTNAME, &json!({"is_active": 0}))];
    assert_eq!(attachments(&backend, &script, &vms).await, [Some(Attachment::Done)]);
    backend.set_groups(BTreeMap::from([("workers".into(), attached_group(Some("12"), None))]));
    assert_eq!(attachments(&backend, &script, &running()).await, [Some(Attachment::Done)], "it exists");
    backend.set_groups(BTreeMap::new());
    assert_eq!(attachments(&backend, &script, &running()).await, [None], "its NodeGroup is unknown");
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_restart_repeats_no_attachment() {
    let script = Script::default();
    let backend = backend(&script, Some("12"), Some("fw-1"));
    backend.restore_attached(["u-1".into()]);
    assert_eq!(attachments(&backend, &script, &running()).await, [Some(Attachment::Done)]);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_row_with_another_name_of_the_datacenter_is_attached() {
    let script = Script::new([(ADD_TO_VPC, accepted())]);
    let backend = backend(&script, Some("12"), None);
    let vms = [row("u-1", HOSTNAME, &json!({"dcIdentifier": "Amsterdam 1"}))];
    assert_eq!(attachments(&backend, &script, &vms).await, [Some(Attachment::Open)]);
    assert_eq!(attachments(&backend, &script, &vms).await, [Some(Attachment::Done)]);
    assert_eq!(script.seen()[2].json()["dcIdentifier"], "dc-1");
}

#[tokio::test(start_paused = true)]
async fn a_slow_attachment_delays_no_listing() {
    let script = Script::new([(ADD_TO_VPC, ScriptedReply::Silence)]);
    let backend = backend(&script, Some("12"), None);
    for _ in 0..3 {
        let before = tokio::time::Instant::now();
        assert_eq!(states(&backend, &script, &running()).await, [VmState::Provisioning]);
        assert_eq!(before.elapsed(), Duration::from_secs(1));
    }
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_listing_starts_at_most_four_attachments() {
    let script = Script::default();
    script.then(std::iter::repeat_n((ATTACH, accepted()), 4));
    let backend = backend(&script, None, Some("fw-1"));
    let vms: Vec<Value> = (1..=6)
        .map(|n| row(&format!("u-{n}"), &format!("workers-0a1b2c3d-{n}"), &json!({"id": n})))
        .collect();
    assert_eq!(states(&backend, &script, &vms).await, [VmState::Provisioning; 6]);
    script.seen();
    script.then(std::iter::repeat_n((ATTACH, accepted()), 2));
    let second = states(&backend, &script, &vms).await;
    assert_eq!(second.iter().filter(|state| **state == VmState::Running).count(), 4);
    assert_eq!(states(&backend, &script, &vms).await, [VmState::Running; 6]);
    script.seen();
}
