//! Generates docs/reference/metrics.md from the metrics that `serve` registers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::components::ServeMetrics;
use crate::config::CredentialSource;
use crate::control::{FleetHandle, priced_fleet};
use crate::fleet::{DatacenterStrategy, Distribution, Fleet};

const HEAD: &str = "\
# Metrics

Generated from the program's own definitions by `UPDATE=1 cargo test --lib docs`.

`/metrics` on the HTTP port (`--http-listen`) has the text format of OpenMetrics. A histogram has the series
`<name>_bucket{le}`, `<name>_sum` and `<name>_count`. A metric with labels has no series before its first value.

Only the leader knows the fleet and performs the counted operations. *Standby* is the value on other replicas; metrics
without one exist only on the leader.
";

const SERIES: &str = "
## Number of series

- Per pool: at most 16, which are `pool_size` (3), `machines` (5), `oldest_machine_timestamp` (4), `pool_blocked` (1),
  `pool_price` (1) and the prices of its offer per core and per GiB (2); a test keeps them below 30. In addition,
  `machine_transitions` has one for each kind of change in the pool since the start of the process, by the phases before
  and after and by the reason of a failure (7).
- Per NodeGroup and datacenter: 2, and with several datacenters 5. Per datacenter of such NodeGroups: at most 7. Per Node:
  3, while VPSie lists its VM.
- All others have labels with a fixed set of values. Input from outside creates no values: calls of unknown methods count as
  `other`.
";

/// A metric in a scrape.
#[derive(Default)]
struct ScrapedMetric {
    help: String,
    kind: String,
    unit: Option<String>,
    /// Its first series: name, labels and value.
    series: Option<(String, Vec<String>, String)>,
}

/// The metrics of a scrape by name.
fn parse_scrape(text: &str) -> BTreeMap<String, ScrapedMetric> {
    let mut all: BTreeMap<String, ScrapedMetric> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        let Some(described) = line.strip_prefix("# ") else {
            let shown = all.get_mut(&last).unwrap();
            shown.series.get_or_insert_with(|| series(line));
            continue;
        };
        let [what, name, text] = described.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
        name.clone_into(&mut last);
        let shown = all.entry(last.clone()).or_default();
        match what {
            "HELP" => text.trim_end_matches('.').clone_into(&mut shown.help),
            "TYPE" => text.clone_into(&mut shown.kind),
            "UNIT" => shown.unit = Some(text.replace('_', " ").replace("usd", "USD")),
            _ => panic!("{line}"),
        }
    }
    all
}

fn series(line: &str) -> (String, Vec<String>, String) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.split(',').filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()));
    (name.to_owned(), labels.filter(|label| label != "le").collect(), value.to_owned())
}

/// The unit in the help text, for metrics without a unit in the name.
fn unit_in_help(help: &str) -> Option<String> {
    ["USD per hour", "USD per month"].into_iter().find(|unit| help.contains(unit)).map(str::to_owned)
}

/// A fleet with a NodeGroup in two datacenters.
fn spread_fleet() -> Fleet {
    let mut fleet = priced_fleet();
    let mut group = fleet.node_group(&"web".into()).cloned().unwrap();
    group.distribution = Some(Distribution {
        datacenters: vec!["ams1".into(), "fra1".into()],
        strategy: DatacenterStrategy::Balanced,
        min_per_datacenter: 0,
        max_skew: 2,
        max_price_difference: 10,
    });
    fleet.declare(vec![group]);
    fleet
}

/// All metrics of a process with this source of credentials: of a standby replica, and with a series of each.
fn scrape_metrics(source: &CredentialSource) -> [BTreeMap<String, ScrapedMetric>; 2] {
    let metrics = ServeMetrics::new(source);
    let standby = metrics.registry.encode().unwrap();
    metrics.registry.begin();
    assert!(metrics.fleet.set(FleetHandle::fixed(spread_fleet())).is_ok());
    [standby, metrics.registry.encode().unwrap()].map(|text| parse_scrape(&text))
}

fn page() -> String {
    let [standby, all] = scrape_metrics(&CredentialSource::TokenFile(PathBuf::new()));
    let [_, fixed] = scrape_metrics(&CredentialSource::Fixed);

    let mut page = HEAD.to_owned();
    let ours = |name: &str| name.starts_with("vpsie_autoscaler_");
    let mut rotated = Vec::new();
    for (heading, section) in
        [("Metrics of vpsie-autoscaler", true), ("Cost of machines, under names of OpenCost", false)]
    {
        let head = "| Metric | Type | Labels | Unit | Standby | |\n| --- | --- | --- | --- | --- | --- |\n";
        write!(page, "\n## {heading}\n\n{head}").unwrap();
        for (name, shown) in all.iter().filter(|(name, _)| ours(name) == section) {
            let series = shown.series.as_ref();
            let (first, labels, _) =
                series.unwrap_or_else(|| panic!("{name} has no series: how is it counted?"));
            let name_scraped = if shown.kind == "histogram" { name } else { first };
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let unit = shown.unit.clone().or_else(|| unit_in_help(&shown.help)).unwrap_or_default();
            let idle = standby.get(name).and_then(|shown| shown.series.as_ref());
            let idle = idle.map_or("", |(_, _, value)| value.trim_end_matches(".0"));
            let row = format!(
                "| `{name_scraped}` | {} | {} | {unit} | {idle} | {} |",
                shown.kind,
                labels.join(", "),
                shown.help
            );
            writeln!(page, "{}", row.replace("  |", " |")).unwrap();
            if !fixed.contains_key(name) {
                rotated.push(format!("`{name_scraped}`"));
            }
        }
        if section {
            let flags = "`--vpsie-secret-name`, `--vpsie-api-token-file` or `--vpsie-client-secret-file`";
            writeln!(page, "\nOnly with {flags}: {}.", rotated.join(", ")).unwrap();
        }
    }
    page + SERIES
}

#[test]
fn docs_metrics_md_matches_the_scrape() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == page, "docs/reference/metrics.md differs: UPDATE=1 cargo test --lib docs");
}
