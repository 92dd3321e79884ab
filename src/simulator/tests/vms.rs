//! VMs outside managed clusters: requests, lists, deletions, actions.

use super::*;

async fn add_script(sim: &Simulator, name: &str) -> String {
    let body =
        json!({ "name": name, "scriptContent": "#!/bin/sh\ntrue\n", "scriptType": "bash", "tags": [] });
    let reply = send(sim, "POST", "/script/add", Some(body)).await;
    assert_eq!(reply.body, json!({ "error": false, "data": true }));
    let scripts = get(sim, "/scripts").await;
    let rows = scripts["data"].as_array().unwrap();
    let row = rows.iter().find(|row| row["script_name"] == format!("{name}.sh")).unwrap();
    assert_eq!(row["script"], "#!/bin/sh\ntrue\n");
    row["identifier"].as_str().unwrap().to_owned()
}

async fn act(sim: &Simulator, action: &str, uuid: &str, fields: Value) -> Reply {
    let mut body = json!({ "vmIdentifier": uuid });
    body.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap_or_default());
    send(sim, "POST", &format!("/vm/{action}"), Some(body)).await
}

#[tokio::test(start_paused = true)]
async fn the_fields_of_a_request_are_echoed() {
    let sim = simulator(steady());
    let script = add_script(&sim, "join").await;
    send(&sim, "POST", "/sshkey/add", Some(json!({ "privateKey": "ssh-ed25519 AAAA", "name": "key" }))).await;
    let key = get(&sim, "/sshkeys").await["data"][0]["identifier"].clone();
    let fields = json!({
        "notes": "owner=c1",
        "tags": ["a", "b"],
        "scriptIdentifier": script,
        "sshKeyIdentifier": key,
        "userData": "#!/bin/sh\n",
        "vmPassword": "secret-1",
        "isGeneratedPassword": false,
        "processId": "p-1",
        "ssd": 70,
        "projectId": 71128,
        "addPublicIpV4": 1,
        "addPrivateIp": "1",
        "backupEnabled": 0,
    });
    create_vm(&sim, "web-1", fields).await;
    let pending = get(&sim, "/vm/pending").await["data"][0]["data"].clone();
    for (field, expected) in [
        ("hostname", json!("web-1")),
        ("osIdentifier", json!("ubuntu")),
        ("notes", json!("owner=c1")),
        ("tags", json!(["a", "b"])),
        ("scriptIdentifier", json!(script)),
        ("sshKeyIdentifier", key.clone()),
        ("userData", json!("#!/bin/sh\n")),
        ("vmPassword", json!("secret-1")),
        ("processId", json!("p-1")),
        ("projectId", json!(71128)),
        ("addPublicIpV4", json!(true)),
        ("addPublicIpV6", json!(false)),
        ("addPrivateIp", json!(true)),
    ] {
        assert_eq!(pending[field], expected, "{field}");
    }
    pass(2).await;
    let row = get(&sim, "/vm").await["data"][0].clone();
    for (field, expected) in [
        ("notes", json!("owner=c1")),
        ("script_id", json!(script)),
        ("sshkey_id", key),
        ("initial_password", json!("secret-1")),
        ("ssd", json!(70)),
        ("project_id", json!(71128)),
        ("is_active", json!(0)),
    ] {
        assert_eq!(row[field], expected, "{field}");
    }
    let one = get(&sim, &format!("/vm/{}", row["identifier"].as_str().unwrap())).await;
    assert_eq!(one["data"]["vmTags"], json!([{ "tag": "a" }, { "tag": "b" }]));
}

#[tokio::test(start_paused = true)]
async fn a_vm_without_a_password_gets_one() {
    let sim = simulator(steady());
    let uuid = running_vm(&sim, "web", json!({})).await;
    let row = get(&sim, "/vm").await["data"][0].clone();
    assert_eq!(row["initial_password"].as_str().unwrap().len(), 16);
    assert_eq!(row["initial_password"], sim.password(&uuid).unwrap().reveal());
}

