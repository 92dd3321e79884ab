//! Files and flags of users: NodeGroup manifests, price files, durations. The first line of an input is its
//! kind.

use clap::Parser;
use vpsie_autoscaler::config::{ServeArgs, Settings, sample_manifests};
use vpsie_autoscaler::cost::HoursPerMonth;
use vpsie_autoscaler::fleet::{Fleet, FleetSettings, SpotDefaults};
use vpsie_autoscaler::validation::{Source, parse_duration, parse_manifests};

use crate::fleets::{records, run_fleet};

const GROUPS: &str = include_str!("../../deployments/samples/general.yaml");
const PRICES: &str = "- {offer: small, hourly: '0.02'}\n- {datacenter: ams1, discountPercent: '15'}\n\
                      - {offer: large, datacenter: ams1, discountHourly: '0.005'}\n- {offer: '7', monthly: 24}\n";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seed = |kind: &str, text: &str| format!("{kind}\n{text}").into_bytes();
    sample_manifests(SpotDefaults::default()).unwrap();
    vec![seed("groups", GROUPS), seed("prices", PRICES), seed("duration", "1h30m")]
}

pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Some((kind, text)) = text.split_once('\n') else { return };
    match kind {
        "groups" => {
            let source = Source { name: "fuzz".to_owned(), text: text.to_owned() };
            if let Ok(manifests) = parse_manifests("fuzz", &[source], SpotDefaults::default()) {
                run_fleet(Fleet::restore(manifests.groups, records(), FleetSettings::default()), &[]);
            }
        }
        "prices" => prices(text),
        _ => {
            let _ = text.parse::<HoursPerMonth>();
            if let Ok(duration) = parse_duration(text) {
                assert!(tokio::time::Instant::now().checked_add(duration).is_some(), "{text}");
            }
        }
    }
}

fn prices(text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().display().to_string();
    let line = Line::try_parse_from(["fuzz", "--simulate", "--price-file", path.as_str()]).unwrap();
    if let Ok(settings) = Settings::new(line.serve) {
        let fleet = Fleet::restore(vec![crate::fleets::group()], records(), settings.fleet);
        run_fleet(fleet, &[]);
    }
}
