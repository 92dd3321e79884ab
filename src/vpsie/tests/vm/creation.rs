use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::fleet::{FailureReason, VmId};
use crate::retry_after::RetryAfter;
use crate::vpsie::tests::managed::{assert_refused, assert_unavailable};
use crate::vpsie::tests::script::{refuse, reply, slow_down};
use crate::vpsie::{self, Backend, BackendError, DeletionKey, Scripts as _};

fn script_row(id: &str, name: &str) -> Value {
    json!({"identifier": id, "script_name": name, "script": PAYLOAD, "type": "bash"})
}

fn own_script() -> ScriptedReply {
    rows(&[script_row("s-9", "other.sh"), script_row("s-1", &format!("{SCRIPT}.sh"))])
}

/// Names of the added scripts.
fn added_names(script: &Script) -> Vec<String> {
    let added = script.seen().into_iter().filter(|seen| seen.body.contains("scriptContent"));
    added.map(|seen| seen.json()["name"].as_str().unwrap().to_owned()).collect()
}

/// Replies up to the request for the VM.
fn prepared() -> Script {
    let script = Script::new(plans());
    script.then([(ADD_SCRIPT, accepted()), (SCRIPTS, own_script())]);
    script
}

fn user_data() -> VmGroup {
    VmGroup { delivery: Delivery::UserData, ..group() }
}

/// The body of a request for a VM without its random part.
fn vm_body(script: &Script) -> Value {
    let mut body = script.seen().last().unwrap().json();
    let process = body.as_object_mut().unwrap().remove("processId").unwrap();
    assert!(Uuid::try_parse(process.as_str().unwrap()).is_ok(), "{process}");
    body
}

#[tokio::test(start_paused = true)]
async fn adds_the_script_and_requests_the_vm() {
    let script = prepared();
    script.then([(CREATE, accepted())]);
    assert_eq!(backend(&script).create(&request("small")).await.unwrap(), None);
    let name = added_names(&script).remove(0);
    assert!(name.starts_with("workers-0a1b2c3d-1.41ca27bd-"), "{name}");
    assert_eq!(
        script.seen()[2].json(),
        json!({"name": name, "scriptContent": PAYLOAD, "scriptType": "bash", "tags": []})
    );
    assert_eq!(
        vm_body(&script),
        json!({
            "resourceIdentifier": "map-1", "osIdentifier": "os-1", "dcIdentifier": "dc-1", "hostname": HOSTNAME,
            "notes": marker(), "tags": ["vpsie-autoscaler:0e0e-uid"], "addPublicIpV4": 1, "addPublicIpV6": 0, "addPrivateIp": 1,
            "backupEnabled": 0, "weeklyBackupEnabled": 0, "monthlyBackupEnabled": 0, "isGeneratedPassword": 1,
            "scriptIdentifier": "s-1",
        })
    );
}

