//! Listings of nodes by the managed backend.

use std::time::Duration;

use serde_json::{Value, json};

use super::managed::{
    GROUPS, NODES, OFFERS, SMALL, VMS, assert_refused, assert_unavailable, backend, group, groups, ids, nodes,
};
use super::request;
use super::script::{Script, ScriptedReply, ok, reply};
use crate::catalog::MachineClass;
use crate::fleet::{FailureReason, NodeRole, VmState};
use crate::vpsie::Backend;

/// At the time of the request, the NodeGroup may have had another spelling of the datacenter, or another
/// datacenter.
#[tokio::test(start_paused = true)]
async fn a_listing_shows_no_datacenter_from_settings() {
    let nodes = json!({"nodes": [{"hostname": "hel-slave-1", "identifier": "u-1", "node_type": "slave"}]});
    let script = Script::new([(NODES, ok(&nodes))]);
    let listed = backend(&script).list().await.unwrap().nodes;
    for datacenter in ["dc-1", "DC-1", "dc-2"] {
        let class = MachineClass { datacenter: datacenter.into(), ..request(SMALL, "a").class };
        assert!(listed[0].can_be(&class), "{datacenter}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_with_identifiers_is_one_call() {
    let script = Script::new([(
        NODES,
        nodes(&json!([
            {"identifier": "u-m", "hostname": "HEL-master-main", "role": "master", "status": "running"},
            {"identifier": "u-1", "hostname": "HEL-Slave-1", "role": "slave", "status": "creating"},
        ])),
    )]);
    let listed = backend(&script).list().await.unwrap().nodes;
    assert_eq!(ids(&listed), [("hel-master-main", Some("u-m")), ("hel-slave-1", Some("u-1"))]);
    assert_eq!((listed[0].role, listed[1].role), (NodeRole::ControlPlane, NodeRole::Worker));
    assert_eq!(listed[1].state, VmState::Provisioning);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_missing_uuid_is_looked_up_once_and_by_hostname() {
    let listing = || {
        nodes(&json!([
            {"id": 10, "hostname": "HEL-master-main", "node_type": 1},
            {"id": 11, "hostname": "HEL-Slave-1", "node_type": 2},
        ]))
    };
    let vms = ok(&json!([
        {"hostname": "hel-slave-1", "identifier": "u-1", "type": "k8s", "dcIdentifier": "dc-1"},
        {"hostname": "hel-slave-1", "identifier": "u-other", "type": "vm", "dcIdentifier": "dc-1"},
        {"hostname": "web", "identifier": "u-9"},
    ]));
    let script = Script::new([(NODES, listing()), (VMS, vms), (NODES, listing())]);
    let backend = backend(&script);
    for _ in 0..2 {
        let listed = backend.list().await.unwrap().nodes;
        assert_eq!(ids(&listed), [("hel-master-main", None), ("hel-slave-1", Some("u-1"))]);
    }
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_hostname_of_two_vms_identifies_neither() {
    let listing = || nodes(&json!([{"id": 11, "hostname": "hel-slave-1", "private_ip": "10.0.0.1"}]));
    let vms = || {
        ok(&json!([
            {"hostname": "hel-slave-1", "identifier": "u-1", "private_ip": "10.0.0.1"},
            {"hostname": "HEL-slave-1", "identifier": "u-2", "private_ip": "10.0.0.1"},
        ]))
    };
    let script = Script::new([(NODES, listing()), (VMS, vms()), (NODES, listing()), (VMS, vms())]);
    let backend = backend(&script);
    for _ in 0..2 {
        assert_eq!(ids(&backend.list().await.unwrap().nodes), [("hel-slave-1", None)]);
    }
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_uuid_is_forgotten_with_its_node() {
    let ip = "10.0.0.1";
    let listing = |id: u64| nodes(&json!([{"id": id, "hostname": "hel-slave-1", "private_ip": ip}]));
    let vms = |id: &str| ok(&json!([{"hostname": "hel-slave-1", "identifier": id, "private_ip": ip}]));
    let script = Script::new([
        (NODES, listing(11)),
        (VMS, vms("u-1")),
        (NODES, listing(12)),
        (VMS, vms("u-2")),
        (NODES, nodes(&json!([]))),
        (GROUPS, groups(&[])),
        (NODES, listing(12)),
        (VMS, vms("u-3")),
    ]);
    let backend = backend(&script);
    assert_eq!(ids(&backend.list().await.unwrap().nodes), [("hel-slave-1", Some("u-1"))]);
    assert_eq!(ids(&backend.list().await.unwrap().nodes), [("hel-slave-1", Some("u-2"))]);
    assert_eq!(ids(&backend.list().await.unwrap().nodes), []);
    assert_eq!(ids(&backend.list().await.unwrap().nodes), [("hel-slave-1", Some("u-3"))]);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_failed_look_up_does_not_cost_the_listing() {
    let listing = nodes(&json!([{"id": 11, "hostname": "hel-slave-1"}]));
    let script = Script::new([(NODES, listing), (VMS, reply(403, "{}"))]);
    assert_eq!(ids(&backend(&script).list().await.unwrap().nodes), [("hel-slave-1", None)]);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn looks_up_the_group_of_a_worker_once() {
    let listing = || {
        nodes(&json!([
            {"identifier": "u-1", "hostname": "hel-slave-1", "group_id": 5},
            {"identifier": "u-2", "hostname": "hel-slave-2", "group_id": "77"},
        ]))
    };
    let mut small = group(5, "small", 1);
    (small["cpu"], small["ram"]) = (2.into(), 4096.into());
    let offers = ok(&json!([{"id": 1, "name": "small", "cpu": 2, "ram": 4096}]));
    let script =
        Script::new([(OFFERS, offers), (NODES, listing()), (GROUPS, groups(&[small])), (NODES, listing())]);
    let backend = backend(&script);
    backend.catalog().await.unwrap();
    for _ in 0..2 {
        let sizes: Vec<_> = backend.list().await.unwrap().nodes.iter().map(|node| node.size).collect();
        assert_eq!(sizes, [Some(SMALL), None]);
    }
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_missing_list_of_workers_is_not_an_empty_one() {
    let master = json!({"hostname": "hel-master-1", "role": "master"});
    let listing = || ok(&json!({"masters": [master], "slaves": null}));
    let listed = |counted: Value| {
        let script = Script::new([(NODES, listing()), (GROUPS, groups(&[counted]))]);
        async move { backend(&script).list().await }
    };
    let with_count = |count: Value| {
        let mut group = group(5, "small", 1);
        group["nodes_count"] = count;
        group
    };
    for unproven in [json!(2), json!(null)] {
        assert_unavailable(listed(with_count(unproven)).await, FailureReason::ApiUnavailable);
    }
    let script = Script::new([(NODES, nodes(&json!([]))), (GROUPS, groups(&[with_count(json!(2))]))]);
    assert_unavailable(backend(&script).list().await, FailureReason::ApiUnavailable);
    let empty = listed(with_count(json!(0))).await.unwrap();
    assert_eq!((ids(&empty.nodes), empty.complete), (vec![("hel-master-1", None)], true));
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_hostname_makes_listings_incomplete() {
    for (row, complete) in [
        (json!({"id": 11, "role": "slave", "hostname": null}), false),
        (json!({"id": {}, "hostname": 7}), true),
    ] {
        let rows = nodes(&json!([row, {"hostname": "hel-slave-2", "identifier": "u-2"}]));
        assert_eq!(backend(&Script::new([(NODES, rows)])).list().await.unwrap().complete, complete, "{row}");
    }

    let unnamed =
        || nodes(&json!([{"id": 11, "role": "slave"}, {"hostname": "hel-slave-2", "identifier": "u-2"}]));
    let backend = backend(&Script::new([(NODES, unnamed()), (NODES, unnamed())]));
    assert!(!backend.list().await.unwrap().complete);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(backend.list().await.unwrap().complete, "one row does not stop all conclusions for ever");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_fails_is_never_an_empty_one() {
    for (reply, reason) in [
        (ok(&json!(false)), FailureReason::InvalidConfiguration),
        (
            reply(404, r#"{"error":true,"message":"kubernetes not found"}"#),
            FailureReason::InvalidConfiguration,
        ),
    ] {
        assert_refused(backend(&Script::new([(NODES, reply)])).list().await, reason);
    }
    for reply in [ok(&json!({"cluster_name": "HEL"})), ok(&json!([])), ScriptedReply::Lost, reply(500, "{}")]
    {
        let script = Script::new(std::iter::repeat_n((NODES, reply), 4));
        let result = backend(&script).list().await;
        assert_unavailable(result, FailureReason::ApiUnavailable);
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_groups_do_not_prove_that_there_are_no_workers() {
    let master = json!({"hostname": "hel-master-1", "role": "master"});
    for counted in [json!(null), json!(false), json!([{"id": {}, "nodes_count": 2}]), json!([null])] {
        let listing = ok(&json!({"masters": [master], "slaves": null}));
        let script = Script::new([(NODES, listing), (GROUPS, ok(&counted))]);
        let listed = backend(&script).list().await;
        assert!(listed.is_err(), "{counted}: {listed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_workers_are_no_empty_list() {
    let master = json!({"hostname": "hel-master-1", "role": "master"});
    for slaves in [json!([null, null]), json!([{}]), json!([{"hostname": null, "default_ip": "198.18.0.1"}])]
    {
        let listing = ok(&json!({"masters": [master], "slaves": slaves}));
        let script = Script::new([(NODES, listing), (GROUPS, groups(&[group(5, "small", 1)]))]);
        assert_unavailable(backend(&script).list().await, FailureReason::ApiUnavailable);
    }
}
