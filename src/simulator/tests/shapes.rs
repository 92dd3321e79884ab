use super::*;

/// A request to a simulator with one shape and a running worker, and an expected value in the reply.
struct ShapeCase {
    shape: &'static str,
    request: ApiRequest,
    pointer: &'static str,
    expected: Value,
}

#[derive(Clone, Copy, Debug)]
enum ApiRequest {
    Clusters,
    Cluster,
    Groups,
    Offers,
    Bill,
    Storage,
    Unknown,
    NoCluster,
    NoVms,
    AddSlave,
    AddGroup,
    SameGroup,
    DeleteGroup,
    Login,
    FormLogin,
}

async fn send_request(sim: &Simulator, api_request: ApiRequest) -> Reply {
    let group = sim.groups()[0].clone();
    let post = async |path: &str, body| send(sim, "POST", path, Some(body)).await;
    let new_group =
        |size| json!({ "clusterIdentifier": DEFAULT_CLUSTER, "groupName": "g", "KubeSizeID": size });
    let credentials = json!({ "clientId": DEFAULT_CLIENT_ID, "clientSecret": DEFAULT_CLIENT_SECRET });
    match api_request {
        ApiRequest::Clusters => send(sim, "GET", "/k8s/cluster/all", None).await,
        ApiRequest::Cluster => send(sim, "GET", &cluster_path(""), None).await,
        ApiRequest::Groups => {
            send(sim, "GET", &format!("/k8s/node/groups/byClusterId/{DEFAULT_CLUSTER}"), None).await
        }
        ApiRequest::Offers => post("/k8s/offers", json!({ "dcIdentifier": DEFAULT_DATACENTER })).await,
        ApiRequest::Bill => send(sim, "GET", "/billing/estimated/usages", None).await,
        ApiRequest::Storage => send(sim, "GET", "/storages/vms?offset=1&limit=1", None).await,
        ApiRequest::Unknown => send(sim, "GET", "/nowhere", None).await,
        ApiRequest::NoCluster => send(sim, "GET", "/k8s/cluster/byId/none", None).await,
        ApiRequest::NoVms => send(sim, "GET", "/vm", None).await,
        ApiRequest::AddSlave => add_worker(sim, group.id).await,
        ApiRequest::AddGroup => post("/k8s/cluster/add/group", new_group(5)).await,
        ApiRequest::SameGroup => post("/k8s/cluster/add/group", new_group(group.size)).await,
        ApiRequest::DeleteGroup => {
            send(sim, "DELETE", &format!("/k8s/cluster/delete/group/{}", group.identifier), None).await
        }
        ApiRequest::Login => post("/auth/from/api", credentials).await,
        ApiRequest::FormLogin => {
            let form = format!("clientId={DEFAULT_CLIENT_ID}&clientSecret={DEFAULT_CLIENT_SECRET}");
            let mut request = request("POST", "/auth/from/api", None).map(|_| Bytes::from(form));
            let content_type = "application/x-www-form-urlencoded".parse().unwrap();
            request.headers_mut().insert("Content-Type", content_type);
            try_send(sim, request).await.unwrap()
        }
    }
}

async fn check_shape(case: &ShapeCase) {
    let sim = simulator(steady());
    let group = add_group(&sim, "workers", 2).await;
    add_worker(&sim, group).await;
    pass(60).await;
    let mut shapes = Shapes::default();
    shapes.set(case.shape).unwrap();
    sim.set_shapes(shapes);
    let reply = send_request(&sim, case.request).await;
    let seen = match case.pointer {
        "status" => json!(reply.status.as_u16()),
        "keys" => json!(reply.body.as_object().unwrap().keys().collect::<Vec<_>>()),
        pointer => reply.body.pointer(pointer).cloned().unwrap_or(json!("ABSENT")),
    };
    assert_eq!(seen, case.expected, "{} {:?} {} in {}", case.shape, case.request, case.pointer, reply.body);
}

macro_rules! shape_tests {
    ($($name:ident { $( $shape:literal, $ask:ident, $at:literal => $see:tt; )+ })+) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                for case in [$( ShapeCase { shape: $shape, request: ApiRequest::$ask, pointer: $at, expected: json!($see) } ),+] {
                    check_shape(&case).await;
                }
            }
        )+
    };
}

