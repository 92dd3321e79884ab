//! The table: flags and defaults as of release 0.7 of the original VPSie autoscaler.

use super::Fate::{self, Refused, Same};
use super::OriginalFlag;

const ONE_LEADS: &str =
    "is gone: with --store=kubernetes one replica always leads, also if it is the only one; leave it out";
const IN_NODE_GROUPS: &str = "is gone: no NodeGroup is made on demand; write NodeGroups, whose resourceIdentifier, \
                              datacenterID and offeringIDs (names, UUIDs or KubeSizeIDs) say it";
const NO_WEBHOOK: &str = "is gone: there is no webhook, the API server itself checks manifests by the rules in the \
                          CustomResourceDefinitions (`vpsie-autoscaler crds`)";
const NO_SENTRY: &str =
    "is gone: nothing is sent to Sentry; what fails is in the log, in events and in /metrics";
const NO_OPTIMIZATION: &str = "is not there yet: machines are not exchanged for cheaper ones; the expander \
                               chooses by price which are rented";
const NO_REBALANCING: &str = "is not there yet: machines are not replaced while they run; Cluster Autoscaler \
                              removes those that are unneeded";
const NO_SPOT: &str = "is not there yet: all machines are on demand";

/// Flags of the controller.
pub const CONTROLLER: &[OriginalFlag] = &[
    flag(
        "kubeconfig",
        "",
        Same("Without it there is no Kubernetes; the pod's service account is `--kubeconfig=in-cluster`"),
    ),
    flag(
        "metrics-addr",
        ":8080",
        Refused(
            "is now --http-listen, which takes IP and port such as 0.0.0.0:8080; /healthz and /readyz are on that \
             port, too",
        ),
    ),
    flag(
        "health-addr",
        ":8081",
        Refused("is gone: /healthz and /readyz are on the port of --http-listen, beside /metrics"),
    ),
    flag("leader-election", "true", Refused(ONE_LEADS)),
    flag("leader-election-id", "vpsie-autoscaler-leader", Same("")),
    flag(
        "leader-election-namespace",
        "kube-system",
        Refused("is gone: the Lease is in --namespace, as are NodeGroups, records and the Secret"),
    ),
    flag(
        "sync-period",
        "10m",
        Refused(
            "is gone: Kubernetes is watched, and how often VPSie's list of nodes is read is --observe-interval",
        ),
    ),
    flag("vpsie-secret-name", "vpsie-secret", Same("Has no default. The keys of the Secret are the same")),
    flag(
        "vpsie-secret-namespace",
        "kube-system",
        Refused("is gone: the Secret is in --namespace, as are NodeGroups, records and the Lease"),
    ),
    flag("default-datacenter-id", "", Refused(IN_NODE_GROUPS)),
    flag("default-offering-ids", "", Refused(IN_NODE_GROUPS)),
    flag("resource-identifier", "", Refused(IN_NODE_GROUPS)),
    flag(
        "kubernetes-version",
        "",
        Refused("is gone: a cluster that VPSie manages gives its workers its own version; leave it out"),
    ),
    flag("kube-size-id", "0", Refused(IN_NODE_GROUPS)),
    flag("log-level", "info", Same("")),
    flag("log-format", "json", Same("The default is `text`, which `console` is another name for")),
    flag(
        "development",
        "false",
        Refused("is gone: --log-level=debug shows more, and --log-format=text shows it for people"),
    ),
    flag("failed-vpsienode-ttl", "30m", Same("`0`, which was never, is refused")),
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

/// Flags of the webhook's own binary, beside `log-level` and `log-format`.
pub const WEBHOOK: &[OriginalFlag] = &[
    flag("port", "9443", Refused(NO_WEBHOOK)),
    flag("cert-dir", "/var/run/webhook-certs", Refused(NO_WEBHOOK)),
    flag("tls-cert-file", "tls.crt", Refused(NO_WEBHOOK)),
    flag("tls-key-file", "tls.key", Refused(NO_WEBHOOK)),
];

/// Flags that its manifests gave to the controller, which did not know them.
pub const MANIFESTS: &[OriginalFlag] = &[
    flag("leader-elect", "true", Refused(ONE_LEADS)),
    flag(
        "max-concurrent-reconciles",
        "5",
        Refused(
            "is gone: one writer decides, in memory; requests to VPSie are limited by --vpsie-rate-limit",
        ),
    ),
    flag(
        "node-provision-timeout",
        "10m",
        Refused(
            "is gone: --create-timeout is how long VPSie may take, and Cluster Autoscaler's \
             --max-node-provision-time, or maxNodeProvisionTime in a NodeGroup's autoscalingOptions, how long a Node \
             may",
        ),
    ),
    flag(
        "node-termination-timeout",
        "5m",
        Refused(
            "is gone: Cluster Autoscaler's --max-graceful-termination-sec limits its drains, disruption budgets those of \
             machines that people delete; a deletion is asked of VPSie until it accepts",
        ),
    ),
    flag("cost-optimization", "true", Refused(NO_OPTIMIZATION)),
    flag("cost-optimization-strategy", "auto", Refused(NO_OPTIMIZATION)),
    flag("cost-optimization-interval", "24h", Refused(NO_OPTIMIZATION)),
    flag("rebalancing", "true", Refused(NO_REBALANCING)),
    flag("rebalancing-interval", "24h", Refused(NO_REBALANCING)),
    flag("rebalancing-max-concurrent", "2", Refused(NO_REBALANCING)),
    flag("spot-instances", "true", Refused(NO_SPOT)),
    flag("spot-grace-period", "120s", Refused(NO_SPOT)),
];

const fn flag(name: &'static str, default: &'static str, fate: Fate) -> OriginalFlag {
    OriginalFlag { name, default, fate }
}
