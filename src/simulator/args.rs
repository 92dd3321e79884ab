//! `vpsie-autoscaler simulator`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{ArgGroup, Args};
use kube::config::{KubeConfigOptions, Kubeconfig};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::boot::{KubeConnect, boot};
use super::config::{CapacityConfig, DEFAULT_TOKEN, Shortage, SimulatorConfig};
use super::fault::FaultRule;
use super::handle::Simulator;
use super::join::join;
use super::node_object::{Heartbeat, JoinOptions};
use super::persist::Snapshot;
use super::server::listen;
use super::shapes::Shapes;
use super::span::Span;
use crate::clock::SystemClock;

/// `vpsie-autoscaler simulator`.
#[derive(Args, Clone, Debug)]
pub struct SimulatorArgs {
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
    /// YAML file with objects and behaviour (docs/develop/simulator.md). Flags have precedence.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// File that keeps the state across restarts.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Overrides of the configuration.
    #[command(flatten)]
    pub world: WorldArgs,
    /// VMs that join a cluster.
    #[command(flatten)]
    pub join: JoinArgs,
}

/// Overrides of a [`SimulatorConfig`].
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Simulated VPSie")]
pub struct WorldArgs {
    /// Random seed for names, UUIDs, times and faults. Default: 0
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Shape of the API where VPSie's clients contradict each other, such as nodes=rich. Repeatable.
    #[arg(long = "shape", value_name = "NAME=VALUE", value_parser = check_shape)]
    pub shapes: Vec<String>,
    /// Fault rule, such as 'POST **/add/slave/** lost p=0.1'. Repeatable.
    #[arg(long = "fault", value_name = "RULE")]
    pub faults: Vec<FaultRule>,
    /// Time from a request until its VM is listed. Default: 1s..3s
    #[arg(long, value_name = "TIME[..TIME]")]
    pub listed_after: Option<Span>,
    /// Time from a request until its VM is up. Default: 20s..60s
    #[arg(long, value_name = "TIME[..TIME]")]
    pub boot_time: Option<Span>,
    /// Time from a deletion until the VM is gone. Default: 2s..8s
    #[arg(long, value_name = "TIME[..TIME]")]
    pub deletion_time: Option<Span>,
    /// Probability that a VM never comes up, 0 to 1. Default: 0
    #[arg(long, value_name = "P")]
    pub boot_failure: Option<f64>,
    /// Maximum number of VMs of an offer. Repeatable. Default: no limit
    #[arg(long = "capacity", value_name = "[DATACENTER/]OFFER=N", value_parser = parse_capacity)]
    pub capacity: Vec<CapacityConfig>,
    /// Reply to a request that exceeds the capacity. Default: refused
    #[arg(long, value_enum)]
    pub shortage: Option<Shortage>,
    /// Maximum number of workers of the account. Default: no limit
    #[arg(long, value_name = "N")]
    pub worker_quota: Option<u32>,
    /// Maximum number of VMs outside managed clusters. Default: no limit
    #[arg(long, value_name = "N")]
    pub vm_quota: Option<u32>,
    /// Maximum requests per minute; further requests get 429. Default: no limit
    #[arg(long, value_name = "N")]
    pub rate_limit: Option<u32>,
    /// Number of control-plane nodes of each cluster. Default: 1
    #[arg(long, value_name = "N")]
    pub control_plane: Option<u32>,
    /// Number of workers of each cluster that no autoscaler created. Default: 0
    #[arg(long, value_name = "N")]
    pub foreign_workers: Option<u32>,
    /// `clientId` of a login. Default: simulated-client
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// `clientSecret` of a login. Default: simulated-secret
    #[arg(long, value_name = "SECRET", env = "SIMULATOR_CLIENT_SECRET", hide_env_values = true)]
    pub client_secret: Option<SecretString>,
    /// Static API token. Default: simulated-token
    #[arg(long, value_name = "TOKEN", env = "SIMULATOR_TOKEN", hide_env_values = true)]
    pub token: Option<SecretString>,
}

/// VMs that join a Kubernetes cluster.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "VMs that join a cluster", group = ArgGroup::new("joins").multiple(true))]
pub struct JoinArgs {
    /// Kubeconfig of a cluster that the running VMs of a managed cluster join as Nodes.
    #[arg(long, value_name = "FILE", group = "joins")]
    pub kubeconfig: Option<PathBuf>,
    /// VMs outside managed clusters join the cluster that their script or user data names.
    #[arg(long, group = "joins")]
    pub boot_vms: bool,
    /// Context of the kubeconfig. Default: its current context
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
    /// UUID of the simulated cluster whose VMs join. Default: the first one
    #[arg(long, value_name = "UUID", requires = "kubeconfig")]
    pub join_cluster: Option<String>,
    /// Source of Node heartbeats: the simulator while the VM is up, or another program such as kwok.
    #[arg(long, value_enum, default_value_t, requires = "joins")]
    pub join_heartbeat: Heartbeat,
    /// Annotation of every Node, such as kwok.x-k8s.io/node=fake. Repeatable.
    #[arg(
        long = "join-annotation",
        value_name = "KEY=VALUE",
        value_parser = parse_key_value,
        requires = "joins"
    )]
    pub join_annotations: Vec<(String, String)>,
    /// Label of every Node. Repeatable.
    #[arg(long = "join-label", value_name = "KEY=VALUE", value_parser = parse_key_value, requires = "joins")]
    pub join_labels: Vec<(String, String)>,
}

