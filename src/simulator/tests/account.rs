//! Scripts, SSH keys, networks, projects, tags, images.

use super::*;

async fn post(sim: &Simulator, path: &str, body: Value) -> Reply {
    send(sim, "POST", path, Some(body)).await
}

#[tokio::test(start_paused = true)]
async fn a_script_is_edited_and_deleted() {
    let sim = simulator(shaped("script-name=plain"));
    let new = json!({ "name": "x", "scriptContent": "#!/bin/sh\n", "scriptType": "bash", "tags": [] });
    post(&sim, "/script/add", new).await;
    let id = get(&sim, "/scripts").await["data"][0]["identifier"].clone();
    let edit = json!({ "scriptIdentifier": id, "name": "y", "scriptContent": "#!/bin/bash\n", "scriptType": "bash" });
    send(&sim, "PUT", "/script/edit", Some(edit)).await;
    let path = format!("/script/{}", id.as_str().unwrap());
    let script = get(&sim, &path).await["data"].clone();
    assert_eq!((&script["script_name"], &script["script"]), (&json!("y"), &json!("#!/bin/bash\n")));
    let gone = json!({ "scriptIdentifier": id });
    assert_eq!(send(&sim, "DELETE", "/script", Some(gone.clone())).await.status, 200);
    assert_eq!(send(&sim, "GET", &path, None).await.status, 404);
    assert_eq!(send(&sim, "DELETE", "/script", Some(gone)).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn an_ssh_key_is_listed_and_deleted() {
    let sim = simulator(steady());
    post(&sim, "/sshkey/add", json!({ "privateKey": "ssh-ed25519 AAAA", "name": "k" })).await;
    let key = get(&sim, "/sshkeys").await["data"][0].clone();
    assert_eq!((&key["name"], &key["private_key"]), (&json!("k"), &json!("ssh-ed25519 AAAA")));
    send(&sim, "DELETE", "/sshkey", Some(json!({ "identifier": key["identifier"] }))).await;
    assert_eq!(get(&sim, "/sshkeys").await["data"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn vms_are_listed_by_project() {
    let sim = simulator(steady());
    post(&sim, "/projects/add", json!({ "name": "nodes", "description": "" })).await;
    let projects = get(&sim, "/projects").await["data"].clone();
    assert_eq!((&projects["count"], &projects["rows"][0]["is_default"]), (&json!(2), &json!(0)));
    let (number, uuid) = (projects["rows"][0]["id"].clone(), projects["rows"][0]["identifier"].clone());
    running_vm(&sim, "a", json!({ "projectId": uuid })).await;
    let b = running_vm(&sim, "b", json!({})).await;
    let hostnames = async |project: &Value| {
        let project = project.as_str().map_or(project.to_string(), ToOwned::to_owned);
        let rows = get(&sim, &format!("/vm?projectId={project}")).await["data"].clone();
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["hostname"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(hostnames(&uuid).await, ["a"]);
    assert_eq!(hostnames(&number).await, ["a"]);
    post(&sim, "/projects/vm", json!({ "vmIdentifier": b, "projectId": uuid })).await;
    assert_eq!(hostnames(&uuid).await, ["a", "b"]);
    assert_eq!(get(&sim, "/projects/none").await["data"], false);
    let path = format!("/projects/{}", uuid.as_str().unwrap());
    assert_eq!(send(&sim, "DELETE", &path, None).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_project_in_another_form_may_be_ignored() {
    for (shape, project, expected) in [
        ("vm-project=any", json!("71128"), 200),
        ("vm-project=any", json!("unknown"), 400),
        ("vm-project=number", json!("unknown"), 200),
        ("vm-project=uuid", json!(5), 200),
    ] {
        let sim = simulator(shaped(shape));
        let reply = create_vm(&sim, "a", json!({ "projectId": project })).await;
        assert_eq!(reply.status, expected, "{shape} {project}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_vpc_gives_a_vm_an_address_that_is_released() {
    let sim = simulator(two_datacenters());
    let vm = running_vm(&sim, "a", json!({})).await;
    for datacenter in ["ams1", "hel1"] {
        let new = json!({ "name": datacenter, "dcIdentifier": datacenter, "networkRange": "10.9.0.0",
            "networkSize": "24", "autoGenerate": 0 });
        assert_eq!(post(&sim, "/vpc/add", new).await.status, 200);
    }
    let vpcs = get(&sim, "/vpc").await["data"].clone();
    let (own, other) = (vpcs[0]["id"].clone(), vpcs[1]["id"].clone());
    let assign =
        |vpc: &Value| json!({ "vmIdentifier": vm, "vpcId": vpc.to_string(), "dcIdentifier": "ams1" });
    assert_eq!(post(&sim, "/vm/add/vpc", assign(&other)).await.status, 400);
    assert_eq!(post(&sim, "/vm/add/vpc", assign(&own)).await.status, 200);
    let path = format!("/vpc/vms/{own}");
    assert_eq!(get(&sim, &path).await["data"], json!([]));
    pass(3).await;
    let row = get(&sim, &path).await["data"][0].clone();
    assert_eq!((&row["identifier"], &row["vpc_ip"]), (&json!(vm), &json!("10.9.0.2")));
    assert_eq!(get(&sim, &format!("/vm/{vm}")).await["data"]["privateIpData"][0]["private_ip"], "10.9.0.2");
    assert_eq!(get(&sim, &format!("/vpc/{own}")).await["vpcDetails"]["count"], 1);
    assert_eq!(send(&sim, "DELETE", &format!("/vpc/{own}"), None).await.status, 400);
    let release = json!({ "vmIdentifier": vm, "privateIpId": row["private_ip_id"] });
    assert_eq!(send(&sim, "DELETE", "/vm/vpc", Some(release)).await.status, 200);
    assert_eq!(get(&sim, &path).await["data"], json!([]));
    assert_eq!(send(&sim, "DELETE", &format!("/vpc/{own}"), None).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn two_firewall_attachments_at_once_are_refused() {
    let sim = simulator(steady());
    let vm = running_vm(&sim, "a", json!({})).await;
    for name in ["one", "two"] {
        post(&sim, "/firewall/create/group", json!({ "groupName": name, "rules": [] })).await;
    }
    let groups = get(&sim, "/firewall/groups").await["data"].clone();
    let attach = |group: usize| json!({ "vmId": vm, "groupId": groups[group]["identifier"] });
    assert_eq!(post(&sim, "/firewall/attach/group", attach(0)).await.status, 200);
    assert_eq!(post(&sim, "/firewall/attach/group", attach(1)).await.body["message"], "ipSetNotCreated");
    pass(3).await;
    assert_eq!(post(&sim, "/firewall/attach/group", attach(1)).await.status, 200);
    let path = format!("/firewall/group/{}", groups[1]["identifier"].as_str().unwrap());
    assert_eq!(get(&sim, &path).await["data"]["vms"][0]["identifier"], vm);
    send(&sim, "DELETE", "/firewall/detach/group", Some(attach(1))).await;
    assert_eq!(get(&sim, &path).await["data"]["count"], 0);
}

#[tokio::test(start_paused = true)]
async fn tags_are_added_and_removed() {
    let sim = simulator(steady());
    let vm = running_vm(&sim, "a", json!({ "tags": ["x"] })).await;
    let change = |tags: &[&str]| json!({ "entity": "boxes", "identifier": vm, "tags": tags });
    post(&sim, "/tags/add", change(&["y"])).await;
    post(&sim, "/tags/delete", change(&["x"])).await;
    let tags = get(&sim, &format!("/tags?entity=boxes&identifier={vm}")).await;
    assert_eq!(tags["data"], json!({ "boxes": ["y"] }));
}

#[tokio::test(start_paused = true)]
async fn a_vm_of_a_custom_image_needs_its_datacenter() {
    let sim = simulator(two_datacenters());
    let new =
        json!({ "dcIdentifier": "ams1", "imageName": "golden", "imageUrl": "https://images.test/golden" });
    post(&sim, "/custom/images", new).await;
    let image = get(&sim, "/custom/images").await["data"][0]["identifier"].clone();
    assert_eq!(
        get(&sim, &format!("/custom/images/?imageIdentifier={}", image.as_str().unwrap())).await["total"],
        1
    );
    let here = vm_request(&sim, "a", &json!({ "osIdentifier": image }));
    assert_eq!(post(&sim, "/custom/vm", here).await.status, 200);
    let elsewhere = json!({ "osIdentifier": image, "dcIdentifier": "hel1",
        "resourceIdentifier": plan(&sim, 2, "s-1vcpu-2gb") });
    assert_eq!(post(&sim, "/custom/vm", vm_request(&sim, "b", &elsewhere)).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn limits_name_no_vms() {
    let limits = get(&simulator(steady()), "/profile/product/limits").await["data"].clone();
    assert_eq!((limits["firewall_Limit"].as_u64(), limits.as_object().unwrap().len()), (Some(100), 6));
}
