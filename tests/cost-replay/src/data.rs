//! Traces and price catalogues in files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rust_decimal::Decimal;
use serde::Deserialize;
use vpsie_autoscaler::cost::{InterruptionRate, UsdPerHour};

use crate::spot::Zone;

/// CPU (millicores), memory (MiB) and number of pods, of a node or of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ReplayResources {
    pub(crate) cpu: u64,
    pub(crate) memory: u64,
    pub(crate) pods: u64,
}

impl ReplayResources {
    pub(crate) fn holds(&self, size: Self) -> bool {
        self.cpu >= size.cpu && self.memory >= size.memory && self.pods >= size.pods
    }

    pub(crate) fn subtract(&mut self, size: Self) {
        self.cpu -= size.cpu;
        self.memory -= size.memory;
        self.pods -= size.pods;
    }

    pub(crate) fn add(&mut self, size: Self) {
        self.cpu += size.cpu;
        self.memory += size.memory;
        self.pods += size.pods;
    }

    /// Number of pods of `size` that fit into it.
    pub(crate) fn times(&self, size: Self) -> u64 {
        let fit = |have: u64, want: u64| have.checked_div(want).unwrap_or(u64::MAX);
        fit(self.cpu, size.cpu).min(fit(self.memory, size.memory)).min(fit(self.pods, size.pods))
    }
}

/// A pod of a trace. Times are seconds since the trace began.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) size: ReplayResources,
    /// Class of its size: one index per size.
    pub(crate) class: usize,
    pub(crate) arrival: u64,
    pub(crate) duration: u64,
}

impl Pod {
    /// Its end if it is never pending.
    pub(crate) fn end(&self) -> u64 {
        self.arrival + self.duration
    }
}

/// The pods of a trace, by arrival.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) pods: Vec<Pod>,
    /// The size of each class.
    pub(crate) classes: Vec<ReplayResources>,
}

#[derive(Deserialize)]
struct Row {
    pod: String,
    cpu_milli: u64,
    mem_mib: u64,
    start_s: u64,
    end_s: u64,
}

impl Trace {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut rows: Vec<Row> = Vec::new();
        let mut file = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
        for row in file.deserialize() {
            rows.push(row.with_context(|| path.display().to_string())?);
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self::new(name, rows))
    }

    fn new(name: String, mut rows: Vec<Row>) -> Self {
        rows.sort_by_key(|row| row.start_s);
        let mut trace = Self { name, pods: Vec::new(), classes: Vec::new() };
        let mut known = HashMap::new();
        for row in rows {
            let size = ReplayResources { cpu: row.cpu_milli, memory: row.mem_mib, pods: 1 };
            let class = *known.entry(size).or_insert_with(|| {
                trace.classes.push(size);
                trace.classes.len() - 1
            });
            let duration = row.end_s.saturating_sub(row.start_s);
            if duration > 0 {
                trace.pods.push(Pod { name: row.pod, size, class, arrival: row.start_s, duration });
            }
        }
        trace
    }

    /// A trace of the same kind with a random fifth of the pods removed.
    pub(crate) fn thinned(&self, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let pods = self.pods.iter().filter(|_| random.random_bool(0.8)).cloned().collect();
        Self { pods, ..self.clone() }
    }

    /// The pods that arrive in a span of seconds. Pods that run longer end with the span.
    pub(crate) fn cut(&self, from: u64, to: u64, speedup: u64) -> Self {
        let rows = self.pods.iter().filter(|pod| (from..to).contains(&pod.arrival)).map(|pod| Row {
            pod: pod.name.clone(),
            cpu_milli: pod.size.cpu,
            mem_mib: pod.size.memory,
            start_s: (pod.arrival - from) / speedup,
            end_s: (pod.end().min(to) - from).div_ceil(speedup),
        });
        Self::new(format!("{} {from}..{to}", self.name), rows.collect())
    }
}

