//! What workload traces cost on real price catalogues, by expander: a replay of Cluster Autoscaler's loop in
//! virtual time, and a bound that no autoscaler can go below.

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
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Prints what traces cost on catalogues, by expander, as Markdown.
#[derive(Debug, Parser)]
struct Args {
    /// Folder with traces/*.csv and catalogs/*.json.
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Seeds of ties and of the random expander: as many replays, of which means are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// As many traces that lack a fifth of their pods, by chance, for the second table.
    #[arg(long, default_value_t = 8)]
    thinned: u64,
    /// Only traces whose name contains this.
    #[arg(long, default_value = "")]
    trace: String,
    /// Only the market of this name, or those whose name contains this.
    #[arg(long, default_value = "")]
    market: String,
    /// Also put the tables into this file, between its markers.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Instead: only a part of the trace, seconds, such as 3600..7200.
    #[arg(long, value_parser = cut::span)]
    cut: Option<(u64, u64)>,
    #[command(flatten)]
    options: cut::Options,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if !args.data.join("traces").is_dir() {
        println!("skipped: no data");
        return Ok(());
    }
    match args.cut {
        Some(span) => cut::print(&args, span),
        None => report::print(&args),
    }
}
