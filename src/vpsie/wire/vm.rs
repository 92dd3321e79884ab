//! Rows of plain VMs and of what belongs to them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::interruption::InterruptionFields;
use super::node::vm_state;
use super::row::{Row, Time};
use super::rows::capacity_type;
use crate::catalog::CapacityType;
use crate::fleet::{Hostname, ReportedInterruption, VmId, VmState};

/// A VM of the account (docs/reference/vpsie-api.md#vm-rows).
#[derive(Clone, Debug)]
pub(in crate::vpsie) struct PlainVm {
    pub(in crate::vpsie) hostname: Option<Hostname>,
    pub(in crate::vpsie) id: Option<VmId>,
    /// Numeric id. Later VMs have higher ones.
    pub(in crate::vpsie) number: Option<u64>,
    pub(in crate::vpsie) notes: Option<String>,
    /// None: VPSie has deleted the VM.
    pub(in crate::vpsie) state: Option<VmState>,
    pub(in crate::vpsie) addresses: BTreeSet<IpAddr>,
    /// UUID of the datacenter.
    pub(in crate::vpsie) datacenter: Option<String>,
    /// UUID of the plan.
    pub(in crate::vpsie) plan: Option<String>,
    pub(in crate::vpsie) capacity_type: Option<CapacityType>,
    pub(in crate::vpsie) created: Option<Time>,
    pub(in crate::vpsie) interruption: Option<ReportedInterruption>,
    /// `initial_password`.
    pub(in crate::vpsie) password: Option<SecretString>,
    /// Whether it is a node of a managed cluster.
    pub(in crate::vpsie) is_managed: bool,
}

impl PlainVm {
    /// A row without hostname and UUID is none.
    pub(in crate::vpsie) fn read(row: Row<'_>, interruption: &InterruptionFields) -> Option<Self> {
        let hostname = row.hostname(&["hostname"]);
        let id = row.text(&["identifier", "vmIdentifier"]).map(VmId::new);
        if hostname.is_none() && id.is_none() {
            return None;
        }
        let kind = row.text(&["vmType", "type"]).unwrap_or_default().to_lowercase();
        Some(Self {
            hostname,
            id,
            number: row.number(&["id"]),
            notes: row.text(&["notes"]),
            state: vm_state(row),
            addresses: row.addresses(&["default_ip", "private_ip", "ip"]),
            datacenter: row.text(&["dcIdentifier", "dc_identifier"]),
            plan: row.text(&["resourceIdentifier"]),
            capacity_type: capacity_type(row),
            created: row.time(&["created_on", "created_at"]),
            interruption: interruption.read(row),
            password: row.text(&["initial_password"]).map(Into::into),
            is_managed: kind.starts_with("k8s") || kind.starts_with("kubernetes"),
        })
    }
}

/// A VM that is requested and not created yet (docs/reference/vpsie-api.md#pending-vms). Its password is not
/// read.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::vpsie) struct PendingVm {
    pub(in crate::vpsie) hostname: Hostname,
    /// UUID of the datacenter.
    pub(in crate::vpsie) datacenter: Option<String>,
    /// UUID of the plan.
    pub(in crate::vpsie) plan: Option<String>,
    /// Its tags, as far as the row shows them.
    pub(in crate::vpsie) tags: Vec<String>,
}

impl PendingVm {
    pub(in crate::vpsie) fn read(row: Row<'_>) -> Option<Self> {
        let request = row.0.get("data").and_then(Value::as_object).map_or(row, Row);
        Some(Self {
            hostname: request.hostname(&["hostname"])?,
            datacenter: request.text(&["dcIdentifier", "dc_identifier"]),
            plan: request.text(&["resourceIdentifier"]),
            tags: request.texts("tags"),
        })
    }
}

/// A category of plans (docs/reference/vpsie-api.md#plans).
#[derive(Clone, Debug, PartialEq)]
pub(in crate::vpsie) struct PlanCategory {
    pub(in crate::vpsie) id: String,
    pub(in crate::vpsie) name: String,
}

impl PlanCategory {
    pub(in crate::vpsie) fn read(row: Row<'_>) -> Option<Self> {
        Some(Self { id: row.text(&["identifier"])?, name: row.text(&["name"])? })
    }