#[tokio::test(start_paused = true)]
async fn invalid_hostnames_are_refused() {
    let sim = simulator(steady());
    for hostname in ["-web", "web-", "we_b", "web..x", "a b", &"x".repeat(64)] {
        let reply = create_vm(&sim, hostname, json!({})).await;
        assert_eq!(reply.body["message"], "Please enter a valid hostname", "{hostname}");
    }
    assert_eq!(create_vm(&sim, "Web-1.example.com", json!({})).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_hostname_is_accepted_twice_by_default() {
    for (shape, status) in [("same-hostname=accepted", 200), ("same-hostname=refused", 400)] {
        let sim = simulator(shaped(shape));
        create_vm(&sim, "web", json!({})).await;
        assert_eq!(create_vm(&sim, "WEB", json!({})).await.status, status, "{shape}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_reply_to_a_request_has_the_selected_form() {
    for (shape, expected) in [
        ("create-vm=true", json!(true)),
        ("create-vm=object", json!({ "hostname": "web", "status": "pending" })),
    ] {
        assert_eq!(create_vm(&simulator(shaped(shape)), "web", json!({})).await.body["data"], expected);
    }
    let sim = simulator(shaped("create-vm=identified"));
    let reply = create_vm(&sim, "web", json!({})).await;
    let vm = sim.vms().pop().unwrap();
    assert_eq!((&vm.vm.hostname[..], &reply.body["data"]["identifier"]), ("web", &json!(vm.vm.uuid)));
}

#[tokio::test(start_paused = true)]
async fn unknown_scripts_and_keys_are_refused() {
    let sim = simulator(steady());
    let script = create_vm(&sim, "web", json!({ "scriptIdentifier": "none" })).await;
    let key = create_vm(&sim, "web", json!({ "sshKeyIdentifier": "none" })).await;
    assert_eq!((script.status, key.status), (StatusCode::BAD_REQUEST, StatusCode::BAD_REQUEST));
}

#[tokio::test(start_paused = true)]
async fn a_deletion_checks_the_password_by_its_shape() {
    for (shape, password, status) in [
        ("delete-password=ignored", Some("wrong"), 200),
        ("delete-password=ignored", None, 200),
        ("delete-password=checked", Some("wrong"), 400),
        ("delete-password=checked", Some("right"), 200),
        ("delete-password=checked", None, 200),
        ("delete-password=required", None, 400),
        ("delete-password=required", Some("right"), 200),
    ] {
        let sim = simulator(shaped(shape));
        let uuid = running_vm(&sim, "web", json!({ "vmPassword": "right" })).await;
        let reply =
            send(&sim, "DELETE", "/vm", Some(json!({ "vmIdentifier": uuid, "password": password }))).await;
        assert_eq!(reply.status, status, "{shape} {password:?} {}", reply.body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_password_replaces_the_first_one() {
    let sim = simulator(shaped("delete-password=required"));
    let uuid = running_vm(&sim, "web", json!({ "vmPassword": "old" })).await;
    act(&sim, "changepass", &uuid, json!({ "newpassword": "new" })).await;
    let delete = async |password: &str| {
        send(&sim, "DELETE", "/vm", Some(json!({ "vmIdentifier": uuid, "password": password }))).await.status
    };
    assert_eq!(delete("old").await, 400);
    assert_eq!(delete("new").await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_gap_separates_pending_from_listed() {
    let mut config = steady();
    config.times.listed = "10s".parse().unwrap();
    config.times.gap = "4s".parse().unwrap();
    let sim = simulator(config);
    create_vm(&sim, "web", json!({})).await;
    let seen = async || {
        let count = |list: Value| list["data"].as_array().unwrap().len();
        (count(get(&sim, "/vm/pending").await), count(get(&sim, "/vm").await))
    };
    pass(5).await;
    assert_eq!(seen().await, (1, 0));
    pass(2).await;
    assert_eq!(seen().await, (0, 0));
    pass(3).await;
    assert_eq!(seen().await, (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_vm_has_no_power_until_it_starts() {
    let sim = simulator(steady());
    let uuid = running_vm(&sim, "web", json!({})).await;
    let power = async || {
        let row = get(&sim, "/vm").await["data"][0].clone();
        (row["is_active"].clone(), row["power"].clone())
    };
    act(&sim, "stop", &uuid, json!({})).await;
    assert_eq!(power().await, (json!(1), json!(0)));
    assert_eq!(get(&sim, &format!("/vm/status/%20{uuid}")).await["data"]["status"], "stopped");
    act(&sim, "start", &uuid, json!({})).await;
    assert_eq!(power().await, (json!(1), json!(1)));
}

#[tokio::test(start_paused = true)]
async fn a_locked_vm_cannot_be_deleted() {
    let sim = simulator(steady());
    let uuid = running_vm(&sim, "web", json!({})).await;
    act(&sim, "lock", &uuid, json!({})).await;
    assert_eq!(get(&sim, "/vm").await["data"][0]["is_locked"], 1);
    let delete = async || send(&sim, "DELETE", "/vm", Some(json!({ "vmIdentifier": uuid }))).await.status;
    assert_eq!(delete().await, 400);
    let many = json!({ "vmsIdentifiers": [uuid], "actionType": "unlock" });
    send(&sim, "POST", "/vm/actions", Some(many)).await;
    assert_eq!(delete().await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_renamed_and_resized() {
    let sim = simulator(steady());
    let uuid = running_vm(&sim, "web", json!({})).await;
    act(&sim, "changehostname", &uuid, json!({ "hostname": "db" })).await;
    act(&sim, "resize", &uuid, json!({ "cup": "4", "ram": "8192" })).await;
    let row = get(&sim, "/vm").await["data"][0].clone();
    assert_eq!((&row["hostname"], &row["cpu"], &row["boxsize_id"]), (&json!("db"), &json!(4), &json!(3)));
    assert_eq!(act(&sim, "resize", &uuid, json!({ "cup": "3", "ram": "1" })).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_node_of_a_cluster_is_found_by_its_uuid_only() {
    let sim = simulator(steady());
    let master = sim.vms()[0].vm.clone();
    let row = get(&sim, &format!("/vm/{}", master.uuid)).await["data"]["vmData"].clone();
    assert_eq!((&row["hostname"], &row["vmType"]), (&json!(master.hostname), &json!("k8s")));
    assert_eq!(get(&sim, "/vm").await["data"], json!([]));
    assert_eq!(act(&sim, "stop", &master.uuid, json!({})).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn the_vm_quota_is_a_refusal() {
    let sim = simulator(SimulatorConfig { vm_quota: Some(1), ..steady() });
    create_vm(&sim, "one", json!({})).await;
    let refused = create_vm(&sim, "two", json!({})).await;
    assert_eq!(refused.body["message"], "Maximum number of VMs reached, quota exceeded");
}

#[tokio::test(start_paused = true)]
async fn the_control_endpoint_shows_neither_passwords_nor_payloads() {
    let sim = simulator(steady());
    running_vm(&sim, "web", json!({ "vmPassword": "hush-1", "userData": "#!/bin/sh\n# hush-2\n" })).await;
    let state = control::control(&sim, "GET", "/state", Value::Null).await.body.to_string();
    assert!(state.contains("\"web\"") && !state.contains("hush"), "{state}");
    assert!(!format!("{:?}", sim.snapshot()).contains("hush"));
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_vms_and_account_objects() {
    let first = simulator(steady());
    let script = add_script(&first, "join").await;
    running_vm(&first, "web", json!({ "scriptIdentifier": script, "notes": "mine" })).await;
    let text = serde_json::to_string(&first.snapshot()).unwrap();
    let clock = Arc::new(TestClock(tokio::time::Instant::now() - Duration::from_mins(1)));
    let second = Simulator::restore(steady(), clock, serde_json::from_str(&text).unwrap()).unwrap();
    for path in ["/vm", "/scripts"] {
        assert_eq!(get(&second, path).await, get(&first, path).await, "{path}");
    }
}
