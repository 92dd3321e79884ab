//! Nodes of a cluster, in all known forms of the reply to `cluster/byId`
//! (docs/reference/vpsie-api.md#nodes).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::interruption::InterruptionFields;
use super::row::Row;
use super::rows::{RowResources, capacity_type};
use crate::catalog::CapacityType;
use crate::fleet::{Hostname, NodeRole, ReportedInterruption, VmId, VmState};

/// A node, before its UUID and size are determined from other calls.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::vpsie) struct Node {
    pub(in crate::vpsie) hostname: Hostname,
    /// Numeric id, as text. Distinguishes nodes with the same name.
    pub(in crate::vpsie) row_id: Option<String>,
    pub(in crate::vpsie) id: Option<VmId>,
    pub(in crate::vpsie) role: NodeRole,
    pub(in crate::vpsie) state: VmState,
    pub(in crate::vpsie) addresses: BTreeSet<IpAddr>,
    /// Numeric id of the datacenter.
    pub(in crate::vpsie) datacenter: Option<String>,
    /// Numeric id or UUID of its VPSie group.
    pub(in crate::vpsie) group: Option<String>,
    pub(in crate::vpsie) box_size: Option<u64>,
    pub(in crate::vpsie) shape: RowResources,
    pub(in crate::vpsie) capacity_type: Option<CapacityType>,
    pub(in crate::vpsie) created_at: Option<Timestamp>,
    pub(in crate::vpsie) interruption: Option<ReportedInterruption>,
}

/// Arrays with nodes, and the role of the nodes in each.
const ARRAYS: [(&str, Option<NodeRole>); 3] =
    [("nodes", None), ("masters", Some(NodeRole::ControlPlane)), ("slaves", Some(NodeRole::Worker))];

/// The nodes of a cluster, as far as a reply shows them.
#[derive(Debug, PartialEq)]
pub(in crate::vpsie) struct NodeRows {
    pub(in crate::vpsie) nodes: Vec<Node>,
    /// Number of unreadable rows.
    pub(in crate::vpsie) skipped: u32,
    /// Nodes without a readable hostname, by UUID, or else by numeric id or address.
    pub(in crate::vpsie) nameless: BTreeSet<String>,
    /// The reply lists the workers, or states that there are none.
    pub(in crate::vpsie) has_workers: bool,
}

const HOSTNAME: &[&str] = &["hostname", "name"];
const UUID: &[&str] = &["identifier", "vmIdentifier", "uuid"];
const ADDRESS: &[&str] = &["ip", "default_ip", "private_ip"];

/// Reads the nodes of a cluster. None if there is none of the arrays, because such a reply does not describe
/// an empty cluster.
pub(in crate::vpsie) fn read_nodes(
    cluster: &Map<String, Value>,
    interruption: &InterruptionFields,
) -> Option<NodeRows> {
    if !ARRAYS.iter().any(|(name, _)| cluster.contains_key(*name)) {
        return None;
    }
    let mut skipped = 0;
    let mut nameless = BTreeSet::new();
    let mut drafts: BTreeMap<Hostname, Draft> = BTreeMap::new();
    for (name, role) in ARRAYS {
        let rows = match cluster.get(name) {
            Some(Value::Array(rows)) => rows.as_slice(),
            Some(Value::Null | Value::Bool(false)) | None => &[],
            Some(_) => return None,
        };
        for row in rows {
            let row = row.as_object().map(Row);
            let Some((hostname, draft)) = row.and_then(|row| Draft::read(row, role, interruption)) else {
                skipped += 1;
                nameless.extend(row.and_then(nameless_id));
                continue;
            };
            match drafts.get_mut(&hostname) {
                Some(known) => known.merge(draft),
                None => {
                    drafts.insert(hostname, draft);
                }
            }
        }
    }
    let kinds = |role| -> BTreeSet<u64> {
        drafts.values().filter(|d| d.role() == Some(role)).filter_map(|d| d.node_type).collect()
    };
    let masters = kinds(NodeRole::ControlPlane);
    let workers = kinds(NodeRole::Worker);
    let nodes = drafts.into_iter().filter(|(_, draft)| draft.state != Some(State::Deleted));
    let nodes = nodes.map(|(hostname, draft)| draft.finish(hostname, &masters, &workers)).collect();
    Some(NodeRows { nodes, skipped, nameless, has_workers: has_workers(cluster) })
}

