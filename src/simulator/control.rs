//! Control of the simulated VPSie by users and tests, outside the API.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use secrecy::SecretString;
use serde::Serialize;

use super::anomalies::AnomaliesConfig;
use super::config::{Shortage, SimulatorConfig, TimesConfig};
use super::datacenter_faults::DatacenterFaults;
use super::fault::{ActiveRule, FaultRule};
use super::handle::Simulator;
use super::market::{MarketConfig, Storm};
use super::plain::{Boot, Hidden, KubeletIdentity, VmRequest};
use super::shapes::Shapes;
use super::state::{Capacity, Group};
use super::vm::{EndedBy, Phase, Vm, VmKind, price};
use crate::catalog::CapacityType;

/// A failed control operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ControlError(pub(super) String);

/// A VM with values computed from the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmView {
    /// The VM.
    #[serde(flatten)]
    pub vm: Vm,
    /// Name of its offer.
    pub offer: String,
    /// Its phase.
    pub phase: Phase,
    /// Hourly price, USD.
    pub hourly: Decimal,
    /// Cost so far, USD.
    pub cost: Decimal,
    /// Whether its datacenter has no outage.
    pub reachable: bool,
}

/// An overview of the state.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The simulator's current time.
    pub now: Timestamp,
    /// VMs that exist.
    pub vms: Vec<VmView>,
    /// Number of VMs that were deleted in the last month.
    pub gone: usize,
    /// Node groups.
    pub groups: Vec<Group>,
    /// Maximum numbers of VMs: `<datacenter or *>/<offer>`.
    pub capacity: BTreeMap<String, u32>,
    /// Maximum number of workers of the account.
    pub worker_quota: Option<u32>,
    /// Maximum number of VMs outside managed clusters.
    pub vm_quota: Option<u32>,
    /// The faults of each datacenter.
    pub datacenters: BTreeMap<String, DatacenterFaults>,
    /// Maximum requests per minute.
    pub rate_limit: Option<u32>,
    /// Whether the API is unreachable.
    pub outage: bool,
    /// Active faults.
    pub faults: Vec<ActiveRule>,
    /// Active shapes.
    pub shapes: Shapes,
    /// Number of requests by endpoint.
    pub calls: BTreeMap<String, u64>,
    /// Cost of all VMs of the last month so far, USD, including deleted ones.
    pub spent: Decimal,
}

impl Simulator {
    /// VMs that exist, in the order of their requests.
    pub fn vms(&self) -> Vec<VmView> {
        self.with_state(|state, cx, _| state.vms.values().map(|vm| view(cx.config, cx.now, vm)).collect())
    }

    /// VMs that were deleted in the last month.
    pub fn gone(&self) -> Vec<VmView> {
        self.with_state(|state, cx, _| state.gone.iter().map(|vm| view(cx.config, cx.now, vm)).collect())
    }

    /// Number of existing workers that were created through the API.
    pub fn worker_count(&self) -> usize {
        self.with_state(|state, _, _| state.vms.values().filter(|vm| vm.kind == VmKind::Worker).count())
    }

    /// Node groups.
    pub fn groups(&self) -> Vec<Group> {
        self.with_state(|state, _, _| state.groups.values().cloned().collect())
    }

