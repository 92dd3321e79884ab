//! Several datacenters, and the faults of one of them.

use super::control::control;
use super::*;

async fn create_at(sim: &Simulator, datacenter: &str, hostname: &str) -> Reply {
    let number = if datacenter == "ams1" { 1 } else { 2 };
    let fields = json!({
        "dcIdentifier": datacenter,
        "resourceIdentifier": plan(sim, number, "s-1vcpu-2gb"),
    });
    create_vm(sim, hostname, fields).await
}

async fn set_faults(sim: &Simulator, faults: Value) {
    let reply = control(sim, "PUT", "/datacenters/hel1", faults).await;
    assert_eq!(reply.body, json!({ "done": true }));
}

async fn hostnames(sim: &Simulator, path: &str) -> Vec<String> {
    let list = get(sim, path).await;
    let rows = list["data"].as_array().unwrap();
    let hostname = |row: &Value| row.get("hostname").or(row.pointer("/data/hostname")).unwrap().clone();
    rows.iter().map(|row| hostname(row).as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_plan_belongs_to_its_datacenter() {
    let sim = simulator(two_datacenters());
    assert_eq!(create_at(&sim, "hel1", "a").await.status, 200);
    let foreign = json!({ "dcIdentifier": "hel1", "resourceIdentifier": plan(&sim, 1, "s-1vcpu-2gb") });
    let refused = create_vm(&sim, "b", foreign).await;
    assert_eq!(refused.body["message"], "Please select the right package for this OS");
    pass(2).await;
    let row = get(&sim, "/vm").await["data"][0].clone();
    assert_eq!((&row["dcIdentifier"], &row["datacenter_id"]), (&json!("hel1"), &json!(2)));
}

#[tokio::test(start_paused = true)]
async fn an_operating_system_belongs_to_its_datacenter() {
    let mut config = two_datacenters();
    config.datacenters[1].images = Some(vec!["debian".to_owned()]);
    let sim = simulator(config);
    assert_eq!(create_at(&sim, "ams1", "a").await.status, 200);
    assert_eq!(create_at(&sim, "hel1", "b").await.status, 400);
    let category = get(&sim, "/plans/category").await["data"][0]["identifier"].clone();
    let plans = async |os: &str| {
        let body = json!({ "dcIdentifier": "hel1", "osIdentifier": os, "planCatIdentifier": category });
        let plans = send(&sim, "POST", "/resources", Some(body)).await.body;
        plans["data"].as_array().unwrap().len()
    };
    assert_eq!((plans("debian").await, plans("ubuntu").await), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn creations_are_refused_in_one_datacenter() {
    let sim = simulator(two_datacenters());
    set_faults(&sim, json!({ "creations": "refused" })).await;
    let refused = create_at(&sim, "hel1", "a").await;
    assert_eq!(refused.body["message"], "The selected size is out of stock in this datacenter");
    assert_eq!(create_at(&sim, "ams1", "b").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn lost_creations_are_accepted_without_a_vm() {
    let sim = simulator(two_datacenters());
    set_faults(&sim, json!({ "creations": "lost" })).await;
    assert_eq!(create_at(&sim, "hel1", "a").await.status, 200);
    set_faults(&sim, json!({})).await;
    pass(3600).await;
    assert_eq!(hostnames(&sim, "/vm").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn withheld_vms_are_listed_after_the_fault() {
    for (creations, pending) in [("hidden", 0), ("pending", 1)] {
        let sim = simulator(two_datacenters());
        set_faults(&sim, json!({ "creations": creations })).await;
        create_at(&sim, "hel1", "a").await;
        pass(3600).await;
        assert_eq!(hostnames(&sim, "/vm/pending").await.len(), pending, "{creations}");
        assert_eq!(hostnames(&sim, "/vm").await, [""; 0]);
        set_faults(&sim, json!({})).await;
        pass(2).await;
        assert_eq!(hostnames(&sim, "/vm").await, ["a"]);
        pass(28).await;
        assert_eq!(get(&sim, "/vm").await["data"][0]["power"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn rows_of_one_datacenter_are_missing() {
    let sim = simulator(two_datacenters());
    create_at(&sim, "hel1", "a").await;
    create_at(&sim, "ams1", "b").await;
    pass(60).await;
    set_faults(&sim, json!({ "missingRows": 1.0 })).await;
    assert_eq!(hostnames(&sim, "/vm").await, ["b"]);
    assert!(!hostnames(&sim, "/storages/vms").await.contains(&"a".to_owned()));
    set_faults(&sim, json!({})).await;
    assert_eq!(hostnames(&sim, "/vm").await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_datacenter_is_listed_as_inactive() {
    let sim = simulator(two_datacenters());
    set_faults(&sim, json!({ "inactive": true })).await;
    let rows = get(&sim, "/datacenter").await["data"].clone();
    assert_eq!((&rows[0]["is_active"], &rows[1]["is_active"]), (&json!(1), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn requests_to_a_slow_datacenter_are_late() {
    let sim = simulator(two_datacenters());
    set_faults(&sim, json!({ "slow": "20s" })).await;
    let time = async |datacenter: &str| {
        let before = tokio::time::Instant::now();
        create_at(&sim, datacenter, "a").await;
        before.elapsed().as_secs()
    };
    assert_eq!((time("hel1").await, time("ams1").await), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn an_outage_refuses_requests_for_the_datacenter_and_its_vms() {
    let sim = simulator(two_datacenters());
    create_at(&sim, "hel1", "a").await;
    pass(60).await;
    let uuid = sim.vms().pop().unwrap().vm.uuid;
    set_faults(&sim, json!({ "outage": true })).await;
    assert_eq!(create_at(&sim, "hel1", "b").await.status, 503);
    let delete = json!({ "vmIdentifier": uuid });
    assert_eq!(send(&sim, "DELETE", "/vm", Some(delete)).await.status, 503);
    assert_eq!(send(&sim, "GET", &format!("/vm/{uuid}"), None).await.status, 503);
    assert_eq!(create_at(&sim, "ams1", "c").await.status, 200);
    assert_eq!(hostnames(&sim, "/vm").await, ["a"]);
    let reachable = |vms: Vec<VmView>| vms.into_iter().map(|vm| vm.reachable).collect::<Vec<_>>();
    assert_eq!(reachable(sim.vms()), [true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn faults_are_in_the_configuration_and_the_overview() {
    let mut config = two_datacenters();
    config.datacenters[1].faults =
        DatacenterFaults { creations: Creations::Lost, ..DatacenterFaults::default() };
    let sim = simulator(config);
    let state = control(&sim, "GET", "/state", Value::Null).await.body;
    assert_eq!(state["datacenters"]["hel1"]["creations"], "lost");
    let unknown = control(&sim, "PUT", "/datacenters/none", json!({})).await;
    assert_eq!(unknown.status, 404);
    let mut wrong = steady();
    wrong.datacenters[0].faults.missing_rows = 2.0;
    let error = wrong.validate().unwrap_err().to_string();
    assert_eq!(error, "datacenters.faults.missingRows: must be 0 to 1, is 2");
}

#[tokio::test(start_paused = true)]
async fn managed_workers_have_the_faults_of_their_datacenter() {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    let lost = DatacenterFaults { creations: Creations::Lost, ..DatacenterFaults::default() };
    sim.set_datacenter_faults("ams1", lost).unwrap();
    assert_eq!(add_worker(&sim, group).await.status, 200);
    assert_eq!(sim.worker_count(), 0);
    let refused = DatacenterFaults { creations: Creations::Refused, ..DatacenterFaults::default() };
    sim.set_datacenter_faults("ams1", refused).unwrap();
    assert_eq!(add_worker(&sim, group).await.status, 400);
}
