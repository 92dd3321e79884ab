//! The model of Cluster Autoscaler as a program. It scales a real cluster through a provider that serves
//! gRPC. Its flags are those of Cluster Autoscaler.

use std::time::Duration;

use anyhow::{Context, anyhow};
use ca_model::{Autoscaler, Config, Expander, Kubernetes, Link, Minor, Provider};
use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// Timeout of the expander `grpc`; a constant upstream.
const EXPANDER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Flags {
    /// Release of Cluster Autoscaler to model, such as 1.33.
    #[arg(long, value_parser = parse_minor)]
    minor: Minor,
    /// URL of the provider, such as <http://127.0.0.1:8086>.
    #[arg(long)]
    provider: String,
    #[arg(long)]
    kubeconfig: std::path::PathBuf,
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    scan_interval: Duration,
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    grpc_timeout: Duration,
    #[arg(long, default_value = "15m", value_parser = parse_duration)]
    max_node_provision_time: Duration,
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    scale_down_unneeded_time: Duration,
    #[arg(long, default_value = "20m", value_parser = parse_duration)]
    scale_down_unready_time: Duration,
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    scale_down_delay_after_add: Duration,
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    scale_down_delay_after_delete: Duration,
    #[arg(long, default_value = "3m", value_parser = parse_duration)]
    scale_down_delay_after_failure: Duration,
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    unremovable_node_recheck_timeout: Duration,
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    node_delete_delay_after_taint: Duration,
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    initial_node_group_backoff_duration: Duration,
    #[arg(long, default_value = "30m", value_parser = parse_duration)]
    max_node_group_backoff_duration: Duration,
    #[arg(long, default_value_t = 1)]
    max_drain_parallelism: usize,
    #[arg(long, default_value_t = 45.0)]
    max_total_unready_percentage: f64,
    #[arg(long, default_value = "15m", value_parser = parse_duration)]
    max_node_startup_time: Duration,
    #[arg(long, default_value = "least-waste", value_delimiter = ',', value_parser = parse_expander)]
    expander: Vec<Expander>,
    /// Host and port of the gRPC service of the expander `grpc`.
    #[arg(long)]
    grpc_expander_url: Option<String>,
    /// File with the certificate authority of that service.
    #[arg(long)]
    grpc_expander_cert: Option<std::path::PathBuf>,
    /// Random seed for the choice among equally good options.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn parse_minor(text: &str) -> Result<Minor, String> {
    Minor::parse(text).ok_or_else(|| format!("must be one of {}", Minor::ALL.map(Minor::as_str).join(", ")))
}

fn parse_expander(text: &str) -> Result<Expander, String> {
    Expander::parse(text).ok_or_else(|| "must be least-waste, random, price or grpc".to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    duration.try_into().map_err(|_| "must be a time of 0 or more".to_owned())
}

impl Flags {
    fn config(&self) -> Config {
        Config {
            max_node_provision_time: self.max_node_provision_time,
            scale_down_unneeded_time: self.scale_down_unneeded_time,
            scale_down_unready_time: self.scale_down_unready_time,
            scale_down_delay_after_add: self.scale_down_delay_after_add,
            scale_down_delay_after_delete: self.scale_down_delay_after_delete,
            scale_down_delay_after_failure: self.scale_down_delay_after_failure,
            unremovable_recheck: self.unremovable_node_recheck_timeout,
            delete_delay_after_taint: self.node_delete_delay_after_taint,
            initial_backoff: self.initial_node_group_backoff_duration,
            max_backoff: self.max_node_group_backoff_duration,
            max_drain_parallelism: self.max_drain_parallelism,
            max_unready_percent: self.max_total_unready_percentage,
            max_node_startup_time: self.max_node_startup_time,
            expander: self.expander.clone(),
            seed: self.seed,
            ..Config::default()
        }
    }
}

/// The service of the expander `grpc`. As upstream, the client verifies its certificate and presents none.
fn expander_service(flags: &Flags) -> anyhow::Result<Option<Channel>> {
    let Some(url) = &flags.grpc_expander_url else { return Ok(None) };
    let file = flags.grpc_expander_cert.as_ref().context("--grpc-expander-url needs --grpc-expander-cert")?;
    let authority = std::fs::read(file)
        .with_context(|| format!("cannot read --grpc-expander-cert {}", file.display()))?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
    let endpoint = Endpoint::from_shared(format!("https://{url}"))?.tls_config(tls)?;
    Ok(Some(endpoint.connect_lazy()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("a crypto provider is already installed"))?;
    let kubeconfig = kube::config::Kubeconfig::read_from(&flags.kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    let cluster = Kubernetes::new(kube::Client::try_from(config)?);
    let channel = Endpoint::from_shared(flags.provider.clone())
        .with_context(|| format!("--provider {} must be a URL", flags.provider))?
        .connect_lazy();
    let provider = Provider::new(flags.minor, Link::new(flags.grpc_timeout, channel));
    let mut autoscaler = Autoscaler::new(flags.config(), provider);
    if let Some(service) = expander_service(&flags)? {
        autoscaler = autoscaler.with_expander(Link::new(EXPANDER_TIMEOUT, service));
    }
    let mut ticks = tokio::time::interval(flags.scan_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = tokio::signal::ctrl_c() => break,
        }
        #[expect(clippy::disallowed_methods, reason = "a program, not a library: tests do not set its time")]
        let now = Timestamp::now();
        let report = autoscaler.loop_once(&cluster, now).await;
        println!("{now} {:?}, {} RPCs", report.outcome, report.calls.len());
        for event in &report.events {
            println!("    {event:?}");
        }
        for call in report.calls.iter().filter(|call| call.code != tonic::Code::Ok) {
            println!("    {} {}: {:?} {}", call.rpc, call.subject, call.code, call.message);
        }
    }
    autoscaler.stop().await;
    Ok(())
}
