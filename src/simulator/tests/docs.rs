//! docs/develop/simulator.md matches the simulator.

use std::fmt::Write as _;
use std::path::Path;

use super::*;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/develop/simulator.md");

fn shapes() -> String {
    let mut table = "\n| Shape | Subject | Values, the default first |\n| --- | --- | --- |\n".to_owned();
    for ShapeChoice { name, about, values } in Shapes::choices() {
        let values: Vec<String> = values
            .iter()
            .map(|(value, meaning)| format!("`{value}`: {}", meaning.trim_end_matches('.')))
            .collect();
        // Without the reference of the code.
        let about = about.trim_end_matches('.').split(" (").next().unwrap();
        writeln!(table, "| `{name}` | {about} | {} |", values.join("<br>")).unwrap();
    }
    table
}

fn offers() -> String {
    let mut table = "\n| `KubeSizeID` | Name | Cores | MiB | GiB of disk | USD a month |\n".to_owned();
    table.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for offer in SimulatorConfig::default().offers {
        let OfferConfig { id, name, cpu, ram, disk, monthly, .. } = offer;
        writeln!(table, "| {id} | `{name}` | {cpu} | {ram} | {disk} | {monthly} |").unwrap();
    }
    table
}

/// Replaces the text between the two markers of a section.
fn replace_section(page: &str, name: &str, text: &str) -> String {
    let start = format!("<!-- {name}: generated -->");
    let end = format!("<!-- /{name} -->");
    let (before, rest) = page.split_once(&start).unwrap();
    let (_, after) = rest.split_once(&end).unwrap();
    format!("{before}{start}\n{text}\n{end}{after}")
}

#[test]
fn docs_simulator_md_lists_the_shapes_and_offers() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let updated = replace_section(&replace_section(&page, "shapes", &shapes()), "offers", &offers());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(Path::new(PAGE), &updated).unwrap();
    }
    assert!(page == updated, "docs/develop/simulator.md is outdated: run UPDATE=1 cargo test --lib docs");
}

#[test]
fn faults_and_files_on_the_page_are_valid() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let rules: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("--fault '")).collect();
    assert!(rules.len() >= 4, "{rules:?}");
    for rule in rules {
        let (rule, _) = rule.split_once('\'').unwrap();
        rule.parse::<FaultRule>().unwrap();
    }
    let files: Vec<&str> =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(files.len(), 3);
    for yaml in files {
        let config: SimulatorConfig = serde_saphyr::from_str(yaml).unwrap();
        config.validate().unwrap();
    }
}
