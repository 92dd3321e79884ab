//! `explain`: shows decisions of the expander with their reasons.

mod table;

use std::io::Write;

use anyhow::Context as _;
use clap::Args;

use super::http_query::{HttpQueryArgs, Output};
use crate::grpc::DecisionRecord;

pub use table::render;

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// Number of decisions, counted from the last
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    last: u16,
    #[command(flatten)]
    query: HttpQueryArgs,
}

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let path = format!("/debug/decisions?last={}", args.last);
    let text = args.query.fetch(&path).await?;
    match args.query.output {
        Output::Json => writeln!(out, "{text}")?,
        Output::Table => {
            let records: Vec<DecisionRecord> = serde_json::from_str(&text)
                .with_context(|| format!("the reply of {path} is not a list of decisions"))?;
            if records.is_empty() {
                writeln!(
                    out,
                    "no decisions yet: Cluster Autoscaler asks the expander when pods are pending"
                )?;
            }
            for record in records.iter().rev() {
                write!(out, "{}", render(record))?;
            }
        }
    }
    Ok(())
}
