//! Identifies the VM of a listed node if the listing of the cluster does not show its UUID
//! (docs/reference/vpsie-api.md#node-uuids).
//!
//! Deletions need the UUID, and the hostname alone does not identify a VM: a restored backup has the hostname
//! of its original. So other evidence must agree, and none may contradict.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::wire::{Node, VmKind, VmName};
use crate::catalog::DatacenterId;
use crate::fleet::VmId;

/// The VMs of the account.
pub(super) struct Account<'a> {
    vms: &'a [VmName],
    /// Datacenter of the cluster's workers.
    datacenter: Option<&'a DatacenterId>,
    /// Whether rows of nodes of managed clusters show that kind. Then rows of another kind are not such
    /// nodes.
    shows_kinds: bool,
}

impl<'a> Account<'a> {
    pub(super) fn new(vms: &'a [VmName], datacenter: Option<&'a DatacenterId>) -> Self {
        let shows_kinds = vms.iter().any(|vm| vm.kind == VmKind::Kubernetes);
        Self { vms, datacenter, shows_kinds }
    }

    /// The UUID of the node: that of the only confirmed VM with its hostname.
    pub(super) fn identify(&self, node: &Node) -> Option<&'a VmId> {
        let confirmed: BTreeSet<&VmId> = self
            .vms
            .iter()
            .filter(|vm| vm.hostname == node.hostname && self.is_confirmed(node, vm))
            .map(|vm| &vm.id)
            .collect();
        confirmed.first().copied().filter(|_| confirmed.len() == 1)
    }

    /// Whether other evidence than the hostname shows that the VM is the node: an address, or kind and
    /// datacenter. Absent fields are no evidence.
    fn is_confirmed(&self, node: &Node, vm: &VmName) -> bool {
        let address = same_address(&node.addresses, &vm.addresses);
        let datacenter = self.same_datacenter(node, vm);
        let other_kind = self.shows_kinds && vm.kind == VmKind::Other;
        if other_kind || address == Some(false) || datacenter == Some(false) {
            return false;
        }
        address == Some(true) || vm.kind == VmKind::Kubernetes && datacenter == Some(true)
    }

    /// Whether both are in the same datacenter. None if a side does not show it.
    fn same_datacenter(&self, node: &Node, vm: &VmName) -> Option<bool> {
        let uuids = vm.datacenter_uuid.as_ref().zip(self.datacenter);
        let by_uuid = uuids.map(|(uuid, known)| known.as_str().eq_ignore_ascii_case(uuid));
        let by_number = node.datacenter.as_ref().zip(vm.datacenter.as_ref()).map(|(node, vm)| node == vm);
        match (by_number, by_uuid) {
            (Some(false), _) => Some(false),
            (number, uuid) => uuid.or(number),
        }
    }
}

/// Whether both have an address in common. None if they show no addresses of the same kind: one listing may
/// have only the private address of a VM, and another only the public one.
fn same_address(node: &BTreeSet<IpAddr>, vm: &BTreeSet<IpAddr>) -> Option<bool> {
    let kinds =
        |addresses: &BTreeSet<IpAddr>| addresses.iter().map(AddressKind::new).collect::<BTreeSet<_>>();
    let same = !node.is_disjoint(vm);
    (same || !kinds(node).is_disjoint(&kinds(vm))).then_some(same)
}

/// Kind of an address. Addresses of different kinds do not contradict each other.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct AddressKind {
    is_ipv4: bool,
    is_private: bool,
}

