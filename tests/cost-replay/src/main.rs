//! Cost of workload traces on real price catalogues by expander: replays Cluster Autoscaler's loop in virtual
//! time, and computes a lower bound for any autoscaler.

mod autoscaler;
mod bound;
mod cluster;
mod cut;
mod data;
mod estimator;
mod expander;
mod replay;
mod report;
mod scale_down;
mod spot;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

/// Prints the cost of traces on catalogues by expander, as Markdown.
#[derive(Debug, Parser)]
struct Args {
    /// Folder with traces/*.csv and catalogs/*.json.
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Number of replays with different seeds of ties and of the random expander. The tables show means.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Number of traces with a random fifth of the pods removed, for the second table.
    #[arg(long, default_value_t = 8)]
    thinned: u64,
    /// Only traces whose name contains this.
    #[arg(long, default_value = "")]
    trace: String,
    /// Only the market of this name, or markets whose name contains this.
    #[arg(long, default_value = "")]
    market: String,
    /// Only the tables of one part.
    #[arg(long)]
    only: Option<Part>,
    /// Also write the tables to this file, between their markers.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Replay only a part of the trace instead, in seconds, such as 3600..7200.
    #[arg(long, value_parser = cut::span)]
    cut: Option<(u64, u64)>,
    #[command(flatten)]
    options: cut::Options,
}

/// A part of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Expanders, on demand.
    Expanders,
    /// Spot policies.
    Spot,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if !args.data.join("traces").is_dir() {
        println!("skipped: no data");
        return Ok(());
    }
    if let Some((from, to)) = args.cut {
        return cut::print(&args, from, to);
    }
    if args.only != Some(Part::Spot) {
        report::print(&args)?;
    }
    if args.only != Some(Part::Expanders) {
        spot::report::print(&args)?;
    }
    Ok(())
}
