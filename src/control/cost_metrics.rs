//! Metrics of costs, read from memory at each scrape. The names are those of the predecessor and of OpenCost,
//! so they have no prefix.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::handle::FleetHandle;
use crate::catalog::CapacityType;
use crate::cost::{Cost, UsdPerHour};
use crate::fleet::{Fleet, Machine, Pool};

/// Costs of NodeGroups, offers and Nodes.
#[derive(Debug)]
pub struct CostCollector {
    handle: Arc<OnceLock<FleetHandle>>,
}

impl CostCollector {
    /// Collects from the handle, once there is one.
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
    node_spot: Samples,
}

impl Collector for CostCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(handle) = self.handle.get() else { return Ok(()) };
        let costs = handle.read(costs);
        for (name, help, samples) in [
            ("vpsie_nodegroup_cost_hourly", "Cost of the VMs of a NodeGroup, USD per hour", costs.hourly),
            ("vpsie_nodegroup_cost_monthly", "Cost of the VMs of a NodeGroup, USD per month", costs.monthly),
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
            (
                "kubecost_node_is_spot",
                "1 if the node is a spot node, 0 if it is on demand, as OpenCost names it",
                costs.node_spot,
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
        let labels = || -> Labels {
            vec![
                ("nodegroup", pool.id.node_group.to_string()),
                ("offering", pool.id.offer.to_string()),
                ("capacity_type", pool.id.capacity_type.to_string()),
            ]
        };
        let cost = Cost::new(price, pool.offer.resources, hours);
        costs.core.extend(cost.per_core.map(|core| (labels(), core.to_f64())));
        costs.memory.extend(cost.per_gib.map(|gib| (labels(), gib.to_f64())));
        for machine in fleet.machines_of(pool) {
            add_node_costs(&mut costs, fleet, pool, machine, price.to_f64());
        }
    }
    for ((group, datacenter), cost) in groups {
        let labels: Labels = vec![("nodegroup", group.to_owned()), ("datacenter", datacenter.to_owned())];
        costs.hourly.push((labels.clone(), cost.to_f64()));
        costs.monthly.push((labels, cost.monthly(hours).to_f64()));
    }
    costs
}

/// Adds the costs of a node. Its price is divided between cores and memory in proportion to the marginal
/// prices.
fn add_node_costs(costs: &mut Costs, fleet: &Fleet, pool: &Pool, machine: &Machine, price: f64) {
    let Some(vm) = machine.vm().filter(|vm| vm.id.is_some()) else { return };
    let labels: Labels = vec![
        ("instance", vm.hostname.to_string()),
        ("node", vm.hostname.to_string()),
        ("instance_type", pool.offer.name.clone()),
        ("region", pool.id.datacenter.to_string()),
        ("provider_id", machine.instance_id()),
        ("arch", fleet.template(pool).architecture().to_owned()),
    ];
    let rates = fleet.rates();
    let (cores, gib) = cores_and_gib(pool);
    let scale = price / rates.price(cores, gib);
    costs.node_core.push((labels.clone(), rates.core * scale));
    costs.node_memory.push((labels.clone(), rates.gib * scale));
    let is_spot = pool.id.capacity_type == CapacityType::Spot;
    costs.node_spot.push((labels.clone(), f64::from(u8::from(is_spot))));
    costs.node.push((labels, price));
}

