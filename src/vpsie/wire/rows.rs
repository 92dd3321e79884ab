//! Rows of the other listings.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::row::Row;
use crate::catalog::{CapacityType, DEFAULT_MAX_PODS, DatacenterId, Offer, Resources, SizeId};
use crate::fleet::{Hostname, VmId};

/// A cluster of the account (docs/reference/vpsie-api.md#clusters).
#[derive(Debug, PartialEq)]
pub(in crate::vpsie) struct Cluster {
    pub(in crate::vpsie) id: String,
    pub(in crate::vpsie) name: String,
}

impl Cluster {
    pub(in crate::vpsie) fn read(row: Row<'_>) -> Option<Self> {
        Some(Self {
            id: row.text(&["identifier", "clusterIdentifier"])?,
            name: row.text(&["cluster_name", "clusterName", "name"]).unwrap_or_default(),
        })
    }
}

/// A datacenter (docs/reference/vpsie-api.md#datacenters).
#[derive(Debug, PartialEq)]
pub(in crate::vpsie) struct Datacenter {
    pub(in crate::vpsie) id: String,
    pub(in crate::vpsie) name: String,
    /// Whether VMs can be created there.
    pub(in crate::vpsie) active: bool,
}

impl Datacenter {
    pub(in crate::vpsie) fn read(row: Row<'_>) -> Option<Self> {
        let deleted = row.flag(&["is_deleted"]).unwrap_or(false);
        Some(Self {
            id: row.text(&["identifier", "dcIdentifier", "dc_identifier"])?,
            name: row.text(&["dc_name", "name"]).unwrap_or_default(),
            active: row.flag(&["is_active"]).unwrap_or(true) && !deleted,
        })
    }
}

/// A VPSie group: the workers of one size in one cluster (docs/reference/vpsie-api.md#groups).
#[derive(Clone, Debug, PartialEq)]
pub(in crate::vpsie) struct Group {
    /// Numeric id, for requests for workers.
    pub(in crate::vpsie) id: u64,
    pub(in crate::vpsie) identifier: Option<String>,
    pub(in crate::vpsie) name: String,
    /// `boxsize_id`: probably the `KubeSizeID` of its creation (docs/reference/vpsie-api.md#offers).
    pub(in crate::vpsie) box_size: Option<u64>,
    pub(in crate::vpsie) shape: RowResources,
    /// Number of workers, by VPSie's own count.
    pub(in crate::vpsie) nodes: Option<u32>,
    pub(in crate::vpsie) deleted: bool,
}

impl Group {
    pub(in crate::vpsie) fn read(row: Row<'_>) -> Option<Self> {
        Some(Self {
            id: row.number(&["id", "groupId", "group_id"])?,
            identifier: row.text(&["identifier"]),
            name: row.text(&["group_name", "groupName", "name"]).unwrap_or_default(),
            box_size: row.number(&["boxsize_id", "boxsizeId", "KubeSizeID", "kube_size_id"]),
            shape: RowResources::read(row),
            nodes: row.number(&["nodes_count", "nodesCount"]).and_then(|count| u32::try_from(count).ok()),
            deleted: row.flag(&["is_deleted"]) == Some(true) || row.time(&["dropped_on"]).is_some(),
        })
    }
}

/// Known resources of an object: cores, MiB, GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::vpsie) struct RowResources {
    cpu: Option<Decimal>,
    memory: Option<u64>,
    disk: Option<u64>,
}

impl RowResources {
    pub(in crate::vpsie) fn read(row: Row<'_>) -> Self {
        let positive = |names| row.number(names).filter(|n| *n > 0);
        Self {
            cpu: row.decimal(&["cpu"]).filter(|cpu| *cpu > Decimal::ZERO),
            memory: positive(&["ram", "memory"]),
            disk: positive(&["disk", "ssd"]),
        }
    }

    /// Whether cores and memory are known.
    pub(in crate::vpsie) fn is_known(&self) -> bool {
        self.cpu.is_some() && self.memory.is_some()
    }

    /// Whether all resources that offers have are known.
    pub(in crate::vpsie) fn is_whole(&self) -> bool {
        self.is_known() && self.disk.is_some()
    }

