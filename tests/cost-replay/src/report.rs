//! Tables of the results, as Markdown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, anyhow};

use crate::Args;
use crate::bound::{Bounds, bounds};
use crate::data::{Market, Trace, markets, traces};
use crate::expander::Expander;
use crate::replay::{ReplayConditions, ReplayCost, replay};

const BEGIN: &str = "<!-- cost-replay: begin, written by `cargo run -p cost-replay` -->";
const END: &str = "<!-- cost-replay: end -->";

/// Results of one expander, means over the seeds.
#[derive(Clone, Copy, Default)]
struct Row {
    usd: f64,
    usd_started_hours: f64,
    booting: f64,
    empty: f64,
    prompt: f64,
    packs: f64,
    wait_mean: f64,
    wait_p95: f64,
}

pub(crate) fn print(args: &Args) -> Result<()> {
    let markets = markets(&args.data, &args.market)?;
    let traces = traces(&args.data, &args.trace)?;
    let mut text = String::new();
    for trace in &traces {
        for (market, cell) in
            markets.iter().zip(run_parallel(&markets, |market| cell(trace, market, args.seeds)))
        {
            let (bounds, rows) = cell?;
            show(&mut text, trace, market, bounds, &rows)?;
        }
    }
    if args.thinned > 0 {
        thinned(&mut text, &traces, &markets, args.thinned)?;
    }
    println!("{text}");
    args.write.as_deref().map_or(Ok(()), |path| write(path, &text, BEGIN, END))
}

/// Runs `work` for each item, in parallel.
pub(crate) fn run_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<R>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a replay panicked")))
        };
        threads.into_iter().map(join).collect()
    })
}

fn cell(trace: &Trace, market: &Market, seeds: u64) -> Result<(Bounds, [Row; Expander::ALL.len()])> {
    let bounds = bounds(trace, &market.pools)?;
    Ok((bounds, Expander::ALL.map(|expander| row(trace, market, expander, seeds))))
}

fn row(trace: &Trace, market: &Market, expander: Expander, seeds: u64) -> Row {
    let mut row = Row::default();
    let share = 1.0 / seeds as f64;
    for seed in 0..seeds {
        let run = |conditions| replay(&trace.pods, &market.pools, expander, conditions, seed);
        let cost = run(ReplayConditions::DEFAULT);
        row.usd += cost.usd * share;
        row.usd_started_hours += cost.usd_started_hours * share;
        row.booting += cost.booting * share;
        row.empty += cost.empty * share;
        row.prompt += run(ReplayConditions::PROMPT).usd * share;
        row.packs += run(ReplayConditions::PACKS).usd * share;
        row.wait_mean += mean(&cost) * share;
        row.wait_p95 += percentile(&cost, 95) * share;
    }
    row
}

pub(crate) fn mean(cost: &ReplayCost) -> f64 {
    cost.waits.iter().sum::<u64>() as f64 / cost.waits.len().max(1) as f64
}

pub(crate) fn percentile(cost: &ReplayCost, percent: usize) -> f64 {
    cost.waits.get(cost.waits.len() * percent / 100).map_or(0.0, |wait| *wait as f64)
}

fn show(text: &mut String, trace: &Trace, market: &Market, bounds: Bounds, rows: &[Row]) -> Result<()> {
    let Bounds { fractional, packed } = bounds;
    writeln!(
        text,
        "\n**{} on {}**: bound {packed:.2} USD (fractional: {fractional:.2})\n",
        trace.name, market.name
    )?;
    text.push_str("| expander | USD | ÷ bound | by started hour ÷ bound | booting | empty | ");
    text.push_str("prompt scale-down ÷ bound | scheduler packs ÷ bound | wait mean, p95 |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    for (expander, row) in Expander::ALL.iter().zip(rows) {
        let percent = |part: f64| part / row.usd * 100.0;
        writeln!(
            text,
            "| {} | {:.2} | {:.3} | {:.3} | {:.1} % | {:.1} % | {:.3} | {:.3} | {:.0} s, {:.0} s |",
            expander.name(),
            row.usd,
            row.usd / packed,
            row.usd_started_hours / packed,
            percent(row.booting),
            percent(row.empty),
            row.prompt / packed,
            row.packs / packed,
            row.wait_mean,
            row.wait_p95,
        )?;
    }
    Ok(())
}

/// Means of cost ÷ bound over thinned traces, and the number of traces where ours is the lowest.
fn thinned(text: &mut String, traces: &[Trace], markets: &[Market], count: u64) -> Result<()> {
    write!(
        text,
        "\n**{count} times without a fifth of the pods, at random**: mean of USD ÷ bound\n\n| trace, market |"
    )?;
    for expander in Expander::ALL {
        write!(text, " {} |", expander.name())?;
    }
    text.push_str(" ours lowest |\n|---|---:|---:|---:|---:|---:|---:|\n");
    let seeds: Vec<u64> = (0..count).collect();
    for trace in traces {
        for market in markets {
            let cells: Vec<_> = run_parallel(&seeds, |seed| ratios(&trace.thinned(*seed), market, *seed))
                .into_iter()
                .collect::<Result<_>>()?;
            write!(text, "| {}, {} |", trace.name, market.name)?;
            for index in 0..Expander::ALL.len() {
                let mean = cells.iter().map(|cell| cell[index]).sum::<f64>() / count as f64;
                write!(text, " {mean:.3} |")?;
            }
            let lowest = |cell: &[f64]| {
                cell.split_last().is_some_and(|(ours, others)| others.iter().all(|other| other > ours))
            };
            writeln!(text, " {}/{count} |", cells.iter().filter(|cell| lowest(&cell[..])).count())?;
        }
    }
    Ok(())
}

fn ratios(trace: &Trace, market: &Market, seed: u64) -> Result<[f64; Expander::ALL.len()]> {
    let bound = bounds(trace, &market.pools)?.packed;
    Ok(Expander::ALL.map(|expander| {
        replay(&trace.pods, &market.pools, expander, ReplayConditions::DEFAULT, seed).usd / bound
    }))
}

/// Writes the tables between the markers of a file.
pub(crate) fn write(path: &Path, tables: &str, begin: &str, end: &str) -> Result<()> {
    let name = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(name)?;
    let (before, rest) = text
        .split_once(begin)
        .with_context(|| format!("{}: the marker {begin} is missing", path.display()))?;
    let (_, after) =
        rest.split_once(end).with_context(|| format!("{}: the marker {end} is missing", path.display()))?;
    fs::write(path, format!("{before}{begin}\n{tables}\n{end}{after}")).with_context(name)
}
