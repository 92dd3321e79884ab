//! Flags and environment variables of `serve`, grouped as in its help. Other processes can read command lines
//! and environments, so secrets belong in files.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rust_decimal::Decimal;
use secrecy::SecretString;

use super::legacy_flags::RefusedArgs;
use crate::cost::HoursPerMonth;
use crate::fleet::Binding;
use crate::telemetry::LogArgs;
use crate::validation::{money, parse_duration};
use crate::vpsie::{INTERRUPTION_FIELDS, InterruptionFields};

/// Hides the flags of the simulator in a build without it, which refuses them.
const NO_SIMULATOR: bool = cfg!(not(any(feature = "simulator", test)));

/// All flags of `serve`. The last one of several wins, so that a user can override the flags of a manifest.
#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
pub struct ServeArgs {
    /// NodeGroups and records.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// VPSie.
    #[command(flatten)]
    pub api: VpsieArgs,
    /// gRPC servers.
    #[command(flatten)]
    pub grpc: GrpcArgs,
    /// Kubernetes.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// Intervals and timeouts.
    #[command(flatten)]
    pub timing: TimingArgs,
    /// Templates and prices.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// Webhook for interruption notices.
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// HTTP port and logs.
    #[command(flatten)]
    pub operations: OperationsArgs,
    /// Flags of the original VPSie autoscaler that are refused.
    #[command(flatten)]
    pub refused: RefusedArgs,
}

/// Source of NodeGroups, place of the records, simulator.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Fleet")]
pub struct FleetArgs {
    /// Place of NodeGroups and records
    #[arg(long, value_name = "STORE", env = "VPSIE_AUTOSCALER_STORE", value_enum, default_value_t)]
    pub store: StoreKind,
    /// Product of VPSie that the cluster runs on. NodeGroups of the other product are refused
    #[arg(long, value_name = "PRODUCT", env = "VPSIE_AUTOSCALER_BACKEND", value_enum, default_value_t)]
    pub backend: BackendKind,
    /// NodeGroup manifests: a YAML file, or a folder of YAML files. Default with --simulate: the samples
    #[arg(long, value_name = "PATH", env = "VPSIE_AUTOSCALER_NODE_GROUPS")]
    pub node_groups: Option<PathBuf>,
    /// File with the records of machines and of requests to VPSie. Created if it does not exist. It belongs
    /// to one cluster, and only one process may use it. Default: vpsie-autoscaler.redb, with --simulate
    /// vpsie-autoscaler-simulated.redb
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_DATA_FILE")]
    pub data_file: Option<PathBuf>,
    /// Use a simulated VPSie inside the process: no credentials, no cost. Images and releases refuse it,
    /// because they are built without the simulator
    #[arg(long, env = "VPSIE_AUTOSCALER_SIMULATE", hide = NO_SIMULATOR)]
    pub simulate: bool,
    /// Objects and behaviour of the simulated VPSie: a YAML file, as for `vpsie-autoscaler simulator
    /// --config`
    #[arg(
        long,
        value_name = "FILE",
        env = "VPSIE_AUTOSCALER_SIMULATOR_CONFIG",
        requires = "simulate",
        hide = NO_SIMULATOR
    )]
    pub simulator_config: Option<PathBuf>,
    /// File with the VMs of the simulated VPSie, which survives restarts
    #[arg(
        long,
        value_name = "FILE",
        env = "VPSIE_AUTOSCALER_SIMULATOR_STATE",
        default_value = "vpsie-autoscaler-simulated.json",
        hide = NO_SIMULATOR
    )]
    pub simulator_state: PathBuf,
}

/// Product of VPSie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// Workers of a VPSie-managed cluster: NodeGroups with `resourceIdentifier`.
    #[default]
    Managed,
    /// Plain VMs that join a self-managed cluster: NodeGroups with `selfManaged`. Needs --store=kubernetes.
    Vm,
}

impl BackendKind {
    /// The method of binding its VMs to machines.
    pub fn binding(self) -> Binding {
        match self {
            Self::Managed => Binding::ByDifference,
            Self::Vm => Binding::ByName,
        }
    }
}

/// Place of NodeGroups and records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// NodeGroups in manifests and records in a file, for a single process.
    #[default]
    File,
    /// NodeGroups and records (VPSieNodes) in Kubernetes, for replicas with leader election.
    Kubernetes,
}

