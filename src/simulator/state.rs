//! Objects of the simulated VPSie. Pure: time and randomness are arguments.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

use super::account::Account;
use super::anomalies::draw_event;
use super::config::{ClusterConfig, SimulatorConfig};
use super::span::{Span, later};
use super::vm::{Phase, Vm, VmKind};
use crate::catalog::CapacityType;

/// The state that survives restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub next_id: u64,
    pub groups: BTreeMap<u64, Group>,
    /// VMs by numeric id, including those of [`Phase::Gone`] until [`State::advance_to`] removes them.
    pub vms: BTreeMap<u64, Vm>,
    /// Deleted VMs, for the bill.
    pub gone: Vec<Vm>,
    pub capacity: Vec<Capacity>,
    pub worker_quota: Option<u32>,
    pub tokens: Vec<Token>,
    /// Number of changes.
    pub revision: u64,
    /// Time of the first start.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// Number of past events of the spot market.
    #[serde(default)]
    pub past_events: usize,
    /// Maximum number of VMs outside managed clusters. None: no limit.
    #[serde(default)]
    pub vm_quota: Option<u32>,
    /// Scripts, networks, projects and so on.
    #[serde(default)]
    pub account: Account,
}

/// A node group of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Numeric id, for requests for workers.
    pub id: u64,
    /// UUID, for the deletion of the group.
    pub identifier: String,
    /// Name; not unique.
    pub name: String,
    /// UUID of its cluster.
    pub cluster: String,
    /// `KubeSizeID`.
    pub size: u64,
    /// Time of its creation.
    pub created_at: Timestamp,
}

/// Maximum number of VMs of a size in a datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Capacity {
    /// None: each datacenter.
    pub datacenter: Option<String>,
    pub size: u64,
    /// Capacity type. None: both together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[allow(clippy::struct_field_names, reason = "the field's own term")]
    pub capacity_type: Option<CapacityType>,
    pub limit: u32,
}

/// The token of a login.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Token {
    pub text: String,
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(until {})", self.expires_at)
    }
}

/// Configuration, time and randomness of an operation.
pub(super) struct Context<'a> {
    pub config: &'a SimulatorConfig,
    pub now: Timestamp,
    pub rng: &'a mut Xoshiro256PlusPlus,
}

/// Time that deleted VMs stay on the bill.
const BILL_RETENTION: SignedDuration = SignedDuration::from_hours(31 * 24);

impl State {
    /// The objects of the configuration. Their VMs are up.
    pub(super) fn new(cx: &mut Context<'_>) -> Self {
        let capacity = cx.config.capacity.iter().filter_map(|entry| {
            let size = cx.config.offer_named(&entry.offer)?.id;
            let datacenter = entry.datacenter.clone();
            Some(Capacity { datacenter, size, capacity_type: entry.capacity_type, limit: entry.limit })
        });
        let mut state = Self {
            next_id: 1,
            groups: BTreeMap::new(),
            vms: BTreeMap::new(),
            gone: Vec::new(),
            capacity: capacity.collect(),
            worker_quota: cx.config.worker_quota,
            tokens: Vec::new(),
            revision: 0,
            started_at: Some(cx.now),
            past_events: 0,
            vm_quota: cx.config.vm_quota,
            account: Account::default(),
        };
        let config = cx.config;
        for cluster in &config.clusters {
            state.create_initial_vms(cx, cluster);
        }
        state
    }

    fn create_initial_vms(&mut self, cx: &mut Context<'_>, cluster: &ClusterConfig) {
        let offer = cluster.offer.as_deref().and_then(|name| cx.config.offer_named(name));
        let Some(size) = offer.or(cx.config.offers.first()).map(|offer| offer.id) else { return };
        for i in 0..cluster.control_plane {
            let hostname = match i {
                0 => format!("{}-master-main", cluster.name),
                _ => self.draw_hostname(cx, &format!("{}-master", cluster.name)),
            };
            let node = self.new_vm(cx, hostname, VmKind::ControlPlane, &cluster.datacenter, size);
            self.insert_running(cx.now, &cluster.identifier, None, node);
        }
        if cluster.foreign_workers > 0 {
            let group = self.insert_group(cx, &cluster.identifier, "default", size);
            for _ in 0..cluster.foreign_workers {
                self.insert_foreign(cx, cluster, group);
            }
        }
    }