    /// Whether no resource that both show differs.
    pub(in crate::vpsie) fn may_be(&self, other: &Self) -> bool {
        fn agree<T: PartialEq + Copy>(one: Option<T>, other: Option<T>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        agree(self.cpu, other.cpu) && agree(self.memory, other.memory) && agree(self.disk, other.disk)
    }

    /// Whether no resource that it shows differs from the offer.
    pub(in crate::vpsie) fn fits(&self, offer: &Offer) -> bool {
        let Resources { cpu_millis, memory_mib, disk_gib, .. } = offer.resources;
        self.cpu.is_none_or(|cpu| millis(cpu) == Some(cpu_millis))
            && self.memory.is_none_or(|memory| memory == memory_mib)
            && self.disk.is_none_or(|disk| disk == disk_gib || disk_gib == 0)
    }
}

fn millis(cores: Decimal) -> Option<u64> {
    cores.checked_mul(Decimal::ONE_THOUSAND)?.trunc().to_u64().filter(|millis| *millis > 0)
}

/// The capacity type that a row of an offer or of a VM shows (docs/reference/vpsie-api.md#spot).
pub(super) fn capacity_type(row: Row<'_>) -> Option<CapacityType> {
    let is_spot = row.flag(&["is_spot", "spot", "is_preemptible", "preemptible"])?;
    Some(if is_spot { CapacityType::Spot } else { CapacityType::OnDemand })
}

/// The offers of a row. A row with a spot price has two: one on demand, and one spot.
pub(in crate::vpsie) fn read_offers(row: Row<'_>, datacenter: &DatacenterId) -> Option<Vec<Offer>> {
    let price = |names| row.decimal(names).filter(|price| *price > Decimal::ZERO);
    let monthly = price(&["spot_price", "spot_monthly_price"]);
    let hourly = price(&["spot_hourly_price", "spot_price_hourly"]);
    let offer = read_offer(row, datacenter)?;
    if monthly.or(hourly).is_none() {
        return Some(vec![offer]);
    }
    let spot = Offer { capacity_type: CapacityType::Spot, monthly, hourly, ..offer.clone() };
    let is_spot = offer.capacity_type == CapacityType::Spot;
    Some(if is_spot { vec![spot] } else { vec![offer, spot] })
}

/// An offer (docs/reference/vpsie-api.md#offers). A row without size, name, CPU or memory is none.
fn read_offer(row: Row<'_>, datacenter: &DatacenterId) -> Option<Offer> {
    let size = row.number(&["id", "KubeSizeID", "kubeSizeId", "kube_size_id"])?;
    let name = row.text(&["name", "nickname"])?;
    let offer = offer_with(row, SizeId(size), name, datacenter)?;
    Some(Offer { capacity_type: capacity_type(row).unwrap_or_default(), ..offer })
}

/// A plan for VMs (docs/reference/vpsie-api.md#plans). A row without UUID, name, CPU or memory is none.
pub(in crate::vpsie) fn read_plan(row: Row<'_>, datacenter: &DatacenterId) -> Option<Offer> {
    let name = row.text(&["nickname", "name"])?;
    let plan = offer_with(row, SizeId::from_plan(&name), name, datacenter)?;
    plan.identifier.is_some().then_some(plan)
}

fn offer_with(row: Row<'_>, size: SizeId, name: String, datacenter: &DatacenterId) -> Option<Offer> {
    let price = |names| row.decimal(names).filter(|price| *price > Decimal::ZERO);
    let shape = RowResources::read(row);
    Some(Offer {
        size,
        name,
        identifier: row.text(&["identifier"]),
        datacenter: datacenter.clone(),
        capacity_type: CapacityType::OnDemand,
        resources: Resources {
            cpu_millis: millis(shape.cpu?)?,
            memory_mib: shape.memory?,
            disk_gib: shape.disk.unwrap_or(0),
            pods: DEFAULT_MAX_PODS,
        },
        monthly: price(&["price", "monthly_price", "price_monthly"]),
        hourly: price(&["hourly_price", "price_hourly"]),
    })
}

/// A VM of the account, with the fields that identify nodes (docs/reference/vpsie-api.md#node-uuids).
#[derive(Clone, Debug, PartialEq)]
pub(in crate::vpsie) struct VmName {
    pub(in crate::vpsie) hostname: Hostname,
    pub(in crate::vpsie) id: VmId,
    pub(in crate::vpsie) kind: VmKind,
    pub(in crate::vpsie) addresses: BTreeSet<IpAddr>,
    /// Numeric id of its datacenter.
    pub(in crate::vpsie) datacenter: Option<String>,
    /// UUID of its datacenter.
    pub(in crate::vpsie) datacenter_uuid: Option<String>,
}

/// Purpose of a VM of the account, by its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vpsie) enum VmKind {
    /// A node of a managed cluster.
    Kubernetes,
    /// Another purpose.
    Other,
    /// The row does not show it.
    Unknown,
}