/// A node group: nodes of one plan in one datacenter.
#[derive(Clone, Debug)]
pub(crate) struct ReplayPool {
    pub(crate) id: String,
    pub(crate) capacity: ReplayResources,
    /// Resources for pods.
    pub(crate) allocatable: ReplayResources,
    pub(crate) price: UsdPerHour,
    /// The published interruption rate of a spot pool. None: on demand.
    pub(crate) spot: Option<InterruptionRate>,
}

impl ReplayPool {
    /// USD per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.price.to_f64() / 3600.0
    }
}

/// The pools of a price catalogue.
#[derive(Clone, Debug)]
pub(crate) struct Market {
    pub(crate) name: &'static str,
    pub(crate) pools: Vec<ReplayPool>,
}

#[derive(Deserialize)]
struct Catalogue {
    plans: Vec<Plan>,
}

#[derive(Deserialize)]
struct Plan {
    id: String,
    vcpu: u64,
    ram_mb: u64,
    #[serde(alias = "on_demand_usd_hourly")]
    price_hourly: Decimal,
    #[serde(default)]
    region_prices: HashMap<String, RegionPrice>,
    spot_usd_hourly: Option<Decimal>,
    interruption_index: Option<usize>,
}

#[derive(Deserialize)]
struct Summary {
    traces: Vec<ZoneTrace>,
}

/// Observed spot capacity of a zone.
#[derive(Deserialize)]
struct ZoneTrace {
    trace: String,
    fraction_available: f64,
    interruptions_per_available_hour: f64,
}

#[derive(Deserialize)]
struct RegionPrice {
    hourly: Decimal,
}

/// Not allocatable to pods on each node, as in the default templates of vpsie-autoscaler: millicores, MiB.
pub(crate) const RESERVED: (u64, u64) = (100, 512);
const PODS_PER_NODE: u64 = 110;

/// Interruption rates of AWS's bands, percent of machines a month: the middles of 0–5, 5–10, 10–15 and 15–20 %. The
/// last band, above 20 %, has no middle.
const BANDS: [f64; 5] = [2.5, 7.5, 12.5, 17.5, 25.0];

/// Datacenter of pools in markets with one datacenter.
const ANYWHERE: &str = "";

const LINODE: &[&str] = &[
    "g6-standard-2",
    "g6-standard-4",
    "g6-standard-6",
    "g6-standard-8",
    "g6-standard-16",
    "g6-standard-20",
    "g6-standard-24",
    "g6-standard-32",
    "g6-dedicated-4",
    "g6-dedicated-8",
    "g6-dedicated-16",
    "g6-dedicated-32",
    "g7-highmem-2",
    "g7-highmem-4",
];

const VULTR: &[&str] = &[
    "vc2-2c-4gb",
    "vc2-4c-8gb",
    "vc2-6c-16gb",
    "vc2-8c-32gb",
    "vc2-16c-64gb",
    "vc2-24c-96gb",
    "vhf-4c-16gb",
    "vhf-8c-32gb",
    "vhf-12c-48gb",
    "vhf-16c-58gb",
    "vhp-4c-8gb-amd",
    "vhp-8c-16gb-amd",
    "vhp-12c-24gb-amd",
    "voc-g-4c-16gb-80s-amd",
    "voc-g-8c-32gb-160s-amd",
    "voc-m-2c-16gb-100s-amd",
];

const AWS: &[&str] = &[
    "c7i.large",
    "c7i.xlarge",
    "c7i.2xlarge",
    "c7i.4xlarge",
    "c7i.8xlarge",
    "m7i.large",
    "m7i.xlarge",
    "m7i.2xlarge",
    "m7i.4xlarge",
    "m7i.8xlarge",
    "r7i.large",
    "r7i.xlarge",
    "r7i.2xlarge",
    "r7i.4xlarge",
    "r7i.8xlarge",
];

/// Name, file, plans, datacenters.
type Spec = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const MARKETS: [Spec; 4] = [
    ("linode", "linode.json", LINODE, &[ANYWHERE]),
    ("linode, 2 datacenters", "linode.json", LINODE, &["base", "id-cgk"]),
    ("vultr", "vultr.json", VULTR, &[ANYWHERE]),
    ("aws eu-central-1, on demand", "aws-eu-central-1-spot.json", AWS, &[ANYWHERE]),
];

