//! Checks that dashboards and alerts use only existing metrics, and are complete. `promtool test rules
//! deployments/monitoring/alerts_test.yaml` tests the conditions and texts of alerts.

// All code of this file is test code. clippy exempts only `#[test]` functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use promql_parser::parser::{self, Expr};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

/// Metrics of Cluster Autoscaler and Prometheus, with their labels.
const EXTERNAL_METRICS: [(&str, &[&str]); 5] = [
    ("cluster_autoscaler_unschedulable_pods_count", &["type"]),
    ("cluster_autoscaler_function_duration_seconds_sum", &["function"]),
    ("cluster_autoscaler_function_duration_seconds_count", &["function"]),
    ("up", &[]),
    ("ALERTS", &["alertname", "alertstate"]),
];
/// Labels that a scrape adds.
const TARGET_LABELS: [&str; 3] = ["job", "instance", "pod"];
const RUNBOOKS: &str = "https://github.com/vpsie/vpsie-autoscaler/blob/main/docs/operate/runbooks";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().unwrap_or_else(|| panic!("{value} has no list {field}"))
}

fn alerts() -> Vec<Value> {
    let file = yaml("deployments/monitoring/alerts.yaml");
    list(&file, "groups").iter().flat_map(|group| list(group, "rules").to_vec()).collect()
}

fn dashboards() -> Vec<(String, Value)> {
    let files = fs::read_dir(path("deployments/monitoring/dashboards")).unwrap();
    let read = |file: fs::DirEntry| {
        let name = file.file_name().into_string().unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        (name.clone(), serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}")))
    };
    let all: Vec<_> = files.map(|file| read(file.unwrap())).collect();
    assert!(all.len() >= 2, "{all:?}");
    all
}

/// Names and labels of existing series, from docs/reference/metrics.md.
fn known_series() -> BTreeMap<String, BTreeSet<String>> {
    let mut measured = BTreeMap::new();
    let page = read("docs/reference/metrics.md");
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        let kind = cells[2];
        let mut labels: BTreeSet<String> =
            cells[3].split(", ").map(|label| label.trim_matches('`').to_owned()).collect();
        if kind != "histogram" {
            measured.insert(name.to_owned(), labels);
            continue;
        }
        for part in ["sum", "count", "bucket"] {
            if part == "bucket" {
                labels.insert("le".to_owned());
            }
            measured.insert(format!("{name}_{part}"), labels.clone());
        }
    }
    for (name, labels) in EXTERNAL_METRICS {
        measured.insert(name.to_owned(), labels.iter().map(|&label| label.to_owned()).collect());
    }
    assert!(measured.len() > 40, "{measured:?}");
    measured
}

/// Replaces variables as Grafana does.
fn replace_variables(expr: &str) -> String {
    expr.replace("$__rate_interval", "5m").replace("$nodegroup", "web")
}

#[derive(Default)]
struct Selectors(Vec<(String, Vec<String>)>);

impl ExprVisitor for Selectors {
    type Error = String;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, String> {
        let selector = match expr {
            Expr::VectorSelector(selector) => selector,
            Expr::MatrixSelector(matrix) => &matrix.vs,
            _ => return Ok(true),
        };
        let name = selector.name.clone().ok_or_else(|| format!("{selector} has no name"))?;
        let labels = selector.matchers.matchers.iter().map(|matcher| matcher.name.clone()).collect();
        self.0.push((name, labels));
        Ok(true)
    }
}

fn selectors(expr: &str) -> Vec<(String, Vec<String>)> {
    let parsed = parser::parse(&replace_variables(expr)).unwrap_or_else(|error| panic!("{expr}: {error}"));
    let mut found = Selectors::default();
    walk_expr(&mut found, &parsed).unwrap();
    found.0
}

/// All expressions with their places.
fn expressions() -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no expression: {value}")).to_owned();
    let mut all: Vec<_> =
        alerts().iter().map(|alert| (alert["alert"].to_string(), text(&alert["expr"]))).collect();
    for (name, board) in dashboards() {
        for panel in panels(&board) {
            let title = format!("{name}: {}", panel["title"]);
            all.extend(list(panel, "targets").iter().map(|target| (title.clone(), text(&target["expr"]))));
        }
        for annotation in list(&board["annotations"], "list") {
            all.push((format!("{name}: {}", annotation["name"]), text(&annotation["expr"])));
        }
        for variable in list(&board["templating"], "list").iter().filter(|it| it["type"] == "query") {
            let query = text(&variable["query"]["query"]);
            let metric = query.strip_prefix("label_values(").and_then(|rest| rest.split(',').next());
            all.push((format!("{name}: {}", variable["name"]), metric.unwrap().to_owned()));
        }
    }
    all
}

