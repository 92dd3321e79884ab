use std::time::Duration;

use serde_json::json;

use super::*;
use crate::fleet::FailureReason;
use crate::telemetry::Registry;
use crate::vpsie::tests::managed::{assert_refused, assert_unavailable};
use crate::vpsie::tests::script::{refuse, reply};
use crate::vpsie::{Backend, BackendError, Credentials, DeletionKey, Metrics};

fn wrong_password() -> ScriptedReply {
    refuse("Incorrect password")
}

fn not_found() -> ScriptedReply {
    reply(404, r#"{"error":true,"message":"Not found"}"#)
}

/// Passwords of the deletions, and of no other calls.
fn passwords(script: &Script) -> Vec<Value> {
    let deletions = script.seen().into_iter().filter(|seen| seen.body.contains("vmIdentifier"));
    deletions.map(|seen| seen.json()["password"].clone()).collect()
}

fn with_password() -> ScriptedReply {
    rows(&[row("u-1", HOSTNAME, &json!({"initial_password": "initial-secret"}))])
}

#[tokio::test(start_paused = true)]
async fn a_deletion_by_uuid_is_one_call() {
    let script = Script::new([(DELETE, accepted())]);
    backend(&script).delete(&vm(HOSTNAME, Some("u-1"))).await.unwrap();
    assert_eq!(
        script.seen()[0].json(),
        json!({"vmIdentifier": "u-1",
            "deleteStatistic": {"reason": "other", "note": "no longer needed by the autoscaler"}})
    );
}

#[tokio::test(start_paused = true)]
async fn a_deletion_names_the_derived_password() {
    let script = Script::new([(DELETE, accepted()), (DELETE, accepted())]);
    let backend = backend(&script).with_deletion_key(DeletionKey::new(b"key"));
    backend.delete(&vm(HOSTNAME, Some("u-1"))).await.unwrap();
    backend.delete(&vm("workers-0a1b2c3d-1.duplicate-u-2", Some("u-2"))).await.unwrap();
    assert_eq!(passwords(&script), ["Vp1-oEh56s3ExbcnYp5D5kcT"; 2]);
}

#[tokio::test(start_paused = true)]
async fn tries_the_derived_then_the_initial_then_no_password() {
    let script = Script::new([
        (DELETE, wrong_password()),
        (LIST, with_password()),
        (DELETE, wrong_password()),
        (DELETE, accepted()),
    ]);
    let backend = backend(&script).with_deletion_key(DeletionKey::new(b"key"));
    backend.delete(&vm(HOSTNAME, Some("u-1"))).await.unwrap();
    assert_eq!(passwords(&script), [json!("Vp1-oEh56s3ExbcnYp5D5kcT"), json!("initial-secret"), Value::Null]);
}

#[tokio::test(start_paused = true)]
async fn remembers_the_initial_password_of_a_listing() {
    let script = Script::new([(PENDING, none()), (LIST, with_password()), (DELETE, accepted())]);
    let backend = backend(&script);
    backend.list().await.unwrap();
    backend.delete(&vm(HOSTNAME, Some("u-1"))).await.unwrap();
    assert_eq!(passwords(&script), ["initial-secret"]);
}

#[tokio::test(start_paused = true)]
async fn without_any_password_the_initial_one_is_read_on_a_refusal() {
    let script = Script::new([
        (DELETE, reply(403, r#"{"error":true,"message":"Password is required"}"#)),
        (LIST, with_password()),
        (DELETE, accepted()),
    ]);
    backend(&script).delete(&vm(HOSTNAME, Some("u-1"))).await.unwrap();
    assert_eq!(passwords(&script), [Value::Null, json!("initial-secret")]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_password_is_an_error_of_its_own_and_rests() {
    let round = || [(DELETE, wrong_password()), (LIST, none())];
    let script = Script::new(round());
    let metrics = Metrics::default();
    let client = script.client_metered(Credentials::token("t0ken"), metrics.clone(), |_| ());
    let backend = VmBackend::new(client, Arc::new(FixedPayload(Ok(PAYLOAD))));
    backend.set_cluster(CLUSTER.into());
    backend.set_groups(BTreeMap::new());
    for _ in 0..10 {
        let result = backend.delete(&vm(HOSTNAME, Some("u-1"))).await;
        let Err(BackendError::PasswordRefused { message }) = result else { panic!("{result:?}") };
        assert!(
            message.contains("Incorrect password") && message.contains("--vpsie-vm-password-key-file"),
            "{message}"
        );
        tokio::time::sleep(Duration::from_secs(59)).await;
    }
    assert_eq!(script.seen().len(), 2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    script.then(round());
    assert!(backend.delete(&vm(HOSTNAME, Some("u-1"))).await.is_err());
    script.seen();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let text = registry.encode().unwrap();
    assert!(text.contains("vpsie_autoscaler_vpsie_api_password_refusals_total 2"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_derived_password_works_once_the_key_is_configured_again() {
    let keyed = |script: &Script| backend(script).with_deletion_key(DeletionKey::new(b"key"));
    let group = VmGroup { delivery: Delivery::UserData, ..group() };
    let script = Script::new(plans());
    script.then([(CREATE, accepted())]);
    let first = keyed(&script);
    first.set_groups(BTreeMap::from([("workers".into(), group)]));
    first.create(&request("small")).await.unwrap();
    let password = script.seen()[2].json()["vmPassword"].clone();

    // A restart without the key. VPSie's listing does not show the password.
    let script = Script::new([(DELETE, wrong_password()), (LIST, rows(&[row("u-1", HOSTNAME, &json!({}))]))]);
    let without = backend(&script);
    for _ in 0..5 {
        let refused = without.delete(&vm(HOSTNAME, Some("u-1"))).await;
        assert!(matches!(refused, Err(BackendError::PasswordRefused { .. })), "{refused:?}");
    }
    script.seen();

    let script = Script::new([(DELETE, accepted())]);
    keyed(&script).delete(&vm(HOSTNAME, Some("u-1"))).await.unwrap();
    assert_eq!(passwords(&script), [password]);
}

#[tokio::test(start_paused = true)]
async fn other_refusals_are_not_about_the_password() {
    let script = Script::new([(DELETE, refuse("The VM is locked"))]);
    assert_refused(backend(&script).delete(&vm(HOSTNAME, Some("u-1"))).await, FailureReason::Refused);
    script.seen();
    let script = Script::new(std::iter::repeat_n((DELETE, ScriptedReply::Lost), 4));
    let result = backend(&script).delete(&vm(HOSTNAME, Some("u-1"))).await;
    assert!(matches!(result, Err(BackendError::Unclear { .. })), "{result:?}");
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn not_found_is_confirmed_by_a_listing() {
    for reply in
        [not_found(), reply(404, "<html>nginx</html>"), refuse("VM does not exist"), ok(&json!(false))]
    {
        let other = rows(&[row("u-2", HOSTNAME, &json!({}))]);
        let script = Script::new([(DELETE, reply), (LIST, other)]);
        backend(&script).delete(&vm(HOSTNAME, Some("u-1"))).await.unwrap();
        script.seen();
    }
    let gone = rows(&[row("u-1", HOSTNAME, &json!({"is_deleted": 1}))]);
    let script = Script::new([(DELETE, not_found()), (LIST, gone)]);
    backend(&script).delete(&vm(HOSTNAME, Some("u-1"))).await.unwrap();
    for still in [rows(&[row("u-1", "renamed", &json!({"notes": null}))]), ok(&json!(null))] {
        let script = Script::new([(DELETE, not_found()), (LIST, still)]);
        let result = backend(&script).delete(&vm(HOSTNAME, Some("u-1"))).await;
        assert_unavailable(result, FailureReason::ApiUnavailable);
        script.seen();
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_without_uuid_is_found_by_hostname_and_marker() {
    let listed = || rows(&[row("u-0", HOSTNAME, &json!({"notes": null})), row("u-1", HOSTNAME, &json!({}))]);
    let script = Script::new([(PENDING, none()), (LIST, listed()), (DELETE, accepted())]);
    backend(&script).delete(&vm(HOSTNAME, None)).await.unwrap();
    assert_eq!(script.seen()[2].json()["vmIdentifier"], "u-1");

    let of_other = rows(&[row("u-0", HOSTNAME, &json!({"notes": null}))]);
    let script = Script::new([(PENDING, none()), (LIST, of_other)]);
    backend(&script).delete(&vm(HOSTNAME, None)).await.unwrap();
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_pending_vm_cannot_be_deleted_yet() {
    let pending = rows(&[json!({"data": {"hostname": HOSTNAME}})]);
    let script = Script::new([(PENDING, pending), (LIST, none())]);
    match backend(&script).delete(&vm(HOSTNAME, None)).await {
        Err(BackendError::Unavailable { message, retry_after, .. }) => {
            assert!(message.contains("not listed the VM"), "{message}");
            assert_eq!(retry_after.unwrap().get(), Duration::from_secs(30));
        }
        other => panic!("{other:?}"),
    }
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_listing_proves_no_deletion() {
    for (pending, vms) in [
        (refuse("The moon is full"), none()),
        (none(), ok(&json!(null))),
        (none(), rows(&[row("u-1", "", &json!({}))])),
    ] {
        let script = Script::new([(PENDING, pending), (LIST, vms)]);
        let result = backend(&script).delete(&vm(HOSTNAME, None)).await;
        assert_unavailable(result, FailureReason::ApiUnavailable);
        script.seen();
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_without_pending_vms_proves_a_deletion() {
    let no_pending = || [(PENDING, reply(404, "{}")), (LIST, none())];
    let script = Script::new(no_pending());
    let backend = backend(&script);
    backend.list().await.unwrap();
    tokio::time::sleep(Duration::from_mins(10)).await;
    script.then(no_pending());
    backend.list().await.unwrap();
    script.then(no_pending());
    backend.delete(&vm(HOSTNAME, None)).await.unwrap();
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_reply_without_a_list_proves_a_deletion_after_an_hour() {
    let nothing = || [(PENDING, none()), (LIST, ok(&json!(null)))];
    let script = Script::new(nothing());
    let backend = backend(&script);
    backend.list().await.unwrap();
    tokio::time::sleep(Duration::from_mins(59)).await;
    script.then(nothing());
    assert_unavailable(backend.delete(&vm(HOSTNAME, None)).await, FailureReason::ApiUnavailable);
    tokio::time::sleep(Duration::from_mins(1)).await;
    script.then(nothing());
    backend.delete(&vm(HOSTNAME, None)).await.unwrap();
    script.then([(DELETE, not_found()), (LIST, ok(&json!(null)))]);
    backend.delete(&vm(HOSTNAME, Some("u-1"))).await.unwrap();
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn deletions_without_uuid_share_a_listing() {
    const OTHER: &str = "workers-0a1b2c3d-2";
    let listed = || [(PENDING, none()), (LIST, rows(&[row("u-1", HOSTNAME, &json!({}))]))];
    let script = Script::new(listed());
    script.then([(DELETE, accepted())]);
    let backend = backend(&script);
    let (first, other) = (vm(HOSTNAME, None), vm(OTHER, None));
    let (first, other) = tokio::join!(backend.delete(&first), backend.delete(&other));
    first.unwrap();
    other.unwrap();
    assert_eq!(script.seen().len(), 3);

    tokio::time::sleep(Duration::from_secs(10)).await;
    script.then(listed());
    backend.delete(&vm(OTHER, None)).await.unwrap();
    assert_eq!(script.seen().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_listing_before_a_request_does_not_prove_its_vm_gone() {
    let script = Script::new([(PENDING, none()), (LIST, none())]);
    let group = VmGroup { delivery: Delivery::UserData, ..group() };
    let backend = backend_with(&script, Ok(PAYLOAD), group);
    backend.delete(&vm("workers-0a1b2c3d-9", None)).await.unwrap();
    script.then(plans());
    script.then([(CREATE, accepted())]);
    backend.create(&request("small")).await.unwrap();
    script.then([(PENDING, rows(&[json!({"data": {"hostname": HOSTNAME}})])), (LIST, none())]);
    assert_unavailable(backend.delete(&vm(HOSTNAME, None)).await, FailureReason::ApiUnavailable);
    script.seen();
}
