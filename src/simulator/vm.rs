//! VMs and their phases. Pure: time is an argument.

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::config::SimulatorConfig;
use super::datacenter_faults::Held;
use super::market::Interruption;
use super::plain::PlainVm;
use super::span::later;

/// Time that a VM is listed after its interruption by the market.
const INTERRUPTED_LISTED_FOR: SignedDuration = SignedDuration::from_secs(5);
/// A VM at the simulated VPSie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    /// Numeric id.
    pub id: u64,
    /// UUID, `identifier` in the API.
    pub uuid: String,
    /// Hostname at VPSie. The name of its Node is the same in lower case.
    pub hostname: String,
    /// Purpose.
    pub kind: VmKind,
    /// UUID of its cluster.
    pub cluster: Option<String>,
    /// Numeric id of its node group.
    pub group: Option<u64>,
    /// Identifier of its datacenter.
    pub datacenter: String,
    /// `KubeSizeID`.
    pub size: u64,
    /// Time of its request, from which it is billed.
    pub created_at: Timestamp,
    /// Time from which it is listed.
    pub listed_at: Timestamp,
    /// Time from which it is up. None: never.
    pub up_at: Option<Timestamp>,
    /// Whether VPSie has suspended it.
    pub suspended: bool,
    /// Whether it is a spot VM.
    #[serde(default)]
    pub spot: bool,
    /// Whether no field of its rows shows its role.
    #[serde(default)]
    pub role_hidden: bool,
    /// Time from which `storages/vms` lists it. None: the same as other listings.
    #[serde(default)]
    pub uuid_listed_at: Option<Timestamp>,
    /// Time at which it is listed and runs again after its deletion. None: never.
    #[serde(default)]
    pub returns_at: Option<Timestamp>,
    /// Its interruptions by the spot market, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interruptions: Vec<Interruption>,
    /// How its datacenter withholds it. Such a VM is not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// The part that only VMs outside managed clusters have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<PlainVm>,
    /// Its end, once decided.
    pub end: Option<End>,
}

/// Purpose of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmKind {
    /// Control-plane node of a cluster.
    ControlPlane,
    /// A worker that existed at the start or was added outside the API.
    Foreign,
    /// A worker that was requested through the API.
    Worker,
    /// A VM outside clusters.
    Plain,
}

/// The end of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Cause.
    pub by: EndedBy,
    /// Time of the decision: the deletion, or the notice of an interruption.
    pub decided_at: Timestamp,
    /// Time at which it stops, until which it is billed.
    pub stops_at: Timestamp,
    /// Time from which it is no longer listed.
    pub gone_at: Timestamp,
}

/// The cause of the end of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// A deletion of this VM.
    Deletion,
    /// A `reduce` call or the deletion of its group.
    Reduction,
    /// An interruption by VPSie.
    Interruption,
    /// A change outside the API.
    Outside,
}

/// The phase of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Requested, not listed yet.
    Pending,
    /// Listed, not up.
    Provisioning,
    /// Up.
    Running,
    /// Stopped by an action.
    Stopped,
    /// Suspended by VPSie.
    Suspended,
    /// Stopped for good, still listed.
    Deleting,
    /// No longer listed.
    Gone,
}

impl Vm {
    /// Its public address, of the range for benchmarks (RFC 2544).
    pub(super) fn address(&self) -> String {
        format!("198.{}.{}.{}", 18 + (self.id >> 16 & 1), self.id >> 8 & 255, self.id & 255)
    }

    /// Its private address.
    pub(super) fn private_address(&self) -> String {
        format!("10.{}.{}.{}", self.id >> 16 & 255, self.id >> 8 & 255, self.id & 255)
    }

    /// Its phase.
    pub fn phase(&self, now: Timestamp) -> Phase {
        match self.end {
            Some(end) if end.gone_at <= now => Phase::Gone,
            Some(end) if end.stops_at <= now => Phase::Deleting,
            _ if self.held.is_some() || self.listed_at > now => Phase::Pending,
            _ if self.suspended => Phase::Suspended,
            _ if self.plain.as_ref().is_some_and(|plain| plain.stopped) => Phase::Stopped,
            _ if self.up_at.is_some_and(|up| up <= now) => Phase::Running,
            _ => Phase::Provisioning,
        }
    }

    /// Returns true iff it is listed.
    pub fn is_listed(&self, now: Timestamp) -> bool {
        !matches!(self.phase(now), Phase::Pending | Phase::Gone)
    }

    /// Number of billed hours: each started hour counts.
    pub(super) fn hours_billed(&self, now: Timestamp) -> u64 {
        let until = self.end.map_or(now, |end| end.stops_at.min(now));
        let seconds = self.created_at.duration_until(until).as_secs().max(0) as u64;
        seconds.div_ceil(3600).max(1)
    }

    /// The deadline that its notice shows, if it has one.
    pub fn interruption_at(&self, now: Timestamp) -> Option<Timestamp> {
        let announced = self.interruptions.iter().filter(|planned| planned.announced_at <= now);
        announced
            .filter(|planned| !(planned.withdrawn && planned.until <= now))
            .find_map(|planned| planned.deadline)
    }

    /// Decides its end, once an interruption is announced.
    pub(super) fn end_by_interruption(&mut self, now: Timestamp) {
        let Some(planned) = self.interruptions.iter().find(|i| !i.withdrawn && i.announced_at <= now) else {
            return;
        };
        let Interruption { announced_at, until, .. } = *planned;
        if self.end.is_none() {
            let gone_at = later(until, INTERRUPTED_LISTED_FOR);
            self.end =
                Some(End { by: EndedBy::Interruption, decided_at: announced_at, stops_at: until, gone_at });
        }
    }

    /// Ends it after the notice. An earlier end is kept.
    pub(super) fn finish(
        &mut self,
        by: EndedBy,
        now: Timestamp,
        notice: SignedDuration,
        deletion: SignedDuration,
    ) {
        let stops_at = later(now, notice);
        let end = End { by, decided_at: now, stops_at, gone_at: later(stops_at, deletion) };
        if self.end.is_none_or(|earlier| end.stops_at < earlier.stops_at) {
            self.end = Some(end);
        }
    }
}

/// List price of a VM at a time.
pub(super) fn price(config: &SimulatorConfig, vm: &Vm, now: Timestamp) -> Option<Price> {
    let offer = config.offer(vm.size)?;
    let (_, datacenter) = config.datacenter(&vm.datacenter)?;
    if vm.spot {
        let monthly = config.spot_monthly(datacenter, offer, now)?;
        return Some(Price {
            hourly: (monthly / Decimal::from(config.hours_per_month)).round_dp(5),
            monthly,
        });
    }
    Some(Price {
        hourly: config.hourly(datacenter, offer),
        monthly: SimulatorConfig::monthly(datacenter, offer),
    })
}

/// A list price, USD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Price {
    pub hourly: Decimal,
    pub monthly: Decimal,
}
