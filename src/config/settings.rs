//! The validated settings of `serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretSlice};

use super::args::{
    BackendKind, ElectionArgs, FleetArgs, GrpcArgs, KubernetesArgs, OperationsArgs, ServeArgs, StoreKind,
    TemplateArgs, TimingArgs, WebhookArgs,
};
use super::credentials::secret_source;
use super::election;
use super::manifest_files::load_manifests;
#[cfg(not(any(feature = "simulator", test)))]
use super::no_simulator::simulated_vpsie;
use super::price_file;
#[cfg(any(feature = "simulator", test))]
use super::simulated::simulated_vpsie;
use super::vpsie_settings::{VpsieSettings, real_vpsie};
use crate::cost::{CostLimit, Prices, Usd, UsdPerHour};
use crate::fleet::{FleetSettings, MAX_NOTICE, Policy, Reserved, SpotDefaults};
use crate::grpc::{GrpcConfig, TlsFiles};
use crate::kubernetes::KubernetesAccess;
use crate::telemetry::LogArgs;
use crate::validation::{Manifests, Problem, Problems, Source, dns_label, parse_manifests};
use crate::vpsie::DeletionKey;

/// Validated settings of `serve`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Place of NodeGroups and records.
    pub store: StoreSettings,
    /// Access to VPSie.
    pub vpsie: VpsieSettings,
    /// Key of the passwords of VMs, if there is one.
    pub vm_deletion_key: Option<DeletionKey>,
    /// Address of the gRPC port.
    pub grpc_listen: SocketAddr,
    /// TLS of the gRPC port.
    pub grpc: GrpcConfig,
    /// Address and TLS of the expander port, if it has a certificate.
    pub expander: Option<(SocketAddr, GrpcConfig)>,
    /// Address of the HTTP port.
    pub http_listen: SocketAddr,
    /// Logs.
    pub log: LogArgs,
    /// Webhook for interruption notices, if there is one.
    pub notice_webhook: Option<NoticeWebhookSettings>,
    /// Intervals and timeouts.
    pub timing: TimingArgs,
    /// Whether pods that cannot be evicted are deleted in time before the interruption of their VM.
    pub spot_delete_pods: bool,
    /// Assumptions about new nodes, prices, cost limits.
    pub fleet: FleetSettings,
}

/// Webhook for interruption notices.
#[derive(Clone, Debug)]
pub struct NoticeWebhookSettings {
    /// Its address.
    pub listen: SocketAddr,
    /// File with the key of the signatures.
    pub key_file: PathBuf,
}

/// Place of NodeGroups and records.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    /// NodeGroups in manifests, records in a file.
    File {
        /// NodeGroups with their cluster and datacenter.
        manifests: Manifests,
        /// File of the records.
        data_file: PathBuf,
        /// Access to Kubernetes, if configured.
        kubernetes: Option<KubernetesAccess>,
    },
    /// Both in Kubernetes.
    Kubernetes {
        /// Access to Kubernetes.
        access: KubernetesAccess,
        /// Namespace of NodeGroups, records and Lease.
        namespace: String,
        /// Leader election.
        election: ElectionArgs,
    },
}

/// Default NodeGroups of `serve --simulate`.
const SAMPLES: [(&str, &str); 2] = [
    ("samples/batch.yaml", include_str!("../../deployments/samples/batch.yaml")),
    ("samples/general.yaml", include_str!("../../deployments/samples/general.yaml")),
];

/// The sample NodeGroups, which fit the simulator's cluster.
pub fn sample_manifests(spot: SpotDefaults) -> Result<Manifests, Problems> {
    let sources = SAMPLES.map(|(name, text)| Source { name: name.to_owned(), text: text.to_owned() });
    parse_manifests("samples", &sources, spot)
}

impl Settings {
    /// Policy of the fleet. With Kubernetes, a machine runs once its Node exists; without, once its VM is
    /// listed.
    pub fn policy(&self) -> Policy {
        let TimingArgs { create_timeout, orphan_grace, failed_vpsienode_ttl, .. } = self.timing;
        let running_when_listed = self.kubernetes().is_none();
        Policy {
            create_timeout,
            failed_ttl: failed_vpsienode_ttl,
            orphan_grace,
            running_when_listed,
            ..Policy::default()
        }
    }