impl VmName {
    pub(in crate::vpsie) fn read(row: Row<'_>) -> Option<Self> {
        Some(Self {
            hostname: row.hostname(&["hostname"])?,
            id: VmId::new(row.text(&["identifier"])?),
            kind: row.text(&["type", "entity_type"]).map_or(VmKind::Unknown, |kind| {
                let kind = kind.to_lowercase();
                let kubernetes = kind.starts_with("k8s") || kind.starts_with("kubernetes");
                if kubernetes { VmKind::Kubernetes } else { VmKind::Other }
            }),
            addresses: row.addresses(&["ip", "default_ip", "private_ip"]),
            datacenter: row.text(&["datacenter_id"]),
            datacenter_uuid: row.text(&["dcIdentifier", "dc_identifier"]),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<T>(value: &Value, read: impl Fn(Row<'_>) -> T) -> T {
        read(Row(value.as_object().unwrap()))
    }

    fn offers_of(value: &Value) -> Vec<Offer> {
        read(value, |row| read_offers(row, &"dc".into())).unwrap_or_default()
    }

    fn offer_of(value: &Value) -> Option<Offer> {
        let mut offers = offers_of(value);
        assert!(offers.len() <= 1, "{offers:?}");
        offers.pop()
    }

    #[test]
    fn a_spot_flag_or_a_spot_price_makes_a_spot_offer() {
        let types = |more: &Value| {
            let mut row = json!({"id": 7, "name": "s", "cpu": 2, "ram": 4096, "price": 24});
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let prices =
                |offer: Offer| (offer.capacity_type, offer.monthly.or(offer.hourly).map(|p| p.to_string()));
            offers_of(&row).into_iter().map(prices).collect::<Vec<_>>()
        };
        let on_demand = || (CapacityType::OnDemand, Some("24".to_owned()));
        let spot = |price: &str| (CapacityType::Spot, Some(price.to_owned()));
        assert_eq!(types(&json!({})), [on_demand()]);
        assert_eq!(types(&json!({"is_spot": 0, "spot_price": 0, "spot_hourly_price": null})), [on_demand()]);
        assert_eq!(types(&json!({"is_spot": "1"})), [spot("24")]);
        assert_eq!(types(&json!({"preemptible": true, "spot_price": 8})), [spot("8")]);
        assert_eq!(types(&json!({"spot_price": "8"})), [on_demand(), spot("8")]);
        assert_eq!(types(&json!({"spot_hourly_price": 0.011})), [on_demand(), spot("0.011")]);
    }

    #[test]
    fn an_offer_goes_by_either_set_of_names() {
        let one = offer_of(&json!({"id": 7, "name": "s", "cpu": 2, "ram": 4096, "disk": 80, "price": 24,
            "hourly_price": 0.033}))
        .unwrap();
        let other = offer_of(&json!({"id": "7", "nickname": "s", "cpu": "2", "ram": "4096", "ssd": 80.0,
            "price": "24", "hourly_price": "0.033", "traffic": 4, "boxsize_id": 99}))
        .unwrap();
        assert_eq!(one, other);
        assert_eq!(one.size, SizeId(7));
        assert_eq!(one.resources, Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 80, pods: 110 });
        assert_eq!(one.hourly.unwrap().to_string(), "0.033");
    }

    #[test]
    fn ignores_prices_that_are_not_above_zero() {
        let offer =
            json!({"id": 7, "name": "s", "cpu": 2, "ram": 4096, "price": "0.00", "hourly_price": null});
        let offer = offer_of(&offer).unwrap();
        assert_eq!((offer.monthly, offer.hourly), (None, None));
    }

    #[test]
    fn skips_offers_without_a_size() {
        assert_eq!(offer_of(&json!({"boxsize_id": 7, "name": "s", "cpu": 2, "ram": 4096})), None);
        assert_eq!(offer_of(&json!({"id": 7, "name": "s", "cpu": 0, "ram": 4096})), None);
    }

    #[test]
    fn a_number_that_no_machine_has_makes_no_offer() {
        for cpu in [json!(1e28), json!("79228162514264337593543950335"), json!(-1), json!(1e-28)] {
            let row = json!({"id": 7, "name": "s", "cpu": cpu, "ram": 4096});
            assert_eq!(offer_of(&row), None, "{row}");
        }
        assert_eq!(offer_of(&json!({"id": 7, "name": "s", "cpu": 2, "ram": 1e28})), None);
    }

    #[test]
    fn a_group_is_deleted_by_flag_or_by_date() {
        let group = |more: &str| {
            let row = format!(r#"{{"id": 5, "group_name": "a", "boxsize_id": "7"{more}}}"#);
            read(&serde_json::from_str(&row).unwrap(), Group::read).unwrap()
        };
        assert_eq!((group("").box_size, group("").deleted), (Some(7), false));
        assert!(!group(r#","dropped_on":null,"is_deleted":0"#).deleted);
        assert!(group(r#","is_deleted":1"#).deleted);
        assert!(group(r#","dropped_on":"2026-01-01T00:00:00Z""#).deleted);
        assert!(!group(r#","dropped_on":0"#).deleted);
        assert!(!group(r#","dropped_on":"1970-01-01 00:00:00""#).deleted);
        assert_eq!(read(&json!({"group_name": "a"}), Group::read), None);
    }

    #[test]
    fn a_datacenter_is_active_unless_its_row_denies_it() {
        let active = |value| read(&value, Datacenter::read).unwrap().active;
        assert!(active(json!({"dc_name": "AMS", "identifier": "ams1"})));
        assert!(!active(json!({"identifier": "ams1", "is_active": 0})));
        assert!(!active(json!({"identifier": "ams1", "is_active": 1, "is_deleted": "1"})));
    }
}
