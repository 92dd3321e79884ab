//! Replays a part of a trace, sped up, for comparison with a real cluster.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args as Flags;

use crate::Args;
use crate::bound::bounds;
use crate::data::{ReplayPool, Trace, markets, traces};
use crate::expander::Expander;
use crate::replay::{ReplayConditions, ReplayCost, replay};

/// Options of a partial replay. Seconds count after the speed-up.
#[derive(Debug, Flags)]
pub(crate) struct Options {
    /// With --cut: seconds of the trace per second of the replay.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    speedup: u64,
    /// With --cut: writes pods.csv (pod, cpu_milli, mem_mib, start_s, end_s) and offers.csv (offer, cpu,
    /// mem_mib, hourly) to this folder, for a real cluster.
    #[arg(long)]
    emit: Option<PathBuf>,
    /// With --cut: seconds between loops of Cluster Autoscaler.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    scan_interval: u64,
    /// With --cut: seconds from the request of a node until it is ready.
    #[arg(long, default_value_t = 120)]
    boot: u64,
    /// With --cut: seconds until an unneeded node is removed.
    #[arg(long, default_value_t = 600)]
    unneeded_time: u64,
    /// With --cut: seconds without scale-down after a scale-up.
    #[arg(long, default_value_t = 600)]
    delay_after_add: u64,
    /// With --cut: seconds until a node that could not be drained is checked again.
    #[arg(long, default_value_t = 300)]
    recheck: u64,
}

/// Parses `START..END`.
pub(crate) fn span(text: &str) -> Result<(u64, u64), String> {
    let span = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    span.filter(|(from, to)| from < to)
        .ok_or_else(|| format!("{text} must be START..END in seconds, with START before END"))
}

pub(crate) fn print(args: &Args, from: u64, to: u64) -> Result<()> {
    let options = &args.options;
    let conditions = ReplayConditions {
        scan: options.scan_interval,
        boot: options.boot,
        unneeded: options.unneeded_time,
        after_add: options.delay_after_add,
        recheck: options.recheck,
        ..ReplayConditions::DEFAULT
    };
    let traces = traces(&args.data, &args.trace)?;
    let markets = markets(&args.data, &args.market)?;
    if options.emit.is_some() && (traces.len(), markets.len()) != (1, 1) {
        bail!(
            "--emit needs exactly one trace and one market, selected are {} and {}: use --trace and --market",
            traces.len(),
            markets.len()
        );
    }
    for trace in traces {
        let cut = trace.cut(from, to, options.speedup);
        for market in &markets {
            if let Some(folder) = &options.emit {
                emit(&cut, &market.pools, folder).with_context(|| folder.display().to_string())?;
            }
            let bound = bounds(&cut, &market.pools)?.packed;
            println!("\n{}, {}: {} pods, bound {bound:.4} USD", cut.name, market.name, cut.pods.len());
            for expander in Expander::ALL {
                let runs =
                    (0..args.seeds).map(|seed| replay(&cut.pods, &market.pools, expander, conditions, seed));
                println!("{:12} {}", expander.name(), summary(&runs.collect::<Vec<_>>()));
            }
        }
    }
    Ok(())
}

/// Means over the seeds, and the range of the costs.
fn summary(runs: &[ReplayCost]) -> String {
    let mean = |of: &dyn Fn(&ReplayCost) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let bills = || runs.iter().map(|run| run.usd);
    format!(
        "{:.4} USD ({:.4} to {:.4}), {:.0} nodes, mean wait {:.1} s, {:.0} evictions",
        mean(&|run| run.usd),
        bills().fold(f64::INFINITY, f64::min),
        bills().fold(0.0, f64::max),
        mean(&|run| run.nodes as f64),
        mean(&|run| run.waits.iter().sum::<u64>() as f64 / run.waits.len().max(1) as f64),
        mean(&|run| run.evictions as f64),
    )
}

fn emit(trace: &Trace, pools: &[ReplayPool], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = csv::Writer::from_path(folder.join("pods.csv"))?;
    file.write_record(["pod", "cpu_milli", "mem_mib", "start_s", "end_s"])?;
    for pod in &trace.pods {
        let numbers =
            [pod.size.cpu, pod.size.memory, pod.arrival, pod.end()].map(|number| number.to_string());
        file.write_record(std::iter::once(pod.name.clone()).chain(numbers))?;
    }
    file.flush()?;
    let mut file = csv::Writer::from_path(folder.join("offers.csv"))?;
    file.write_record(["offer", "cpu", "mem_mib", "hourly"])?;
    for pool in pools {
        let numbers = [
            (pool.capacity.cpu / 1000).to_string(),
            pool.capacity.memory.to_string(),
            pool.price.0.to_string(),
        ];
        file.write_record(std::iter::once(pool.id.clone()).chain(numbers))?;
    }
    file.flush()?;
    Ok(())
}