    /// Access to Kubernetes, if configured.
    pub fn kubernetes(&self) -> Option<&KubernetesAccess> {
        match &self.store {
            StoreSettings::File { kubernetes, .. } => kubernetes.as_ref(),
            StoreSettings::Kubernetes { access, .. } => Some(access),
        }
    }

    /// Validates all flags. Reports all problems at once.
    pub fn new(args: ServeArgs) -> Result<Self, Problems> {
        let ServeArgs { fleet, api, grpc, kubernetes, timing, template, webhook, operations, refused } = args;
        let TemplateArgs {
            reserved_cpu_millis,
            reserved_memory_mib,
            reserved_disk_gib,
            price_file,
            cost_limit_hourly,
            cost_limit_monthly,
            spot_instances,
            spot_grace_period,
            spot_interruption_loss,
            spot_delete_pods,
            hours_per_month,
        } = template;
        let OperationsArgs { http_listen, log } = operations;
        let mut problems = refused.into_problems();
        let spot = SpotDefaults { enabled: spot_instances, grace_period: spot_grace_period };
        if spot.grace_period > MAX_NOTICE {
            let message = format!("is {}s, must be at most 24h", spot.grace_period.as_secs());
            problems.push(Problem::new("--spot-grace-period", "", message));
        }

        let secret = secret_source(&api, &kubernetes, &mut problems);
        let store = match fleet.store {
            StoreKind::File => file_store(&fleet, kubernetes, spot, secret.is_some(), &mut problems),
            StoreKind::Kubernetes => kubernetes_store(&fleet, kubernetes, &mut problems),
        };
        let vm_deletion_key = api.vpsie_vm_password_key_file.as_deref().map(read_deletion_key);
        let vm_deletion_key = vm_deletion_key.transpose().unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        let binding = fleet.backend.binding();
        let FleetArgs { simulate, simulator_config, simulator_state, .. } = fleet;
        let vpsie = if simulate {
            simulated_vpsie(&api, simulator_config.as_deref(), simulator_state, &mut problems)
        } else {
            real_vpsie(&api, secret, &mut problems)
        };
        let expander = expander_config(&grpc, &mut problems);
        let (grpc_listen, grpc) = grpc_config(grpc, &mut problems);
        if let Some((listen, _)) = expander
            && listen.port() != 0
            && [grpc_listen, http_listen].contains(&listen)
        {
            let message = format!("is {listen}, must differ from --grpc-listen and --http-listen");
            problems.push(Problem::new("--expander-listen", "", message));
        }
        let overrides = price_file.map(|file| price_file::load(&file, hours_per_month, &mut problems));
        let prices = Prices { hours_per_month, overrides: overrides.unwrap_or_default() };
        let cost_limit =
            CostLimit { hourly: cost_limit_hourly.map(UsdPerHour), monthly: cost_limit_monthly.map(Usd) };
        if grpc_listen == http_listen && http_listen.port() != 0 {
            let message = format!("is {http_listen}, must differ from --grpc-listen");
            problems.push(Problem::new("--http-listen", "", message));
        }
        let has_kubernetes = store.as_ref().is_some_and(|store| match store {
            StoreSettings::File { kubernetes, .. } => kubernetes.is_some(),
            StoreSettings::Kubernetes { .. } => true,
        });
        let others =
            [grpc_listen, http_listen].into_iter().chain(expander.as_ref().map(|(listen, _)| *listen));
        let notice_webhook = notice_webhook(webhook, others, has_kubernetes, &mut problems);
        if let Err(problem) = crate::telemetry::check_filter(&log.log_level) {
            problems.push(Problem::new("--log-level", "", problem));
        }
        match (store, vpsie) {
            (Some(store), Some(vpsie)) if problems.is_empty() => Ok(Self {
                store,
                vpsie,
                vm_deletion_key,
                grpc_listen,
                grpc,
                expander,
                http_listen,
                log,
                notice_webhook,
                timing,
                spot_delete_pods,
                fleet: FleetSettings {
                    binding,
                    reserved: Reserved {
                        cpu_millis: reserved_cpu_millis,
                        memory_mib: reserved_memory_mib,
                        disk_gib: reserved_disk_gib,
                    },
                    prices: Arc::new(prices),
                    cost_limit,
                    interruption_loss: spot_interruption_loss,
                    spot,
                },
            }),
            _ => Err(Problems(problems)),
        }
    }
}

