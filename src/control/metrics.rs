//! Metrics of the fleet, read from memory at each scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;

use super::handle::FleetHandle;
use crate::clock::{Clock as _, SystemClock};
use crate::cost::InterruptionRate;
use crate::fleet::{BreakerState, DatacenterState, Fleet, Halt, Machine, Phase, Pool, UnmanagedKind};

/// Metrics of leadership; on the leader, of pools, machines and unmanaged nodes.
#[derive(Debug)]
pub struct FleetCollector {
    handle: Arc<OnceLock<FleetHandle>>,
}

const PHASES: [&str; 5] = ["Pending", "Creating", "Running", "Failed", "Deleting"];

impl FleetCollector {
    /// Collects from the handle, once there is one.
    pub fn new(handle: Arc<OnceLock<FleetHandle>>) -> Self {
        Self { handle }
    }
}

type MetricSample = (Vec<(&'static str, String)>, f64);

impl Collector for FleetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let handle = self.handle.get();
        let leads = if handle.is_some() { 1.0 } else { 0.0 };
        let help = "1 on the leader once it has read the records, 0 on standby replicas";
        ConstGauge::new(leads).encode(encoder.encode_descriptor(
            "leader",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let Some(handle) = handle else { return Ok(()) };
        let (templates, profile) = handle.read(|fleet| (template_amounts(fleet), template_nodes(fleet)));
        let (sizes, machines, oldest, blocked, unmanaged, prices, unpriced) = handle.read(|fleet| {
            let unpriced = fleet.pools().filter(|pool| pool.price.is_none()).count() as f64;
            let machines = machine_counts(fleet);
            let oldest = oldest_machines(fleet);
            let blocked = blocked_pools(fleet, SystemClock.now());
            let unmanaged = unmanaged_counts(fleet);
            (pool_sizes(fleet), machines, oldest, blocked, unmanaged, hourly_prices(fleet), unpriced)
        });
        let (breakers, rates, shares) = handle.read(spot_samples);
        for (name, help, samples) in
            handle.read(guard_samples).into_iter().chain(handle.read(datacenter_samples))
        {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Pools without a known price";
        ConstGauge::new(unpriced).encode(encoder.encode_descriptor(
            "unpriced_pools",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help = "Records that this version cannot read; they stay unchanged";
        let unreadable = handle.read(Fleet::unreadable_records);
        ConstGauge::new(f64::from(unreadable)).encode(encoder.encode_descriptor(
            "unreadable_records",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let usd_per_hour = Unit::Other("usd_per_hour".to_owned());
        for (name, help, unit, samples) in [
            (
                "pool_size",
                "Size limits and target size of the pool as reported to Cluster Autoscaler, by kind: min, max, target",
                None,
                sizes,
            ),
            ("machines", "Machines by pool and phase", None, machines),
            (
                "oldest_machine_timestamp",
                "Time at which the oldest machine of the phase entered it, Unix time; not for Running",
                Some(&Unit::Seconds),
                oldest,
            ),
            ("pool_blocked", "1 while the pool cannot grow by one machine, by reason", None, blocked),
            (
                "unmanaged_nodes",
                "Nodes without a machine, by kind: foreign, orphan, gone (no longer listed)",
                None,
                unmanaged,
            ),
            (
                "spot_breaker_state",
                "Circuit breaker of the spot pool: 0 closed (the pool grows), 1 half-open (one machine is tried), \
                 2 open (the pool does not grow)",
                None,
                breakers,
            ),
            (
                "spot_interruption_rate_percent",
                "Estimated interruptions of the spot pool, percent of machines a month",
                None,
                rates,
            ),
            ("nodegroup_spot_share", "Share of spot machines in the NodeGroup, 0 to 1", None, shares),
            ("pool_price", "Price of one machine of the pool", Some(&usd_per_hour), prices),
            (
                "template_allocatable",
                "Allocatable resources in the pool's template for Cluster Autoscaler: cores, bytes, counts",
                None,
                templates,
            ),
            (
                "template_nodes",
                "Nodes of the NodeGroup that the pool's template is based on; 0 if it is based on other Nodes of \
                 the size or on the nominal size",
                None,
                profile,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Metrics of the runaway guard.
fn guard_samples(fleet: &Fleet) -> [(&'static str, &'static str, Vec<MetricSample>); 2] {
    let status = fleet.guard_status();
    let halted = status.and_then(|status| status.halt.as_ref()).map(Halt::reason);
    let halts = Halt::REASONS
        .map(|reason| (vec![("reason", reason.to_owned())], if halted == Some(reason) { 1.0 } else { 0.0 }));
    let counts = status.map_or([0; 3], |status| [status.counted, status.limit, status.unexplained]);
    let kinds = ["counted", "limit", "unexplained"].into_iter().zip(counts);
    let vms = kinds.map(|(kind, count)| (vec![("kind", kind.to_owned())], f64::from(count))).collect();
    [
        ("growth_halted", "1 while the runaway guard halts growth, by reason", halts.into()),
        (
            "guard_vms",
            "VMs as counted by the runaway guard, by kind: counted (may be paid for), limit (maximum of these), \
             unexplained (nodes in excess of the requests)",
            vms,
        ),
    ]
}

/// Machines, and circuit breakers of datacenters of NodeGroups with a distribution.
fn datacenter_samples(fleet: &Fleet) -> [(&'static str, &'static str, Vec<MetricSample>); 3] {
    let mut machines = Vec::new();
    let mut minimums = Vec::new();
    for group in fleet.group_names() {
        for report in fleet.datacenter_reports(&group) {
            let labels =
                || vec![("nodegroup", group.to_string()), ("datacenter", report.datacenter.to_string())];
            let with_kind = |kind: &str| [labels(), vec![("kind", kind.to_owned())]].concat();
            machines.push((with_kind("all"), f64::from(report.machines)));
            machines.push((with_kind("running"), f64::from(report.running)));
            minimums.push((labels(), f64::from(report.shortfall())));
        }
    }
    let state = |datacenter| match fleet.datacenter_history().state(datacenter) {
        DatacenterState::Closed { .. } => 0.0,
        DatacenterState::HalfOpen { .. } => 1.0,
        DatacenterState::Open { .. } => 2.0,
    };
    let watched = fleet.watched_datacenters().iter();
    let states =
        watched.map(|datacenter| (vec![("datacenter", datacenter.to_string())], state(datacenter))).collect();
    [
        (
            "datacenter_machines",
            "Machines of a NodeGroup in the datacenter, by kind: all (neither failed nor being deleted), running",
            machines,
        ),
        (
            "datacenter_shortfall",
            "Number of machines of a NodeGroup below its minimum in the datacenter",
            minimums,
        ),
        (
            "datacenter_breaker_state",
            "Circuit breaker of the datacenter: 0 closed (its pools grow), 1 half-open (one machine is tried), 2 open \
             (its pools do not grow)",
            states,
        ),
    ]
}

/// Circuit breakers and interruption rates of spot pools, and the share of spot machines of their NodeGroups.
fn spot_samples(fleet: &Fleet) -> (Vec<MetricSample>, Vec<MetricSample>, Vec<MetricSample>) {
    let mut breakers = Vec::new();
    let mut rates = Vec::new();
    let mut shares = BTreeMap::new();
    for pool in fleet.pools() {
        let Some(state) = fleet.breaker_state(pool) else { continue };
        let state = match state {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen { .. } => 1.0,
            BreakerState::Open { .. } => 2.0,
        };
        breakers.push((vec![pool_label(pool)], state));
        let rate = fleet.interruption_rate(pool).map_or(0.0, InterruptionRate::to_percent_a_month);
        rates.push((vec![pool_label(pool)], rate));
        let group = &pool.id.node_group;
        shares.entry(group.to_string()).or_insert_with(|| fleet.spot_share(group));
    }
    let shares = shares.into_iter().map(|(group, share)| (vec![("nodegroup", group)], share)).collect();
    (breakers, rates, shares)
}

fn pool_label(pool: &Pool) -> (&'static str, String) {
    ("pool", pool.text.to_string())
}

fn pool_sizes(fleet: &Fleet) -> Vec<MetricSample> {
    let mut limits = fleet.pool_limits();
    let each = |pool| {
        let limits = limits.of(pool);
        [("min", limits.min), ("max", limits.max), ("target", limits.target)]
            .map(|(kind, size)| (vec![pool_label(pool), ("kind", kind.to_owned())], f64::from(size)))
    };
    fleet.pools().flat_map(each).collect()
}

fn machine_counts(fleet: &Fleet) -> Vec<MetricSample> {
    let mut samples = Vec::new();
    for pool in fleet.pools() {
        let mut counts = [0_u32; PHASES.len()];
        for machine in fleet.machines_of(pool) {
            if let Some(at) = PHASES.iter().position(|phase| *phase == machine.phase.name()) {
                counts[at] += 1;
            }
        }
        for (phase, count) in PHASES.iter().zip(counts) {
            samples.push((vec![pool_label(pool), ("phase", (*phase).to_owned())], f64::from(count)));
        }
    }
    samples
}

fn oldest_machines(fleet: &Fleet) -> Vec<MetricSample> {
    let mut samples = Vec::new();
    for pool in fleet.pools() {
        let mut oldest: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for machine in fleet.machines_of(pool) {
            let Some(since) = waits_since(machine) else { continue };
            oldest.entry(machine.phase.name()).and_modify(|at| *at = since.min(*at)).or_insert(since);
        }
        for (phase, since) in oldest {
            samples.push((vec![pool_label(pool), ("phase", phase.to_owned())], since.as_second() as f64));
        }
    }
    samples
}

/// The time since when it is in its phase. None for Running.
fn waits_since(machine: &Machine) -> Option<Timestamp> {
    match &machine.phase {
        Phase::Pending => Some(machine.created_at),
        Phase::Creating { since, .. } | Phase::Deleting { since, .. } => Some(*since),
        Phase::Failed { at, .. } => Some(*at),
        Phase::Running { .. } => None,
    }
}

fn blocked_pools(fleet: &Fleet, now: Timestamp) -> Vec<MetricSample> {
    let each = |pool: &Pool| {
        let reason = fleet.growth_block(&pool.text, 1, now)?.reason;
        Some((vec![pool_label(pool), ("reason", reason.to_owned())], 1.0))
    };
    fleet.pools().filter_map(each).collect()
}

fn unmanaged_counts(fleet: &Fleet) -> Vec<MetricSample> {
    let mut counts = [("foreign", 0_u32), ("orphan", 0), ("gone", 0)];
    for unmanaged in fleet.unmanaged_nodes() {
        let at = match unmanaged.kind {
            UnmanagedKind::Foreign => 0,
            UnmanagedKind::Orphan { .. } => 1,
            UnmanagedKind::Gone { .. } => 2,
        };
        counts[at].1 += 1;
    }
    counts.map(|(kind, count)| (vec![("kind", kind.to_owned())], f64::from(count))).into()
}

fn template_amounts(fleet: &Fleet) -> Vec<MetricSample> {
    let each = |pool: &Pool| {
        let template = fleet.template(pool);
        let usual = template.allocatable;
        let usual = [
            ("cpu", usual.cpu_millis as f64 / 1000.0),
            ("memory", usual.memory_mib as f64 * f64::from(1 << 20)),
            ("ephemeral-storage", usual.disk_gib as f64 * f64::from(1 << 30)),
            ("pods", f64::from(usual.pods)),
        ];
        let usual = usual.map(|(name, amount)| (name.to_owned(), amount));
        let extended =
            template.extended_allocatable.iter().map(|(name, amount)| (name.clone(), *amount as f64));
        let all = usual.into_iter().chain(extended);
        all.map(|(name, amount)| (vec![pool_label(pool), ("resource", name)], amount)).collect::<Vec<_>>()
    };
    fleet.pools().flat_map(each).collect()
}

fn template_nodes(fleet: &Fleet) -> Vec<MetricSample> {
    let each = |pool: &Pool| {
        let nodes = fleet.sample_count(pool.offer.size, &pool.id.node_group);
        (vec![pool_label(pool)], nodes as f64)
    };
    fleet.pools().map(each).collect()
}

fn hourly_prices(fleet: &Fleet) -> Vec<MetricSample> {
    let each = |pool: &Pool| Some((vec![pool_label(pool)], pool.price?.to_f64()));
    fleet.pools().filter_map(each).collect()
}