/// The VPSie API: URL, credentials, limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "VPSie API")]
pub struct VpsieArgs {
    /// URL of the API, with its path prefix. It must start with https:// (http:// only for localhost).
    /// Without a path, the prefix is /apps/v2
    #[arg(long, value_name = "URL", env = "VPSIE_API_URL", default_value = "https://api.vpsie.com/apps/v2")]
    pub vpsie_api_url: String,
    /// Secret in --namespace with the credentials: `token`, or `clientId` and `clientSecret`. Its key `url`
    /// overrides --vpsie-api-url. Changes take effect without a restart. Needs --kubeconfig
    #[arg(long, value_name = "NAME", env = "VPSIE_SECRET_NAME")]
    pub vpsie_secret_name: Option<String>,
    /// API token. Prefer a file: --vpsie-api-token-file
    #[arg(long, value_name = "TOKEN", env = "VPSIE_API_TOKEN", hide_env_values = true)]
    pub vpsie_api_token: Option<SecretString>,
    /// File with the API token. Changes take effect without a restart
    #[arg(long, value_name = "FILE", env = "VPSIE_API_TOKEN_FILE")]
    pub vpsie_api_token_file: Option<PathBuf>,
    /// Client id for the login, in place of a token
    #[arg(long, value_name = "ID", env = "VPSIE_CLIENT_ID")]
    pub vpsie_client_id: Option<String>,
    /// Secret of the client id. Prefer a file: --vpsie-client-secret-file
    #[arg(long, value_name = "SECRET", env = "VPSIE_CLIENT_SECRET", hide_env_values = true)]
    pub vpsie_client_secret: Option<SecretString>,
    /// File with the secret of the client id. Changes take effect without a restart
    #[arg(long, value_name = "FILE", env = "VPSIE_CLIENT_SECRET_FILE")]
    pub vpsie_client_secret_file: Option<PathBuf>,
    /// File with the key from which the passwords of VMs are derived, at least 32 bytes. Deletions send the password:
    /// with a lost or changed key, VPSie can refuse them. Unset: VPSie generates passwords. Only for --backend=vm
    #[arg(long, value_name = "FILE", env = "VPSIE_VM_PASSWORD_KEY_FILE")]
    pub vpsie_vm_password_key_file: Option<PathBuf>,
    /// Maximum requests per minute
    #[arg(long, value_name = "N", env = "VPSIE_RATE_LIMIT", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub vpsie_rate_limit: u32,
    /// Share of the rate limit that is reserved for deletions, percent
    #[arg(long, value_name = "PERCENT", env = "VPSIE_DELETION_SHARE", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(0..=90))]
    pub vpsie_deletion_share: u32,
    /// Fields of VPSie's rows that announce the interruption of a VM, separated by commas. A field is a time (the
    /// deadline), a flag or a text. Empty: none
    #[arg(long, value_name = "NAMES", env = "VPSIE_INTERRUPTION_FIELDS", default_value = INTERRUPTION_FIELDS)]
    pub vpsie_interruption_fields: InterruptionFields,
    /// Timeout of one request
    #[arg(long, value_name = "DURATION", env = "VPSIE_TIMEOUT", default_value = "30s",
        value_parser = parse_duration)]
    pub vpsie_timeout: Duration,
}

/// gRPC servers: addresses, certificates.
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
    /// Certificate of the gRPC port with its intermediates, PEM. It must name the host of `address` in
    /// Cluster Autoscaler's cloud-config. Changes to it, its key and the client authorities take effect
    /// without a restart
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_GRPC_TLS_CERT")]
    pub grpc_tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_GRPC_TLS_KEY")]
    pub grpc_tls_key: Option<PathBuf>,
    /// Certificate authorities for Cluster Autoscaler's certificate, PEM
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_GRPC_TLS_CLIENT_CA")]
    pub grpc_tls_client_ca: Option<PathBuf>,
    /// Address of the expander port, which needs --expander-tls-cert. The gRPC port serves the expander, too,
    /// but requires a client certificate, and Cluster Autoscaler sends none to an expander
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "VPSIE_AUTOSCALER_EXPANDER_LISTEN",
        default_value = "127.0.0.1:8087"
    )]
    pub expander_listen: SocketAddr,
    /// Certificate of the expander port with its intermediates, PEM. It must name the host of Cluster
    /// Autoscaler's `--grpc-expander-url`. Changes to it and its key take effect without a restart
    #[arg(
        long,
        value_name = "FILE",
        env = "VPSIE_AUTOSCALER_EXPANDER_TLS_CERT",
        requires = "expander_tls_key"
    )]
    pub expander_tls_cert: Option<PathBuf>,
    /// Private key of the expander's certificate, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "VPSIE_AUTOSCALER_EXPANDER_TLS_KEY",
        requires = "expander_tls_cert"
    )]
    pub expander_tls_key: Option<PathBuf>,
    /// Allow gRPC without TLS on addresses other than loopback. Every client that can connect can then create
    /// and delete machines
    #[arg(long, env = "VPSIE_AUTOSCALER_GRPC_INSECURE_PLAINTEXT")]
    pub grpc_insecure_plaintext: bool,
}