    /// Number of requests by endpoint, such as `POST /k8s/cluster/byId/*/add/slave/group/*`. Requests with
    /// faults are included.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.world(|world| world.calls.clone())
    }

    /// Number of requests.
    pub fn call_count(&self) -> u64 {
        self.world(|world| world.calls.values().sum())
    }

    /// Resets the counts of requests.
    pub fn reset_calls(&self) {
        self.world(|world| world.calls.clear());
    }

    /// Cost of all VMs of the last month so far, USD, including deleted ones.
    pub fn spent(&self) -> Decimal {
        self.vms().iter().chain(&self.gone()).map(|vm| vm.cost).sum()
    }

    /// An overview of the state.
    pub fn overview(&self) -> Overview {
        let vms = self.vms();
        let gone = self.gone().len();
        let spent = self.spent();
        let groups = self.groups();
        let now = self.now();
        let datacenters = self.datacenter_faults();
        self.world(|world| Overview {
            now,
            datacenters,
            vm_quota: world.state.vm_quota,
            vms,
            gone,
            groups,
            capacity: world
                .state
                .capacity
                .iter()
                .map(|capacity| (capacity_name(&world.config, capacity), capacity.limit))
                .collect(),
            worker_quota: world.state.worker_quota,
            rate_limit: world.config.rate_limit,
            outage: world.outage,
            faults: world.faults.list(),
            shapes: world.config.shapes,
            calls: world.calls.clone(),
            spent,
        })
    }

    /// The active shapes.
    pub fn shapes(&self) -> Shapes {
        self.world(|world| world.config.shapes)
    }

    /// Replaces the shapes.
    pub fn set_shapes(&self, shapes: Shapes) {
        self.world(|world| world.config.shapes = shapes);
    }

    /// Deletes a VM outside the API.
    pub fn delete_vm(&self, uuid: &str) -> Result<(), ControlError> {
        self.end_vm(uuid, EndedBy::Outside, SignedDuration::ZERO)
    }

    /// Interrupts a VM after the notice.
    pub fn interrupt(&self, uuid: &str, notice: SignedDuration) -> Result<(), ControlError> {
        let interrupted = self.with_state(|state, cx, _| state.interrupt(cx, uuid, notice));
        interrupted.map_err(|_| unknown_vm(uuid))
    }

    /// Withdraws the notice of a VM.
    pub fn withdraw_interruption(&self, uuid: &str) -> Result<(), ControlError> {
        let withdrawn = self.with_state(|state, cx, _| state.withdraw_interruption(cx, uuid));
        withdrawn.map_err(|_| unknown_vm(uuid))
    }

    /// Interrupts a share of the spot VMs, and returns their UUIDs.
    pub fn interrupt_share(&self, storm: &Storm) -> Vec<String> {
        self.with_state(|state, cx, _| state.interrupt_share(cx, storm))
    }

    /// Replaces the spot market, for VMs that are created from now on.
    pub fn set_spot_market(&self, market: MarketConfig) {
        self.world(|world| world.config.spot_market = market);
    }

    fn end_vm(&self, uuid: &str, by: EndedBy, notice: SignedDuration) -> Result<(), ControlError> {
        let ended = self.with_state(|state, cx, _| state.end_vm(cx, uuid, by, notice));
        ended.map_err(|_| unknown_vm(uuid))
    }

    /// Suspends or resumes a VM.
    pub fn set_suspended(&self, uuid: &str, suspended: bool) -> Result<(), ControlError> {
        self.with_state(|state, _, _| {
            state.vm_mut(uuid).ok_or_else(|| unknown_vm(uuid))?.suspended = suspended;
            state.revision += 1;
            Ok(())
        })
    }

    /// Adds a worker outside the API, to the given group or to any group of the cluster.
    pub fn add_foreign_worker(&self, cluster: &str, group: Option<u64>) -> Result<String, ControlError> {
        self.with_state(|state, cx, _| {
            let (_, cluster) = cx.config.cluster(cluster).ok_or_else(|| unknown("cluster", cluster))?;
            let mut groups = state.groups.values().filter(|g| g.cluster == cluster.identifier);
            let found = groups.find(|g| group.is_none_or(|id| g.id == id)).map(|g| g.id);
            let found = found.ok_or_else(|| no_group(&cluster.identifier, group))?;
            let vm = state.insert_foreign(cx, cluster, found).and_then(|id| state.vms.get(&id));
            vm.map(|vm| vm.uuid.clone()).ok_or_else(|| unknown("group", &found.to_string()))
        })
    }

    /// Sets the maximum number of VMs of an offer, including existing ones. None: no limit. Without a
    /// datacenter: in each datacenter.
    pub fn set_capacity(
        &self,
        datacenter: Option<&str>,
        offer: &str,
        limit: Option<u32>,
    ) -> Result<(), ControlError> {
        self.set_capacity_of_type(datacenter, offer, None, limit)
    }

    /// Sets the maximum number of VMs of an offer and a capacity type. Without a capacity type: of both together.
    pub fn set_capacity_of_type(
        &self,
        datacenter: Option<&str>,
        offer: &str,
        capacity_type: Option<CapacityType>,
        limit: Option<u32>,
    ) -> Result<(), ControlError> {
        self.with_state(|state, cx, _| {
            let size = cx.config.offer_named(offer).ok_or_else(|| unknown("offer", offer))?.id;
            if let Some(datacenter) = datacenter {
                cx.config.datacenter(datacenter).ok_or_else(|| unknown("datacenter", datacenter))?;
            }
            state.set_capacity(datacenter.map(str::to_owned), size, capacity_type, limit);
            Ok(())
        })
    }

    /// Sets the maximum number of workers of the account. None: no limit.
    pub fn set_worker_quota(&self, quota: Option<u32>) {
        self.with_state(|state, _, _| {
            state.worker_quota = quota;
            state.revision += 1;
        });
    }

    /// Sets the maximum number of VMs outside managed clusters. None: no limit.
    pub fn set_vm_quota(&self, quota: Option<u32>) {
        self.with_state(|state, _, _| {
            state.vm_quota = quota;
            state.revision += 1;
        });
    }

    /// The faults of each datacenter.
    pub fn datacenter_faults(&self) -> BTreeMap<String, DatacenterFaults> {
        self.world(|world| {
            let datacenters = world.config.datacenters.iter();
            datacenters.map(|datacenter| (datacenter.identifier.clone(), datacenter.faults)).collect()
        })
    }

    /// Replaces the faults of a datacenter. VMs that it has withheld are listed once it withholds none.
    pub fn set_datacenter_faults(
        &self,
        datacenter: &str,
        faults: DatacenterFaults,
    ) -> Result<(), ControlError> {
        faults.validate().map_err(|error| ControlError(error.to_string()))?;
        self.world(|world| {
            let mut datacenters = world.config.datacenters.iter_mut();
            let found = datacenters.find(|known| known.identifier == datacenter);
            found.ok_or_else(|| unknown("datacenter", datacenter))?.faults = faults;
            Ok(())
        })?;
        if faults.creations.held().is_none() {
            self.with_state(|state, cx, _| state.release_held(cx, datacenter));
        }
        Ok(())
    }

    /// The names of the scripts of the account.
    pub fn script_names(&self) -> Vec<String> {
        self.with_state(|state, _, _| {
            state.account.scripts.values().map(|script| script.name.clone()).collect()
        })
    }

    /// Adds a VM outside clusters that the API was not asked for.
    pub fn add_plain_vm(
        &self,
        datacenter: &str,
        offer: &str,
        hostname: &str,
        notes: &str,
    ) -> Result<String, ControlError> {
        self.with_state(|state, cx, _| {
            let size = cx.config.offers.iter().find(|known| known.name == offer).map(|known| known.id);
            let size = size.ok_or_else(|| unknown("offer", offer))?;
            let request = VmRequest { notes: Some(notes.to_owned()), ..VmRequest::default() };
            let created = state.create_vm(cx, datacenter, size, hostname, request);
            let id = created.ok().flatten().ok_or_else(|| unknown("datacenter", datacenter))?;
            Ok(state.vms.get(&id).map(|vm| vm.uuid.clone()).unwrap_or_default())
        })
    }

    /// The content of the script of a VM, or its user data. None: it has neither, or the script is deleted.
    pub fn payload(&self, uuid: &str) -> Option<Hidden> {
        self.with_state(|state, _, _| state.payload(state.vm(uuid)?))
    }

    /// The password of a VM.
    pub fn password(&self, uuid: &str) -> Option<Hidden> {
        self.with_state(|state, _, _| Some(state.vm(uuid)?.plain.as_ref()?.request.password.clone()))
    }

    /// Records the progress of a VM after its start.
    pub fn set_boot(&self, uuid: &str, boot: Boot) -> Result<(), ControlError> {
        self.with_state(|state, _, _| {
            let vm = state.vm_mut(uuid).ok_or_else(|| unknown_vm(uuid))?;
            let plain = vm.plain.get_or_insert_default();
            if plain.boot != boot {
                plain.boot = boot;
                state.revision += 1;
            }
            Ok(())
        })
    }

    /// What the kubelet of a VM keeps on disk.
    pub(super) fn kubelet(&self, uuid: &str) -> Option<KubeletIdentity> {
        self.with_state(|state, _, _| state.vm(uuid)?.plain.as_ref()?.kubelet.clone())
    }

    pub(super) fn set_kubelet(&self, uuid: &str, identity: KubeletIdentity) {
        self.with_state(|state, _, _| {
            if let Some(plain) = state.vm_mut(uuid).and_then(|vm| vm.plain.as_mut()) {
                plain.kubelet = Some(identity);
                state.revision += 1;
            }
        });
    }

    /// Sets a list price, USD per month. The hourly price follows from it unless it is given.
    pub fn set_price(
        &self,
        offer: &str,
        monthly: Decimal,
        hourly: Option<Decimal>,
    ) -> Result<(), ControlError> {
        self.world(|world| {
            let found = world.config.offers.iter_mut().find(|o| o.name == offer);
            let found = found.ok_or_else(|| unknown("offer", offer))?;
            found.monthly = monthly;
            found.hourly = hourly;
            Ok(())
        })
    }

    /// Replaces the durations of operations.
    pub fn set_times(&self, times: TimesConfig) {
        self.world(|world| world.config.times = times);
    }

    /// The active anomalies.
    pub fn anomalies(&self) -> AnomaliesConfig {
        self.world(|world| world.config.anomalies)
    }

    /// Replaces the anomalies.
    pub fn set_anomalies(&self, anomalies: AnomaliesConfig) {
        self.world(|world| world.config.anomalies = anomalies);
    }

    /// Sets the reply to requests without capacity.
    pub fn set_shortage(&self, shortage: Shortage) {
        self.world(|world| world.config.shortage = shortage);
    }

    /// Sets the maximum requests per minute; further requests get 429. None: no limit.
    pub fn set_rate_limit(&self, per_minute: Option<u32>) {
        let now = self.now();
        self.world(|world| {
            let per_minute = per_minute.map(|limit| limit.max(1));
            world.config.rate_limit = per_minute;
            world.rate = super::operations::RateLimit::full(per_minute.unwrap_or_default(), now);
        });
    }

    /// Makes the API unreachable: every request fails unsent.
    pub fn set_outage(&self, on: bool) {
        self.world(|world| world.outage = on);
    }

    /// Replaces the static token. Tokens of logins stay valid.
    pub fn set_token(&self, token: SecretString) {
        self.world(|world| world.config.account.token = token);
    }

    /// Revokes all tokens of logins.
    pub fn revoke_tokens(&self) {
        self.with_state(|state, _, _| {
            state.tokens.clear();
            state.revision += 1;
        });
    }

    /// Adds a fault and returns its id.
    pub fn add_fault(&self, rule: FaultRule) -> u64 {
        self.world(|world| world.faults.add(rule))
    }

    /// The active faults.
    pub fn faults(&self) -> Vec<ActiveRule> {
        self.world(|world| world.faults.list())
    }

    /// Removes a fault. Returns false if the id is unknown.
    pub fn remove_fault(&self, id: u64) -> bool {
        self.world(|world| world.faults.remove(id))
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.world(|world| world.faults.clear());
    }
}

