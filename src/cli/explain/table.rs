//! A decision as a table.

use std::fmt::Write as _;

use crate::cli::table::write_table;
use crate::cost::UsdPerHour;
use crate::grpc::{DecisionRecord, RecordedOption};
use crate::placement::Rating;

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
        Rating::Priced(estimate) if estimate.remaining_pods > 0 => {
            (Some(*estimate), remaining_text(estimate.remaining_pods))
        }
        Rating::Priced(estimate) => (Some(*estimate), String::new()),
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

fn remaining_text(pods: u32) -> String {
    format!("leaves {pods} {} to other options", if pods == 1 { "pod" } else { "pods" })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rust_decimal::Decimal;

    use super::*;
    use crate::placement::{Blocked, CostEstimate};

    fn option(pool: &str, price: Option<i64>, best: bool, rating: Rating) -> RecordedOption {
        let price = price.map(|price| UsdPerHour(Decimal::new(price, 4)));
        RecordedOption { pool: pool.into(), nodes: 2, pods: 4, price, best, rating }
    }

    #[test]
    fn a_decision_is_a_table_with_reasons() {
        let rate = |price| UsdPerHour(Decimal::new(price, 4));
        let estimate = |nodes, remaining, remaining_pods| {
            Rating::Priced(CostEstimate {
                nodes: rate(nodes),
                remaining: rate(remaining),
                spare: rate(100),
                total: rate(nodes + remaining - 100),
                remaining_pods,
            })
        };
        let blocked = Blocked { reason: "STOCKOUT".into(), message: "none left, 2 minutes ago".to_owned() };
        let record = DecisionRecord {
            number: 7,
            at: Timestamp::UNIX_EPOCH,
            micros: 120,
            pods: 5,
            options: vec![
                option("web/ams1/m-4vcpu-12gb/on-demand", Some(493), true, estimate(986, 1370, 1)),
                option("web/ams1/s-8vcpu-16gb/on-demand", Some(1370), false, estimate(2740, 0, 0)),
                option("other", None, false, Rating::Unpriced),
                option("web/ams1/s-2vcpu-4gb/on-demand", Some(274), false, Rating::Blocked(blocked)),
            ],
            more: 3,
        };
        insta::assert_snapshot!(render(&record));
    }
}
