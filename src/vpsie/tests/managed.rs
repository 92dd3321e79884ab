use std::time::Duration;

use serde_json::{Value, json};

use super::request;
use super::script::{Script, ScriptedReply, ok, refuse, reply, slow_down};
use crate::catalog::SizeId;
use crate::fleet::{DeletableVm, FailureReason, Hostname, ListedNode, Vm, VmId};
use crate::retry_after::RetryAfter;
use crate::vpsie::{Backend, BackendError, Credentials, ManagedBackend, ManagedConfig};

const CHECK: &str = "GET k8s/cluster/all";
const DATACENTERS: &str = "GET datacenter";
pub(super) const OFFERS: &str = "POST k8s/offers";
pub(super) const NODES: &str = "GET k8s/cluster/byId/c-1";
pub(super) const GROUPS: &str = "GET k8s/node/groups/byClusterId/c-1";
const ADD_GROUP: &str = "POST k8s/cluster/add/group";
const ADD_5: &str = "POST k8s/cluster/byId/c-1/add/slave/group/5";
const ADD_6: &str = "POST k8s/cluster/byId/c-1/add/slave/group/6";
const DELETE: &str = "DELETE k8s/cluster/byId/c-1/delete/slave";
pub(super) const VMS: &str = "GET storages/vms";

pub(super) const SMALL: SizeId = SizeId(1);

pub(super) fn backend(script: &Script) -> ManagedBackend {
    let config = ManagedConfig { cluster: "c-1".into(), datacenter: "dc-1".into() };
    ManagedBackend::new(script.client(), config)
}

pub(super) fn group(id: u64, name: &str, size: u64) -> Value {
    json!({"id": id, "group_name": name, "boxsize_id": size, "identifier": format!("g-{id}"), "is_deleted": 0})
}

pub(super) fn groups(groups: &[Value]) -> ScriptedReply {
    ok(&json!(groups))
}

pub(super) fn nodes(nodes: &Value) -> ScriptedReply {
    ok(&json!({"cluster_name": "HEL", "identifier": "c-1", "nodes": nodes}))
}

fn accepted() -> ScriptedReply {
    ok(&json!(true))
}

fn vm(hostname: &str, id: Option<&str>) -> DeletableVm {
    DeletableVm::assumed(Vm {
        hostname: Hostname::new(hostname),
        id: id.map(Into::into),
        addresses: Vec::new(),
        provider_id: None,
        attached: None,
        request: None,
    })
}

pub(super) fn ids(nodes: &[ListedNode]) -> Vec<(&str, Option<&str>)> {
    nodes.iter().map(|node| (node.hostname.as_str(), node.id.as_ref().map(VmId::as_str))).collect()
}

