//! What the fleet costs, for Prometheus: read from memory at each scrape. These names are the predecessor's and
//! OpenCost's, so they have no prefix.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::handle::FleetHandle;
use crate::cost::UsdPerHour;
use crate::fleet::{Fleet, Machine, Pool};

/// Shows costs of NodeGroups, of what can be rented, and of Nodes.
#[derive(Debug)]
pub struct CostCollector {
    handle: Arc<OnceLock<FleetHandle>>,
}

impl CostCollector {
    /// Shows what the handle reads, once there is one.
    pub fn new(handle: Arc<OnceLock<FleetHandle>>) -> Self {
        Self { handle }
    }
}

type Labels = Vec<(&'static str, String)>;
type Samples = Vec<(Labels, f64)>;

#[derive(Default)]
struct Costs {
    hourly: Samples,
    monthly: Samples,
    core: Samples,
    memory: Samples,
    node: Samples,
    node_core: Samples,
    node_memory: Samples,
}

impl Collector for CostCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(handle) = self.handle.get() else { return Ok(()) };
        let costs = handle.read(costs);
        for (name, help, samples) in [
            ("vpsie_nodegroup_cost_hourly", "Paid for the VMs of a NodeGroup, USD per hour", costs.hourly),
            ("vpsie_nodegroup_cost_monthly", "Paid for the VMs of a NodeGroup, USD per month", costs.monthly),
            ("vpsie_cost_per_cpu_core", "Price of an offer per core, USD per month", costs.core),
            ("vpsie_cost_per_gb_memory", "Price of an offer per GiB of memory, USD per month", costs.memory),
            ("node_total_hourly_cost", "Price of the node, USD per hour, as OpenCost names it", costs.node),
            (
                "node_cpu_hourly_cost",
                "Price of one core of the node, USD per hour, as OpenCost names it",
                costs.node_core,
            ),
            (
                "node_ram_hourly_cost",
                "Price of one GiB of memory of the node, USD per hour, as OpenCost names it",
                costs.node_memory,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn costs(fleet: &Fleet) -> Costs {
    let mut costs = Costs::default();
    let hours = fleet.prices().hours_per_month;
    let mut groups: BTreeMap<(&str, &str), UsdPerHour> = BTreeMap::new();
    for pool in fleet.pools() {
        let sum = groups.entry((pool.id.node_group.as_str(), pool.id.datacenter.as_str())).or_default();
        *sum = *sum + fleet.pool_cost(pool);
        let Some(price) = pool.price else { continue };
        let monthly = price.monthly(hours).to_f64();
        let labels = || -> Labels {
            vec![("nodegroup", pool.id.node_group.to_string()), ("offering", pool.id.offer.to_string())]
        };
        let (cores, gib) = size(pool);
        costs.core.push((labels(), monthly / cores));
        costs.memory.push((labels(), monthly / gib));
        for machine in fleet.machines_of(pool) {
            node(&mut costs, fleet, pool, machine, price.to_f64());
        }
    }
    for ((group, datacenter), cost) in groups {
        let labels: Labels = vec![("nodegroup", group.to_owned()), ("datacenter", datacenter.to_owned())];
        costs.hourly.push((labels.clone(), cost.to_f64()));
        costs.monthly.push((labels, cost.monthly(hours).to_f64()));
    }
    costs
}

/// A node's price is shared between its cores and its memory in the relation of the marginal prices.
fn node(costs: &mut Costs, fleet: &Fleet, pool: &Pool, machine: &Machine, price: f64) {
    let Some(vm) = machine.vm().filter(|vm| vm.id.is_some()) else { return };
    let labels: Labels = vec![
        ("instance", vm.hostname.to_string()),
        ("node", vm.hostname.to_string()),
        ("instance_type", pool.offer.name.clone()),
        ("region", pool.id.datacenter.to_string()),
        ("provider_id", machine.instance_id()),
        ("arch", "amd64".to_owned()),
    ];
    let (rates, (cores, gib)) = (fleet.rates(), size(pool));
    let scale = price / rates.of(cores, gib);
    costs.node_core.push((labels.clone(), rates.core * scale));
    costs.node_memory.push((labels.clone(), rates.gib * scale));
    costs.node.push((labels, price));
}

fn size(pool: &Pool) -> (f64, f64) {
    let size = pool.offer.resources;
    ((size.cpu_millis.max(1) as f64) / 1000.0, (size.memory_mib.max(1) as f64) / 1024.0)
}