/// Panels with data.
fn panels(board: &Value) -> impl Iterator<Item = &Value> {
    list(board, "panels").iter().filter(|panel| panel["type"] != "row")
}

#[test]
fn dashboards_and_alerts_use_existing_series_and_labels() {
    let known_series = known_series();
    let mut unknown = Vec::new();
    for (place, expr) in expressions() {
        let selectors = selectors(&expr);
        assert!(!selectors.is_empty(), "{place} has no selector: {expr}");
        for (name, labels) in selectors {
            let Some(known) = known_series.get(&name) else {
                unknown.push(format!("{place}: {name}"));
                continue;
            };
            let has = |label: &String| known.contains(label) || TARGET_LABELS.contains(&label.as_str());
            unknown
                .extend(labels.iter().filter(|label| !has(label)).map(|l| format!("{place}: {name}{{{l}}}")));
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn the_reference_has_every_metric_of_the_process() {
    let known_series = known_series();
    let served = Served::start();
    let text = served.metrics();
    let mut types = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "histogram" => "_bucket",
            "info" => "_info",
            _ => "",
        };
        assert!(
            known_series.contains_key(&format!("{name}{suffix}")),
            "{name}{suffix} is not in docs/reference/metrics.md"
        );
        types += 1;
    }
    assert!(types > 20, "{text}");
    assert!(text.contains("\nvpsie_autoscaler_leader 1"), "{text}");
}

#[test]
fn every_alert_has_a_severity_texts_a_runbook_and_tests() {
    let tests = yaml("deployments/monitoring/alerts_test.yaml");
    let checks: Vec<&Value> = list(&tests, "tests")
        .iter()
        .filter_map(|test| test["promql_expr_test"].as_array())
        .flatten()
        .collect();
    let mut runbooks: BTreeSet<String> = fs::read_dir(path("docs/operate/runbooks"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let severity = alert["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("warning" | "critical")), "{name}: {severity:?}");
        let annotations = &alert["annotations"];
        for text in ["summary", "description"] {
            assert!(annotations[text].as_str().is_some_and(|text| text.len() > 20), "{name}: {text}");
        }
        assert_eq!(annotations["runbook_url"], format!("{RUNBOOKS}/{name}.md"));
        assert!(runbooks.remove(&format!("{name}.md")), "{name} has no runbook");
        let page = read(&format!("docs/operate/runbooks/{name}.md"));
        assert!(
            page.starts_with(&format!("# {name}\n\n```sh\n")),
            "{name}: the runbook must begin with a command"
        );
        let selector = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\"}}");
        for fires in [false, true] {
            let is = |check: &&&Value| {
                check["expr"].as_str().unwrap().contains(&selector)
                    && list(check, "exp_samples").is_empty() != fires
            };
            assert!(checks.iter().any(|check| is(&check)), "{name}: no test with firing = {fires}");
        }
    }
    assert!(runbooks.is_empty(), "runbooks without an alert: {runbooks:?}");
}

#[test]
fn every_dashboard_can_be_imported_and_is_complete() {
    for (name, board) in dashboards() {
        assert!(board["schemaVersion"].as_u64() >= Some(39), "{name}");
        assert!(board.get("id").is_none() && board["uid"].is_string(), "{name} must have a uid and no id");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in list(&board, "panels") {
            let title = format!("{name}: {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: the id is used twice");
            let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
            assert!(at("w") > 0 && at("h") > 0 && at("x") + at("w") <= 24, "{title}: {}", panel["gridPos"]);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{title} overlaps another panel");
                }
            }
        }
        for panel in panels(&board) {
            let title = format!("{name}: {}", panel["title"]);
            assert!(
                panel["description"].as_str().is_some_and(|text| text.len() > 20),
                "{title} must have a description"
            );
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} must have a unit");
            assert!(!list(panel, "targets").is_empty(), "{title} must have a target");
            for has_source in list(panel, "targets").iter().chain([panel]) {
                assert_eq!(has_source["datasource"]["uid"], "${datasource}", "{title}");
            }
        }
    }
}

/// A serving process, killed on drop.
struct Served {
    process: Child,
    http: String,
    /// Kept open: without a reader, the next write of the process would end it.
    _lines: Lines<BufReader<ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Starts the process and waits until it prints its address.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_vpsie-autoscaler"))
            .args(["serve", "--simulate", "--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let served = |line: String| Some(line.split_once("http://")?.1.split_once('/')?.0.to_owned());
        let http = lines.by_ref().map_while(Result::ok).find_map(served);
        let http = http.unwrap_or_else(|| {
            drop(process.kill());
            panic!("the process ends without printing its address")
        });
        Self { process, http, _lines: lines, _folder: folder }
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