/// Minimum length of the key from which passwords are derived, bytes.
const MIN_PASSWORD_KEY: usize = 32;

/// Reads the key of the passwords of VMs, without line breaks at its end.
fn read_deletion_key(path: &Path) -> Result<DeletionKey, Problem> {
    const FLAG: &str = "--vpsie-vm-password-key-file";
    let key = std::fs::read(path)
        .map_err(|error| Problem::new(FLAG, "", format!("cannot read {}: {error}", path.display())))?;
    let key = SecretSlice::from(key);
    let end =
        key.expose_secret().iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
    if end < MIN_PASSWORD_KEY {
        let message =
            format!("{} has a key of {end} bytes, must have at least {MIN_PASSWORD_KEY}", path.display());
        return Err(Problem::new(FLAG, "", message));
    }
    Ok(DeletionKey::new(&key.expose_secret()[..end]))
}

fn notice_webhook(
    WebhookArgs { notice_webhook_listen, notice_webhook_key_file }: WebhookArgs,
    mut others: impl Iterator<Item = SocketAddr>,
    has_kubernetes: bool,
    problems: &mut Vec<Problem>,
) -> Option<NoticeWebhookSettings> {
    let listen = notice_webhook_listen?;
    let flag = "--notice-webhook-listen";
    if listen.port() != 0 && others.any(|other| other == listen) {
        let message = format!("is {listen}, must differ from the other ports");
        problems.push(Problem::new(flag, "", message));
    }
    if !has_kubernetes {
        let message =
            "needs access to Kubernetes (--kubeconfig), because notices concern Nodes and their pods";
        problems.push(Problem::new(flag, "", message));
    }
    Some(NoticeWebhookSettings { listen, key_file: notice_webhook_key_file? })
}

fn file_store(
    fleet: &FleetArgs,
    KubernetesArgs { kubeconfig, namespace, .. }: KubernetesArgs,
    spot: SpotDefaults,
    reads_secret: bool,
    problems: &mut Vec<Problem>,
) -> Option<StoreSettings> {
    if reads_secret && kubeconfig.is_none() {
        let message = "is missing: --vpsie-secret-name needs access to Kubernetes";
        problems.push(Problem::new("--kubeconfig", "", message));
    }
    if reads_secret && let Err(message) = dns_label(&namespace) {
        problems.push(Problem::new("--namespace", "", message));
    }
    let FleetArgs { node_groups, data_file, simulate, backend, .. } = fleet;
    if *backend == BackendKind::Vm {
        let message =
            "vm needs --store=kubernetes: VMs join with bootstrap tokens, which are Secrets of the cluster";
        problems.push(Problem::new("--backend", "", message));
    }
    let default = if *simulate { "vpsie-autoscaler-simulated.redb" } else { "vpsie-autoscaler.redb" };
    let manifests = read_manifests(node_groups.as_deref(), *simulate, spot)
        .map_err(|Problems(more)| problems.extend(more))
        .ok()?;
    Some(StoreSettings::File {
        manifests,
        data_file: data_file.clone().unwrap_or_else(|| default.into()),
        kubernetes: kubeconfig.map(Into::into),
    })
}