/// Access to Kubernetes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Kubeconfig file, or `in-cluster` for the service account of the pod. With it, the program sets
    /// providerID, labels and taints of Nodes, and deletes Nodes without a VM
    #[arg(long, value_name = "FILE|in-cluster", env = "VPSIE_AUTOSCALER_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of NodeGroups, records, Lease and Secret. For --store=kubernetes or --vpsie-secret-name
    #[arg(long, value_name = "NAME", env = "VPSIE_AUTOSCALER_NAMESPACE", default_value = "kube-system")]
    pub namespace: String,
    /// Leader election.
    #[command(flatten)]
    pub election: ElectionArgs,
}

/// Leader election of the replicas.
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
    /// Time that a standby replica waits after the last renewal of the Lease before it takes over
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_LEADER_ELECTION_LEASE_DURATION",
        default_value = "15s", value_parser = parse_duration)]
    pub leader_election_lease_duration: Duration,
    /// Time without a renewal of the Lease after which the leader stops. It must be less than the lease
    /// duration: the difference is the margin for requests in flight
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_LEADER_ELECTION_RENEW_DEADLINE",
        default_value = "10s", value_parser = parse_duration)]
    pub leader_election_renew_deadline: Duration,
    /// Interval between attempts to acquire or renew the Lease
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_LEADER_ELECTION_RETRY_PERIOD",
        default_value = "2s", value_parser = parse_duration)]
    pub leader_election_retry_period: Duration,
    /// Name of the pod of this process. While it leads, the pod has the label `autoscaler.vpsie.com/role:
    /// leader`, which a Service can select
    #[arg(long, value_name = "NAME", env = "VPSIE_AUTOSCALER_POD_NAME")]
    pub pod_name: Option<String>,
    /// Address of the pod of this process. A stopping leader proxies connections to the pod of the next
    /// leader
    #[arg(long, value_name = "ADDRESS", env = "VPSIE_AUTOSCALER_POD_IP")]
    pub pod_ip: Option<IpAddr>,
}

/// Intervals and timeouts.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Timing")]
pub struct TimingArgs {
    /// Interval between listings of VPSie's nodes. Listings are more frequent while machines are created or
    /// deleted
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_OBSERVE_INTERVAL", default_value = "30s",
        value_parser = parse_duration)]
    pub observe_interval: Duration,
    /// Interval between readings of offers and prices
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_CATALOG_INTERVAL", default_value = "15m",
        value_parser = parse_duration)]
    pub catalog_interval: Duration,
    /// Timeout of each step of a creation: until VPSie accepts the request, and from then until VPSie lists
    /// the VM. A machine that exceeds it fails
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_CREATE_TIMEOUT", default_value = "10m",
        value_parser = parse_duration)]
    pub create_timeout: Duration,
    /// Time before an orphan is deleted: a VM that was requested and that no machine waits for
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_ORPHAN_GRACE", default_value = "15m",
        value_parser = parse_duration)]
    pub orphan_grace: Duration,
    /// Time before a failed machine is deleted, if Cluster Autoscaler does not delete it
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_FAILED_VPSIENODE_TTL", default_value = "30m",
        value_parser = parse_duration)]
    pub failed_vpsienode_ttl: Duration,
    /// Time that a stopping process waits for operations in progress
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_SHUTDOWN_GRACE", default_value = "25s",
        value_parser = parse_duration)]
    pub shutdown_grace: Duration,
}

