//! Managed Kubernetes: clusters, groups, workers (docs/reference/vpsie-api.md#groups).

use serde_json::{Map, Value, json};

use super::Call;
use super::vm_fields::{USER, insert_flags, insert_interruption, status};
use crate::simulator::account::DEFAULT_PROJECT;
use crate::simulator::anomalies::Gap;
use crate::simulator::config::{ClusterConfig, OfferConfig};
use crate::simulator::operations::ApiError;
use crate::simulator::shapes::{AddGroup, AddSlave, Boxsize, ClusterCount, NodeType, Nodes, Version};
use crate::simulator::state::{Context, Group, State};
use crate::simulator::vm::{Vm, VmKind};
use crate::simulator::wire::{Content, TimeStyle};

pub(super) fn clusters(state: &mut State, cx: &mut Context<'_>, _: &Call) -> Result<Content, ApiError> {
    let rows = cx.config.clusters.iter().map(|cluster| Value::Object(cluster_fields(state, cx, cluster)));
    Ok(Content::list(rows))
}

pub(super) fn cluster(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let (_, cluster) = cx.config.cluster(call.param("cluster")).ok_or_else(ApiError::not_found)?;
    let mut object = cluster_fields(state, cx, cluster);
    let rows = |wanted: fn(&Vm) -> bool| {
        let faults = cx.config.faults_at(&cluster.datacenter);
        let nodes = state.nodes(cx.now, &cluster.identifier);
        let nodes = nodes.filter(|vm| wanted(vm) && !faults.hides_row(vm.id));
        Value::Array(cx.config.shapes.add_odd_rows(nodes.map(|vm| node(cx, vm)).collect()))
    };
    if cx.config.shapes.nodes == Nodes::MastersSlaves {
        object.insert("masters".to_owned(), rows(|vm| vm.kind == VmKind::ControlPlane));
        let slaves = match cx.config.anomalies.gap(cx.now) {
            Some(Gap::Workers) => Value::Null,
            _ => rows(|vm| vm.kind != VmKind::ControlPlane && !vm.role_hidden),
        };
        object.insert("slaves".to_owned(), slaves);
        if state.nodes(cx.now, &cluster.identifier).any(|vm| vm.role_hidden) {
            object.insert("nodes".to_owned(), rows(|vm| vm.role_hidden));
        }
        object.insert("status".to_owned(), json!("active"));
    } else {
        object.insert("nodes".to_owned(), rows(|_| true));
    }
    Ok(Content::Object(Value::Object(object)))
}

