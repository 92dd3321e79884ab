//! A part of a trace, sped up: the same that a real cluster is given, to compare.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args as Flags;

use crate::Args;
use crate::bound::bounds;
use crate::data::{Trace, markets, traces};
use crate::expander::Expander;
use crate::replay::{Conditions, replay};

/// Of a cut. Seconds are those after the speed-up.
#[derive(Debug, Flags)]
pub(crate) struct Options {
    /// With --cut: so many seconds of the trace in one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    speedup: u64,
    /// With --cut: writes its pods to this file (CSV: pod, cpu_milli, mem_mib, start_s, end_s).
    #[arg(long)]
    emit_schedule: Option<PathBuf>,
    /// With --cut: seconds between loops of Cluster Autoscaler.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    scan_interval: u64,
    /// With --cut: seconds until a node takes pods.
    #[arg(long, default_value_t = 120)]
    boot: u64,
    /// With --cut: seconds until a node that is not needed is removed.
    #[arg(long, default_value_t = 600)]
    unneeded_time: u64,
    /// With --cut: seconds without scale-down after a scale-up.
    #[arg(long, default_value_t = 600)]
    delay_after_add: u64,
}

/// Reads `START..END`.
pub(crate) fn span(text: &str) -> Result<(u64, u64), String> {
    let span = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    span.filter(|(from, to)| from < to)
        .ok_or_else(|| format!("{text}: not START..END in seconds, START before END"))
}

pub(crate) fn print(args: &Args, (from, to): (u64, u64)) -> Result<()> {
    let options = &args.options;
    let conditions = Conditions {
        scan: options.scan_interval,
        boot: options.boot,
        unneeded: options.unneeded_time,
        after_add: options.delay_after_add,
        ..Conditions::DEFAULT
    };
    for trace in traces(&args.data, &args.trace)? {
        let cut = trace.cut(from, to, options.speedup);
        if let Some(path) = &options.emit_schedule {
            emit(&cut, path).with_context(|| path.display().to_string())?;
        }
        for market in markets(&args.data, &args.market)? {
            let bound = bounds(&cut, &market.pools)?.packed;
            println!("\n{}, {}: {} pods, bound {bound:.4} USD", cut.name, market.name, cut.pods.len());
            for expander in Expander::ALL {
                let outcome = replay(&cut.pods, &market.pools, expander, conditions, 0);
                println!("{:12} {:.4} USD, {} scale-ups", expander.name(), outcome.usd, outcome.scale_ups);
            }
        }
    }
    Ok(())
}

fn emit(trace: &Trace, path: &PathBuf) -> Result<()> {
    let mut file = csv::Writer::from_path(path)?;
    file.write_record(["pod", "cpu_milli", "mem_mib", "start_s", "end_s"])?;
    for pod in &trace.pods {
        let numbers =
            [pod.size.cpu, pod.size.memory, pod.arrival, pod.end()].map(|number| number.to_string());
        file.write_record(std::iter::once(pod.name.clone()).chain(numbers))?;
    }
    file.flush()?;
    Ok(())
}
