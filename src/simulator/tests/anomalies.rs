//! Lasting faults.

use super::*;

async fn simulator_with(anomalies: AnomaliesConfig) -> Simulator {
    let sim = simulator(SimulatorConfig { anomalies, ..steady() });
    let group = add_group(&sim, "workers", 2).await;
    assert_eq!(add_worker(&sim, group).await.status, 200);
    sim
}

fn span(text: &str) -> Span {
    text.parse().unwrap()
}

async fn delete(sim: &Simulator) -> StatusCode {
    let body = json!({ "identifier": workers(sim)[0].vm.uuid });
    send(sim, "DELETE", &cluster_path("/delete/slave"), Some(body)).await.status
}

#[tokio::test(start_paused = true)]
async fn forbidden_deletions_leave_the_worker() {
    let sim =
        simulator_with(AnomaliesConfig { deletions_forbidden: true, ..AnomaliesConfig::default() }).await;
    pass(60).await;
    assert_eq!(delete(&sim).await, 403);
    pass(60).await;
    assert_eq!(sim.worker_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_request_creates_two_workers() {
    let sim = simulator_with(AnomaliesConfig { duplicates: 1.0, ..AnomaliesConfig::default() }).await;
    assert_eq!(sim.worker_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_late_worker_is_billed_and_not_listed() {
    let sim =
        simulator_with(AnomaliesConfig { late: 1.0, late_by: span("2h"), ..AnomaliesConfig::default() })
            .await;
    pass(7190).await;
    assert_eq!(workers(&sim)[0].phase, Phase::Pending);
    pass(60).await;
    assert_eq!(workers(&sim)[0].phase, Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_worker_returns() {
    let returns = AnomaliesConfig { returns: 1.0, returns_after: span("10m"), ..AnomaliesConfig::default() };
    let sim = simulator_with(returns).await;
    pass(60).await;
    assert_eq!(delete(&sim).await, 200);
    pass(10).await;
    assert_eq!(sim.worker_count(), 0);
    pass(600).await;
    assert_eq!(workers(&sim)[0].phase, Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn rows_hide_the_role_in_every_shape() {
    for shape in ["nodes=plain", "nodes=rich", "nodes=masters-slaves", "nodes=flags"] {
        let anomalies = AnomaliesConfig { unknown_roles: 1.0, ..AnomaliesConfig::default() };
        let sim = simulator(SimulatorConfig { anomalies, ..shaped(shape) });
        let group = add_group(&sim, "workers", 2).await;
        add_worker(&sim, group).await;
        pass(60).await;
        let cluster = get(&sim, &cluster_path("")).await;
        let name = workers(&sim)[0].vm.hostname.clone();
        let rows = cluster["data"]["nodes"].as_array().unwrap();
        let row = rows.iter().find(|row| row["hostname"] == name.as_str()).unwrap();
        assert!(!name.contains("slave") && row["role"].is_null(), "{shape}: {row}");
        assert!(row["node_type"].is_null() || row["node_type"] == 9, "{shape}: {row}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_namesake_is_listed_before_the_worker() {
    let anomalies =
        AnomaliesConfig { namesakes: 1.0, uuid_listed_after: span("1m"), ..AnomaliesConfig::default() };
    let sim = simulator_with(anomalies).await;
    let worker = workers(&sim).remove(0).vm;
    let listed = async |kind: &str| {
        let list = get(&sim, "/storages/vms").await;
        let rows = list["data"].as_array().unwrap();
        rows.iter().any(|row| row["hostname"] == worker.hostname.as_str() && row["type"] == kind)
    };
    pass(30).await;
    assert!(listed("vm").await && !listed("k8s").await);
    pass(60).await;
    assert!(listed("vm").await && listed("k8s").await);
}