    /// Adds a worker outside the API, running at once.
    pub(super) fn insert_foreign(
        &mut self,
        cx: &mut Context<'_>,
        cluster: &ClusterConfig,
        group: u64,
    ) -> Option<u64> {
        let size = self.groups.get(&group)?.size;
        let hostname = self.draw_hostname(cx, &format!("{}-slave", cluster.name));
        let vm = self.new_vm(cx, hostname, VmKind::Foreign, &cluster.datacenter, size);
        Some(self.insert_running(cx.now, &cluster.identifier, Some(group), vm))
    }

    fn insert_running(&mut self, now: Timestamp, cluster: &str, group: Option<u64>, vm: Vm) -> u64 {
        let id = vm.id;
        let (cluster, up_at) = (Some(cluster.to_owned()), Some(now));
        let vm = Vm { cluster, group, listed_at: now, up_at, held: None, ..vm };
        self.vms.insert(id, vm);
        self.revision += 1;
        id
    }

    pub(super) fn insert_group(&mut self, cx: &mut Context<'_>, cluster: &str, name: &str, size: u64) -> u64 {
        let id = self.allocate_id();
        let group = Group {
            id,
            identifier: uuid(cx.rng),
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            size,
            created_at: cx.now,
        };
        self.groups.insert(id, group);
        self.revision += 1;
        id
    }

    /// A VM that is requested now. Its times and identifiers are drawn at once, so that they do not depend on
    /// later requests.
    pub(super) fn new_vm(
        &mut self,
        cx: &mut Context<'_>,
        hostname: String,
        kind: VmKind,
        datacenter: &str,
        size: u64,
    ) -> Vm {
        let times = cx.config.times;
        let listed_at = later(cx.now, times.listed.draw(cx.rng));
        let boot = later(cx.now, times.boot.draw(cx.rng)).max(listed_at);
        let comes_up = !cx.rng.random_bool(cx.config.boot_failure);
        Vm {
            id: self.allocate_id(),
            uuid: uuid(cx.rng),
            hostname,
            kind,
            cluster: None,
            group: None,
            datacenter: datacenter.to_owned(),
            size,
            created_at: cx.now,
            listed_at,
            up_at: comes_up.then_some(boot),
            suspended: false,
            spot: false,
            role_hidden: false,
            uuid_listed_at: None,
            returns_at: None,
            interruptions: Vec::new(),
            held: cx.config.faults_at(datacenter).creations.held(),
            plain: None,
            end: None,
        }
    }

    /// Lists the VMs that a datacenter has withheld, as if they were requested now.
    pub(super) fn release_held(&mut self, cx: &mut Context<'_>, datacenter: &str) {
        for vm in self.vms.values_mut().filter(|vm| vm.datacenter == datacenter && vm.held.is_some()) {
            vm.held = None;
            vm.listed_at = later(cx.now, cx.config.times.listed.draw(cx.rng));
            let boot = later(cx.now, cx.config.times.boot.draw(cx.rng)).max(vm.listed_at);
            vm.up_at = vm.up_at.map(|_| boot);
        }
        self.revision += 1;
    }

    /// Creates a requested worker and draws its anomalies.
    pub(super) fn insert_worker(
        &mut self,
        cx: &mut Context<'_>,
        cluster: &ClusterConfig,
        group: &Group,
        spot: bool,
    ) -> u64 {
        let anomalies = cx.config.anomalies;
        let role_hidden = draw_event(anomalies.unknown_roles, cx.rng);
        let role = if role_hidden { "node" } else { "slave" };
        let hostname = self.draw_hostname(cx, &format!("{}-{role}", cluster.name));
        if draw_event(anomalies.namesakes, cx.rng) {
            let mut namesake =
                self.new_vm(cx, hostname.clone(), VmKind::Plain, &cluster.datacenter, group.size);
            (namesake.listed_at, namesake.up_at) = (cx.now, Some(cx.now));
            self.vms.insert(namesake.id, namesake);
        }
        let mut vm = self.new_vm(cx, hostname, VmKind::Worker, &cluster.datacenter, group.size);
        if draw_event(anomalies.late, cx.rng) {
            let late = anomalies.late_by.draw(cx.rng);
            vm.listed_at = later(vm.listed_at, late);
            vm.up_at = vm.up_at.map(|up| later(up, late));
        }
        if anomalies.uuid_listed_after != Span::ZERO {
            vm.uuid_listed_at = Some(later(vm.listed_at, anomalies.uuid_listed_after.draw(cx.rng)));
        }
        if spot && let Some(offer) = cx.config.offer(group.size) {
            let class = cx.config.market_class(offer, &cluster.datacenter);
            vm.interruptions = cx.config.spot_market.plan_interruptions(class, cx.now, cx.rng);
        }
        let id = vm.id;
        let cluster = Some(cluster.identifier.clone());
        let vm = Vm { cluster, group: Some(group.id), spot, role_hidden, ..vm };
        self.vms.insert(id, vm);
        self.revision += 1;
        id
    }