fn view(config: &SimulatorConfig, now: Timestamp, vm: &Vm) -> VmView {
    let hourly = price(config, vm, now).map(|price| price.hourly).unwrap_or_default();
    let mut shown = vm.clone();
    if let Some(plain) = &mut shown.plain {
        plain.request.user_data = None;
        plain.request.password = Hidden::default();
        plain.kubelet = None;
    }
    VmView {
        vm: shown,
        offer: config.offer(vm.size).map(|offer| offer.name.clone()).unwrap_or_default(),
        phase: vm.phase(now),
        hourly,
        cost: hourly * Decimal::from(vm.hours_billed(now)),
        reachable: !config.faults_at(&vm.datacenter).outage,
    }
}

fn capacity_name(config: &SimulatorConfig, capacity: &Capacity) -> String {
    let offer = config.offer(capacity.size).map(|offer| offer.name.as_str()).unwrap_or_default();
    let capacity_type =
        capacity.capacity_type.map(|capacity_type| format!("/{capacity_type}")).unwrap_or_default();
    format!("{}/{offer}{capacity_type}", capacity.datacenter.as_deref().unwrap_or("*"))
}

fn unknown_vm(uuid: &str) -> ControlError {
    unknown("VM", uuid)
}

fn unknown(kind: &str, name: &str) -> ControlError {
    ControlError(format!("{kind} {name:?} does not exist"))
}

fn no_group(cluster: &str, group: Option<u64>) -> ControlError {
    ControlError(match group {
        Some(id) => format!("cluster {cluster:?} has no node group {id}"),
        None => format!("cluster {cluster:?} has no node group: create one first"),
    })
}