/// Identity of a row without a hostname, if it describes a node that is not deleted.
fn nameless_id(row: Row<'_>) -> Option<String> {
    let id = row.text(UUID).or_else(|| row.text(&["id"]));
    let id = id.or_else(|| row.addresses(ADDRESS).first().map(ToString::to_string))?;
    (state(row) != Some(State::Deleted)).then_some(id)
}

/// Returns true iff a reply lists the workers, or states that there are none. `nodes` has all nodes if it has
/// the masters. A list without any readable row proves nothing.
fn has_workers(cluster: &Map<String, Value>) -> bool {
    let rows = |name| cluster.get(name).and_then(Value::as_array);
    let names = |name| -> BTreeSet<Hostname> {
        let rows = rows(name).into_iter().flatten().filter_map(Value::as_object);
        rows.filter_map(|row| Row(row).hostname(HOSTNAME)).collect()
    };
    let nodes = names("nodes");
    let masters = names("masters");
    let has_readable = !names("slaves").is_empty() || !nodes.is_subset(&masters);
    rows("slaves").is_some_and(|slaves| slaves.is_empty() || has_readable)
        || !nodes.is_empty() && nodes.is_superset(&masters)
        || Row(cluster).number(&["slaveCount"]) == Some(0)
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Deleted,
    Known(VmState),
}

/// A node while its rows are being merged.
struct Draft {
    row_id: Option<String>,
    id: Option<VmId>,
    /// Evidence of its role: field, array, hostname.
    evidence: Vec<NodeRole>,
    node_type: Option<u64>,
    state: Option<State>,
    addresses: BTreeSet<IpAddr>,
    datacenter: Option<String>,
    group: Option<String>,
    box_size: Option<u64>,
    shape: RowResources,
    capacity_type: Option<CapacityType>,
    created_at: Option<Timestamp>,
    interruption: Option<ReportedInterruption>,
}

impl Draft {
    fn read(
        row: Row<'_>,
        array: Option<NodeRole>,
        interruption: &InterruptionFields,
    ) -> Option<(Hostname, Self)> {
        let hostname = row.hostname(HOSTNAME)?;
        let own = row.text(&["role", "nodeType", "type"]).as_deref().and_then(role_of_word);
        let draft = Self {
            row_id: row.text(&["id"]),
            id: row.text(UUID).map(VmId::new),
            evidence: [own, array, role_of_hostname(&hostname)].into_iter().flatten().collect(),
            node_type: row.number(&["node_type"]),
            state: state(row),
            addresses: row.addresses(ADDRESS),
            datacenter: row.text(&["datacenter_id"]),
            group: row.text(&["group_id", "groupId", "node_group_id", "nodeGroupId", "groupIdentifier"]),
            box_size: row.number(&["boxsize_id", "kube_size_id", "KubeSizeID"]),
            shape: RowResources::read(row),
            capacity_type: capacity_type(row),
            // A time without a zone may be wrong by hours, and could hide that the node is new.
            created_at: row
                .time(&["created_on", "created_at", "createdAt"])
                .filter(|time| time.zoned)
                .map(|time| time.at),
            interruption: interruption.read(row),
        };
        Some((hostname, draft))
    }

    fn merge(&mut self, other: Self) {
        if self.state == Some(State::Deleted) {
            *self = other;
            return;
        }
        if other.state == Some(State::Deleted) {
            return;
        }
        self.evidence.extend(other.evidence);
        self.row_id = self.row_id.take().or(other.row_id);
        self.id = self.id.take().or(other.id);
        self.node_type = self.node_type.or(other.node_type);
        self.state = self.state.or(other.state);
        self.addresses.extend(other.addresses);
        self.datacenter = self.datacenter.take().or(other.datacenter);
        self.group = self.group.take().or(other.group);
        self.box_size = self.box_size.or(other.box_size);
        if !self.shape.is_known() {
            self.shape = other.shape;
        }
        self.capacity_type = self.capacity_type.or(other.capacity_type);
        self.created_at = self.created_at.or(other.created_at);
        self.interruption = self.interruption.or(other.interruption);
    }

