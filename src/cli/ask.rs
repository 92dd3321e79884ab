//! Asks a process that serves, over its HTTP port.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use url::Url;

#[derive(Args, Debug)]
pub(super) struct AskArgs {
    /// The HTTP port of the process that is asked. In a cluster: of the replica that leads, as
    /// `kubectl port-forward` brings it here
    #[arg(long, value_name = "URL", env = "VPSIE_AUTOSCALER_URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// How the answer is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A table for people.
    #[default]
    Table,
    /// JSON.
    Json,
}

impl AskArgs {
    /// The answer to a path with its query.
    pub(super) async fn ask(&self, path: &str) -> anyhow::Result<String> {
        let url = self.url.join(path)?;
        // Asked over the wire of this machine or a port that was forwarded: no TLS, no proxy.
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        let reply = client.get(url.clone()).send().await;
        let reply = reply.with_context(|| format!("{url} does not answer"))?;
        let status = reply.status();
        let text = reply.text().await.with_context(|| format!("{url} breaks off"))?;
        if !status.is_success() {
            bail!("{url} answers {status}: {}", text.trim_end());
        }
        Ok(text)
    }
}
