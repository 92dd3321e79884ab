//! A decision as a table.

use std::fmt::Write as _;

use crate::cli::table::write_table;
use crate::cost::UsdPerHour;
use crate::grpc::{Record, RecordedOption};
use crate::placement::Verdict;

const HEADINGS: [&str; 10] =
    ["", "POOL", "NODES", "PODS", "PRICE/H", "NODES/H", "REST/H", "LEFTOVER/H", "TOTAL/H", "WHY"];

/// The decision for a person: options in their order, the best marked, and why the others were not taken.
pub fn render(record: &Record) -> String {
    let mut text = format!(
        "decision {} at {:.0}: {} pods wait, {} options, {} us\n",
        record.number,
        record.at,
        record.pods,
        record.options.len() + record.more,
        record.micros
    );
    let rows: Vec<Vec<String>> = record.options.iter().map(row).collect();
    write_table(&mut text, 2, &HEADINGS, &rows);
    if record.more > 0 {
        let _ = writeln!(text, "  and {} more, worse than these", record.more);
    }
    text
}

fn row(option: &RecordedOption) -> Vec<String> {
    let money = |rate: UsdPerHour| format!("{:.4}", rate.0);
    let (terms, why) = match &option.verdict {
        Verdict::Priced(terms) if terms.left_waiting > 0 => {
            (Some(*terms), format!("leaves {} pods for other options", terms.left_waiting))
        }
        Verdict::Priced(terms) => (Some(*terms), String::new()),
        Verdict::Unpriced => (None, "nobody knows its price".to_owned()),
        Verdict::Blocked(blocked) => (None, format!("{}: {}", blocked.reason, blocked.message)),
    };
    let term = |of: fn(crate::placement::Terms) -> UsdPerHour| {
        terms.map_or_else(|| "-".to_owned(), |terms| money(of(terms)))
    };
    vec![
        if option.best { "*".to_owned() } else { String::new() },
        option.pool.to_string(),
        option.nodes.to_string(),
        option.pods.to_string(),
        option.price.map_or_else(|| "?".to_owned(), money),
        term(|terms| terms.nodes),
        term(|terms| terms.rest),
        term(|terms| UsdPerHour::ZERO - terms.leftover),
        term(|terms| terms.total),
        why,
    ]
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rust_decimal::Decimal;

    use super::*;
    use crate::placement::{Blocked, Terms};

    fn option(pool: &str, price: Option<i64>, best: bool, verdict: Verdict) -> RecordedOption {
        let price = price.map(|price| UsdPerHour(Decimal::new(price, 4)));
        RecordedOption { pool: pool.into(), nodes: 2, pods: 4, price, best, verdict }
    }

    #[test]
    fn a_decision_is_a_table_with_the_reasons() {
        let rate = |price| UsdPerHour(Decimal::new(price, 4));
        let terms = |nodes, rest, left_waiting| {
            Verdict::Priced(Terms {
                nodes: rate(nodes),
                rest: rate(rest),
                leftover: rate(100),
                total: rate(nodes + rest - 100),
                left_waiting,
            })
        };
        let blocked = Blocked { reason: "STOCKOUT".into(), message: "none left, 2 minutes ago".to_owned() };
        let record = Record {
            number: 7,
            at: Timestamp::UNIX_EPOCH,
            micros: 120,
            pods: 5,
            options: vec![
                option("web/ams1/m-4vcpu-12gb/on-demand", Some(493), true, terms(986, 1370, 1)),
                option("web/ams1/s-8vcpu-16gb/on-demand", Some(1370), false, terms(2740, 0, 0)),
                option("other", None, false, Verdict::Unpriced),
                option("web/ams1/s-2vcpu-4gb/on-demand", Some(274), false, Verdict::Blocked(blocked)),
            ],
            more: 3,
        };
        insta::assert_snapshot!(render(&record));
    }
}
