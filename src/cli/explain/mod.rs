//! `explain`: why the expander chose what it chose.

mod table;

use std::io::Write;

use anyhow::Context as _;
use clap::Args;

use super::ask::{AskArgs, Output};
use crate::grpc::Record;

pub use table::render;

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// How many of the last decisions
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    last: u16,
    #[command(flatten)]
    ask: AskArgs,
}

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let path = format!("/debug/decisions?last={}", args.last);
    let text = args.ask.ask(&path).await?;
    match args.ask.output {
        Output::Json => writeln!(out, "{text}")?,
        Output::Table => {
            let records: Vec<Record> = serde_json::from_str(&text)
                .with_context(|| format!("{path} does not answer with decisions"))?;
            if records.is_empty() {
                writeln!(out, "no decision was made yet: Cluster Autoscaler asks when pods wait for nodes")?;
            }
            for record in records.iter().rev() {
                write!(out, "{}", render(record))?;
            }
        }
    }
    Ok(())
}