#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(result: Result<T, BackendError>, want: FailureReason) {
    match result {
        Err(BackendError::Refused { reason, .. }) if reason == want => {}
        other => panic!("want Refused with {want}, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn assert_unavailable<T: std::fmt::Debug>(
    result: Result<T, BackendError>,
    want: FailureReason,
) -> String {
    match result {
        Err(BackendError::Unavailable { reason, message, .. }) if reason == want => message,
        other => panic!("want Unavailable with {want}, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_start_checks_credentials_cluster_and_datacenters() {
    let clusters = || ok(&json!([{"identifier": "C-1", "cluster_name": "HEL"}]));
    let datacenters = ok(&json!([{"dc_name": "AMS", "identifier": "dc-1"}]));
    let script = Script::new([(CHECK, clusters()), (DATACENTERS, datacenters)]);
    backend(&script).check().await.unwrap();
    script.seen();

    let elsewhere = ok(&json!([{"identifier": "c-9", "cluster_name": "HEL"}]));
    let error = backend(&Script::new([(CHECK, elsewhere)])).check().await.unwrap_err().to_string();
    assert_eq!(error, r#"VPSie refused: VPSie has no cluster "c-1" in this account; it has: c-9 (HEL)"#);

    let deleted = ok(&json!([{"dc_name": "FRA", "identifier": "dc-2"}]));
    let error = backend(&Script::new([(CHECK, clusters()), (DATACENTERS, deleted)])).check().await;
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains(r#"no datacenter "dc-1" in this account; it has: dc-2 (FRA)"#)
    );

    let unauthenticated = reply(401, r#"{"error":true,"message":"Please authenticate"}"#);
    let error = backend(&Script::new([(CHECK, unauthenticated)])).check().await;
    assert_unavailable(error, FailureReason::Authentication);

    let html = Script::new([(CHECK, reply(404, "<html>nginx</html>"))]);
    let message = assert_unavailable(backend(&html).check().await, FailureReason::InvalidConfiguration);
    assert!(message.contains("check host and prefix"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn the_catalog_is_one_call_a_datacenter() {
    let offers = json!([
        {"id": 1, "name": "small", "cpu": 2, "ram": 4096, "disk": 80, "price": "24.00", "hourly_price": 0.033},
        {"id": "2", "nickname": "big", "cpu": "4", "ram": "8192", "ssd": 160, "price": 48},
        {"name": "no id"},
    ]);
    let script = Script::new([(OFFERS, ok(&offers))]);
    let catalog = backend(&script).catalog().await.unwrap();
    let names: Vec<&str> = catalog.offers.iter().map(|offer| offer.name.as_str()).collect();
    assert_eq!(names, ["small", "big"]);
    assert_eq!(script.seen()[0].json(), json!({"dcIdentifier": "dc-1"}));
}

#[tokio::test(start_paused = true)]
async fn a_datacenter_without_offers_is_an_error() {
    for nothing in [ok(&json!([])), ok(&json!(false)), ok(&json!(null))] {
        let script = Script::new([(OFFERS, nothing)]);
        assert_unavailable(backend(&script).catalog().await, FailureReason::InvalidConfiguration);
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_finds_the_group_of_its_size_and_remembers_it() {
    let script = Script::new([
        (GROUPS, groups(&[group(5, "small", 1), group(6, "big", 2)])),
        (ADD_5, accepted()),
        (ADD_5, accepted()),
        (ADD_6, accepted()),
    ]);
    let backend = backend(&script);
    backend.create(&request(SMALL, "pool-a")).await.unwrap();
    backend.create(&request(SMALL, "pool-b")).await.unwrap();
    backend.create(&request(SizeId(2), "pool-b")).await.unwrap();
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_missing_group_is_made_and_looked_up_by_name() {
    let mut deleted = group(4, "pool-a-1", 1);
    deleted["is_deleted"] = 1.into();
    // Its boxsize_id differs here, so the name decides (docs/reference/vpsie-api.md#creating-a-group).
    let script = Script::new([
        (GROUPS, groups(&[deleted])),
        (ADD_GROUP, ok(&json!({"groupId": "x"}))),
        (GROUPS, groups(&[])),
        (GROUPS, groups(&[group(5, "pool-a-1", 901)])),
        (ADD_5, accepted()),
        (ADD_5, accepted()),
    ]);
    let backend = backend(&script);
    backend.create(&request(SMALL, "pool-a")).await.unwrap();
    backend.create(&request(SMALL, "pool-a")).await.unwrap();
    let made = script.seen()[1].json();
    assert_eq!(made, json!({"clusterIdentifier": "c-1", "groupName": "pool-a-1", "KubeSizeID": 1}));
}

#[tokio::test(start_paused = true)]
async fn two_creations_of_a_new_size_make_one_group() {
    let script = Script::new([
        (GROUPS, groups(&[])),
        (ADD_GROUP, accepted()),
        (GROUPS, groups(&[group(5, "pool-a-1", 1)])),
        (ADD_5, accepted()),
        (ADD_5, accepted()),
    ]);
    let backend = backend(&script);
    let of_a = request(SMALL, "pool-a");
    let of_b = request(SMALL, "pool-b");
    let (a, b) = tokio::join!(backend.create(&of_a), backend.create(&of_b));
    assert!(a.is_ok() && b.is_ok());
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn the_group_that_already_has_the_size_is_taken() {
    let taken = || groups(&[group(5, "Theirs", 901)]);
    let words = "Group Theirs has same selected Size, please select another size";
    let script = Script::new([
        (GROUPS, taken()),
        (ADD_GROUP, refuse(words)),
        (GROUPS, taken()),
        (ADD_5, accepted()),
        (ADD_5, accepted()),
    ]);
    let backend = backend(&script);
    backend.create(&request(SMALL, "pool-a")).await.unwrap();
    backend.create(&request(SMALL, "pool-a")).await.unwrap();
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn requests_no_worker_if_its_group_was_not_created() {
    for reply in [ScriptedReply::Lost, ScriptedReply::Silence, ScriptedReply::NotSent, reply(500, "{}")] {
        let script = Script::new([(GROUPS, groups(&[])), (ADD_GROUP, reply)]);
        assert_unavailable(
            backend(&script).create(&request(SMALL, "a")).await,
            FailureReason::ApiUnavailable,
        );
        script.seen();
    }
    let script = Script::new([(GROUPS, groups(&[])), (ADD_GROUP, accepted())]);
    script.then(std::iter::repeat_n((GROUPS, groups(&[])), 3));
    assert_unavailable(backend(&script).create(&request(SMALL, "a")).await, FailureReason::ApiUnavailable);
    script.seen();
    let script = Script::new([(GROUPS, groups(&[])), (ADD_GROUP, refuse("Quota exceeded"))]);
    assert_refused(backend(&script).create(&request(SMALL, "a")).await, FailureReason::QuotaExceeded);
}

#[tokio::test(start_paused = true)]
async fn creates_a_deleted_group_again() {
    let script = Script::new([(GROUPS, groups(&[group(5, "a", 1)])), (ADD_5, accepted())]);
    let backend = backend(&script);
    backend.create(&request(SMALL, "a")).await.unwrap();
    script.then([
        (ADD_5, reply(404, r#"{"error":true,"message":"kubernetes group not found"}"#)),
        (GROUPS, groups(&[])),
        (ADD_GROUP, accepted()),
        (GROUPS, groups(&[group(6, "a", 1)])),
        (ADD_6, accepted()),
    ]);
    backend.create(&request(SMALL, "a")).await.unwrap();
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn creations_report_their_exact_outcome() {
    let create = async |reply| {
        let script = Script::new([(GROUPS, groups(&[group(5, "a", 1)])), (ADD_5, reply)]);
        let result = backend(&script).create(&request(SMALL, "a")).await;
        script.seen();
        result
    };
    for reply in [
        ScriptedReply::Lost,
        ScriptedReply::Silence,
        reply(500, "{}"),
        reply(502, "<html>"),
        reply(200, "<html>"),
    ] {
        let result = create(reply).await;
        assert!(matches!(result, Err(BackendError::Unclear { .. })), "{result:?}");
    }
    assert_unavailable(create(ScriptedReply::NotSent).await, FailureReason::ApiUnavailable);
    assert_unavailable(create(reply(403, "{}")).await, FailureReason::Authentication);
    match create(slow_down(17)).await {
        Err(BackendError::Unavailable { retry_after, .. }) => {
            assert_eq!(retry_after, Some(RetryAfter::new(Duration::from_secs(17))));
        }
        other => panic!("{other:?}"),
    }
    let full = reply(500, r#"{"error":true,"message":"The selected size is out of stock"}"#);
    assert_refused(create(full).await, FailureReason::Stockout);
    let limit = refuse("Worker nodes count exceeds the allowed limit");
    assert_refused(create(limit).await, FailureReason::QuotaExceeded);
    assert_refused(
        create(refuse("Please select the right package")).await,
        FailureReason::InvalidConfiguration,
    );
    assert_refused(create(refuse("The moon is full")).await, FailureReason::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_by_uuid_is_one_call() {
    let script = Script::new([(DELETE, ok(&json!(true)))]);
    backend(&script).delete(&vm("hel-slave-1", Some("u-1"))).await.unwrap();
    let body = script.seen()[0].json();
    assert_eq!(body["identifier"], "u-1");
    assert!(body["deleteStatistic"]["reason"].is_string() && body["deleteStatistic"]["note"].is_string());
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_not_there_is_deleted_once_the_listing_agrees() {
    let other = || nodes(&json!([{"identifier": "u-2", "hostname": "hel-slave-2"}]));
    for reply in [
        reply(404, r#"{"error":true,"message":"Not found"}"#),
        reply(404, "<html>nginx</html>"),
        refuse("Node not found"),
        ok(&json!(false)),
    ] {
        let script = Script::new([(DELETE, reply), (NODES, other())]);
        backend(&script).delete(&vm("hel-slave-1", Some("u-1"))).await.unwrap();
        script.seen();
    }
}

#[tokio::test(start_paused = true)]
async fn confirms_not_found_by_a_listing() {
    let not_found = || reply(404, r#"{"error":true,"message":"Not found"}"#);
    for listed in [json!({"identifier": "u-1", "hostname": "x"}), json!({"hostname": "HEL-slave-1"})] {
        let script = Script::new([(DELETE, not_found()), (NODES, nodes(&json!([listed])))]);
        let result = backend(&script).delete(&vm("hel-slave-1", Some("u-1"))).await;
        assert_unavailable(result, FailureReason::ApiUnavailable);
    }
    let script = Script::new([(DELETE, not_found()), (NODES, reply(404, "<html>nginx</html>"))]);
    let result = backend(&script).delete(&vm("hel-slave-1", Some("u-1"))).await;
    assert_unavailable(result, FailureReason::InvalidConfiguration);
}

#[tokio::test(start_paused = true)]
async fn a_reused_hostname_is_another_vm() {
    let script = Script::new([
        (DELETE, refuse("Node not found")),
        (NODES, nodes(&json!([{"identifier": "u-new", "hostname": "hel-slave-1"}]))),
    ]);
    backend(&script).delete(&vm("hel-slave-1", Some("u-old"))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_vm_without_uuid_is_found_first_and_never_guessed() {
    let script = Script::new([
        (NODES, nodes(&json!([{"hostname": "HEL-slave-1", "private_ip": "10.0.0.1"}]))),
        (VMS, ok(&json!([{"hostname": "hel-slave-1", "identifier": "u-1", "private_ip": "10.0.0.1"}]))),
        (DELETE, accepted()),
    ]);
    backend(&script).delete(&vm("hel-slave-1", None)).await.unwrap();
    assert_eq!(script.seen()[2].json()["identifier"], "u-1");

    let script = Script::new([(NODES, nodes(&json!([]))), (GROUPS, groups(&[]))]);
    backend(&script).delete(&vm("hel-slave-1", None)).await.unwrap();

    let script = Script::new([(NODES, nodes(&json!([{"hostname": "hel-slave-1"}]))), (VMS, ok(&json!([])))]);
    assert_unavailable(
        backend(&script).delete(&vm("hel-slave-1", None)).await,
        FailureReason::ApiUnavailable,
    );
    script.seen();

    let master = nodes(&json!([{"hostname": "hel-master-1", "identifier": "u-m"}]));
    let result = backend(&Script::new([(NODES, master)])).delete(&vm("hel-master-1", None)).await;
    assert_refused(result, FailureReason::InvalidConfiguration);
}

/// The list of VMs has a restored backup with the hostname of the worker, but not the worker yet.
#[tokio::test(start_paused = true)]
async fn a_restored_backup_is_never_deleted_for_a_worker() {
    let listing = || {
        nodes(&json!([
            {"hostname": "hel-slave-1", "default_ip": "198.18.0.1", "datacenter_id": 1},
            {"hostname": "hel-slave-2", "default_ip": "198.18.0.2", "datacenter_id": 1},
        ]))
    };
    let worker =
        json!({"hostname": "hel-slave-2", "identifier": "u-2", "type": "k8s", "dcIdentifier": "dc-1"});
    for backup in [
        json!({"type": "vm"}),
        json!({"type": "vm", "dcIdentifier": "dc-1", "datacenter_id": 1}),
        json!({"dcIdentifier": "dc-1", "datacenter_id": 1}),
        json!({"type": "k8s", "dcIdentifier": "dc-1", "default_ip": "198.18.9.9"}),
    ] {
        let mut backup = backup.clone();
        (backup["hostname"], backup["identifier"]) = ("hel-slave-1".into(), "u-backup".into());
        let vms = || ok(&json!([worker, backup]));
        let script = Script::new([(NODES, listing()), (VMS, vms()), (NODES, listing()), (VMS, vms())]);
        let backend = backend(&script);
        let listed = backend.list().await.unwrap().nodes;
        assert_eq!(ids(&listed), [("hel-slave-1", None), ("hel-slave-2", Some("u-2"))], "{backup}");
        let result = backend.delete(&vm("hel-slave-1", None)).await;
        assert_unavailable(result, FailureReason::ApiUnavailable);
        script.seen();
    }
}

#[tokio::test(start_paused = true)]
async fn a_size_without_a_group_is_refused_once_a_minute() {
    let words = r#"{"error":true,"message":"Group x has same selected Size, please select another size"}"#;
    let round = || [(GROUPS, groups(&[])), (ADD_GROUP, reply(500, words)), (GROUPS, groups(&[]))];
    let script = Script::new(round());
    let backend = backend(&script);
    for _ in 0..10 {
        assert_refused(backend.create(&request(SMALL, "a")).await, FailureReason::InvalidConfiguration);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(script.seen().len(), 3);
    tokio::time::sleep(Duration::from_secs(30)).await;
    script.then(round());
    assert_refused(backend.create(&request(SMALL, "a")).await, FailureReason::InvalidConfiguration);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn an_offer_on_a_page_that_is_missing_stays_known() {
    let offer = |id: u64| json!({"id": id, "name": format!("o-{id}"), "cpu": 2, "ram": 4096});
    let page = |from, to, total: u64| {
        reply(200, &json!({"data": (from..to).map(offer).collect::<Vec<_>>(), "total": total}))
    };
    let script = Script::new([(OFFERS, page(0, 12, 12))]);
    let backend = backend(&script);
    assert_eq!(backend.catalog().await.unwrap().offers.len(), 12);
    script.then([
        (OFFERS, page(0, 10, 12)),
        ("POST k8s/offers?offset=0&limit=12", page(0, 10, 12)),
        ("POST k8s/offers?offset=10&limit=100", page(0, 10, 12)),
        ("POST k8s/offers?offset=1&limit=10", page(0, 10, 12)),
    ]);
    assert_eq!(backend.catalog().await.unwrap().offers.len(), 12);
    assert!(script.seen().iter().all(|seen| seen.json() == json!({"dcIdentifier": "dc-1"})));
}

#[tokio::test(start_paused = true)]
async fn a_lost_deletion_is_unclear() {
    let script = Script::new(std::iter::repeat_n((DELETE, ScriptedReply::Lost), 4));
    let result = backend(&script).delete(&vm("hel-slave-1", Some("u-1"))).await;
    assert!(matches!(result, Err(BackendError::Unclear { .. })), "{result:?}");
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_created_node_costs_few_calls() {
    let script = Script::new([(GROUPS, groups(&[group(5, "a", 1)]))]);
    script.then(std::iter::repeat_n((ADD_5, accepted()), 50));
    let client = script.client_with(Credentials::token("t"), |config| config.rate_per_minute = 1000);
    let config = ManagedConfig { cluster: "c-1".into(), datacenter: "dc-1".into() };
    let backend = ManagedBackend::new(client, config);
    for _ in 0..50 {
        backend.create(&request(SMALL, "a")).await.unwrap();
    }
    assert_eq!(script.seen().len(), 51);
}

/// A row without a hostname may be the VM.
#[tokio::test(start_paused = true)]
async fn an_incomplete_listing_proves_no_deletion() {
    let unnamed = || {
        nodes(&json!([
            {"id": 11, "identifier": "u-1", "hostname": null, "role": "slave"},
            {"id": 12, "identifier": "u-2", "hostname": "hel-slave-2"},
        ]))
    };
    let without_id = Script::new([(NODES, unnamed())]);
    let result = backend(&without_id).delete(&vm("hel-slave-1", None)).await;
    assert!(result.is_err(), "accepted without any DELETE: {result:?}");
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_listing_confirms_no_not_found() {
    let unnamed = nodes(&json!([
        {"id": 11, "identifier": "u-1", "hostname": null, "role": "slave"},
        {"id": 12, "identifier": "u-2", "hostname": "hel-slave-2"},
    ]));
    let not_found = reply(404, r#"{"error":true,"message":"Not found"}"#);
    let refused = Script::new([(DELETE, not_found), (NODES, unnamed)]);
    let result = backend(&refused).delete(&vm("hel-slave-1", Some("u-1"))).await;
    assert!(result.is_err(), "the reply lists u-1: {result:?}");
}
