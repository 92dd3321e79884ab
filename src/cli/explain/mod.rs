//! `explain`: why the expander chose what it chose.

mod table;

use std::io::Write;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use url::Url;

use crate::grpc::Record;

pub use table::render;

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// How many of the last decisions
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    last: u16,
    /// The HTTP port of the process that decided. In a cluster: of the replica that leads, as
    /// `kubectl port-forward` brings it here
    #[arg(long, value_name = "URL", env = "VPSIE_AUTOSCALER_URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// How they are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// A table for people.
    #[default]
    Table,
    /// As `/debug/decisions` has them.
    Json,
}

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let mut url = args.url.join("/debug/decisions")?;
    url.query_pairs_mut().append_pair("last", &args.last.to_string());
    // Asked over the wire of this machine or a port that was forwarded: no TLS, no proxy.
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
    let reply = client.get(url.clone()).send().await.and_then(reqwest::Response::error_for_status);
    let text = reply.with_context(|| format!("{url} does not answer"))?.text().await?;
    match args.output {
        Output::Json => writeln!(out, "{text}")?,
        Output::Table => {
            let records: Vec<Record> = serde_json::from_str(&text)
                .with_context(|| format!("{url} does not answer with decisions"))?;
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
