//! Flags and environment variables, grouped by the room that they are for. Secrets are better in files: command
//! lines and environments can be read by others.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rust_decimal::Decimal;
use secrecy::SecretString;

use super::original::RefusedArgs;
use crate::cost::HoursPerMonth;
use crate::telemetry::LogArgs;
use crate::validation::{money, parse_duration};

/// Flags of the simulator are refused in a build without it, but not shown.
const NO_SIMULATOR: bool = cfg!(not(any(feature = "simulator", test)));

/// All settings of `serve`. If a flag is given several times, the last one wins: a chart or an overlay sets some flags
/// already.
#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub struct ServeArgs {
    /// What is served.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// VPSie.
    #[command(flatten)]
    pub api: VpsieArgs,
    /// Cluster Autoscaler.
    #[command(flatten)]
    pub grpc: GrpcArgs,
    /// Kubernetes.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// The loops.
    #[command(flatten)]
    pub timing: TimingArgs,
    /// Templates and prices.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// Operations.
    #[command(flatten)]
    pub operations: OperationsArgs,
    /// What the original had.
    #[command(flatten)]
    pub refused: RefusedArgs,
}

/// What is served, and where its records are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Fleet")]
pub struct FleetArgs {
    /// Where NodeGroups and records are
    #[arg(long, value_name = "STORE", env = "VPSIE_AUTOSCALER_STORE", value_enum, default_value_t)]
    pub store: StoreKind,
    /// NodeGroup manifests: a YAML file, or a folder of them. With --simulate: the samples, unless given
    #[arg(long, value_name = "PATH", env = "VPSIE_AUTOSCALER_NODE_GROUPS")]
    pub node_groups: Option<PathBuf>,
    /// File of records: what was asked of VPSie and what came of it. Made when it is not there; belongs to one
    /// cluster and one process. Default: vpsie-autoscaler.redb, with --simulate vpsie-autoscaler-simulated.redb
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_DATA_FILE")]
    pub data_file: Option<PathBuf>,
    /// Starts a simulated VPSie inside and uses that: no credentials, no cost. Refused by images and releases: they
    /// are built without it
    #[arg(long, env = "VPSIE_AUTOSCALER_SIMULATE", hide = NO_SIMULATOR)]
    pub simulate: bool,
    /// What the simulated VPSie has and how it behaves: a YAML file, as for `vpsie-autoscaler simulator --config`
    #[arg(
        long,
        value_name = "FILE",
        env = "VPSIE_AUTOSCALER_SIMULATOR_CONFIG",
        requires = "simulate",
        hide = NO_SIMULATOR
    )]
    pub simulator_config: Option<PathBuf>,
    /// File in which the simulated VPSie keeps its VMs, so that they are there after a restart
    #[arg(
        long,
        value_name = "FILE",
        env = "VPSIE_AUTOSCALER_SIMULATOR_STATE",
        default_value = "vpsie-autoscaler-simulated.json",
        hide = NO_SIMULATOR
    )]
    pub simulator_state: PathBuf,
}

/// Where NodeGroups and records are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// NodeGroups in manifests, records in a file, for one process.
    #[default]
    File,
    /// NodeGroups and records (VPSieNodes) in Kubernetes, for replicas of which one leads.
    Kubernetes,
}

/// How VPSie is reached.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "VPSie API")]
pub struct VpsieArgs {
    /// Host and prefix of the API. https:// only, except on this machine; without a path the prefix is /apps/v2
    #[arg(long, value_name = "URL", env = "VPSIE_API_URL", default_value = "https://api.vpsie.com/apps/v2")]
    pub vpsie_api_url: String,
    /// Secret in --namespace with the credentials: `token`, or `clientId` and `clientSecret`; `url` if it is not
    /// --vpsie-api-url. It is watched. Needs --kubeconfig
    #[arg(long, value_name = "NAME", env = "VPSIE_SECRET_NAME")]
    pub vpsie_secret_name: Option<String>,
    /// API token. Better in a file: --vpsie-api-token-file
    #[arg(long, value_name = "TOKEN", env = "VPSIE_API_TOKEN", hide_env_values = true)]
    pub vpsie_api_token: Option<SecretString>,
    /// File that holds the API token. Read again when it changes
    #[arg(long, value_name = "FILE", env = "VPSIE_API_TOKEN_FILE")]
    pub vpsie_api_token_file: Option<PathBuf>,
    /// Client id, to log in with instead of a token
    #[arg(long, value_name = "ID", env = "VPSIE_CLIENT_ID")]
    pub vpsie_client_id: Option<String>,
    /// Secret of the client id. Better in a file: --vpsie-client-secret-file
    #[arg(long, value_name = "SECRET", env = "VPSIE_CLIENT_SECRET", hide_env_values = true)]
    pub vpsie_client_secret: Option<SecretString>,
    /// File that holds the secret of the client id. Read again when it changes
    #[arg(long, value_name = "FILE", env = "VPSIE_CLIENT_SECRET_FILE")]
    pub vpsie_client_secret_file: Option<PathBuf>,
    /// Most requests a minute
    #[arg(long, value_name = "N", env = "VPSIE_RATE_LIMIT", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub vpsie_rate_limit: u32,
    /// Share of the requests that only deletions may use, percent
    #[arg(long, value_name = "PERCENT", env = "VPSIE_DELETION_SHARE", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(0..=90))]
    pub vpsie_deletion_share: u32,
    /// Longest that one request may take
    #[arg(long, value_name = "DURATION", env = "VPSIE_TIMEOUT", default_value = "30s",
        value_parser = parse_duration)]
    pub vpsie_timeout: Duration,
}

