//! Dashboards and alerts name only what is measured, and are whole. What alerts say, and when, is tested by
//! `promtool test rules deployments/monitoring/alerts_test.yaml`.

// clippy allows these in `#[test]` functions only; here all is test.
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

/// Cluster Autoscaler's own, and Prometheus', by their labels.
const OTHERS: [(&str, &[&str]); 5] = [
    ("cluster_autoscaler_unschedulable_pods_count", &["type"]),
    ("cluster_autoscaler_function_duration_seconds_sum", &["function"]),
    ("cluster_autoscaler_function_duration_seconds_count", &["function"]),
    ("up", &[]),
    ("ALERTS", &["alertname", "alertstate"]),
];
/// What a scrape adds.
const OF_TARGETS: [&str; 3] = ["job", "instance", "pod"];
const RUNBOOKS: &str = "https://github.com/vpsie/vpsie-autoscaler/blob/main/docs/operate/runbooks";

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn read(of: &str) -> String {
    fs::read_to_string(path(of)).unwrap_or_else(|error| panic!("{of}: {error}"))
}

fn yaml(of: &str) -> Value {
    serde_saphyr::from_str(&read(of)).unwrap_or_else(|error| panic!("{of}: {error}"))
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().unwrap_or_else(|| panic!("no list {field} in {value}"))
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

/// The names of series that are measured, and their labels, as docs/reference/metrics.md has them.
fn measured() -> BTreeMap<String, BTreeSet<String>> {
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
    for (name, labels) in OTHERS {
        measured.insert(name.to_owned(), labels.iter().map(|&label| label.to_owned()).collect());
    }
    assert!(measured.len() > 40, "{measured:?}");
    measured
}

/// What Grafana would put in.
fn filled(expr: &str) -> String {
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
    let parsed = parser::parse(&filled(expr)).unwrap_or_else(|error| panic!("{expr}: {error}"));
    let mut found = Selectors::default();
    walk_expr(&mut found, &parsed).unwrap();
    found.0
}

/// Every expression, and where it is.
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
fn every_series_in_a_dashboard_or_alert_is_measured_and_has_the_labels_that_are_asked_for() {
    let measured = measured();
    let mut unknown = Vec::new();
    for (place, expr) in expressions() {
        let selectors = selectors(&expr);
        assert!(!selectors.is_empty(), "{place} asks for nothing: {expr}");
        for (name, labels) in selectors {
            let Some(known) = measured.get(&name) else {
                unknown.push(format!("{place}: {name}"));
                continue;
            };
            let has = |label: &String| known.contains(label) || OF_TARGETS.contains(&label.as_str());
            unknown
                .extend(labels.iter().filter(|label| !has(label)).map(|l| format!("{place}: {name}{{{l}}}")));
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_metric_of_the_process_is_in_the_reference_that_dashboards_and_alerts_are_held_against() {
    let measured = measured();
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
            measured.contains_key(&format!("{name}{suffix}")),
            "{name}{suffix} is not in docs/reference/metrics.md"
        );
        types += 1;
    }
    assert!(types > 20, "{text}");
    assert!(text.contains("\nvpsie_autoscaler_leader 1"), "{text}");
}

#[test]
fn every_alert_has_a_severity_what_to_read_a_runbook_and_tests_of_both_outcomes() {
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
            "{name}: the runbook begins with a command"
        );
        let of = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\"}}");
        for fires in [false, true] {
            let is = |check: &&&Value| {
                check["expr"].as_str().unwrap().contains(&of)
                    && list(check, "exp_samples").is_empty() != fires
            };
            assert!(checks.iter().any(|check| is(&check)), "{name}: no test in which it fires: {fires}");
        }
    }
    assert!(runbooks.is_empty(), "runbooks of no alert: {runbooks:?}");
}

#[test]
fn every_dashboard_can_be_imported_anywhere_and_says_what_to_do() {
    for (name, board) in dashboards() {
        assert!(board["schemaVersion"].as_u64() >= Some(39), "{name}");
        assert!(board.get("id").is_none() && board["uid"].is_string(), "{name}: a uid, and no id");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in list(&board, "panels") {
            let title = format!("{name}: {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
            let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
            assert!(at("w") > 0 && at("h") > 0 && at("x") + at("w") <= 24, "{title}: {}", panel["gridPos"]);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{title} lies over another");
                }
            }
        }
        for panel in panels(&board) {
            let title = format!("{name}: {}", panel["title"]);
            assert!(
                panel["description"].as_str().is_some_and(|text| text.len() > 20),
                "{title}: description"
            );
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}: unit");
            assert!(!list(panel, "targets").is_empty(), "{title}: nothing is shown");
            for has_source in list(panel, "targets").iter().chain([panel]) {
                assert_eq!(has_source["datasource"]["uid"], "${datasource}", "{title}");
            }
        }
    }
}

/// The process, until it is dropped.
struct Served {
    process: Child,
    http: String,
    /// Open, or what it says next would end it.
    _lines: Lines<BufReader<ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl Served {
    /// Waits until it says where it serves.
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
            panic!("it ends without saying where it serves")
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
