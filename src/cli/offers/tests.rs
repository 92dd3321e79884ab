use clap::Parser as _;

use super::*;
use crate::catalog::{CapacityType, Offer, Resources, SizeId};
use crate::cli::{Cli, Command};
use crate::cost::UsdPerHour;

fn list() -> PriceList {
    let priced =
        |size, name: &str, datacenter: &str, (cores, gib, disk): (u64, u64, u64), price: Option<&str>| {
            PricedOffer {
                offer: Offer {
                    size: SizeId(size),
                    name: name.to_owned(),
                    identifier: None,
                    datacenter: datacenter.into(),
                    capacity_type: CapacityType::OnDemand,
                    resources: Resources {
                        cpu_millis: cores * 1000,
                        memory_mib: gib * 1024,
                        disk_gib: disk,
                        pods: 110,
                    },
                    monthly: None,
                    hourly: None,
                },
                price: price.map(|price| UsdPerHour(price.parse().unwrap())),
            }
        };
    PriceList {
        hours_per_month: HoursPerMonth::default(),
        offers: vec![
            priced(1, "s-2vcpu-4gb", "ams1", (2, 4, 80), Some("0.02739726027397260273972602740")),
            priced(2, "s-4vcpu-8gb", "ams1", (4, 8, 160), Some("0.0548")),
            priced(2, "s-4vcpu-8gb", "nyc1", (4, 8, 160), Some("0.0466")),
            priced(3, "m-4vcpu-12gb", "ams1", (4, 12, 0), Some("0.0493")),
            priced(4, "s-8vcpu-16gb", "ams1", (8, 16, 320), Some("0.0986")),
            priced(5, "g-8vcpu-32gb", "ams1", (8, 32, 320), None),
        ],
    }
}

fn args(line: &str) -> Result<OffersArgs, String> {
    let line = std::iter::once("vpsie-autoscaler").chain(["offers"]).chain(line.split_whitespace());
    match Cli::try_parse_from(line).map_err(|error| error.to_string())?.command {
        Command::Offers(args) => Ok(args),
        _ => panic!("not offers"),
    }
}

fn answer(line: &str) -> Result<String, String> {
    args(line)?.format_offers(list()).map_err(|error| error.to_string())
}

#[test]
fn all_offers_are_shown_with_prices() {
    insta::assert_snapshot!(answer("").unwrap());
}

#[test]
fn matching_offers_are_shown_cheapest_first() {
    insta::assert_snapshot!(answer("--cpu 4 --memory 8Gi").unwrap());
}

#[test]
fn unit_prices_count_the_units_of_a_machine() {
    insta::assert_snapshot!(answer("--cpu 2 --memory 4Gi --datacenter ams1 --per-unit").unwrap());
}

#[test]
fn a_comparison_shows_the_saving_of_the_cheaper_offer() {
    let one = answer("--compare ams1/s-4vcpu-8gb nyc1/s-4vcpu-8gb").unwrap();
    insta::assert_snapshot!(one);
    assert_eq!(answer("--compare nyc1/s-4vcpu-8gb ams1/s-4vcpu-8gb").unwrap(), one);
    let saving = |line| answer(line).unwrap().lines().last().unwrap().to_owned();
    assert_eq!(
        saving("--compare s-8vcpu-16gb s-2vcpu-4gb --per-unit --cpu 2"),
        "ams1/s-8vcpu-16gb saves 0.0027 USD per hour, 2.01 USD per month, 10.0 % per unit over ams1/s-2vcpu-4gb"
    );
    assert_eq!(
        saving("--compare s-8vcpu-16gb m-4vcpu-12gb --per-unit --cpu 2"),
        "ams1/m-4vcpu-12gb and ams1/s-8vcpu-16gb cost the same per unit"
    );
    assert_eq!(
        saving("--compare g-8vcpu-32gb s-8vcpu-16gb"),
        "cannot compare ams1/s-8vcpu-16gb and ams1/g-8vcpu-32gb: a price is unknown"
    );
}

#[test]
fn json_has_the_same_with_money_exact() {
    let text = answer("--memory 16Gi --output json").unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["hoursPerMonth"], 730);
    let first = &json["offers"][0];
    assert_eq!(first["offer"]["name"], "s-8vcpu-16gb");
    assert_eq!(first["cost"]["monthly"], "71.9780");
    assert_eq!(first["above"]["percent"], "0");
    assert_eq!(json["offers"][1]["cost"], serde_json::Value::Null);
}

#[test]
fn invalid_arguments_are_refused_with_alternatives() {
    for (line, want) in [
        ("--memory 8", "is \"8\", must be a Kubernetes quantity of at least 1Mi such as 8Gi"),
        ("--memory 8GB", "is \"8GB\", must be"),
        ("--disk 40", "at least 1Gi such as 40Gi"),
        ("--cpu 0", "at least 1m such as 4 or 500m"),
        ("--per-unit", "--cpu"),
        ("--compare s-2vcpu-4gb", "2 values required"),
        ("--datacenter mars", "--datacenter: no offers in mars; offers exist in ams1, nyc1"),
        ("--compare s-2vcpu-4gb s-4vcpu-8gb", "s-4vcpu-8gb is in ams1, nyc1; write <datacenter>/s-4vcpu-8gb"),
        ("--compare s-2vcpu-4gb other", "unknown offer other"),
        ("--compare s-2vcpu-4gb m-4vcpu-12gb --cpu 4", "s-2vcpu-4gb does not meet --cpu"),
    ] {
        let error = answer(line).unwrap_err();
        assert!(error.contains(want), "{line}: {error}");
    }
    assert_eq!(answer("--cpu 64").unwrap(), "no offer meets the requirements\n");
    assert_eq!(args("--cpu 500m --memory 1.5Gi --disk 40Gi").unwrap().memory, Some(1536));
}