/// How Cluster Autoscaler reaches us.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "gRPC for Cluster Autoscaler")]
pub struct GrpcArgs {
    /// Address of the gRPC port
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "VPSIE_AUTOSCALER_GRPC_LISTEN",
        default_value = "127.0.0.1:8086"
    )]
    pub grpc_listen: SocketAddr,
    /// Our certificate and its intermediates, PEM. Must name the host in Cluster Autoscaler's `address`. Read
    /// again when it changes, as are the other two
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_GRPC_TLS_CERT")]
    pub grpc_tls_cert: Option<PathBuf>,
    /// The private key of the certificate, PEM
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_GRPC_TLS_KEY")]
    pub grpc_tls_key: Option<PathBuf>,
    /// The authorities that Cluster Autoscaler's certificate is checked against, PEM
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_GRPC_TLS_CLIENT_CA")]
    pub grpc_tls_client_ca: Option<PathBuf>,
    /// Address of the expander's own port, which is served when it has a certificate. The expander is on the gRPC
    /// port, too, but Cluster Autoscaler shows no certificate to an expander
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "VPSIE_AUTOSCALER_EXPANDER_LISTEN",
        default_value = "127.0.0.1:8087"
    )]
    pub expander_listen: SocketAddr,
    /// The expander's certificate and its intermediates, PEM. Must name the host in Cluster Autoscaler's
    /// `--grpc-expander-url`. Read again when it changes, as is the key
    #[arg(
        long,
        value_name = "FILE",
        env = "VPSIE_AUTOSCALER_EXPANDER_TLS_CERT",
        requires = "expander_tls_key"
    )]
    pub expander_tls_cert: Option<PathBuf>,
    /// The private key of the expander's certificate, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "VPSIE_AUTOSCALER_EXPANDER_TLS_KEY",
        requires = "expander_tls_cert"
    )]
    pub expander_tls_key: Option<PathBuf>,
    /// Serves gRPC without TLS on an address that others reach: whoever reaches it can rent and delete machines
    #[arg(long, env = "VPSIE_AUTOSCALER_GRPC_INSECURE_PLAINTEXT")]
    pub grpc_insecure_plaintext: bool,
}

/// How Kubernetes is reached.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Kubeconfig, or `in-cluster` for the pod's service account. With it, Nodes get their provider id, labels
    /// and taints, and Nodes whose VM is gone are deleted
    #[arg(long, value_name = "FILE|in-cluster", env = "VPSIE_AUTOSCALER_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of NodeGroups, records, Lease and Secret. Only with --store=kubernetes or --vpsie-secret-name
    #[arg(long, value_name = "NAME", env = "VPSIE_AUTOSCALER_NAMESPACE", default_value = "kube-system")]
    pub namespace: String,
    /// The replicas' agreement on who leads.
    #[command(flatten)]
    pub election: ElectionArgs,
}