/// Fields of a cluster that `cluster/all` and `cluster/byId` share.
fn cluster_fields(state: &State, cx: &Context<'_>, cluster: &ClusterConfig) -> Map<String, Value> {
    let shapes = &cx.config.shapes;
    let masters =
        state.nodes(cx.now, &cluster.identifier).filter(|vm| vm.kind == VmKind::ControlPlane).count();
    let slaves = state.nodes(cx.now, &cluster.identifier).count() - masters;
    let offer = cluster.offer.as_deref().and_then(|name| cx.config.offer_named(name));
    let offer = offer.or(cx.config.offers.first());
    let version = match shapes.version {
        Version::Plain => cluster.kube_version.clone(),
        Version::Prefixed => format!("v{}", cluster.kube_version),
    };
    let size = |get: fn(&OfferConfig) -> Value| offer.map_or(Value::Null, get);
    let created_at = state.nodes(cx.now, &cluster.identifier).map(|vm| vm.created_at).min().unwrap_or(cx.now);
    let fields = [
        ("cluster_name", json!(cluster.name)),
        ("identifier", json!(cluster.identifier)),
        (
            "count",
            json!(match shapes.cluster_count {
                ClusterCount::Masters => masters,
                ClusterCount::Nodes => masters + slaves,
            }),
        ),
        ("created_on", shapes.time(TimeStyle::Plain, created_at)),
        ("updated_on", shapes.time(TimeStyle::Plain, created_at)),
        ("created_by", json!("simulator")),
        (shapes.name_key("nickname"), size(|offer| json!(offer.name))),
        ("cpu", size(|offer| json!(offer.cpu))),
        ("ram", size(|offer| json!(offer.ram))),
        (shapes.traffic_key(), size(|offer| json!(offer.traffic))),
        ("color", json!("#2f6fed")),
        ("price", offer.map_or(Value::Null, |offer| shapes.usd(offer.monthly))),
        ("managerCount", json!(masters)),
        ("slaveCount", json!(slaves)),
        ("user_id", shapes.id(USER)),
        ("kube_version", json!(version)),
        ("lock", json!(0)),
        ("upgrade_version", Value::Null),
        ("lb_id", Value::Null),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A row of a node, with its capacity type if any size has a spot offer.
fn node(cx: &Context<'_>, vm: &Vm) -> Value {
    let mut row = node_fields(cx, vm);
    if cx.config.has_spot_offers()
        && let Some(row) = row.as_object_mut()
    {
        row.insert("is_spot".to_owned(), cx.config.shapes.flag(vm.spot));
        insert_interruption(row, cx, vm);
    }
    row
}

fn node_fields(cx: &Context<'_>, vm: &Vm) -> Value {
    let shapes = &cx.config.shapes;
    let gap = cx.config.anomalies.gap(cx.now);
    let is_hidden = gap.is_some_and(|gap| gap.hides_hostname(vm.id));
    let hostname = (!is_hidden).then(|| shapes.hostname(&vm.hostname, false));
    let master = vm.kind == VmKind::ControlPlane;
    if matches!(shapes.nodes, Nodes::Rich | Nodes::MastersSlaves) {
        let offer = cx.config.offer(vm.size);
        let mut row = json!({
            "id": shapes.id(vm.id),
            "identifier": vm.uuid,
            "hostname": hostname,
            "ip": vm.address(),
            "status": status(vm, cx.now),
            "role": if master { "master" } else { "slave" },
            "cpu": offer.map(|offer| offer.cpu),
            "ram": offer.map(|offer| offer.ram),
            shapes.disk_key("disk"): offer.map(|offer| offer.disk),
        });
        if vm.role_hidden
            && let Some(row) = row.as_object_mut()
        {
            row.remove("role");
        }
        return row;
    }
    let mut row = json!({
        "id": shapes.id(vm.id),
        "user_id": shapes.id(USER),
        "hostname": hostname,
        "default_ip": vm.address(),
        "private_ip": vm.private_address(),
        "node_type": match shapes.node_type {
            _ if vm.role_hidden => UNKNOWN_NODE_TYPE,
            NodeType::MasterOne => 2 - u8::from(master),
            NodeType::MasterZero => 1 - u8::from(master),
        },
        "node_id": shapes.id(vm.id % 7 + 1),
        "datacenter_id": shapes.id(cx.config.datacenter(&vm.datacenter).map_or(0, |(number, _)| number)),
        "created_on": shapes.time(TimeStyle::Plain, vm.created_at),
    });
    if shapes.nodes == Nodes::Flags
        && let Some(row) = row.as_object_mut()
    {
        row.insert("identifier".to_owned(), json!(vm.uuid));
        insert_flags(row, cx, vm);
    }
    row
}

/// A `node_type` that no client knows.
const UNKNOWN_NODE_TYPE: u8 = 9;

pub(super) fn groups(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let (number, cluster) = cx.config.cluster(call.param("cluster")).ok_or_else(ApiError::not_found)?;
    let groups = state.groups.values().filter(|group| group.cluster == cluster.identifier);
    Ok(Content::list(groups.map(|group| group_row(state, cx, number, group))))
}

fn group_row(state: &State, cx: &Context<'_>, cluster: u64, group: &Group) -> Value {
    let shapes = &cx.config.shapes;
    let offer = cx.config.offer(group.size);
    let datacenter =
        cx.config.cluster(&group.cluster).map(|(_, c)| c.datacenter.as_str()).unwrap_or_default();
    let number = cx.config.datacenter(datacenter).map_or(0, |(number, _)| number);
    let boxsize = match shapes.boxsize {
        Boxsize::KubeSize => group.size,
        Boxsize::Other => group.size + 1000,
    };
    json!({
        "id": shapes.id(group.id),
        "group_name": group.name,
        "user_id": shapes.id(USER),
        "boxsize_id": shapes.id(boxsize),
        "datacenter_id": shapes.id(number),
        "ram": offer.map(|offer| offer.ram),
        "cpu": offer.map(|offer| offer.cpu),
        shapes.disk_key("ssd"): offer.map(|offer| offer.disk),
        shapes.traffic_key(): offer.map(|offer| offer.traffic),
        "notes": null,
        "created_on": shapes.time(TimeStyle::Rfc3339, group.created_at),
        "last_updated": shapes.time(TimeStyle::Rfc3339, group.created_at),
        "dropped_on": null,
        "is_active": shapes.flag(true),
        "is_deleted": shapes.flag(false),
        "identifier": group.identifier,
        shapes.group_project_key(): shapes.id(DEFAULT_PROJECT),
        "cluster_id": shapes.id(cluster),
        "nodes_count": state.workers(group.id).filter(|vm| vm.is_listed(cx.now)).count(),
        "dcIdentifier": datacenter,
    })
}

pub(super) fn add_group(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let cluster = call.text("clusterIdentifier")?;
    let id = state.add_group(cx, &cluster, &call.text("groupName")?, call.number("KubeSizeID")?)?;
    Ok(match cx.config.shapes.add_group {
        AddGroup::True => Content::Accepted,
        AddGroup::GroupId => Content::Object(json!({ "groupId": id.to_string() })),
        AddGroup::Absent => Content::Done,
    })
}

pub(super) fn delete_group(
    state: &mut State,
    cx: &mut Context<'_>,
    call: &Call,
) -> Result<Content, ApiError> {
    call.check_reason(&cx.config.shapes)?;
    state.delete_group(cx, call.param("group"))?;
    Ok(Content::Accepted)
}

pub(super) fn add_slave(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    let cluster = call.param("cluster");
    let group = match (call.param("group"), call.number("groupId")) {
        ("", Ok(group)) => group,
        ("", Err(_)) => first_group(state, cluster)?,
        (group, _) => group.parse().map_err(|_| ApiError::not_found())?,
    };
    let spot = call.body.get("is_spot") == Some(&json!(true));
    let added = state.add_worker(cx, cluster, group, spot)?;
    let shapes = &cx.config.shapes;
    let Some(vm) = added.and_then(|id| state.vms.get(&id)) else { return Ok(Content::Accepted) };
    let mut row = json!({
        "id": shapes.id(vm.id),
        "status": "pending",
        "hostname": shapes.hostname(&vm.hostname, false),
    });
    Ok(match (shapes.add_slave, row.as_object_mut()) {
        (AddSlave::True, _) | (_, None) => Content::Accepted,
        (AddSlave::Object, _) => Content::Object(row),
        (AddSlave::Identified, Some(object)) => {
            object.insert("identifier".to_owned(), json!(vm.uuid));
            Content::Object(row)
        }
    })
}

/// The group for requests without one, as older clients send them.
fn first_group(state: &State, cluster: &str) -> Result<u64, ApiError> {
    let group = state.groups.values().find(|group| group.cluster == cluster);
    group.map(|group| group.id).ok_or_else(ApiError::not_found)
}

pub(super) fn delete_slave(
    state: &mut State,
    cx: &mut Context<'_>,
    call: &Call,
) -> Result<Content, ApiError> {
    state.delete_worker(cx, call.param("cluster"), &call.text("identifier")?)?;
    Ok(Content::Done)
}

pub(super) fn reduce(state: &mut State, cx: &mut Context<'_>, call: &Call) -> Result<Content, ApiError> {
    state.reduce(cx, call.param("cluster"), call.number("groupId").ok())?;
    Ok(Content::Accepted)
}