fn check_shape(text: &str) -> Result<String, super::ShapeError> {
    Shapes::default().set(text).map(|()| text.to_owned())
}

fn parse_capacity(text: &str) -> Result<CapacityConfig, String> {
    let malformed = || "must be [DATACENTER/]OFFER=N, such as s-4vcpu-8gb=3".to_owned();
    let (target, limit) = text.rsplit_once('=').ok_or_else(malformed)?;
    let (datacenter, offer) = match target.split_once('/') {
        Some((datacenter, offer)) => (Some(datacenter.to_owned()), offer),
        None => (None, target),
    };
    let limit = limit.parse().map_err(|_| malformed())?;
    Ok(CapacityConfig { datacenter, offer: offer.to_owned(), capacity_type: None, limit })
}

fn parse_key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "must be KEY=VALUE".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

impl WorldArgs {
    /// Applies the given overrides.
    pub fn apply(&self, config: &mut SimulatorConfig) -> anyhow::Result<()> {
        fn set<T: Clone>(field: &mut T, given: Option<&T>) {
            if let Some(given) = given {
                field.clone_from(given);
            }
        }
        set(&mut config.seed, self.seed.as_ref());
        set(&mut config.times.listed, self.listed_after.as_ref());
        set(&mut config.times.boot, self.boot_time.as_ref());
        set(&mut config.times.deletion, self.deletion_time.as_ref());
        set(&mut config.boot_failure, self.boot_failure.as_ref());
        set(&mut config.shortage, self.shortage.as_ref());
        set(&mut config.account.client_id, self.client_id.as_ref());
        set(&mut config.account.client_secret, self.client_secret.as_ref());
        set(&mut config.account.token, self.token.as_ref());
        config.worker_quota = self.worker_quota.or(config.worker_quota);
        config.vm_quota = self.vm_quota.or(config.vm_quota);
        config.rate_limit = self.rate_limit.or(config.rate_limit);
        config.capacity.extend(self.capacity.iter().cloned());
        config.faults.extend(self.faults.iter().cloned());
        for cluster in &mut config.clusters {
            set(&mut cluster.control_plane, self.control_plane.as_ref());
            set(&mut cluster.foreign_workers, self.foreign_workers.as_ref());
        }
        for text in &self.shapes {
            config.shapes.set(text)?;
        }
        Ok(())
    }
}

impl SimulatorArgs {
    /// The configuration of the file, or the default one, with the flags applied.
    pub fn simulator_config(&self) -> anyhow::Result<SimulatorConfig> {
        let mut config = match &self.config {
            None => SimulatorConfig::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                serde_saphyr::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))?
            }
        };
        self.world.apply(&mut config)?;
        config.validate()?;
        Ok(config)
    }
}

impl JoinArgs {
    fn options(&self) -> JoinOptions {
        let map = |pairs: &[(String, String)]| pairs.iter().cloned().collect::<BTreeMap<_, _>>();
        JoinOptions {
            cluster: self.join_cluster.clone(),
            heartbeat: self.join_heartbeat,
            annotations: map(&self.join_annotations),
            labels: map(&self.join_labels),
            ..JoinOptions::default()
        }
    }

    async fn client(&self, path: &PathBuf) -> anyhow::Result<kube::Client> {
        let unusable = || format!("cannot use the kubeconfig {}", path.display());
        let file = Kubeconfig::read_from(path).with_context(unusable)?;
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = kube::Config::from_custom_kubeconfig(file, &options).await.with_context(unusable)?;
        Ok(kube::Client::try_from(config)?)
    }
}

/// Runs the simulator until `shutdown`.
pub async fn run(args: SimulatorArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = args.simulator_config()?;
    let token = config.account.token_is_default().then_some(DEFAULT_TOKEN);
    let clock = Arc::new(SystemClock);
    let snapshot = args.state.as_deref().map(Snapshot::load).transpose()?.flatten();
    let simulator = match snapshot {
        Some(snapshot) => Simulator::restore(config, clock, snapshot)?,
        None => Simulator::new(config, clock)?,
    };
    if let Some(path) = &args.state {
        simulator.persist_to(path.clone()).await?;
    }
    let mut joining = tokio::task::JoinSet::new();
    if let Some(path) = &args.join.kubeconfig {
        let client = args.join.client(path).await?;
        joining.spawn(join(simulator.clone(), client, args.join.options(), shutdown.clone()));
    }
    if args.join.boot_vms {
        let connect = Arc::new(KubeConnect);
        joining.spawn(boot(simulator.clone(), connect, args.join.options(), shutdown.clone()));
    }
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on --listen {}", args.listen))?;
    let address = listener.local_addr()?;
    println!("VPSie simulator on http://{address} (API under /apps/v2, control under /_simulator)");
    if let Some(token) = token {
        println!("  curl -H 'Vpsie-Auth: {token}' http://{address}/apps/v2/k8s/cluster/all");
        println!("  curl http://{address}/_simulator/state");
    }
    listen(simulator, listener, shutdown).await;
    while let Some(joined) = joining.join_next().await {
        joined?;
    }
    Ok(())
}