#[tokio::test(start_paused = true)]
async fn sends_the_properties_of_the_node_group() {
    let script = Script::new(plans());
    script.then([(CREATE, accepted())]);
    let group = VmGroup {
        project: Some("9d2c-uuid".to_owned()),
        ssh_key: Some("key-1".to_owned()),
        tags: vec!["team-a".to_owned()],
        notes: Some("call 555\nat night".to_owned()),
        ..user_data()
    };
    let backend = backend_with(&script, Ok(PAYLOAD), group).with_deletion_key(DeletionKey::new(b"key"));
    backend.create(&request("small")).await.unwrap();
    let body = vm_body(&script);
    for (field, value) in [
        ("projectId", json!("9d2c-uuid")),
        ("sshKeyIdentifier", json!("key-1")),
        ("tags", json!(["vpsie-autoscaler:0e0e-uid", "team-a"])),
        ("notes", json!(format!("{}\ncall 555\nat night", marker()))),
        ("vmPassword", json!("Vp1-oEh56s3ExbcnYp5D5kcT")),
        ("isGeneratedPassword", json!(0)),
        ("userData", json!(PAYLOAD)),
        ("scriptIdentifier", Value::Null),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
}

#[tokio::test(start_paused = true)]
async fn sends_a_numeric_project_as_a_number() {
    let script = Script::new(plans());
    script.then([(CREATE, accepted())]);
    let group = VmGroup { project: Some("71128".to_owned()), ..user_data() };
    backend_with(&script, Ok(PAYLOAD), group).create(&request("small")).await.unwrap();
    assert_eq!(vm_body(&script)["projectId"], json!(71128));
}

#[tokio::test(start_paused = true)]
async fn a_reply_with_a_uuid_identifies_the_vm() {
    let create = async |reply| {
        let script = Script::new(plans());
        script.then([(CREATE, reply)]);
        backend_with(&script, Ok(PAYLOAD), user_data()).create(&request("small")).await
    };
    let id = |vm: Option<Vm>| vm.and_then(|vm| vm.id).map(|id: VmId| id.to_string());
    let same = json!({"identifier": "u-1", "hostname": "Workers-0A1b2c3d-1"});
    assert_eq!(id(create(ok(&same)).await.unwrap()).as_deref(), Some("u-1"));
    assert_eq!(create(ok(&json!({"hostname": HOSTNAME, "id": 7}))).await.unwrap(), None);
    assert_eq!(create(ok(&json!({"identifier": "u-1"}))).await.unwrap(), None);
    let other = create(ok(&json!({"identifier": "u-1", "hostname": "web"}))).await;
    assert!(matches!(other, Err(BackendError::Unclear { .. })), "{other:?}");
    let neither = create(ok(&json!(false))).await;
    assert!(matches!(neither, Err(BackendError::Unclear { .. })), "{neither:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_report_their_exact_outcome() {
    let create = async |reply| {
        let script = Script::new(plans());
        script.then([(CREATE, reply)]);
        let result = backend_with(&script, Ok(PAYLOAD), user_data()).create(&request("small")).await;
        script.seen();
        result
    };
    for reply in [ScriptedReply::Lost, ScriptedReply::Silence, reply(500, "{}"), reply(502, "<html>")] {
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
    assert_refused(create(refuse("The plan is out of stock")).await, FailureReason::Stockout);
    assert_refused(create(refuse("quota exceeded")).await, FailureReason::QuotaExceeded);
    assert_refused(create(refuse("The moon is full")).await, FailureReason::Refused);
    let wrong_plan = create(refuse("Please select the right package for this OS")).await;
    assert_refused(wrong_plan, FailureReason::InvalidConfiguration);
}

#[tokio::test(start_paused = true)]
async fn reads_plans_again_after_a_wrong_package() {
    let script = Script::new(plans());
    script.then([(CREATE, refuse("Please select the right package for this OS"))]);
    let backend = backend_with(&script, Ok(PAYLOAD), user_data());
    backend.create(&request("small")).await.unwrap_err();
    script.then([(CATEGORIES, categories()), (PLANS, rows(&[plan("map-2", "small")])), (CREATE, accepted())]);
    backend.create(&request("small")).await.unwrap();
    assert_eq!(vm_body(&script)["resourceIdentifier"], "map-2");
}

#[tokio::test(start_paused = true)]
async fn a_script_is_deleted_if_no_vm_was_requested() {
    for reply in [refuse("quota exceeded"), slow_down(7), ScriptedReply::NotSent] {
        let script = prepared();
        script.then([(CREATE, reply), (DELETE_SCRIPT, accepted())]);
        assert!(backend(&script).create(&request("small")).await.is_err());
        assert_eq!(script.seen().last().unwrap().json(), json!({"scriptIdentifier": "s-1"}));
    }
    let script = prepared();
    script.then([(CREATE, refuse("quota exceeded")), (DELETE_SCRIPT, reply(403, "{}"))]);
    assert_refused(backend(&script).create(&request("small")).await, FailureReason::QuotaExceeded);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_script_is_kept_if_the_outcome_is_unclear() {
    let script = prepared();
    script.then([(CREATE, ScriptedReply::Lost)]);
    let result = backend(&script).create(&request("small")).await;
    assert!(matches!(result, Err(BackendError::Unclear { .. })), "{result:?}");
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_script_whose_addition_was_lost_is_found_by_the_list() {
    let script = Script::new(plans());
    script.then([(ADD_SCRIPT, ScriptedReply::Lost), (SCRIPTS, own_script()), (CREATE, accepted())]);
    backend(&script).create(&request("small")).await.unwrap();
    assert_eq!(vm_body(&script)["scriptIdentifier"], "s-1");
}

#[tokio::test(start_paused = true)]
async fn requests_no_vm_without_its_script() {
    let script = Script::new(plans());
    script.then([(ADD_SCRIPT, accepted())]);
    script.then(std::iter::repeat_n((SCRIPTS, none()), 3));
    assert_unavailable(backend(&script).create(&request("small")).await, FailureReason::ApiUnavailable);
    script.seen();

    let script = Script::new(plans());
    script.then([(ADD_SCRIPT, refuse("limit reached"))]);
    assert_refused(backend(&script).create(&request("small")).await, FailureReason::QuotaExceeded);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn an_earlier_script_of_the_hostname_is_not_used() {
    let script = Script::new(plans());
    let backend = backend(&script);
    for _ in 0..2 {
        let both =
            rows(&[script_row("s-0", "workers-0a1b2c3d-1.41ca27bd-0a1b2c.sh"), script_row("s-1", SCRIPT)]);
        script.then([(ADD_SCRIPT, accepted()), (SCRIPTS, both), (CREATE, accepted())]);
        backend.create(&request("small")).await.unwrap();
        assert_eq!(vm_body(&script)["scriptIdentifier"], "s-1");
    }
    let names = added_names(&script);
    assert_ne!(names[0], names[1]);
}

#[tokio::test(start_paused = true)]
async fn several_scripts_of_a_name_are_all_deleted() {
    let script = Script::new(plans());
    let two = rows(&[script_row("s-1", &format!("{SCRIPT}.sh")), script_row("s-2", SCRIPT)]);
    script.then([
        (ADD_SCRIPT, accepted()),
        (SCRIPTS, two),
        (DELETE_SCRIPT, accepted()),
        (DELETE_SCRIPT, refuse("Script not found")),
    ]);
    assert_unavailable(backend(&script).create(&request("small")).await, FailureReason::ApiUnavailable);
    let deleted: Vec<Value> =
        script.seen()[4..].iter().map(|seen| seen.json()["scriptIdentifier"].clone()).collect();
    assert_eq!(deleted, ["s-1", "s-2"]);
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_share_listings_of_scripts() {
    let script = Script::new(plans());
    let backend = backend(&script);
    backend.catalog().await.unwrap();
    let hostnames: Vec<String> = (1..=3).map(|n| format!("workers-0a1b2c3d-{n}")).collect();
    let scripts: Vec<Value> =
        hostnames.iter().map(|name| script_row(name, &format!("{name}.41ca27bd-random"))).collect();
    script.then(std::iter::repeat_n((ADD_SCRIPT, accepted()), 3));
    // The first listing began before the other scripts were added.
    script.then([(SCRIPTS, rows(&scripts[..1])), (CREATE, accepted())]);
    script.then([(SCRIPTS, rows(&scripts)), (CREATE, accepted()), (CREATE, accepted())]);
    let requests: Vec<CreateRequest> = hostnames
        .iter()
        .map(|name| CreateRequest { hostname: Some(Hostname::new(name)), ..request("small") })
        .collect();
    let results = futures::future::join_all(requests.iter().map(|request| backend.create(request))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(script.seen().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn refuses_a_payload_that_cannot_run() {
    let big: &'static str = format!("#!/bin/bash\n{}", "x".repeat(16 * 1024)).leak();
    for (payload, word) in [("#cloud-config\n", "#!"), (big, "16384")] {
        let script = Script::new(plans());
        let result = backend_with(&script, Ok(payload), group()).create(&request("small")).await;
        assert!(result.clone().unwrap_err().to_string().contains(word), "{result:?}");
        assert_refused(result, FailureReason::InvalidConfiguration);
        script.seen();
    }
    let script = Script::new(plans());
    script.then([(CREATE, accepted())]);
    backend_with(&script, Ok("#cloud-config\n"), user_data()).create(&request("small")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_cannot_be_made_requests_no_vm() {
    let create = async |error| {
        let script = Script::new(plans());
        let result = backend_with(&script, Err(error), group()).create(&request("small")).await;
        script.seen();
        result
    };
    assert_refused(create(PayloadError::Invalid("x".into())).await, FailureReason::InvalidConfiguration);
    assert_unavailable(create(PayloadError::Unavailable("x".into())).await, FailureReason::ApiUnavailable);
}

#[tokio::test(start_paused = true)]
async fn refuses_what_the_settings_exclude() {
    let long = format!("{}-0a1b2c3d-1", "w".repeat(60));
    let other_pool = PoolId { node_group: "others".into(), ..pool() };
    let class = |datacenter: &str, capacity_type| MachineClass {
        datacenter: datacenter.into(),
        capacity_type,
        ..request("small").class
    };
    for (refused, word) in [
        (CreateRequest { hostname: None, ..request("small") }, "no hostname"),
        (CreateRequest { hostname: Some(Hostname::new(&long)), ..request("small") }, "at most 63"),
        (CreateRequest { hostname: Some(Hostname::new("a.b")), ..request("small") }, "at most 63"),
        (CreateRequest { pool: other_pool, ..request("small") }, "others"),
        (CreateRequest { class: class("dc-2", CapacityType::OnDemand), ..request("small") }, "dc-2"),
        (CreateRequest { class: class("dc-1", CapacityType::Spot), ..request("small") }, "spot"),
    ] {
        let script = Script::default();
        let result = backend(&script).create(&refused).await;
        assert!(result.clone().unwrap_err().to_string().contains(word), "{result:?}");
        assert_refused(result, FailureReason::InvalidConfiguration);
        script.seen();
    }
    let script = Script::new(plans());
    let result = backend(&script).create(&request("huge")).await;
    assert!(result.clone().unwrap_err().to_string().contains("no plan huge"), "{result:?}");
    assert_refused(result, FailureReason::InvalidConfiguration);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn the_clean_up_lists_and_deletes_scripts_of_the_cluster() {
    let of_other = script_row("s-2", "workers-0a1b2c3d-2.another0-0a1b2c.sh");
    let script = Script::new([
        (SCRIPTS, rows(&[of_other, script_row("s-1", &format!("{SCRIPT}.sh")), script_row("s-3", HOSTNAME)])),
        (DELETE_SCRIPT, refuse("Script not found")),
    ]);
    let backend = backend(&script);
    let scripts = backend.list_scripts().await.unwrap();
    let own = vpsie::Script { id: "s-1".to_owned(), hostname: Hostname::new(HOSTNAME) };
    assert_eq!(scripts, std::slice::from_ref(&own));
    backend.delete_script(&own).await.unwrap();
    script.then([(DELETE_SCRIPT, reply(403, "{}"))]);
    assert_unavailable(backend.delete_script(&own).await, FailureReason::Authentication);
    script.seen();
}
