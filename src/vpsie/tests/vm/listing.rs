use std::time::Duration;

use serde_json::json;

use super::*;
use crate::fleet::{FailureReason, ListedNode, NodeListing, NodeRole, PendingVms, VmId, VmState};
use crate::vpsie::Backend;
use crate::vpsie::tests::managed::{assert_unavailable, ids};
use crate::vpsie::tests::script::{refuse, reply};

async fn list(pending: ScriptedReply, vms: ScriptedReply) -> NodeListing {
    let script = Script::new([(PENDING, pending), (LIST, vms)]);
    let listing = backend(&script).list().await.unwrap();
    script.seen();
    listing
}

async fn one(fields: &Value) -> ListedNode {
    let mut nodes = list(none(), rows(&[row("u-1", HOSTNAME, fields)])).await.nodes;
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    nodes.remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_vm_with_our_marker_is_a_worker_of_its_pool() {
    let node = one(&json!({
        "hostname": "Workers-0A1B2C3D-1", "dcIdentifier": "DC-1", "default_ip": "198.18.0.1",
        "created_on": "2026-01-01T00:00:00Z", "notes": format!("{}\nteam a", marker()), "is_preempted": 1,
    }))
    .await;
    assert_eq!((node.hostname.as_str(), node.id.as_ref().map(VmId::as_str)), (HOSTNAME, Some("u-1")));
    assert_eq!((node.role, node.state, node.pool), (NodeRole::Worker, VmState::Running, Some(pool())));
    assert_eq!((node.datacenter, node.size), (Some("dc-1".into()), None));
    assert!(node.created_at.is_some() && node.interruption.is_some() && node.addresses.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_row_with_a_known_plan_shows_its_size() {
    let script = Script::new(plans());
    let backend = backend(&script);
    backend.catalog().await.unwrap();
    script.then([
        (
            PENDING,
            rows(&[json!({"data": {"hostname": "workers-0a1b2c3d-2", "resourceIdentifier": "map-1"}})]),
        ),
        (LIST, rows(&[row("u-1", HOSTNAME, &json!({"resourceIdentifier": "MAP-1"}))])),
    ]);
    let listing = backend.list().await.unwrap();
    let sizes: Vec<_> = listing.nodes.iter().map(|node| node.size).collect();
    assert_eq!(sizes, [Some(SizeId::from_plan("small")); 2]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_vm_still_exists() {
    for (fields, state) in [
        (json!({"power": 0}), VmState::Down),
        (json!({"is_suspended": 1}), VmState::Down),
        (json!({"boxes_suspended": 1}), VmState::Down),
        (json!({"is_active": 0, "power": 0}), VmState::Provisioning),
        (json!({"is_terminated": 1}), VmState::Terminating),
    ] {
        assert_eq!(one(&fields).await.state, state, "{fields}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_vm_is_gone() {
    for fields in [json!({"is_deleted": 1}), json!({"dropped_on": "2026-01-01 00:00:00"})] {
        let listing = list(none(), rows(&[row("u-1", HOSTNAME, &fields)])).await;
        assert_eq!((listing.nodes.len(), listing.complete), (0, true), "{fields}");
    }
}

#[tokio::test(start_paused = true)]
async fn vms_of_others_are_left_out_or_unknown() {
    let other = marker().replace(CLUSTER, "another-uid");
    let listing = list(
        none(),
        rows(&[
            row("u-1", "web-1", &json!({"notes": null})),
            row("u-2", "workers-0a1b2c3d-2", &json!({"notes": null})),
            row("u-3", "workers-0a1b2c3d-3", &json!({"notes": other})),
            row("u-4", "web-4", &json!({"notes": other})),
            row("u-5", "workers-0a1b2c3d-5", &json!({"notes": format!("team a\n{}", marker())})),
            row("u-6", "workers-0a1b2c3d-6", &json!({"vmType": "k8s"})),
        ]),
    )
    .await;
    assert!(listing.complete);
    assert_eq!(
        ids(&listing.nodes),
        [("workers-0a1b2c3d-2", Some("u-2")), ("workers-0a1b2c3d-5", Some("u-5")),]
    );
    assert!(listing.nodes.iter().all(|node| node.role == NodeRole::Unknown && node.pool.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_pending_vm_of_our_form_has_neither_id_nor_pool() {
    let pending = |hostname: &str| json!({"id": "5", "data": {"hostname": hostname, "dcIdentifier": "dc-1"}});
    let of_other = json!({"data": {
        "hostname": "workers-0a1b2c3d-9", "tags": ["vpsie-autoscaler:another-uid"]}});
    let pending = rows(&[pending("Workers-0a1b2c3d-2"), pending(HOSTNAME), pending("web-1"), of_other]);
    let listing = list(pending, rows(&[row("u-1", HOSTNAME, &json!({}))])).await;
    assert_eq!(ids(&listing.nodes), [(HOSTNAME, Some("u-1")), ("workers-0a1b2c3d-2", None)]);
    let node = &listing.nodes[1];
    assert_eq!((node.role, node.state, &node.pool), (NodeRole::Worker, VmState::Provisioning, &None));
    assert!(listing.complete);
}

#[tokio::test(start_paused = true)]
async fn the_older_of_two_vms_keeps_the_hostname() {
    let older = || row("u-9", HOSTNAME, &json!({"id": 7, "created_on": "2026-01-01 00:00:00"}));
    let newer = || row("u-1", HOSTNAME, &json!({"id": 8, "created_on": "2026-01-01 00:00:09"}));
    for both in [[older(), newer()], [newer(), older()]] {
        let listing = list(none(), rows(&both)).await;
        assert_eq!(
            ids(&listing.nodes),
            [(HOSTNAME, Some("u-9")), ("workers-0a1b2c3d-1.duplicate-u-1", Some("u-1"))]
        );
        assert!(listing.nodes.iter().all(|node| node.pool == Some(pool())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_of_another_owner_hides_none_of_ours() {
    let theirs = || row("u-2", HOSTNAME, &json!({"notes": "mine"}));
    let listing = list(none(), rows(&[theirs(), row("u-1", HOSTNAME, &json!({}))])).await;
    assert_eq!(ids(&listing.nodes), [(HOSTNAME, Some("u-1"))]);
    let pending = rows(&[json!({"data": {"hostname": HOSTNAME}})]);
    let listing = list(pending, rows(&[theirs()])).await;
    assert_eq!(ids(&listing.nodes), [(HOSTNAME, None)]);
}

#[tokio::test(start_paused = true)]
async fn created_vms_are_listed_without_pending_ones() {
    for pending in [refuse("The moon is full"), reply(404, "{}"), reply(403, "{}")] {
        let listing = list(pending, rows(&[row("u-1", HOSTNAME, &json!({}))])).await;
        assert_eq!((listing.nodes.len(), listing.complete), (1, true));
        assert_eq!(listing.pending, PendingVms::Unknown);
    }
    assert_eq!(list(none(), none()).await.pending, PendingVms::Listed);
    let script = Script::new([(PENDING, none()), (LIST, reply(403, "{}"))]);
    assert_unavailable(backend(&script).list().await, FailureReason::Authentication);
}

#[tokio::test(start_paused = true)]
async fn a_lasting_refusal_of_pending_vms_is_an_api_without_them() {
    let minutes = |minutes| tokio::time::sleep(Duration::from_mins(minutes));
    let script = Script::default();
    let backend = backend(&script);
    let pending = async |reply: ScriptedReply| {
        script.then(std::iter::repeat_n((PENDING, reply.clone()), attempts(&reply)));
        script.then([(LIST, none())]);
        backend.list().await.unwrap().pending
    };
    let refusal = || reply(404, r#"{"error":true,"message":"Not found"}"#);
    assert_eq!(pending(refusal()).await, PendingVms::Unknown);
    minutes(9).await;
    assert_eq!(pending(refusal()).await, PendingVms::Unknown);
    minutes(1).await;
    assert_eq!(pending(refusal()).await, PendingVms::Unsupported);
    assert_eq!(pending(ScriptedReply::Lost).await, PendingVms::Unsupported, "it was so before");
    assert_eq!(pending(none()).await, PendingVms::Listed);
    assert_eq!(pending(refusal()).await, PendingVms::Unknown, "the time begins again");
    for _ in 0..3 {
        minutes(10).await;
        assert_eq!(pending(none()).await, PendingVms::Listed);
        assert_eq!(pending(ScriptedReply::Lost).await, PendingVms::Unknown, "temporary");
        minutes(10).await;
        assert_eq!(pending(ScriptedReply::Lost).await, PendingVms::Unknown);
    }
    script.seen();
}

/// Number of attempts of a read with that reply.
fn attempts(reply: &ScriptedReply) -> usize {
    if matches!(reply, ScriptedReply::Lost) { 4 } else { 1 }
}

#[tokio::test(start_paused = true)]
async fn a_missing_page_makes_the_listing_incomplete() {
    let page = || reply(200, &json!({"data": [row("u-1", HOSTNAME, &json!({}))], "total": 2}));
    let script = Script::new([
        (PENDING, none()),
        (LIST, page()),
        ("GET vm?offset=0&limit=2", page()),
        ("GET vm?offset=1&limit=100", page()),
        ("GET vm?offset=1&limit=1", page()),
    ]);
    let listing = backend(&script).list().await.unwrap();
    assert_eq!((listing.nodes.len(), listing.complete), (1, false));
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn an_own_vm_without_hostname_makes_listings_incomplete() {
    let vms = || rows(&[row("u-1", "", &json!({})), row("u-2", "", &json!({"notes": null}))]);
    let script = Script::new([(PENDING, none()), (LIST, vms())]);
    let backend = backend(&script);
    assert!(!backend.list().await.unwrap().complete);
    tokio::time::sleep(Duration::from_mins(59)).await;
    script.then([(PENDING, none()), (LIST, vms())]);
    assert!(!backend.list().await.unwrap().complete);
    tokio::time::sleep(Duration::from_mins(1)).await;
    script.then([(PENDING, none()), (LIST, vms())]);
    assert!(backend.list().await.unwrap().complete);
    assert!(list(none(), rows(&[row("u-2", "", &json!({"notes": null}))])).await.complete);
}

#[tokio::test(start_paused = true)]
async fn no_list_proves_nothing_once_there_were_vms() {
    let nothing = || ok(&json!(null));
    assert!(list(nothing(), nothing()).await.complete);
    let script = Script::new([
        (PENDING, none()),
        (LIST, rows(&[row("u-1", HOSTNAME, &json!({}))])),
        (PENDING, none()),
        (LIST, nothing()),
    ]);
    let backend = backend(&script);
    assert!(backend.list().await.unwrap().complete);
    assert!(!backend.list().await.unwrap().complete);
    script.then([(PENDING, none()), (LIST, none())]);
    assert!(backend.list().await.unwrap().complete);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_listing_tells_whether_the_account_has_vms() {
    let of_other = || rows(&[row("u-1", "db", &json!({"notes": null}))]);
    for (vms, has_rows) in [(of_other(), true), (none(), false), (ok(&json!(null)), false)] {
        let listing = list(none(), vms).await;
        assert_eq!((listing.nodes.len(), listing.complete, listing.has_rows), (0, true, has_rows));
    }
}