fn cores_and_gib(pool: &Pool) -> (f64, f64) {
    let size = pool.offer.resources;
    ((size.cpu_millis.max(1) as f64) / 1000.0, (size.memory_mib.max(1) as f64) / 1024.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use jiff::Timestamp;
    use rust_decimal::Decimal;

    use super::*;
    use crate::catalog::{Catalog, Offer, Resources, SizeId};
    use crate::control::FleetCollector;
    use crate::fleet::{
        AutoscalingOptions, Hostname, MaxSpotShare, NodeGroup, Phase, Records, Reserved, SpotPolicy, Vm,
    };
    use crate::telemetry::Registry;

    const POOL: &str = "web/ams1/small/on-demand";

    /// Two machines with VMs and two that wait for theirs, at the maximum, of an offer of 2 cores and 4 GiB
    /// for 73 USD a month.
    pub(crate) fn fleet() -> Fleet {
        let offer = |size, name: &str, monthly: Option<i64>| Offer {
            size: SizeId(size),
            name: name.to_owned(),
            identifier: None,
            datacenter: "ams1".into(),
            capacity_type: CapacityType::OnDemand,
            resources: Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 80, pods: 110 },
            monthly: monthly.map(Decimal::from),
            hourly: None,
        };
        let machine = |n: u8, phase| Machine {
            id: format!("web-{n}").as_str().into(),
            pool: POOL.parse().unwrap(),
            size: SizeId(1),
            created_at: Timestamp::UNIX_EPOCH + Duration::from_mins(n.into()),
            phase,
            requests: Vec::new(),
            notice: None,
            replaces: None,
        };
        let running = |n: u8| {
            let vm = Vm {
                hostname: Hostname::new(&format!("slave-{n}")),
                id: Some(format!("vm-{n}").as_str().into()),
                addresses: Vec::new(),
                provider_id: None,
                attached: None,
                request: None,
            };
            machine(n, Phase::Running { vm, since: Timestamp::UNIX_EPOCH })
        };
        let group = NodeGroup {
            name: "web".into(),
            min: 0,
            max: 4,
            pools: [POOL, "web/ams1/unpriced/on-demand", "web/ams1/small/spot"]
                .map(|pool| pool.parse().unwrap())
                .into(),
            size: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            preferred: None,
            options: AutoscalingOptions::default(),
            adopt: false,
            cost_limit: crate::cost::CostLimit::default(),
            deletion: None,
            node: crate::fleet::DeclaredNode::default(),
            distribution: None,
            spot: Some(SpotPolicy {
                max_share: MaxSpotShare::new(80),
                on_demand_fallback: true,
                grace_period: Duration::from_mins(2),
                allowed_interruption_rate: None,
                taint: None,
            }),
            has_cloud_controller: false,
        };
        let spot = Offer { capacity_type: CapacityType::Spot, ..offer(1, "small", Some(20)) };
        let offers = vec![offer(1, "small", Some(73)), offer(2, "unpriced", None), spot];
        let records = Records {
            machines: vec![running(2), running(3), machine(4, Phase::Pending), machine(1, Phase::Pending)],
            catalog: Some(Arc::new(Catalog { offers })),
            ..Records::default()
        };
        Fleet::restore(vec![group], records, Reserved::default())
    }

    fn scraped() -> String {
        let handle = Arc::new(OnceLock::from(FleetHandle::fixed(fleet())));
        let mut registry = Registry::default();
        registry.collect(FleetCollector::new(Arc::clone(&handle)));
        registry.collect_unprefixed(CostCollector::new(handle));
        registry.encode().unwrap()
    }

    #[test]
    fn costs_have_the_names_of_the_predecessor_and_opencost() {
        let text = scraped();
        let node = r#"{instance="slave-2",node="slave-2",instance_type="small",region="ams1",provider_id="vpsie://vm-2",arch="amd64"}"#;
        for line in [
            r#"vpsie_nodegroup_cost_hourly{nodegroup="web",datacenter="ams1"} 0.2"#.to_owned(),
            r#"vpsie_nodegroup_cost_monthly{nodegroup="web",datacenter="ams1"} 146.0"#.to_owned(),
            r#"vpsie_cost_per_cpu_core{nodegroup="web",offering="small",capacity_type="on-demand"} 36.5"#
                .to_owned(),
            r#"vpsie_cost_per_gb_memory{nodegroup="web",offering="small",capacity_type="on-demand"} 18.25"#
                .to_owned(),
            format!("node_total_hourly_cost{node} 0.1"),
            format!("kubecost_node_is_spot{node} 0.0"),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        // One offer: half of its price for its two cores, half for its four GiB.
        for (name, want) in [("node_cpu_hourly_cost", 0.025), ("node_ram_hourly_cost", 0.0125)] {
            let line = text.lines().find(|line| line.starts_with(&format!("{name}{node}"))).unwrap();
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            assert!((value - want).abs() < 1e-6, "{line}");
        }
        assert!(!text.contains(r#"offering="unpriced""#), "{text}");
    }

    #[test]
    fn the_leader_shows_its_oldest_machines_and_blocked_pools() {
        let mut standby = Registry::default();
        standby.collect(FleetCollector::new(Arc::default()));
        let standby = standby.encode().unwrap();
        assert!(standby.contains("leader 0"), "{standby}");
        let leads = scraped();
        for line in [
            "leader 1".to_owned(),
            format!(r#"oldest_machine_timestamp_seconds{{pool="{POOL}",phase="Pending"}} 60.0"#),
            format!(r#"template_allocatable{{pool="{POOL}",resource="memory"}} 4294967296.0"#),
            format!(r#"template_nodes{{pool="{POOL}"}} 0.0"#),
            format!(r#"pool_blocked{{pool="{POOL}",reason="MAXIMUM_REACHED"}} 1.0"#),
        ] {
            assert!(leads.contains(&line), "{line} is not in\n{leads}");
        }
        let running = leads
            .lines()
            .filter(|line| line.starts_with("vpsie_autoscaler_oldest") && line.contains("Running"));
        assert_eq!(running.count(), 0, "{leads}");
    }

    #[test]
    fn a_pool_has_at_most_thirty_series_from_the_fleet() {
        let text = scraped();
        assert!(text.contains("vpsie_autoscaler_unpriced_pools 1"), "{text}");
        let of_pool = |line: &&str| line.contains(POOL) || line.contains(r#"offering="small""#);
        let series = text.lines().filter(of_pool).count();
        assert!((1..=30).contains(&series), "{series}");
    }
}
