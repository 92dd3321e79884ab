use super::*;

pub(super) async fn control(sim: &Simulator, method: &str, path: &str, body: Value) -> Reply {
    let request = Request::builder()
        .method(method)
        .uri(format!("/_simulator{path}"))
        .header("Content-Type", "application/json")
        .body(Bytes::from(body.to_string()));
    try_send(sim, request.unwrap()).await.unwrap()
}

async fn with_worker() -> (Simulator, VmView) {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    add_worker(&sim, group).await;
    pass(60).await;
    let worker = workers(&sim).remove(0);
    (sim, worker)
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_deleted_outside_the_api() {
    let (sim, worker) = with_worker().await;
    let path = format!("/vms/{}", worker.vm.uuid);
    assert_eq!(control(&sim, "DELETE", &path, Value::Null).await.body, json!({ "done": true }));
    pass(5).await;
    assert_eq!(sim.worker_count(), 0);
    assert_eq!(sim.gone()[0].vm.end.unwrap().by, EndedBy::Outside);
    let again = control(&sim, "DELETE", &path, Value::Null).await;
    assert_eq!(again.status, 404);
}

#[tokio::test(start_paused = true)]
async fn an_interruption_follows_its_notice() {
    let (sim, worker) = with_worker().await;
    let path = format!("/vms/{}/interrupt", worker.vm.uuid);
    control(&sim, "POST", &path, json!({ "notice": "2m" })).await;
    pass(119).await;
    assert_eq!(workers(&sim)[0].phase, Phase::Running);
    pass(1).await;
    assert_eq!(workers(&sim)[0].phase, Phase::Deleting);
    pass(5).await;
    assert_eq!(sim.worker_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_during_the_notice_is_not_delayed() {
    let (sim, worker) = with_worker().await;
    sim.interrupt(&worker.vm.uuid, jiff::SignedDuration::from_mins(2)).unwrap();
    let body = json!({ "identifier": worker.vm.uuid });
    send(&sim, "DELETE", &cluster_path("/delete/slave"), Some(body)).await;
    pass(5).await;
    assert_eq!(sim.gone()[0].vm.end.unwrap().by, EndedBy::Deletion);
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_suspended_and_resumed() {
    let (sim, worker) = with_worker().await;
    control(&sim, "POST", &format!("/vms/{}/suspend", worker.vm.uuid), Value::Null).await;
    assert_eq!(workers(&sim)[0].phase, Phase::Suspended);
    control(&sim, "POST", &format!("/vms/{}/resume", worker.vm.uuid), Value::Null).await;
    assert_eq!(workers(&sim)[0].phase, Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn capacity_quota_prices_and_limits_change() {
    let (sim, worker) = with_worker().await;
    let group = worker.vm.group.unwrap();
    control(&sim, "PUT", "/capacity", json!({ "offer": "s-2vcpu-4gb", "limit": 2 })).await;
    // The control-plane node has the same size.
    assert_eq!(add_worker(&sim, group).await.status, 400);
    control(&sim, "PUT", "/capacity", json!({ "offer": "s-2vcpu-4gb", "limit": null })).await;
    assert_eq!(add_worker(&sim, group).await.status, 200);
    control(&sim, "PUT", "/quota", json!({ "workers": 2 })).await;
    assert_eq!(add_worker(&sim, group).await.status, 400);
    control(&sim, "PUT", "/price", json!({ "offer": "s-2vcpu-4gb", "monthly": "36" })).await;
    assert_eq!(workers(&sim)[0].hourly.to_string(), "0.05");
    control(&sim, "PUT", "/rate-limit", json!({ "perMinute": 1 })).await;
    assert_eq!(send(&sim, "GET", "/vm", None).await.status, 200);
    assert_eq!(send(&sim, "GET", "/vm", None).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn faults_are_added_and_removed() {
    let sim = simulator(steady());
    let added = control(&sim, "POST", "/faults", json!({ "rule": "GET **/vm status=503" })).await;
    assert_eq!(added.body, json!({ "id": 1 }));
    assert_eq!(send(&sim, "GET", "/vm", None).await.status, 503);
    let rules = control(&sim, "GET", "/faults", Value::Null).await.body;
    assert_eq!(rules, json!([{ "id": 1, "rule": "GET **/vm status=503", "matched": 1, "applied": 1 }]));
    control(&sim, "DELETE", "/faults/1", Value::Null).await;
    assert_eq!(send(&sim, "GET", "/vm", None).await.status, 200);
    let wrong = control(&sim, "POST", "/faults", json!({ "rule": "GET **" })).await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.body["error"].as_str().unwrap().contains("the effect is missing"));
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_added_outside_the_api() {
    let (sim, worker) = with_worker().await;
    let added = control(&sim, "POST", "/workers", json!({ "cluster": DEFAULT_CLUSTER })).await;
    let vms = sim.vms();
    let foreign = vms.iter().find(|vm| vm.vm.uuid == added.body["uuid"]).unwrap();
    assert_eq!((foreign.vm.kind, foreign.phase), (VmKind::Foreign, Phase::Running));
    assert_eq!(foreign.vm.group, worker.vm.group);
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_by_endpoint() {
    let (sim, _) = with_worker().await;
    sim.add_fault("GET ** status=500".parse().unwrap());
    get(&sim, &cluster_path("")).await;
    let expected = json!({
        "POST /k8s/cluster/add/group": 1,
        "POST /k8s/cluster/byId/*/add/slave/group/*": 1,
        "GET /k8s/cluster/byId/*": 1,
    });
    assert_eq!(control(&sim, "GET", "/calls", Value::Null).await.body, expected);
    assert_eq!(sim.call_count(), 3);
    control(&sim, "DELETE", "/calls", Value::Null).await;
    assert_eq!(sim.call_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_overview_has_no_secrets() {
    let (sim, _) = with_worker().await;
    let state = control(&sim, "GET", "/state", Value::Null).await.body;
    assert_eq!(state["vms"][1]["phase"], "running");
    assert_eq!(state["groups"][0]["name"], "workers");
    assert!(!state.to_string().contains(DEFAULT_TOKEN));
}

#[tokio::test(start_paused = true)]
async fn changes_notify_receivers() {
    let sim = simulator(steady());
    let mut changes = sim.changes();
    get(&sim, "/k8s/cluster/all").await;
    assert!(!changes.has_changed().unwrap());
    add_group(&sim, "workers", 2).await;
    changes.changed().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restored_simulator_draws_the_same_numbers() {
    let (first, worker) = with_worker().await;
    let text = serde_json::to_string(&first.snapshot()).unwrap();
    let clock = Arc::new(TestClock(tokio::time::Instant::now() - Duration::from_mins(1)));
    let second = Simulator::restore(steady(), clock, serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(second.vms(), first.vms());
    for sim in [&first, &second] {
        add_worker(sim, worker.vm.group.unwrap()).await;
    }
    assert_eq!(second.vms(), first.vms());
}

#[tokio::test]
async fn the_state_is_in_the_file_before_the_reply() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    assert!(Snapshot::load(&path).unwrap().is_none());
    let sim = simulator(steady());
    sim.persist_to(path.clone()).await.unwrap();
    let group = add_group(&sim, "workers", 2).await;
    add_worker(&sim, group).await;
    assert_eq!(Snapshot::load(&path).unwrap().unwrap(), sim.snapshot());
}

#[tokio::test]
async fn a_file_of_another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let newer = serde_json::to_string(&simulator(steady()).snapshot()).unwrap();
    let newer = newer.replace("\"format\":1", "\"format\":9");
    for (text, problem) in [("{}", "missing field"), (newer.as_str(), "its format is 9")] {
        std::fs::write(&path, text).unwrap();
        let error = Snapshot::load(&path).unwrap_err().to_string();
        assert!(
            error.contains(problem) && error.contains("move the file away to start without state"),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_is_replaced() {
    let sim = simulator(steady());
    assert_eq!(send(&sim, "GET", "/vm", None).await.status, 200);
    control(&sim, "PUT", "/token", json!({ "token": "new" })).await;
    assert_eq!(send(&sim, "GET", "/vm", None).await.status, 401);
    control(&sim, "PUT", "/token", json!({ "token": DEFAULT_TOKEN })).await;
    assert_eq!(send(&sim, "GET", "/vm", None).await.status, 200);
}
