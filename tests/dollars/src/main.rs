//! What workload traces cost on real price catalogues, by expander: a replay of Cluster Autoscaler's loop in
//! virtual time, and a bound that no autoscaler can go below.

mod autoscaler;
mod bound;
mod cluster;
mod data;
mod estimator;
mod expander;
mod replay;
mod report;
mod scale_down;

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
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Only traces whose name contains this.
    #[arg(long, default_value = "")]
    trace: String,
    /// Only markets whose name contains this.
    #[arg(long, default_value = "")]
    market: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if !args.data.join("traces").is_dir() {
        println!("skipped: no data");
        return Ok(());
    }
    report::print(&args)
}
