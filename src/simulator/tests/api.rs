use super::*;

fn names(body: &Value, pointer: &str, field: &str) -> Vec<String> {
    let rows = body.pointer(pointer).and_then(Value::as_array).unwrap();
    rows.iter().map(|row| row[field].as_str().unwrap().to_owned()).collect()
}

async fn login(sim: &Simulator, secret: &str) -> Reply {
    let body = json!({ "clientId": DEFAULT_CLIENT_ID, "clientSecret": secret });
    let mut request = request("POST", "/auth/from/api", Some(&body));
    request.headers_mut().remove("Vpsie-Auth");
    try_send(sim, request).await.unwrap()
}

async fn status_with(sim: &Simulator, header: &str, value: &str) -> StatusCode {
    let mut request = request("GET", "/k8s/cluster/all", None);
    request.headers_mut().remove("Vpsie-Auth");
    request.headers_mut().insert(header.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    try_send(sim, request).await.unwrap().status
}

#[tokio::test(start_paused = true)]
async fn a_login_returns_a_token_that_expires() {
    let sim = simulator(steady());
    let reply = login(&sim, DEFAULT_CLIENT_SECRET).await;
    let token = reply.body["token"]["access"]["token"].as_str().unwrap();
    assert_eq!(reply.body["token"]["access"]["expires"], "2026-03-01T13:00:00Z");
    assert_eq!(status_with(&sim, "Authorization", &format!("Bearer {token}")).await, 200);
    assert_eq!(status_with(&sim, "Vpsie-Auth", token).await, 200);
    pass(3600).await;
    assert_eq!(status_with(&sim, "Vpsie-Auth", token).await, 401);
}

#[tokio::test(start_paused = true)]
async fn requests_without_valid_credentials_are_refused() {
    let sim = simulator(steady());
    assert_eq!(login(&sim, "wrong").await.status, 401);
    assert_eq!(status_with(&sim, "Vpsie-Auth", "wrong").await, 401);
    let mut bare = request("GET", "/k8s/cluster/all", None);
    bare.headers_mut().remove("Vpsie-Auth");
    let reply = try_send(&sim, bare).await.unwrap();
    assert_eq!(reply.body, json!({ "error": true, "code": 401, "message": "Please authenticate" }));
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_listed_and_then_up() {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    assert_eq!(add_worker(&sim, group).await.body, json!({ "error": false, "data": true }));

    let before = get(&sim, &cluster_path("")).await;
    assert_eq!(names(&before, "/data/nodes", "hostname"), ["AMS-Kubernetes-49ab-master-main"]);
    assert_eq!(workers(&sim)[0].phase, Phase::Pending);

    pass(2).await;
    let listed = get(&sim, &cluster_path("")).await;
    let hostname = workers(&sim)[0].vm.hostname.clone();
    assert_eq!(names(&listed, "/data/nodes", "hostname")[1], hostname);
    assert!(hostname.starts_with("AMS-Kubernetes-49ab-slave-"), "{hostname}");
    assert_eq!(workers(&sim)[0].phase, Phase::Provisioning);
    let groups = get(&sim, &format!("/k8s/node/groups/byClusterId/{DEFAULT_CLUSTER}")).await;
    assert_eq!(groups["data"][0]["nodes_count"], 1);

    pass(28).await;
    assert_eq!(workers(&sim)[0].phase, Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_ends_the_given_worker() {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    for _ in 0..3 {
        add_worker(&sim, group).await;
    }
    pass(60).await;
    let victim = workers(&sim)[1].vm.uuid.clone();
    let body = json!({ "identifier": victim });
    let reply = send(&sim, "DELETE", &cluster_path("/delete/slave"), Some(body.clone())).await;
    assert_eq!(reply.body, json!({ "error": false }));
    assert_eq!(workers(&sim)[1].phase, Phase::Deleting);
    pass(5).await;
    assert!(workers(&sim).iter().all(|vm| vm.vm.uuid != victim));
    assert_eq!(workers(&sim).len(), 2);
    assert_eq!(sim.gone()[0].vm.end.unwrap().by, EndedBy::Deletion);
    let again = send(&sim, "DELETE", &cluster_path("/delete/slave"), Some(body)).await;
    assert_eq!(again.status, 404);
}

#[tokio::test(start_paused = true)]
async fn workers_of_other_clusters_cannot_be_deleted() {
    let sim = simulator(steady());
    let master = sim.vms()[0].vm.uuid.clone();
    let body = Some(json!({ "identifier": master }));
    assert_eq!(send(&sim, "DELETE", &cluster_path("/delete/slave"), body.clone()).await.status, 400);
    let other = "/k8s/cluster/byId/00000000-0000-11ef-8000-000000000000/delete/slave";
    assert_eq!(send(&sim, "DELETE", other, body).await.status, 404);
    assert_eq!(sim.vms()[0].phase, Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_has_one_group_per_size() {
    let sim = simulator(steady());
    add_group(&sim, "one", 2).await;
    let body = json!({ "clusterIdentifier": DEFAULT_CLUSTER, "groupName": "two", "KubeSizeID": 2 });
    let reply = send(&sim, "POST", "/k8s/cluster/add/group", Some(body)).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.body["message"], "Group two has same selected Size, please select another size");
}

#[tokio::test(start_paused = true)]
async fn reduce_deletes_a_worker_of_the_group() {
    let sim = simulator(steady());
    let small = add_group(&sim, "small", 1).await;
    let large = add_group(&sim, "large", 3).await;
    add_worker(&sim, small).await;
    add_worker(&sim, large).await;
    send(&sim, "DELETE", &cluster_path("/reduce/slave"), Some(json!({ "groupId": large }))).await;
    pass(5).await;
    assert_eq!(workers(&sim).iter().map(|vm| vm.vm.group).collect::<Vec<_>>(), [Some(small)]);
    assert_eq!(sim.gone()[0].vm.end.unwrap().by, EndedBy::Reduction);
}

#[tokio::test(start_paused = true)]
async fn the_deletion_of_a_group_deletes_its_workers() {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    add_worker(&sim, group).await;
    let path = format!("/k8s/cluster/delete/group/{}", sim.groups()[0].identifier);
    let body = json!({ "deleteStatistic": { "reason": "test", "note": "" } });
    assert_eq!(send(&sim, "DELETE", &path, Some(body)).await.status, 200);
    pass(5).await;
    assert_eq!((sim.groups().len(), workers(&sim).len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_quota_counts_workers_that_are_being_deleted() {
    let sim = simulator(SimulatorConfig { worker_quota: Some(1), ..steady() });
    let group = add_group(&sim, "workers", 2).await;
    assert_eq!(add_worker(&sim, group).await.status, 200);
    let refused = add_worker(&sim, group).await;
    assert_eq!(refused.body["message"], "Worker nodes count exceeds the allowed limit");
    sim.delete_vm(&workers(&sim)[0].vm.uuid).unwrap();
    assert_eq!(add_worker(&sim, group).await.status, 400);
    pass(5).await;
    assert_eq!(add_worker(&sim, group).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_shortage_is_refused_or_silent() {
    let capacity =
        vec![CapacityConfig { datacenter: None, offer: "s-4vcpu-8gb".into(), capacity_type: None, limit: 1 }];
    for (shortage, status) in [(Shortage::Refused, 400), (Shortage::Silent, 200)] {
        let sim = simulator(SimulatorConfig { capacity: capacity.clone(), shortage, ..steady() });
        let group = add_group(&sim, "workers", 3).await;
        assert_eq!(add_worker(&sim, group).await.status, 200);
        assert_eq!(add_worker(&sim, group).await.status, status, "{shortage:?}");
        pass(3600).await;
        assert_eq!(workers(&sim).len(), 1, "{shortage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_may_never_come_up() {
    let sim = simulator(SimulatorConfig { boot_failure: 1.0, ..steady() });
    let group = add_group(&sim, "workers", 2).await;
    add_worker(&sim, group).await;
    pass(7200).await;
    assert_eq!(workers(&sim)[0].phase, Phase::Provisioning);
}

#[tokio::test(start_paused = true)]
async fn only_the_storage_list_has_uuids_of_nodes() {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    add_worker(&sim, group).await;
    pass(2).await;
    let list = get(&sim, "/storages/vms").await;
    let vm = &workers(&sim)[0].vm;
    assert_eq!(list["data"][1]["hostname"], vm.hostname);
    assert_eq!(list["data"][1]["identifier"], vm.uuid);
    assert_eq!(list["data"][1]["type"], "k8s");
    assert_eq!(get(&sim, "/vm").await["data"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn offers_have_monthly_and_hourly_prices() {
    let sim = simulator(steady());
    let offers =
        send(&sim, "POST", "/k8s/offers", Some(json!({ "dcIdentifier": DEFAULT_DATACENTER }))).await.body;
    let expected = json!({
        "id": 2, "name": "s-2vcpu-4gb", "cpu": 2, "ram": 4096, "disk": 80, "price": 24.0, "hourly_price": 0.03333,
    });
    assert_eq!(offers["data"][1], expected);
    assert_eq!(offers["data"].as_array().unwrap().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn plans_are_listed_by_category_for_a_form() {
    let sim = simulator(steady());
    let categories = get(&sim, "/plans/category").await;
    assert_eq!(names(&categories, "/data", "name"), ["A", "C", "M"]);
    let category = categories["data"][1]["identifier"].as_str().unwrap();
    let form = format!("dcIdentifier=ams1&osIdentifier=x&planCatIdentifier={category}&isCustom=0");
    let mut request = request("POST", "/resources", None).map(|_| Bytes::from(form));
    let content_type = "application/x-www-form-urlencoded".parse().unwrap();
    request.headers_mut().insert("Content-Type", content_type);
    let plans = try_send(&sim, request).await.unwrap().body;
    assert_eq!(names(&plans, "/data", "nickname"), ["c-2vcpu-4gb", "c-4vcpu-8gb", "c-8vcpu-16gb"]);
}

#[tokio::test(start_paused = true)]
async fn a_plain_vm_is_pending_then_listed_then_deleted() {
    let sim = simulator(steady());
    let plan = super::super::routes::mapping_identifier(1, &sim.world(|w| w.config.offers[0].clone()));
    let body =
        json!({ "resourceIdentifier": plan, "osIdentifier": "x", "dcIdentifier": "ams1", "hostname": "web" });
    assert_eq!(send(&sim, "POST", "/vm", Some(body.clone())).await.body, json!({"error":false,"data":true}));
    assert_eq!(get(&sim, "/vm/pending").await["data"][0]["data"]["hostname"], "web");
    pass(2).await;
    assert_eq!(get(&sim, "/vm/pending").await["data"], json!([]));
    let listed = get(&sim, "/vm").await["data"][0].clone();
    assert_eq!((&listed["hostname"], &listed["power"]), (&json!("web"), &json!(0)));
    pass(28).await;
    let uuid = listed["identifier"].as_str().unwrap();
    assert_eq!(get(&sim, &format!("/vm/{uuid}")).await["data"]["vmData"]["power"], 1);
    send(&sim, "DELETE", "/vm", Some(json!({ "vmIdentifier": uuid }))).await;
    pass(5).await;
    assert_eq!(send(&sim, "GET", &format!("/vm/{uuid}"), None).await.status, 404);

    let wrong =
        json!({ "resourceIdentifier": "1", "osIdentifier": "x", "dcIdentifier": "ams1", "hostname": "w" });
    let refused = send(&sim, "POST", "/vm", Some(wrong)).await;
    assert_eq!(refused.body["message"], "Please select the right package for this OS");
}

#[tokio::test(start_paused = true)]
async fn the_bill_counts_started_hours() {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 3).await;
    add_worker(&sim, group).await;
    pass(5401).await;
    sim.delete_vm(&workers(&sim)[0].vm.uuid).unwrap();
    pass(7200).await;
    let bill = get(&sim, "/billing/estimated/usages").await;
    let row = bill["data"].as_array().unwrap().iter().find(|row| row["end_date"] != Value::Null).unwrap();
    assert_eq!((&row["quantity"], &row["cost_value"]), (&json!(2), &json!("0.13334")));
    // Two hours of 48/720, and four of the control plane's 24/720.
    assert_eq!(sim.spent().to_string(), "0.26666");
}

#[tokio::test(start_paused = true)]
async fn requests_too_many_get_429() {
    let sim = simulator(SimulatorConfig { rate_limit: Some(2), ..steady() });
    let status = async || send(&sim, "GET", "/k8s/cluster/all", None).await.status;
    assert_eq!([status().await, status().await, status().await], [200, 200, 429]);
    pass(30).await;
    assert_eq!([status().await, status().await], [200, 429]);
}

#[tokio::test(start_paused = true)]
async fn invalid_requests_are_refused() {
    let sim = simulator(steady());
    for (method, path, status, message) in [
        ("GET", "/nowhere", 404, "Not found"),
        ("PUT", "/k8s/cluster/all", 404, "Not found"),
        ("POST", "/k8s/offers", 400, "dcIdentifier is required"),
        ("GET", "/k8s/cluster/byId/none", 404, "Not found"),
        ("GET", "/k8s/node/groups/byClusterId/none", 404, "Not found"),
    ] {
        let reply = send(&sim, method, path, None).await;
        assert_eq!((reply.status.as_u16(), &reply.body["message"]), (status, &json!(message)), "{path}");
    }
    let malformed = request("POST", "/k8s/offers", None).map(|_| Bytes::from("{"));
    assert_eq!(try_send(&sim, malformed).await.unwrap().status, 400);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_creates_the_same_vms() {
    let make = async |seed| {
        let sim = simulator(SimulatorConfig { seed, ..SimulatorConfig::default() });
        let group = add_group(&sim, "workers", 2).await;
        add_worker(&sim, group).await;
        sim.vms()
    };
    assert_eq!(make(7).await, make(7).await);
    assert_ne!(make(7).await, make(8).await);
}