    pub(super) fn allocate_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Draws a hostname `<prefix>-xxxx` that no VM has.
    pub(super) fn draw_hostname(&self, cx: &mut Context<'_>, prefix: &str) -> String {
        loop {
            let hostname = format!("{prefix}-{:04x}", cx.rng.random::<u16>());
            if self.vms.values().all(|vm| vm.hostname != hostname) {
                return hostname;
            }
        }
    }

    /// Applies the changes that are due: removes ended VMs and expired tokens, and restores VMs that return.
    pub(super) fn advance_to(&mut self, now: Timestamp) {
        self.vms.values_mut().for_each(|vm| vm.end_by_interruption(now));
        self.gone.extend(self.vms.extract_if(.., |_, vm| vm.phase(now) == Phase::Gone).map(|(_, vm)| vm));
        let returned = self.gone.extract_if(.., |vm| vm.returns_at.is_some_and(|at| at <= now));
        for vm in returned.collect::<Vec<_>>() {
            self.vms.insert(vm.id, Vm { end: None, returns_at: None, ..vm });
            self.revision += 1;
        }
        self.gone.retain(|vm| vm.end.is_some_and(|end| end.gone_at.duration_until(now) < BILL_RETENTION));
        self.tokens.retain(|token| token.expires_at > now);
    }

    pub(super) fn vm(&self, uuid: &str) -> Option<&Vm> {
        self.vms.values().find(|vm| vm.uuid.eq_ignore_ascii_case(uuid))
    }

    pub(super) fn vm_mut(&mut self, uuid: &str) -> Option<&mut Vm> {
        self.vms.values_mut().find(|vm| vm.uuid.eq_ignore_ascii_case(uuid))
    }

    /// The listed VMs of the cluster.
    pub(super) fn nodes(&self, now: Timestamp, cluster: &str) -> impl Iterator<Item = &Vm> {
        self.vms.values().filter(move |vm| vm.cluster.as_deref() == Some(cluster) && vm.is_listed(now))
    }

    /// Existing workers of a group, listed or not.
    pub(super) fn workers(&self, group: u64) -> impl Iterator<Item = &Vm> {
        self.vms.values().filter(move |vm| vm.group == Some(group))
    }

    /// Number of VMs of a size and capacity type that can still be created in a datacenter. None: no limit.
    pub(super) fn remaining_capacity(&self, datacenter: &str, size: u64, spot: bool) -> Option<u32> {
        let wanted = if spot { CapacityType::Spot } else { CapacityType::OnDemand };
        let applicable = self.capacity.iter().filter(|capacity| {
            capacity.size == size
                && capacity.datacenter.as_deref().is_none_or(|d| d == datacenter)
                && capacity.capacity_type.is_none_or(|capacity_type| capacity_type == wanted)
        });
        let remaining = applicable.map(|capacity| {
            let counts = |vm: &&Vm| capacity.capacity_type.is_none() || vm.spot == spot;
            let vms = self.vms.values().filter(|vm| vm.datacenter == datacenter && vm.size == size);
            capacity.limit.saturating_sub(u32::try_from(vms.filter(counts).count()).unwrap_or(u32::MAX))
        });
        remaining.min()
    }

    /// Sets the maximum number of VMs of a size. None: no limit.
    pub(super) fn set_capacity(
        &mut self,
        datacenter: Option<String>,
        size: u64,
        capacity_type: Option<CapacityType>,
        limit: Option<u32>,
    ) {
        self.capacity.retain(|capacity| {
            capacity.size != size
                || capacity.datacenter != datacenter
                || capacity.capacity_type != capacity_type
        });
        self.capacity.extend(limit.map(|limit| Capacity { datacenter, size, capacity_type, limit }));
        self.revision += 1;
    }
}

/// A UUID of version 1, as MySQL generates it (docs/reference/vpsie-api.md#uuids).
pub(super) fn uuid(rng: &mut impl RngExt) -> String {
    let head: u64 = rng.random();
    let clock: u16 = rng.random();
    format!("{:08x}-{:04x}-11ef-{:04x}-bc24115e1e5f", head >> 32, head as u16, 0x8000 | (clock & 0x3fff))
}