fn kubernetes_store(
    fleet: &FleetArgs,
    kubernetes: KubernetesArgs,
    problems: &mut Vec<Problem>,
) -> Option<StoreSettings> {
    let KubernetesArgs { kubeconfig, namespace, election } = kubernetes;
    let given = [
        ("--node-groups", fleet.node_groups.is_some(), "NodeGroups are objects in Kubernetes"),
        ("--data-file", fleet.data_file.is_some(), "records are objects in Kubernetes"),
        ("--simulate", fleet.simulate, "the simulated VMs of one replica do not exist for the others"),
    ];
    for (flag, given, why) in given {
        if given {
            let message = format!("cannot be combined with --store=kubernetes: {why}");
            problems.push(Problem::new(flag, "", message));
        }
    }
    if let Err(message) = dns_label(&namespace) {
        problems.push(Problem::new("--namespace", "", message));
    }
    election::check(&election, problems);
    let Some(kubeconfig) = kubeconfig else {
        let message = "is missing: --store=kubernetes needs a kubeconfig, or `in-cluster`";
        problems.push(Problem::new("--kubeconfig", "", message));
        return None;
    };
    Some(StoreSettings::Kubernetes { access: kubeconfig.into(), namespace, election })
}

fn read_manifests(
    node_groups: Option<&Path>,
    simulate: bool,
    spot: SpotDefaults,
) -> Result<Manifests, Problems> {
    match node_groups {
        Some(path) => load_manifests(path, spot),
        None if simulate => sample_manifests(spot),
        None => {
            let message = "is missing: give the file or folder of the NodeGroup manifests";
            Err(Problems(vec![Problem::new("--node-groups", "", message)]))
        }
    }
}

fn grpc_config(args: GrpcArgs, problems: &mut Vec<Problem>) -> (SocketAddr, GrpcConfig) {
    let GrpcArgs {
        grpc_listen,
        grpc_tls_cert,
        grpc_tls_key,
        grpc_tls_client_ca,
        grpc_insecure_plaintext,
        ..
    } = args;
    let files = [
        ("--grpc-tls-cert", &grpc_tls_cert),
        ("--grpc-tls-key", &grpc_tls_key),
        ("--grpc-tls-client-ca", &grpc_tls_client_ca),
    ];
    let given: Vec<&str> = files.iter().filter(|(_, file)| file.is_some()).map(|(flag, _)| *flag).collect();
    for (flag, file) in files {
        match file {
            None if !given.is_empty() => {
                let message = format!("is missing: TLS needs it beside {}", given.join(" and "));
                problems.push(Problem::new(flag, "", message));
            }
            Some(file) => check_readable(flag, file, problems),
            None => {}
        }
    }
    if grpc_insecure_plaintext && !given.is_empty() {
        let message = format!("cannot be combined with {}: give only one of them", given.join(" and "));
        problems.push(Problem::new("--grpc-insecure-plaintext", "", message));
    }
    let tls = TlsFiles::from_parts(grpc_tls_cert, grpc_tls_key, grpc_tls_client_ca).unwrap_or_default();
    let config = GrpcConfig { tls, allow_plaintext: grpc_insecure_plaintext };
    if given.is_empty() && config.check(grpc_listen).is_err() {
        let message = format!(
            "is {grpc_listen}, which other hosts can reach, and TLS is off: give --grpc-tls-cert, --grpc-tls-key and \
             --grpc-tls-client-ca, listen on 127.0.0.1, or give --grpc-insecure-plaintext"
        );
        problems.push(Problem::new("--grpc-listen", "", message));
    }
    (grpc_listen, config)
}

fn expander_config(args: &GrpcArgs, problems: &mut Vec<Problem>) -> Option<(SocketAddr, GrpcConfig)> {
    let cert = args.expander_tls_cert.clone()?;
    let key = args.expander_tls_key.clone()?;
    check_readable("--expander-tls-cert", &cert, problems);
    check_readable("--expander-tls-key", &key, problems);
    let tls = Some(TlsFiles { cert, key, client_ca: None });
    Some((args.expander_listen, GrpcConfig { tls, allow_plaintext: false }))
}

fn check_readable(flag: &'static str, file: &Path, problems: &mut Vec<Problem>) {
    if let Err(error) = std::fs::File::open(file) {
        problems.push(Problem::new(flag, "", format!("{} cannot be read: {error}", file.display())));
    }
}