/// Assumptions about new nodes, prices, cost limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Templates and prices")]
pub struct TemplateArgs {
    /// Reserved CPU of a node, millicores. Applies until a Node of its size has registered
    #[arg(long, value_name = "N", env = "VPSIE_AUTOSCALER_RESERVED_CPU_MILLIS", default_value_t = 100)]
    pub reserved_cpu_millis: u64,
    /// Reserved memory of a node, MiB. Applies until a Node of its size has registered
    #[arg(long, value_name = "N", env = "VPSIE_AUTOSCALER_RESERVED_MEMORY_MIB", default_value_t = 512)]
    pub reserved_memory_mib: u64,
    /// Reserved disk of a node, GiB. Applies until a Node of its size has registered
    #[arg(long, value_name = "N", env = "VPSIE_AUTOSCALER_RESERVED_DISK_GIB", default_value_t = 10)]
    pub reserved_disk_gib: u64,
    /// YAML file with prices and discounts that override those of VPSie: `overrides`, a list of entries with
    /// `offer` and `datacenter` (both optional; without one, the entry applies to all) and one of `hourly`,
    /// `monthly` (USD), `discountPercent`, `discountHourly`. The most specific price replaces that of VPSie,
    /// and the most specific discount is subtracted. An entry with `capacityType: spot` applies to spot machines;
    /// its price adds a spot offer, and may have an `interruptionRate`, percent of machines a month
    #[arg(long, value_name = "FILE", env = "VPSIE_AUTOSCALER_PRICE_FILE")]
    pub price_file: Option<PathBuf>,
    /// Maximum cost of all machines together, USD per hour. NodeGroups do not grow above it. Existing
    /// machines stay
    #[arg(long, value_name = "USD", env = "VPSIE_AUTOSCALER_COST_LIMIT_HOURLY", value_parser = money)]
    pub cost_limit_hourly: Option<Decimal>,
    /// Maximum cost of all machines together, USD per month
    #[arg(long, value_name = "USD", env = "VPSIE_AUTOSCALER_COST_LIMIT_MONTHLY", value_parser = money)]
    pub cost_limit_monthly: Option<Decimal>,
    /// Whether NodeGroups have spot pools, for NodeGroups that do not set `spotConfig.enabled`
    #[arg(long, value_name = "BOOL", env = "VPSIE_AUTOSCALER_SPOT_INSTANCES", default_value_t = false,
        num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub spot_instances: bool,
    /// Assumed time from an interruption notice without a deadline to the interruption, at most 24h. For NodeGroups
    /// that do not set `spotConfig.interruptionGracePeriod`
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_SPOT_GRACE_PERIOD", default_value = "120s",
        value_parser = parse_duration)]
    pub spot_grace_period: Duration,
    /// Machine time lost by one interruption of a spot machine: overlap with the replacement, and lost work. It is
    /// part of the expected price of spot machines, at the on-demand price of the same size
    #[arg(long, value_name = "DURATION", env = "VPSIE_AUTOSCALER_SPOT_INTERRUPTION_LOSS", default_value = "15m",
        value_parser = parse_duration)]
    pub spot_interruption_loss: Duration,
    /// Whether pods that cannot be evicted are deleted, with their grace period, in time before the interruption of
    /// their VM. If not, disruption budgets hold, and the pods end with the VM
    #[arg(long, value_name = "BOOL", env = "VPSIE_AUTOSCALER_SPOT_DELETE_PODS", default_value_t = true,
        action = clap::ArgAction::Set)]
    pub spot_delete_pods: bool,
    /// Hours per month, for conversion between hourly and monthly prices
    #[arg(long, value_name = "N", env = "VPSIE_AUTOSCALER_HOURS_PER_MONTH", default_value = "730")]
    pub hours_per_month: HoursPerMonth,
}

/// Webhook for interruption notices.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Webhook for interruption notices")]
pub struct WebhookArgs {
    /// Address of the webhook for interruption notices. Unset: no webhook. With --store=file it needs --kubeconfig
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "VPSIE_AUTOSCALER_NOTICE_WEBHOOK_LISTEN",
        requires = "notice_webhook_key_file"
    )]
    pub notice_webhook_listen: Option<SocketAddr>,
    /// File with the HMAC-SHA256 key of the webhook, at least 32 bytes. Changes take effect without a restart
    #[arg(
        long,
        value_name = "FILE",
        env = "VPSIE_AUTOSCALER_NOTICE_WEBHOOK_KEY_FILE",
        requires = "notice_webhook_listen"
    )]
    pub notice_webhook_key_file: Option<PathBuf>,
}

/// HTTP port and logs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operations")]
pub struct OperationsArgs {
    /// Address of the HTTP port: /metrics, /healthz, /readyz, /debug/decisions, /debug/offers,
    /// /debug/interruption
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