    /// Any evidence for the control plane takes precedence, because control-plane nodes must not be touched.
    fn role(&self) -> Option<NodeRole> {
        if self.evidence.contains(&NodeRole::ControlPlane) {
            return Some(NodeRole::ControlPlane);
        }
        self.evidence.first().copied()
    }

    fn finish(self, hostname: Hostname, masters: &BTreeSet<u64>, workers: &BTreeSet<u64>) -> Node {
        let by_kind = || {
            let kind = self.node_type?;
            (workers.contains(&kind) && !masters.contains(&kind)).then_some(NodeRole::Worker)
        };
        let role = self.role().or_else(by_kind).unwrap_or(NodeRole::Unknown);
        Node {
            hostname,
            role,
            row_id: self.row_id,
            id: self.id,
            state: match self.state {
                Some(State::Known(state)) => state,
                Some(State::Deleted) | None => VmState::Running,
            },
            addresses: self.addresses,
            datacenter: self.datacenter,
            group: self.group,
            box_size: self.box_size,
            shape: self.shape,
            capacity_type: self.capacity_type,
            created_at: self.created_at,
            interruption: self.interruption,
        }
    }
}

fn role_of_word(word: &str) -> Option<NodeRole> {
    match word.to_lowercase().as_str() {
        "master" | "manager" | "control-plane" | "control_plane" | "controlplane" | "control plane" => {
            Some(NodeRole::ControlPlane)
        }
        "slave" | "worker" | "agent" => Some(NodeRole::Worker),
        _ => None,
    }
}

/// Hostnames end in `-master-…` or `-slave-…` (docs/reference/vpsie-api.md#identifiers). The name of the
/// cluster precedes that and may contain either word.
fn role_of_hostname(hostname: &Hostname) -> Option<NodeRole> {
    let master = hostname.as_str().rfind("-master");
    let slave = hostname.as_str().rfind("-slave");
    match (master, slave) {
        (None, None) => None,
        (master, slave) if master > slave => Some(NodeRole::ControlPlane),
        _ => Some(NodeRole::Worker),
    }
}

/// The state by its status field, or else by flags (docs/reference/vpsie-api.md#vm-states). None if neither
/// shows it.
fn state(row: Row<'_>) -> Option<State> {
    let known = |state| Some(State::Known(state));
    if let Some(word) = row.text(&["status", "node_status"]) {
        match word.to_lowercase().as_str() {
            "running" | "active" | "ready" | "online" | "up" | "started" => return known(VmState::Running),
            "pending" | "creating" | "provisioning" | "building" | "installing" | "starting" | "queued"
            | "new" | "processing" | "booting" | "deploying" => return known(VmState::Provisioning),
            "stopped" | "suspended" | "locked" | "error" | "failed" | "off" | "offline" | "down"
            | "paused" | "inactive" => return known(VmState::Down),
            "deleting" | "terminating" | "removing" | "terminated" | "destroying" => {
                return known(VmState::Terminating);
            }
            "deleted" | "removed" | "destroyed" => return Some(State::Deleted),
            _ => {}
        }
    }
    let on = |names| row.flag(names) == Some(true);
    let off = |names| row.flag(names) == Some(false);
    if on(&["is_deleted"]) || row.time(&["dropped_on"]).is_some() {
        Some(State::Deleted)
    } else if on(&["is_terminated"]) {
        known(VmState::Terminating)
    } else if on(&["is_suspended"]) || on(&["boxes_suspended"]) || on(&["is_locked"]) {
        known(VmState::Down)
    } else if off(&["is_active"]) {
        known(VmState::Provisioning)
    } else if off(&["power"]) {
        known(VmState::Down)
    } else {
        (on(&["power"]) || on(&["is_active"])).then_some(State::Known(VmState::Running))
    }
}

