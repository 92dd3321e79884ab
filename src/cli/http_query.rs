//! Queries a running `serve` process over its HTTP port.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use url::Url;

#[derive(Args, Debug)]
pub(super) struct HttpQueryArgs {
    /// URL of the HTTP port of the process. In a cluster: of the leader, through `kubectl port-forward`
    #[arg(long, value_name = "URL", env = "VPSIE_AUTOSCALER_URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// Output format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A table.
    #[default]
    Table,
    /// JSON.
    Json,
}

impl HttpQueryArgs {
    /// The reply to a path with its query.
    pub(super) async fn fetch(&self, path: &str) -> anyhow::Result<String> {
        let url = self.url.join(path)?;
        // The port is local or forwarded: no TLS, no proxy.
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        let reply = client.get(url.clone()).send().await;
        let reply = reply.with_context(|| format!("no reply from {url}"))?;
        let status = reply.status();
        let text = reply.text().await.with_context(|| format!("the reply of {url} is incomplete"))?;
        if !status.is_success() {
            bail!("{url} replied {status}: {}", text.trim_end());
        }
        Ok(text)
    }
}