    /// Whether its plans share memory between VMs.
    pub(in crate::vpsie) fn shares_memory(&self) -> bool {
        self.name.trim().eq_ignore_ascii_case("a")
    }
}

/// Identifier and name of a script (docs/reference/vpsie-api.md#scripts). Its content is not read.
pub(in crate::vpsie) fn read_script(row: Row<'_>) -> Option<(String, String)> {
    let id = row.text(&["identifier", "scriptIdentifier"])?;
    Some((id, row.text(&["script_name", "scriptName", "name"])?))
}

/// The VM that the reply to a creation identifies: its UUID, and its hostname if shown.
pub(in crate::vpsie) fn read_created_vm(reply: &Map<String, Value>) -> Option<(VmId, Option<Hostname>)> {
    let vm = Row(reply.get("vmData").and_then(Value::as_object).unwrap_or(reply));
    let id = vm.text(&["identifier", "vmIdentifier", "uuid"])?;
    Some((VmId::new(id), vm.hostname(&["hostname"])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(row: &Value) -> Option<PlainVm> {
        PlainVm::read(Row(row.as_object().unwrap()), &InterruptionFields::default())
    }

    #[test]
    fn reads_the_row_of_the_official_client() {
        let vm = vm(&json!({"id": 12, "hostname": "Workers-0000000A-1", "identifier": "u-1",
            "default_ip": "198.18.0.1", "private_ip": "10.0.0.1", "notes": "a\nb", "is_active": 1, "power": 1,
            "is_deleted": 0, "dropped_on": null, "dcIdentifier": "dc-1", "created_on": "2026-01-01 00:00:00",
            "initial_password": "hunter2hunter2", "state": "Amsterdam", "vmType": null}))
        .unwrap();
        assert_eq!(vm.hostname, Some(Hostname::new("workers-0000000a-1")));
        assert_eq!(
            (vm.id.clone(), vm.number, vm.state),
            (Some("u-1".into()), Some(12), Some(VmState::Running))
        );
        assert_eq!((vm.notes.as_deref(), vm.datacenter.as_deref()), (Some("a\nb"), Some("dc-1")));
        assert_eq!((vm.addresses.len(), vm.created.unwrap().zoned, vm.is_managed), (2, false, false));
        assert!(!format!("{vm:?}").contains("hunter2"));
    }

    #[test]
    fn a_deleted_vm_has_no_state() {
        for fields in [json!({"is_deleted": 1}), json!({"dropped_on": "2026-01-01 00:00:00"})] {
            let mut row = fields.clone();
            row["hostname"] = "x".into();
            assert_eq!(vm(&row).unwrap().state, None, "{fields}");
        }
        assert_eq!(vm(&json!({"hostname": "x", "power": 0})).unwrap().state, Some(VmState::Down));
    }

    #[test]
    fn skips_a_row_without_hostname_and_uuid() {
        assert!(vm(&json!({"id": 1, "hostname": 7})).is_none());
        assert!(vm(&json!({"identifier": "u-1"})).is_some());
    }

    #[test]
    fn reads_a_pending_vm_in_or_out_of_data() {
        let request = json!({"hostname": "W-1", "dcIdentifier": "dc-1", "vmPassword": "hunter2hunter2"});
        for row in [json!({"id": "5", "data": request}), request.clone()] {
            let pending = PendingVm::read(Row(row.as_object().unwrap())).unwrap();
            assert_eq!((pending.hostname.as_str(), pending.datacenter.as_deref()), ("w-1", Some("dc-1")));
            assert!(!format!("{pending:?}").contains("hunter2"));
        }
        assert_eq!(PendingVm::read(Row(json!({"data": {}}).as_object().unwrap())), None);
    }

    #[test]
    fn only_an_identifier_identifies_a_created_vm() {
        let read = |reply: Value| read_created_vm(reply.as_object().unwrap());
        assert_eq!(read(json!({"hostname": "w-1", "status": "pending"})), None);
        assert_eq!(read(json!({"identifier": "u-1"})), Some(("u-1".into(), None)));
        let nested = json!({"vmData": {"identifier": "u-1", "hostname": "W-1"}});
        assert_eq!(read(nested), Some(("u-1".into(), Some(Hostname::new("w-1")))));
    }
}