impl AddressKind {
    fn new(address: &IpAddr) -> Self {
        let is_private = match address {
            IpAddr::V4(address) => address.is_private(),
            IpAddr::V6(address) => address.is_unique_local(),
        };
        Self { is_ipv4: address.is_ipv4(), is_private }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::wire::{self, InterruptionFields, Row};
    use super::*;

    const NAME: &str = "hel-slave-1";

    /// The UUID of a node with these fields, among VMs with these fields.
    fn identify(node: &Value, vms: &[Value]) -> Option<String> {
        let with_name = |fields: &Value| {
            let mut row = fields.clone();
            row.as_object_mut().unwrap().entry("hostname").or_insert(NAME.into());
            row
        };
        let cluster = json!({"slaves": [with_name(node)]});
        let node = wire::read_nodes(cluster.as_object().unwrap(), &InterruptionFields::default())
            .unwrap()
            .nodes
            .remove(0);
        let read = |(number, row): (usize, &Value)| {
            let mut row = with_name(row);
            row["identifier"] = format!("u-{number}").into();
            VmName::read(Row(row.as_object().unwrap())).unwrap()
        };
        let vms: Vec<VmName> = vms.iter().enumerate().map(read).collect();
        Account::new(&vms, Some(&"dc-1".into())).identify(&node).map(ToString::to_string)
    }

    #[test]
    fn a_hostname_alone_identifies_no_vm() {
        let node = json!({"default_ip": "198.18.0.1", "datacenter_id": 3});
        for vm in [json!({}), json!({"type": "k8s"}), json!({"type": "vm"}), json!({"dcIdentifier": "dc-1"})]
        {
            assert_eq!(identify(&node, std::slice::from_ref(&vm)), None, "{vm}");
        }
    }

    #[test]
    fn an_address_or_kind_and_datacenter_confirm() {
        let node = json!({"default_ip": "198.18.0.1", "private_ip": "10.0.0.1", "datacenter_id": 3});
        for vm in [
            json!({"private_ip": ["10.0.0.1"]}),
            json!({"default_ip": "198.18.0.1", "type": "vm"}),
            json!({"type": "k8s", "dcIdentifier": "DC-1"}),
            json!({"type": "k8s", "datacenter_id": "3"}),
        ] {
            assert_eq!(identify(&node, std::slice::from_ref(&vm)).as_deref(), Some("u-0"), "{vm}");
        }
    }

    #[test]
    fn evidence_that_contradicts_outweighs_all_that_agrees() {
        let node = json!({"default_ip": "198.18.0.1", "datacenter_id": 3});
        for vm in [
            json!({"type": "k8s", "dcIdentifier": "dc-1", "default_ip": "198.18.0.2"}),
            json!({"type": "k8s", "dcIdentifier": "dc-2", "default_ip": "198.18.0.1"}),
            json!({"type": "k8s", "datacenter_id": 4, "default_ip": "198.18.0.1"}),
        ] {
            assert_eq!(identify(&node, std::slice::from_ref(&vm)), None, "{vm}");
        }
    }

    #[test]
    fn rows_of_another_kind_never_match_if_kinds_are_shown() {
        let node = json!({"private_ip": "10.0.0.1"});
        let backup = json!({"type": "vm", "private_ip": "10.0.0.1"});
        let other = json!({"type": "k8s", "hostname": "hel-slave-2"});
        assert_eq!(identify(&node, std::slice::from_ref(&backup)).as_deref(), Some("u-0"));
        assert_eq!(identify(&node, &[backup.clone(), other.clone()]), None);
        let worker = json!({"type": "k8s", "private_ip": "10.0.0.1"});
        assert_eq!(identify(&node, &[backup, other, worker]).as_deref(), Some("u-2"));
    }

    #[test]
    fn addresses_of_different_kinds_contradict_nothing() {
        let node = json!({"private_ip": "10.0.0.1"});
        let vm = |address: &str| json!({"type": "k8s", "dcIdentifier": "dc-1", "default_ip": address});
        for address in ["198.18.0.1", "2001:db8::1", "fd00::1"] {
            assert_eq!(identify(&node, &[vm(address)]).as_deref(), Some("u-0"), "{address}");
        }
        assert_eq!(identify(&node, &[vm("10.0.0.2")]), None, "another private address");
    }

    #[test]
    fn two_confirmed_vms_identify_neither() {
        let node = json!({"private_ip": "10.0.0.1"});
        let vm = json!({"private_ip": "10.0.0.1"});
        assert_eq!(identify(&node, &[vm.clone(), vm]), None);
    }
}
