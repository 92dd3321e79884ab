//! A decision as a table.

use std::fmt::Write as _;

use crate::cli::table::write_table;
use crate::cost::UsdPerHour;
use crate::grpc::{DecisionRecord, RecordedOption};
use crate::placement::{CostEstimate, Rating};

const HEADINGS: [&str; 10] =
    ["", "POOL", "NODES", "PODS", "PRICE/H", "NODES/H", "REMAINING/H", "SPARE/H", "TOTAL/H", "WHY"];

/// Formats a decision: options in their order, the best ones marked, with the reasons.
pub fn render(record: &DecisionRecord) -> String {
    let mut text = format!(
        "decision {} at {:.0}: {} pending pods, {} options, {} us\n",
        record.number,
        record.at,
        record.pods,
        record.options.len() + record.more,
        record.micros
    );
    let rows: Vec<Vec<String>> = record.options.iter().map(row).collect();
    write_table(&mut text, 2, &HEADINGS, &rows);
    if record.more > 0 {
        let _ = writeln!(text, "  and {} more options, worse than these", record.more);
    }
    text
}

fn row(option: &RecordedOption) -> Vec<String> {
    let money = |rate: UsdPerHour| format!("{:.4}", rate.0);
    let (estimate, why) = match &option.rating {
        Rating::Priced(estimate) => (Some(*estimate), format_terms(option, estimate)),
        Rating::Unpriced => (None, "price unknown".to_owned()),
        Rating::Blocked(blocked) => (None, format!("{}: {}", blocked.reason, blocked.message)),
    };
    let column = |field: fn(crate::placement::CostEstimate) -> UsdPerHour| {
        estimate.map_or_else(|| "-".to_owned(), |estimate| money(field(estimate)))
    };
    vec![
        if option.best { "*".to_owned() } else { String::new() },
        option.pool.to_string(),
        option.nodes.to_string(),
        option.pods.to_string(),
        option.price.map_or_else(|| "?".to_owned(), money),
        column(|estimate| estimate.nodes),
        column(|estimate| estimate.remaining),
        column(|estimate| UsdPerHour::ZERO - estimate.spare),
        column(|estimate| estimate.total),
        why,
    ]
}

/// The terms that have no column of their own.
fn format_terms(option: &RecordedOption, estimate: &CostEstimate) -> String {
    let mut terms = Vec::new();
    if estimate.remaining_pods > 0 {
        terms.push(remaining_text(estimate.remaining_pods));
    }
    match estimate.replacements {
        0 => {}
        1 => terms.push("1 node is a replacement on its way".to_owned()),
        more => terms.push(format!("{more} nodes are replacements on their way")),
    }
    if !option.interruptions.is_zero() {
        terms.push(format!("price includes {:.6} for interruptions", option.interruptions.0));
    }
    if !estimate.concentration.is_zero() {
        terms.push(format!("total includes {:.4} for concentration", estimate.concentration.0));
    }
    if !estimate.placement.is_zero() {
        terms.push(format!("total includes {:.4} for its datacenter", estimate.placement.0));
    }
    terms.join("; ")
}

fn remaining_text(pods: u32) -> String {
    format!("leaves {pods} {} to other options", if pods == 1 { "pod" } else { "pods" })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rust_decimal::Decimal;

    use super::*;
    use crate::placement::Blocked;

    fn option(pool: &str, price: Option<i64>, best: bool, rating: Rating) -> RecordedOption {
        let price = price.map(|price| UsdPerHour(Decimal::new(price, 4)));
        let interruptions = UsdPerHour::ZERO;
        RecordedOption { pool: pool.into(), nodes: 2, pods: 4, price, interruptions, best, rating }
    }

    #[test]
    fn a_decision_is_a_table_with_reasons() {
        let rate = |price| UsdPerHour(Decimal::new(price, 4));
        let estimate = |nodes, remaining, remaining_pods| {
            Rating::Priced(CostEstimate {
                nodes: rate(nodes),
                replacements: 0,
                concentration: UsdPerHour::ZERO,
                placement: UsdPerHour::ZERO,
                remaining: rate(remaining),
                spare: rate(100),
                total: rate(nodes + remaining - 100),
                remaining_pods,
            })
        };
        let concentrated = Rating::Priced(CostEstimate {
            nodes: rate(300),
            replacements: 1,
            concentration: rate(15),
            placement: UsdPerHour::ZERO,
            remaining: rate(1370),
            spare: rate(100),
            total: rate(1585),
            remaining_pods: 1,
        });
        let blocked = Blocked { reason: "STOCKOUT".into(), message: "none left, 2 minutes ago".to_owned() };
        let record = DecisionRecord {
            number: 7,
            at: Timestamp::UNIX_EPOCH,
            micros: 120,
            pods: 5,
            options: vec![
                option("web/ams1/m-4vcpu-12gb/on-demand", Some(493), true, estimate(986, 1370, 1)),
                option("web/ams1/s-8vcpu-16gb/on-demand", Some(1370), false, estimate(2740, 0, 0)),
                RecordedOption {
                    interruptions: UsdPerHour(Decimal::new(12, 6)),
                    ..option("web/ams1/m-4vcpu-12gb/spot", Some(150), false, concentrated)
                },
                option("other", None, false, Rating::Unpriced),
                option("web/ams1/s-2vcpu-4gb/on-demand", Some(274), false, Rating::Blocked(blocked)),
            ],
            more: 3,
        };
        insta::assert_snapshot!(render(&record));
    }
}