/// The state of the VM of a row; running if the row shows none. None: VPSie has deleted the VM.
pub(super) fn vm_state(row: Row<'_>) -> Option<VmState> {
    match state(row) {
        Some(State::Deleted) => None,
        Some(State::Known(state)) => Some(state),
        None => Some(VmState::Running),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_rows(cluster: &Value) -> NodeRows {
        read_nodes(cluster.as_object().unwrap(), &InterruptionFields::default()).unwrap()
    }

    fn read(cluster: &Value) -> Vec<Node> {
        let rows = read_rows(cluster);
        assert_eq!(rows.skipped, 0, "a row was skipped");
        rows.nodes
    }

    fn one(node: &Value) -> Node {
        let [node] = <[Node; 1]>::try_from(read(&json!({"nodes": [node]}))).unwrap();
        node
    }

    fn roles(cluster: &Value) -> Vec<(String, bool)> {
        let worker = |node: Node| (node.hostname.to_string(), node.role == NodeRole::Worker);
        read(cluster).into_iter().map(worker).collect()
    }

    #[test]
    fn the_shape_of_the_official_client_is_read() {
        let node = one(&json!({"id": 12, "user_id": 1, "hostname": "HEL-Kubernetes-49ab-Slave-11cc",
            "default_ip": "1.2.3.4", "private_ip": "", "node_type": 2, "node_id": 3, "datacenter_id": 4,
            "created_on": "2026-03-04 05:06:07"}));
        assert_eq!(node.hostname.as_str(), "hel-kubernetes-49ab-slave-11cc");
        assert_eq!((node.row_id.as_deref(), node.id, node.role), (Some("12"), None, NodeRole::Worker));
        assert_eq!((node.state, node.created_at), (VmState::Running, None));
    }

    #[test]
    fn the_shape_with_identifiers_is_read() {
        let node = one(&json!({"identifier": "u-1", "hostname": "w", "ip": "1.2.3.4", "status": "Creating",
            "role": "slave", "cpu": 2, "ram": 4096, "disk": 80, "created_on": "2026-03-04T05:06:07Z"}));
        assert_eq!(
            (node.id, node.role, node.state),
            (Some("u-1".into()), NodeRole::Worker, VmState::Provisioning)
        );
        assert!(node.shape.is_known() && node.created_at.is_some());
    }

    #[test]
    fn the_arrays_are_one_set() {
        let cluster = json!({
            "nodes": [{"hostname": "A", "node_type": 1}, {"hostname": "b"}],
            "masters": [{"hostname": "a", "identifier": "u-a"}],
            "slaves": [{"hostname": "B", "identifier": "u-b"}, {"hostname": "c"}],
        });
        let want = [("a", false), ("b", true), ("c", true)].map(|(name, worker)| (name.to_owned(), worker));
        assert_eq!(roles(&cluster), want);
        assert_eq!(read(&cluster)[0].id, Some("u-a".into()));
    }

    #[test]
    fn a_role_without_evidence_is_unknown() {
        assert_eq!(one(&json!({"hostname": "x"})).role, NodeRole::Unknown);
        assert_eq!(one(&json!({"hostname": "x", "role": "etcd", "node_type": 2})).role, NodeRole::Unknown);
    }

    #[test]
    fn evidence_for_the_control_plane_wins() {
        assert_eq!(one(&json!({"hostname": "c-master-1", "role": "slave"})).role, NodeRole::ControlPlane);
        assert_eq!(one(&json!({"hostname": "c-slave-1", "role": "Master"})).role, NodeRole::ControlPlane);
        let cluster = json!({"slaves": [{"hostname": "x"}], "masters": [{"hostname": "x"}]});
        assert_eq!(roles(&cluster), [("x".to_owned(), false)]);
    }

    #[test]
    fn a_cluster_may_be_named_after_a_role() {
        assert_eq!(one(&json!({"hostname": "my-master-slave-11cc"})).role, NodeRole::Worker);
        assert_eq!(one(&json!({"hostname": "my-slave-master-main"})).role, NodeRole::ControlPlane);
    }

    #[test]
    fn node_type_is_learned_from_nodes_of_known_role() {
        let cluster = json!({"nodes": [
            {"hostname": "c-master-1", "node_type": 1},
            {"hostname": "c-slave-1", "node_type": 2},
            {"hostname": "x", "node_type": 2},
            {"hostname": "y", "node_type": 1},
            {"hostname": "z", "node_type": 3},
        ]});
        let workers: Vec<String> =
            roles(&cluster).into_iter().filter(|(_, worker)| *worker).map(|(name, _)| name).collect();
        assert_eq!(workers, ["c-slave-1", "x"]);
    }

    #[test]
    fn state_comes_from_word_or_flags() {
        for (fields, want) in [
            (json!({}), VmState::Running),
            (json!({"status": "Running"}), VmState::Running),
            (json!({"status": "deleting"}), VmState::Terminating),
            (json!({"status": "stopped", "power": 1}), VmState::Down),
            (json!({"status": "wonderful", "power": 0}), VmState::Down),
            (json!({"status": 1}), VmState::Running),
            (json!({"is_active": 1, "power": 1}), VmState::Running),
            (json!({"is_active": "0", "power": "0"}), VmState::Provisioning),
            (json!({"is_active": true, "power": false}), VmState::Down),
            (json!({"is_suspended": 1, "power": 1}), VmState::Down),
            (json!({"is_locked": 1}), VmState::Down),
            (json!({"is_terminated": 1}), VmState::Terminating),
        ] {
            let mut node = fields.clone();
            node["hostname"] = "x".into();
            assert_eq!(one(&node).state, want, "{fields}");
        }
    }

    #[test]
    fn a_deleted_node_is_not_listed() {
        for fields in [
            json!({"hostname": "x", "is_deleted": 1}),
            json!({"hostname": "x", "dropped_on": "2026-01-01 00:00:00"}),
            json!({"hostname": "x", "status": "deleted"}),
        ] {
            assert_eq!(read(&json!({"nodes": [fields]})), []);
        }
        for never in [json!(null), json!(0), json!("0"), json!(false), json!("1970-01-01 00:00:00")] {
            let node = json!({"hostname": "x", "dropped_on": never});
            assert_eq!(one(&node).state, VmState::Running, "{never}");
        }
        let old = json!({"hostname": "x", "is_deleted": 1});
        let new = json!({"hostname": "x", "id": 2});
        for rows in [[&old, &new], [&new, &old]] {
            assert_eq!(read(&json!({"nodes": rows}))[0].row_id.as_deref(), Some("2"));
        }
    }

    #[test]
    fn a_reply_without_any_array_is_not_an_empty_cluster() {
        let fields = InterruptionFields::default();
        assert_eq!(read_nodes(json!({"cluster_name": "c"}).as_object().unwrap(), &fields), None);
        assert_eq!(read_nodes(json!({"nodes": "many"}).as_object().unwrap(), &fields), None);
        assert_eq!(read(&json!({"nodes": null, "masters": []})), []);
    }

    #[test]
    fn a_bad_row_is_skipped_and_counted() {
        let cluster = json!({"nodes": [
            7, {"id": 1}, {"hostname": 7}, {"hostname": " "}, {"id": 2, "is_deleted": 1}, {"hostname": "x"},
        ]});
        let rows = read_rows(&cluster);
        assert_eq!((rows.nodes.len(), rows.skipped), (1, 5));
        assert_eq!(rows.nameless, ["1".to_owned()].into());
    }

    #[test]
    fn a_missing_list_of_workers_is_not_an_empty_one() {
        let master = || json!([{"hostname": "c-master-1"}]);
        for (cluster, want) in [
            (json!({"masters": master(), "slaves": null}), false),
            (json!({"masters": master(), "slaves": false}), false),
            (json!({"masters": master()}), false),
            (json!({"nodes": [], "masters": master(), "slaves": null}), false),
            (json!({"nodes": null, "masters": null, "slaves": null}), false),
            (json!({"masters": master(), "slaves": null, "slaveCount": 2}), false),
            (json!({"masters": master(), "slaves": null, "slaveCount": 0}), true),
            (json!({"masters": master(), "slaves": []}), true),
            (json!({"nodes": [{"hostname": "x"}], "masters": master(), "slaves": null}), false),
            (json!({"nodes": master(), "masters": master(), "slaves": null}), true),
            (json!({"nodes": master(), "slaves": null}), true),
            (json!({"nodes": []}), false),
            (json!({"masters": master(), "slaves": [null]}), false),
            (json!({"masters": master(), "slaves": [null], "nodes": [{"hostname": "x"}]}), true),
            (json!({"masters": master(), "slaves": [{}, {"hostname": "x"}]}), true),
        ] {
            assert_eq!(read_rows(&cluster).has_workers, want, "{cluster}");
        }
    }
}
