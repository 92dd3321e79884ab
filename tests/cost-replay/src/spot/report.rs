//! Tables of the spot policies, as Markdown.

use std::fmt::Write as _;

use anyhow::Result;

use super::{SpotPolicyKind, SpotRun, Zone};
use crate::Args;
use crate::data::{ReplayPool, Trace, spot_pools, traces, zones};
use crate::expander::Expander;
use crate::replay::{ReplayConditions, ReplayCost, replay_with};
use crate::report::{mean, percentile, run_parallel, write};

const BEGIN: &str = "<!-- cost-replay spot: begin, written by `cargo run -p cost-replay` -->";
const END: &str = "<!-- cost-replay spot: end -->";

/// The policies with their names. None: on demand only.
const POLICIES: [(&str, Option<SpotPolicyKind>); 5] = [
    ("on demand only", None),
    ("cheapest spot", Some(SpotPolicyKind::CheapestSpot)),
    ("spot, Cluster Autoscaler's backoff", Some(SpotPolicyKind::Backoff)),
    ("ours, share 80 %", Some(SpotPolicyKind::Ours(80))),
    ("ours, share 100 %", Some(SpotPolicyKind::Ours(100))),
];

/// Results of one policy, means over the seeds. Times are hours, waits seconds.
#[derive(Clone, Copy, Default)]
struct Row {
    usd: f64,
    spot_share: f64,
    interruptions: f64,
    refused: f64,
    moved: f64,
    killed: f64,
    lost: f64,
    pending: f64,
    wait_mean: f64,
    wait_p95: f64,
}

/// A column: its title, value and decimals.
type Column = (&'static str, fn(&Row) -> f64, usize);

const USD: Column = ("USD", |row| row.usd, 2);
const MOVED: Column = ("pods moved", |row| row.moved, 0);
const OTHERS: [Column; 7] = [
    ("interruptions", |row| row.interruptions, 0),
    ("refused", |row| row.refused, 0),
    ("pods killed", |row| row.killed, 0),
    ("pod-hours lost", |row| row.lost, 1),
    ("pod-hours pending", |row| row.pending, 1),
    ("wait mean, s", |row| row.wait_mean, 0),
    ("wait p95, s", |row| row.wait_p95, 0),
];

pub(crate) fn print(args: &Args) -> Result<()> {
    let pools = spot_pools(&args.data)?;
    let zones = zones(&args.data)?;
    let markets: [(&str, &[Zone]); 2] = [("capacity of the traces", &zones), ("bands only", &[])];
    let mut text = String::new();
    for trace in traces(&args.data, &args.trace)? {
        for (name, zones) in markets.iter().filter(|(name, _)| name.contains(&args.market)) {
            let rows = run_parallel(&POLICIES, |(_, kind)| Ok(row(&trace, &pools, zones, *kind, args.seeds)));
            let rows = rows.into_iter().collect::<Result<Vec<Row>>>()?;
            show(&mut text, &trace.name, name, &rows)?;
        }
    }
    println!("{text}");
    args.write.as_deref().map_or(Ok(()), |path| write(path, &text, BEGIN, END))
}

/// Replays a trace with one policy.
fn cost(
    trace: &Trace,
    pools: &[ReplayPool],
    zones: &[Zone],
    kind: Option<SpotPolicyKind>,
    seed: u64,
) -> ReplayCost {
    let conditions = ReplayConditions::DEFAULT;
    let on_demand = pools.iter().position(|pool| pool.spot.is_some()).unwrap_or(pools.len());
    let pools = if kind.is_some() { pools } else { &pools[..on_demand] };
    let spot = kind.map(|kind| SpotRun::new(kind, pools, zones, conditions.boot, seed));
    replay_with(&trace.pods, pools, Expander::Ours, conditions, seed, spot)
}

fn row(trace: &Trace, pools: &[ReplayPool], zones: &[Zone], kind: Option<SpotPolicyKind>, seeds: u64) -> Row {
    let mut row = Row::default();
    let share = 1.0 / seeds as f64;
    for seed in 0..seeds {
        let cost = cost(trace, pools, zones, kind, seed);
        let hours = |seconds: u64| seconds as f64 / 3600.0 * share;
        row.usd += cost.usd * share;
        row.spot_share += cost.spot.spot_time as f64 / cost.spot.vm_time as f64 * share;
        row.interruptions += cost.spot.interruptions as f64 * share;
        row.refused += cost.spot.refused as f64 * share;
        row.moved += cost.spot.moved as f64 * share;
        row.killed += cost.spot.killed as f64 * share;
        row.lost += hours(cost.spot.lost);
        row.pending += hours(cost.spot.pending);
        row.wait_mean += mean(&cost) * share;
        row.wait_p95 += percentile(&cost, 95) * share;
    }
    row
}

fn show(text: &mut String, trace: &str, market: &str, rows: &[Row]) -> Result<()> {
    writeln!(text, "\n**{trace}, {market}**\n")?;
    text.push_str("| policy | ÷ on demand | spot hours |");
    let columns = || [USD, MOVED].into_iter().chain(OTHERS);
    for (title, ..) in columns() {
        write!(text, " {title} |")?;
    }
    text.push_str("\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    let on_demand = rows.first().map_or(0.0, |row| row.usd);
    for ((name, _), row) in POLICIES.iter().zip(rows) {
        write!(text, "| {name} | {:.3} | {:.0} % |", row.usd / on_demand, row.spot_share * 100.0)?;
        for (_, value, decimals) in columns() {
            write!(text, " {:.decimals$} |", value(row))?;
        }
        text.push('\n');
    }
    show_lowest(text, rows)
}

/// Names the spot policies with the lowest value of each column, unless all have the same.
fn show_lowest(text: &mut String, rows: &[Row]) -> Result<()> {
    let spot = || POLICIES.iter().zip(rows).skip(1);
    let mut lowest = Vec::new();
    for (title, value, decimals) in [USD].into_iter().chain(OTHERS) {
        let shown = |row: &Row| format!("{:.decimals$}", value(row));
        let best = spot().map(|(_, row)| row).min_by(|a, b| value(a).total_cmp(&value(b))).map(shown);
        let is_best = |row: &Row| best.as_deref() == Some(&*shown(row));
        let names: Vec<&str> = spot().filter(|(_, row)| is_best(row)).map(|((name, _), _)| *name).collect();
        if names.len() < spot().count() {
            lowest.push(format!("{title}: {}", names.join(" and ")));
        }
    }
    if !lowest.is_empty() {
        writeln!(text, "\nLowest of the spot policies:\n")?;
        lowest.iter().try_for_each(|line| writeln!(text, "- {line}"))?;
    }
    Ok(())
}