/// How replicas agree on the one that leads.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Leader election, with --store=kubernetes")]
pub struct ElectionArgs {
    /// Name of the Lease, the same for all replicas
    #[arg(
        long,
        value_name = "NAME",
        env = "VPSIE_AUTOSCALER_LEADER_ELECTION_ID",
        default_value = "vpsie-autoscaler-leader"
    )]
    pub leader_election_id: String,
    /// How long the others wait after the last sign of the one that leads before one of them takes over
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_LEADER_ELECTION_LEASE_DURATION",
        default_value = "15s", value_parser = parse_duration)]
    pub leader_election_lease_duration: Duration,
    /// How long the one that leads goes on after the last renewal that reached the API server; then it stops. What
    /// the lease duration has more is the margin for requests that are on their way
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_LEADER_ELECTION_RENEW_DEADLINE",
        default_value = "10s", value_parser = parse_duration)]
    pub leader_election_renew_deadline: Duration,
    /// How often the one that leads renews, and the others look
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_LEADER_ELECTION_RETRY_PERIOD",
        default_value = "2s", value_parser = parse_duration)]
    pub leader_election_retry_period: Duration,
    /// Name of the pod that we run in. While it leads it has the label `autoscaler.vpsie.com/role: leader`, which a
    /// Service can look for
    #[arg(long, value_name = "NAME", env = "VPSIE_AUTOSCALER_POD_NAME")]
    pub pod_name: Option<String>,
    /// Address of the pod that we run in. A replica that stops leads connections there, when it is this one that leads
    /// next
    #[arg(long, value_name = "ADDRESS", env = "VPSIE_AUTOSCALER_POD_IP")]
    pub pod_ip: Option<IpAddr>,
}

/// When things happen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Timing")]
pub struct TimingArgs {
    /// How often VPSie's list of nodes is read while nothing is under way; sooner while something is
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_OBSERVE_INTERVAL", default_value = "30s",
        value_parser = parse_duration)]
    pub observe_interval: Duration,
    /// How often offers and prices are read
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_CATALOG_INTERVAL", default_value = "15m",
        value_parser = parse_duration)]
    pub catalog_interval: Duration,
    /// How long a machine may wait for VPSie to accept it, and then for its VM to be listed; after that it has failed
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_CREATE_TIMEOUT", default_value = "10m",
        value_parser = parse_duration)]
    pub create_timeout: Duration,
    /// How long a VM that we asked for and no machine waits for is kept before it is deleted
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_ORPHAN_GRACE", default_value = "15m",
        value_parser = parse_duration)]
    pub orphan_grace: Duration,
    /// How long a machine that failed is shown before it is removed, should Cluster Autoscaler not do it
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_FAILED_VPSIENODE_TTL", default_value = "30m",
        value_parser = parse_duration)]
    pub failed_vpsienode_ttl: Duration,
    /// How long a stop waits for what is under way
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_SHUTDOWN_GRACE", default_value = "25s",
        value_parser = parse_duration)]
    pub shutdown_grace: Duration,
}

/// What is assumed of nodes that nobody has seen yet, and of prices.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Templates and prices")]
pub struct TemplateArgs {
    /// CPU that a node keeps from pods, millicores. Only until a real node of the size was seen
    #[arg(long, value_name = "N", env = "VPSIE_AUTOSCALER_RESERVED_CPU_MILLIS", default_value_t = 100)]
    pub reserved_cpu_millis: u64,
    /// Memory that a node keeps from pods, MiB. Only until a real node of the size was seen
    #[arg(long, value_name = "N", env = "VPSIE_AUTOSCALER_RESERVED_MEMORY_MIB", default_value_t = 512)]
    pub reserved_memory_mib: u64,
    /// Disk that a node keeps from pods, GiB. Only until a real node of the size was seen
    #[arg(long, value_name = "N", env = "VPSIE_AUTOSCALER_RESERVED_DISK_GIB", default_value_t = 10)]
    pub reserved_disk_gib: u64,
    /// Prices and discounts of your own, YAML: `overrides`, a list of entries with `offer` and `datacenter` (each may be
    /// left out and is any then) and one of `hourly`, `monthly` (USD), `discountPercent`, `discountHourly`. The most
    /// precise price holds in place of VPSie's, then the most precise discount
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_PRICE_FILE")]
    pub price_file: Option<PathBuf>,
    /// Most that all machines may cost together, USD per hour: no NodeGroup grows past that. Nothing that exists is
    /// deleted for it
    #[arg(long, value_name = "USD", env = "VPSIE_AUTOSCALER_COST_LIMIT_HOURLY", value_parser = money)]
    pub cost_limit_hourly: Option<Decimal>,
    /// Most that all machines may cost together, USD per month
    #[arg(long, value_name = "USD", env = "VPSIE_AUTOSCALER_COST_LIMIT_MONTHLY", value_parser = money)]
    pub cost_limit_monthly: Option<Decimal>,
    /// Hours in a month: what a price per month is divided by where VPSie tells none per hour, and what an hour is
    /// multiplied by in every cost per month
    #[arg(long, value_name = "N", env = "VPSIE_AUTOSCALER_HOURS_PER_MONTH", default_value = "730")]
    pub hours_per_month: HoursPerMonth,
}

/// What operators see.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operations")]
pub struct OperationsArgs {
    /// Address of the HTTP port: /metrics, /healthz, /readyz, /debug/decisions, /debug/offers
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "VPSIE_AUTOSCALER_HTTP_LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    pub http_listen: SocketAddr,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}