shape_tests! {
    prefixes {
        "prefix=apps", Clusters, "status" => 200;
        "prefix=api", Clusters, "status" => 404;
        "prefix=v2", Clusters, "status" => 404;
    }
    logins {
        "login-request=any", Login, "status" => 200;
        "login-request=any", FormLogin, "status" => 200;
        "login-request=json", FormLogin, "status" => 400;
        "login-request=form", Login, "status" => 400;
        "login-response=token-access", Login, "keys" => ["error", "token"];
        "login-response=access-token", Login, "keys" => ["accessToken", "error", "refreshToken"];
        "login-response=text", Login, "keys" => ["error", "expires", "token"];
        "login-response=data", Login, "/data/accessToken/expires" => "2026-03-01T13:01:00Z";
        "login-expiry=rfc2822", Login, "/token/access/expires" => "Sun, 1 Mar 2026 13:01:00 +0000";
        "login-expiry=seconds", Login, "/token/access/expires" => 1_772_370_060;
        "login-expiry=millis", Login, "/token/access/expires" => 1_772_370_060_000_i64;
        "login-expiry=absent", Login, "/token/access/expires" => "ABSENT";
    }
    auth_headers {
        "auth-header=either", Clusters, "status" => 200;
        "auth-header=vpsie-auth", Clusters, "status" => 200;
        "auth-header=bearer", Clusters, "status" => 401;
    }
    errors {
        "error-flag=bool", SameGroup, "/error" => true;
        "error-flag=text", SameGroup, "/error" =>
            "Group g has same selected Size, please select another size";
        "error-flag=text", Clusters, "/error" => "false";
        "error-status=status", SameGroup, "status" => 400;
        "error-status=ok", SameGroup, "status" => 200;
        "error-status=ok", SameGroup, "/error" => true;
        "error-status=500", SameGroup, "status" => 500;
        "error-status=500", SameGroup, "/type" => false;
        "error-status=500", NoCluster, "status" => 404;
        "unknown-route=json", Unknown, "/message" => "Not found";
        "unknown-route=html", Unknown, "" => "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n\
            <center><h1>404 Not Found</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";
        "not-found=status", NoCluster, "status" => 404;
        "not-found=data-false", NoCluster, "" => { "error": false, "data": false };
        "not-found=data-null", NoCluster, "" => { "error": false, "data": null };
        "not-found=error", NoCluster, "" => { "error": true, "code": 404, "message": "Not found" };
        "not-found=error", NoCluster, "status" => 200;
    }
    lists {
        "list=rows-count", Clusters, "/data/count" => 1;
        "list=rows-total", Clusters, "/data/rows/0/identifier" => DEFAULT_CLUSTER;
        "list=bare", Clusters, "/0/identifier" => DEFAULT_CLUSTER;
        "empty-list=array", NoVms, "/data" => [];
        "empty-list=false", NoVms, "/data" => false;
        "empty-list=null", NoVms, "/data" => null;
        "empty-list=absent", NoVms, "/data" => "ABSENT";
        "total=total", Clusters, "/total" => 1;
        "total=total-space", Clusters, "/total " => 1;
        "total=count", Clusters, "/count" => 1;
        "total=pagination", Clusters, "/pagination/total" => 1;
        "total=absent", Clusters, "keys" => ["data", "error"];
        "paging=whole", Storage, "/data/1/datacenter_id" => 1;
        "paging=rows", Storage, "/data/1" => "ABSENT";
        "paging=rows", Storage, "/total" => 2;
        "paging=pages", Storage, "/data/0/private_ip" => "10.0.0.3";
        "rows=odd", Clusters, "/data/1/identifier" => [];
        "rows=odd", Cluster, "/data/nodes/2/hostname" => 7;
    }
    identifiers {
        "ids=number", Groups, "/data/0/id" => 2;
        "ids=text", Groups, "/data/0/id" => "2";
        "boxsize=kube-size", Groups, "/data/0/boxsize_id" => 2;
        "boxsize=other", Groups, "/data/0/boxsize_id" => 1002;
        "project=project_id", Groups, "/data/0/project_id" => 71128;
        "project=projectId", Groups, "/data/0/projectId" => 71128;
        "project=mixed", Groups, "/data/0/project_id" => 71128;
        "cluster-count=masters", Cluster, "/data/count" => 1;
        "cluster-count=nodes", Cluster, "/data/count" => 2;
    }
    nodes {
        "nodes=plain", Cluster, "/data/nodes/1/identifier" => "ABSENT";
        "nodes=plain", Cluster, "/data/nodes/1/default_ip" => "198.18.0.3";
        "nodes=rich", Cluster, "/data/nodes/1/status" => "running";
        "nodes=rich", Cluster, "/data/nodes/0/role" => "master";
        "nodes=masters-slaves", Cluster, "/data/nodes" => "ABSENT";
        "nodes=masters-slaves", Cluster, "/data/slaves/0/ram" => 4096;
        "nodes=masters-slaves", Cluster, "/data/masters/0/role" => "master";
        "nodes=flags", Cluster, "/data/nodes/1/power" => 1;
        "node-type=master-1", Cluster, "/data/nodes/0/node_type" => 1;
        "node-type=master-1", Cluster, "/data/nodes/1/node_type" => 2;
        "node-type=master-0", Cluster, "/data/nodes/0/node_type" => 0;
        "hostnames=mixed", Cluster, "/data/nodes/0/hostname" => "AMS-Kubernetes-49ab-master-main";
        "hostnames=lower", Cluster, "/data/nodes/0/hostname" => "ams-kubernetes-49ab-master-main";
        "hostnames=differing", Cluster, "/data/nodes/0/hostname" => "AMS-Kubernetes-49ab-master-main";
        "version=plain", Cluster, "/data/kube_version" => "1.33.4";
        "version=v", Cluster, "/data/kube_version" => "v1.33.4";
    }
    commands {
        "add-slave=true", AddSlave, "/data" => true;
        "add-slave=object", AddSlave, "/data/id" => 4;
        "add-slave=object", AddSlave, "/data/identifier" => "ABSENT";
        "add-slave=identified", AddSlave, "/data/status" => "pending";
        "add-group=true", AddGroup, "/data" => true;
        "add-group=group-id", AddGroup, "/data/groupId" => "4";
        "add-group=absent", AddGroup, "/data" => "ABSENT";
        "delete-body=free", DeleteGroup, "status" => 200;
        "delete-body=statistic", DeleteGroup, "/message" => "deleteStatistic.reason is required";
        "delete-group=refuse", DeleteGroup, "status" => 400;
    }
    flags_and_times {
        "flags=number", Groups, "/data/0/is_active" => 1;
        "flags=text", Groups, "/data/0/is_active" => "1";
        "flags=bool", Groups, "/data/0/is_active" => true;
        "times=mixed", Groups, "/data/0/created_on" => "2026-03-01T12:00:00.000Z";
        "times=mixed", Cluster, "/data/nodes/1/created_on" => "2026-03-01 12:00:00";
        "times=rfc3339", Cluster, "/data/nodes/1/created_on" => "2026-03-01T12:00:00.000Z";
        "times=sql", Groups, "/data/0/created_on" => "2026-03-01 12:00:00";
        "times=empty", Groups, "/data/0/created_on" => "";
        "times=null", Groups, "/data/0/created_on" => null;
    }
    prices_and_sizes {
        "money=mixed", Offers, "/data/1/price" => 24.0;
        "money=mixed", Bill, "/data/0/price" => "0.03333";
        "money=mixed", Bill, "/balanceData/current_balance" => 999.933_34;
        "money=number", Bill, "/data/0/price" => 0.033_33;
        "money=text", Offers, "/data/1/price" => "24";
        "hourly=given", Offers, "/data/1/hourly_price" => 0.033_33;
        "hourly=zero", Offers, "/data/1/hourly_price" => 0;
        "hourly=absent", Offers, "/data/1/hourly_price" => "ABSENT";
        "sizes=own", Offers, "/data/1/disk" => 80;
        "sizes=ssd", Offers, "/data/1/ssd" => 80;
        "sizes=ssd", Offers, "/data/1/nickname" => "s-2vcpu-4gb";
        "sizes=own", Groups, "/data/0/ssd" => 80;
        "sizes=disk", Groups, "/data/0/bandwidth" => 2000;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_has_the_selected_envelope_and_state() {
    for (shape, pointer, expected) in [
        ("vm-get=vm-data", "/data/vmData/hostname", json!("web")),
        ("vm-get=data", "/data/hostname", json!("web")),
        ("vm-get=bare", "/hostname", json!("web")),
        ("vm-state=flags", "/data/vmData/status", json!("ABSENT")),
        ("vm-state=status", "/data/vmData/status", json!("running")),
        ("vm-state=status", "/data/vmData/power", json!("ABSENT")),
        ("vm-state=both", "/data/vmData/power", json!(1)),
    ] {
        let sim = simulator(shaped(shape));
        let uuid = sim.with_state(|state, cx, _| {
            let request = VmRequest::default();
            let id = state.create_vm(cx, DEFAULT_DATACENTER, 1, "web", request).unwrap().unwrap();
            state.vms[&id].uuid.clone()
        });
        pass(60).await;
        let body = get(&sim, &format!("/vm/{uuid}")).await;
        assert_eq!(body.pointer(pointer).cloned().unwrap_or(json!("ABSENT")), expected, "{shape} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_has_the_selected_form() {
    for (shape, expected) in [
        ("retry-after=absent", None),
        ("retry-after=seconds", Some("60")),
        ("retry-after=date", Some("Sun, 01 Mar 2026 12:01:00 GMT")),
    ] {
        let sim = simulator(SimulatorConfig { rate_limit: Some(1), ..shaped(shape) });
        get(&sim, "/vm").await;
        let reply = send(&sim, "GET", "/vm", None).await;
        assert_eq!(reply.status, 429);
        assert_eq!(reply.headers.get("retry-after").map(|v| v.to_str().unwrap()), expected, "{shape}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_storage_list_may_differ_in_case() {
    let sim = simulator(shaped("hostnames=differing"));
    assert_eq!(get(&sim, "/storages/vms").await["data"][0]["hostname"], "ams-kubernetes-49ab-master-main");
}

#[tokio::test(start_paused = true)]
async fn every_endpoint_replies_in_every_shape() {
    for (shape, shapes) in Shapes::each() {
        let sim = simulator(steady());
        add_group(&sim, "workers", 2).await;
        sim.set_shapes(shapes);
        for api_request in [
            ApiRequest::Clusters,
            ApiRequest::Cluster,
            ApiRequest::Groups,
            ApiRequest::Offers,
            ApiRequest::Bill,
            ApiRequest::Storage,
            ApiRequest::NoVms,
        ] {
            let status = send_request(&sim, api_request).await.status;
            let shut = ["prefix=api", "prefix=v2", "auth-header=bearer"].contains(&shape.as_str());
            assert_eq!(status == 200, !shut, "{shape} {api_request:?}");
        }
    }
}