/// The AWS plans in one datacenter, first on demand and then spot.
pub(crate) fn spot_pools(data: &Path) -> Result<Vec<ReplayPool>> {
    let path = data.join("catalogs/aws-eu-central-1-spot.json");
    let plans = plans(&path, AWS)?;
    let mut pools: Vec<ReplayPool> = plans.iter().map(|plan| pool(plan, ANYWHERE)).collect();
    for plan in &plans {
        let percent = plan.interruption_index.and_then(|index| BANDS.get(index));
        let (Some(price), Some(percent)) = (plan.spot_usd_hourly, percent) else {
            bail!("{}: {} has no spot price or interruption band", path.display(), plan.id);
        };
        let spot = Some(InterruptionRate::percent_a_month(*percent));
        pools.push(ReplayPool { price: UsdPerHour(price), spot, ..pool(plan, ANYWHERE) });
    }
    Ok(pools)
}

/// The zones of the summary of spot traces: those of AWS that follow one machine with at most one GPU.
pub(crate) fn zones(data: &Path) -> Result<Vec<Zone>> {
    let path = data.join("spot/cant_be_late_summary.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let summary: Summary = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let is_used = |trace: &&ZoneTrace| trace.trace.contains("/1-node/aws") && !trace.trace.ends_with("_8");
    let zone = |trace: ZoneTrace| Zone {
        available: trace.fraction_available,
        interruptions_per_hour: trace.interruptions_per_available_hour,
    };
    let zones: Vec<Zone> = summary.traces.into_iter().filter(|trace| is_used(&trace)).map(zone).collect();
    if zones.is_empty() {
        bail!("{}: no traces of AWS", path.display());
    }
    Ok(zones)
}

/// The market `name`, or else the markets whose names contain it.
pub(crate) fn markets(data: &Path, name: &str) -> Result<Vec<Market>> {
    let exact = MARKETS.iter().any(|spec| spec.0 == name);
    let wanted = |spec: &&Spec| if exact { spec.0 == name } else { spec.0.contains(name) };
    MARKETS.iter().filter(wanted).map(|spec| market(data, spec)).collect()
}

/// The traces whose names contain `name`, sorted by name.
pub(crate) fn traces(data: &Path, name: &str) -> Result<Vec<Trace>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(data.join("traces"))? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    paths.sort();
    let traces: Vec<Trace> = paths.iter().map(|path| Trace::read(path)).collect::<Result<_>>()?;
    Ok(traces.into_iter().filter(|trace| trace.name.contains(name)).collect())
}

fn market(data: &Path, &(name, file, ids, datacenters): &Spec) -> Result<Market> {
    let plans = plans(&data.join("catalogs").join(file), ids)?;
    let of_datacenter =
        |datacenter: &&str| plans.iter().map(|plan| pool(plan, datacenter)).collect::<Vec<_>>();
    Ok(Market { name, pools: datacenters.iter().flat_map(of_datacenter).collect() })
}

/// The plans of a catalogue with these ids.
fn plans(path: &Path, ids: &[&str]) -> Result<Vec<Plan>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut catalogue: Catalogue = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let mut plans = Vec::new();
    for id in ids {
        let Some(index) = catalogue.plans.iter().position(|plan| plan.id == *id) else {
            bail!("{}: no plan {id}", path.display());
        };
        plans.push(catalogue.plans.swap_remove(index));
    }
    Ok(plans)
}

fn pool(plan: &Plan, datacenter: &str) -> ReplayPool {
    let capacity = ReplayResources { cpu: plan.vcpu * 1000, memory: plan.ram_mb, pods: PODS_PER_NODE };
    let mut allocatable = capacity;
    allocatable.subtract(ReplayResources { cpu: RESERVED.0, memory: RESERVED.1, pods: 0 });
    let price = plan.region_prices.get(datacenter).map_or(plan.price_hourly, |price| price.hourly);
    let id = if datacenter == ANYWHERE { plan.id.clone() } else { format!("{datacenter}/{}", plan.id) };
    ReplayPool { id, capacity, allocatable, price: UsdPerHour(price), spot: None }
}
