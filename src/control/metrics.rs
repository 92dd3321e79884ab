//! What the fleet is, for Prometheus: read from memory at each scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use std::sync::{Arc, OnceLock};

use super::handle::FleetHandle;
use crate::fleet::{Fleet, Pool, StrangerKind};

/// Shows pools, machines and strangers.
#[derive(Debug)]
pub struct FleetCollector {
    handle: Arc<OnceLock<FleetHandle>>,
}

const PHASES: [&str; 5] = ["Pending", "Creating", "Running", "Failed", "Deleting"];

impl FleetCollector {
    /// Shows what the handle reads, once there is one.
    pub fn new(handle: Arc<OnceLock<FleetHandle>>) -> Self {
        Self { handle }
    }
}

type Sample = (Vec<(&'static str, String)>, f64);

impl Collector for FleetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(handle) = self.handle.get() else { return Ok(()) };
        let (sizes, machines, strangers, prices, unpriced) = handle.read(|fleet| {
            let unpriced = fleet.pools().filter(|pool| pool.price.is_none()).count() as f64;
            let (machines, strangers) = (machine_counts(fleet), stranger_counts(fleet));
            (pool_sizes(fleet), machines, strangers, hourly_prices(fleet), unpriced)
        });
        let help = "Pools whose price nobody knows";
        ConstGauge::new(unpriced).encode(encoder.encode_descriptor(
            "unpriced_pools",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let usd_per_hour = Unit::Other("usd_per_hour".to_owned());
        for (name, help, unit, samples) in [
            ("pool_size", "Sizes of a pool as Cluster Autoscaler is told: min, max, target", None, sizes),
            ("machines", "Machines by pool and phase", None, machines),
            ("strangers", "Listed nodes that are no machine's: foreign, orphan, gone", None, strangers),
            ("pool_price", "Price of one machine of the pool", Some(&usd_per_hour), prices),
        ] {
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn pool_label(pool: &Pool) -> (&'static str, String) {
    ("pool", pool.text.to_string())
}

fn pool_sizes(fleet: &Fleet) -> Vec<Sample> {
    let each = |pool: &Pool| {
        let limits = fleet.limits(pool);
        [("min", limits.min), ("max", limits.max), ("target", limits.target)]
            .map(|(kind, size)| (vec![pool_label(pool), ("kind", kind.to_owned())], f64::from(size)))
    };
    fleet.pools().flat_map(each).collect()
}

fn machine_counts(fleet: &Fleet) -> Vec<Sample> {
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

fn stranger_counts(fleet: &Fleet) -> Vec<Sample> {
    let mut counts = [("foreign", 0_u32), ("orphan", 0), ("gone", 0)];
    for stranger in fleet.strangers() {
        let at = match stranger.kind {
            StrangerKind::Foreign => 0,
            StrangerKind::Orphan { .. } => 1,
            StrangerKind::Gone { .. } => 2,
        };
        counts[at].1 += 1;
    }
    counts.map(|(kind, count)| (vec![("kind", kind.to_owned())], f64::from(count))).into()
}

fn hourly_prices(fleet: &Fleet) -> Vec<Sample> {
    let each = |pool: &Pool| Some((vec![pool_label(pool)], pool.price?.to_f64()));
    fleet.pools().filter_map(each).collect()
}
