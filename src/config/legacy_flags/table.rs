//! The table: flags and defaults as of release 0.7 of the original VPSie autoscaler.

use super::LegacyFlag;
use super::Support::{self, Refused, Same};

const ONE_LEADS: &str = "has been removed: with --store=kubernetes there is always a leader election, also for one \
                         replica; remove it";
const IN_NODE_GROUPS: &str = "has been removed: NodeGroups are not created on demand; write NodeGroups with \
                              resourceIdentifier, datacenterID and offeringIDs (names, UUIDs or KubeSizeIDs)";
const NO_WEBHOOK: &str = "has been removed: there is no webhook; the API server checks objects by the rules of the \
                          CustomResourceDefinitions (`vpsie-autoscaler crds`)";
const NO_SENTRY: &str =
    "has been removed: the program does not send data to Sentry; the log, events and /metrics show failures";
const NO_OPTIMIZATION: &str = "does not exist yet: machines are not replaced by cheaper ones; the expander chooses \
                               new machines by price";
const NO_REBALANCING: &str = "does not exist yet: running machines are not replaced; Cluster Autoscaler removes \
                              machines that are not needed";

/// Flags of the controller.
pub const CONTROLLER: &[LegacyFlag] = &[
    flag(
        "kubeconfig",
        "",
        Same(
            "Without it, Kubernetes is not used; the service account of the pod is `--kubeconfig=in-cluster`",
        ),
    ),
    flag(
        "metrics-addr",
        ":8080",
        Refused(
            "has been replaced by --http-listen, which takes IP and port such as 0.0.0.0:8080; /healthz and /readyz \
             are on that port, too",
        ),
    ),
    flag(
        "health-addr",
        ":8081",
        Refused("has been removed: /healthz and /readyz are on the port of --http-listen, like /metrics"),
    ),
    flag("leader-election", "true", Refused(ONE_LEADS)),
    flag("leader-election-id", "vpsie-autoscaler-leader", Same("")),
    flag(
        "leader-election-namespace",
        "kube-system",
        Refused("has been removed: the Lease is in --namespace, like NodeGroups, records and the Secret"),
    ),
    flag(
        "sync-period",
        "10m",
        Refused(
            "has been removed: Kubernetes is watched; --observe-interval is the interval between listings of \
             VPSie's nodes",
        ),
    ),
    flag("vpsie-secret-name", "vpsie-secret", Same("Has no default. The keys of the Secret are the same")),
    flag(
        "vpsie-secret-namespace",
        "kube-system",
        Refused("has been removed: the Secret is in --namespace, like NodeGroups, records and the Lease"),
    ),
    flag("default-datacenter-id", "", Refused(IN_NODE_GROUPS)),
    flag("default-offering-ids", "", Refused(IN_NODE_GROUPS)),
    flag("resource-identifier", "", Refused(IN_NODE_GROUPS)),
    flag(
        "kubernetes-version",
        "",
        Refused("has been removed: workers of a managed cluster have the version of the cluster; remove it"),
    ),
    flag("kube-size-id", "0", Refused(IN_NODE_GROUPS)),
    flag("log-level", "info", Same("")),
    flag("log-format", "json", Same("The default is `text`; `console` is another name for it")),
    flag("development", "false", Refused("has been removed: use --log-level=debug and --log-format=text")),
    flag("failed-vpsienode-ttl", "30m", Same("`0` (never) is refused")),
    flag("enable-webhook", "false", Refused(NO_WEBHOOK)),
    flag("webhook-addr", ":9443", Refused(NO_WEBHOOK)),
    flag("webhook-cert-dir", "/var/run/webhook-certs", Refused(NO_WEBHOOK)),
    flag("webhook-cert-file", "tls.crt", Refused(NO_WEBHOOK)),
    flag("webhook-key-file", "tls.key", Refused(NO_WEBHOOK)),
    flag("sentry-dsn", "", Refused(NO_SENTRY)),
    flag("sentry-environment", "development", Refused(NO_SENTRY)),
    flag("sentry-traces-sample-rate", "0.1", Refused(NO_SENTRY)),
    flag("sentry-error-sample-rate", "1.0", Refused(NO_SENTRY)),
];

/// Flags of the webhook's binary, in addition to `log-level` and `log-format`.
pub const WEBHOOK: &[LegacyFlag] = &[
    flag("port", "9443", Refused(NO_WEBHOOK)),
    flag("cert-dir", "/var/run/webhook-certs", Refused(NO_WEBHOOK)),
    flag("tls-cert-file", "tls.crt", Refused(NO_WEBHOOK)),
    flag("tls-key-file", "tls.key", Refused(NO_WEBHOOK)),
];

/// Flags of the original's manifests that its controller did not know.
pub const MANIFESTS: &[LegacyFlag] = &[
    flag("leader-elect", "true", Refused(ONE_LEADS)),
    flag(
        "max-concurrent-reconciles",
        "5",
        Refused(
            "has been removed: a single writer decides, in memory; --vpsie-rate-limit limits requests to VPSie",
        ),
    ),
    flag(
        "node-provision-timeout",
        "10m",
        Refused(
            "has been replaced by --create-timeout for the VM, and by Cluster Autoscaler's --max-node-provision-time, \
             or maxNodeProvisionTime in autoscalingOptions of a NodeGroup, for the Node",
        ),
    ),
    flag(
        "node-termination-timeout",
        "5m",
        Refused(
            "has been removed: --max-graceful-termination-sec limits Cluster Autoscaler's drains, disruption budgets \
             limit other drains, and the deletion of a VM is repeated until VPSie accepts it",
        ),
    ),
    flag("cost-optimization", "true", Refused(NO_OPTIMIZATION)),
    flag("cost-optimization-strategy", "auto", Refused(NO_OPTIMIZATION)),
    flag("cost-optimization-interval", "24h", Refused(NO_OPTIMIZATION)),
    flag("rebalancing", "true", Refused(NO_REBALANCING)),
    flag("rebalancing-interval", "24h", Refused(NO_REBALANCING)),
    flag("rebalancing-max-concurrent", "2", Refused(NO_REBALANCING)),
    flag("spot-instances", "true", Same("Is the default of `spotConfig.enabled` of NodeGroups")),
    flag(
        "spot-grace-period",
        "120s",
        Same("Is the default of `spotConfig.interruptionGracePeriod` of NodeGroups. Its maximum is `24h`"),
    ),
];

const fn flag(name: &'static str, default: &'static str, support: Support) -> LegacyFlag {
    LegacyFlag { name, default, support }
}
