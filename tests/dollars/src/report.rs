//! The tables.

use std::fs;
use std::thread;

use anyhow::{Result, anyhow};

use crate::Args;
use crate::bound::{Bounds, bounds};
use crate::data::{Market, Trace, markets};
use crate::expander::Expander;
use crate::replay::{Delays, Outcome, replay};

/// Means over the seeds.
#[derive(Clone, Copy, Default)]
struct Row {
    usd: f64,
    usd_started_hours: f64,
    booting: f64,
    empty: f64,
    wait_mean: f64,
    wait_p95: f64,
    prompt: f64,
    nodes: f64,
}

/// A trace on a market.
struct Cell {
    bounds: Bounds,
    rows: Vec<(Expander, Row)>,
    seconds: f64,
}

pub(crate) fn print(args: &Args) -> Result<()> {
    let mut paths: Vec<_> = fs::read_dir(args.data.join("traces"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    paths.sort();
    let markets = markets(&args.data)?;
    for path in paths {
        let trace = Trace::read(&path)?;
        if !trace.name.contains(&args.trace) {
            continue;
        }
        println!("\n{}: {} pods of {} sizes", trace.name, trace.pods.len(), trace.classes.len());
        let markets = markets.iter().filter(|market| market.name.contains(&args.market));
        let cells: Vec<(&Market, Result<Cell>)> = thread::scope(|scope| {
            let running: Vec<_> =
                markets.map(|market| (market, scope.spawn(|| cell(&trace, market, args.seeds)))).collect();
            running
                .into_iter()
                .map(|(market, thread)| {
                    (market, thread.join().unwrap_or_else(|_| Err(anyhow!("ended early"))))
                })
                .collect()
        });
        for (market, cell) in cells {
            show(market, &cell?);
        }
    }
    Ok(())
}

fn cell(trace: &Trace, market: &Market, seeds: u64) -> Result<Cell> {
    let begun = std::time::Instant::now();
    let rows = Expander::ALL.map(|expander| (expander, row(trace, market, expander, seeds))).to_vec();
    let bounds = bounds(trace, &market.pools)?;
    Ok(Cell { bounds, rows, seconds: begun.elapsed().as_secs_f64() })
}

fn row(trace: &Trace, market: &Market, expander: Expander, seeds: u64) -> Row {
    let mut row = Row::default();
    for seed in 0..seeds {
        let outcome = replay(&trace.pods, &market.pools, expander, Delays::DEFAULT, seed);
        let prompt = replay(&trace.pods, &market.pools, expander, Delays::PROMPT, seed);
        let share = 1.0 / seeds as f64;
        row.usd += outcome.usd * share;
        row.usd_started_hours += outcome.usd_started_hours * share;
        row.booting += outcome.booting * share;
        row.empty += outcome.empty * share;
        row.wait_mean += mean(&outcome) * share;
        row.wait_p95 +=
            outcome.waits.get(outcome.waits.len() * 95 / 100).map_or(0.0, |wait| *wait as f64) * share;
        row.prompt += prompt.usd * share;
        row.nodes += outcome.nodes_at_most as f64 * share;
    }
    row
}

fn mean(outcome: &Outcome) -> f64 {
    outcome.waits.iter().sum::<u64>() as f64 / outcome.waits.len().max(1) as f64
}

fn show(market: &Market, cell: &Cell) {
    let Bounds { fractional, packed } = cell.bounds;
    println!(
        "\n{} ({:.1} s): bound {packed:.2} USD packed, {fractional:.2} USD fractional\n",
        market.name, cell.seconds
    );
    println!(
        "| expander | USD | ÷ bound | started hours ÷ bound | booting | empty | prompt ÷ bound | wait mean, s | p95 | nodes |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (expander, row) in &cell.rows {
        println!(
            "| {} | {:.2} | {:.3} | {:.3} | {:.1} % | {:.1} % | {:.3} | {:.0} | {:.0} | {:.0} |",
            expander.name(),
            row.usd,
            row.usd / packed,
            row.usd_started_hours / packed,
            row.booting / row.usd * 100.0,
            row.empty / row.usd * 100.0,
            row.prompt / packed,
            row.wait_mean,
            row.wait_p95,
            row.nodes,
        );
    }
}
