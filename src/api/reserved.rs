//! Keys of labels and taints that a NodeGroup must not set, because Cluster Autoscaler, Kubernetes or
//! vpsie-autoscaler uses them.
//!
//! The rules of the CRD, the checks of files, the docs and the tests come from these tables. Keys that
//! kubelets must not set (`node-restriction.kubernetes.io/`) are allowed: vpsie-autoscaler sets labels
//! through the API server.

use crate::fleet::names;

/// Keys with one reason for their reservation.
#[derive(Debug)]
pub(crate) struct ReservedKeys {
    /// Exact keys.
    keys: &'static [&'static str],
    /// Prefixes of keys.
    prefixes: &'static [&'static str],
    /// The reason, for the message of the refusal.
    pub(crate) why: &'static str,
}

/// The label by which Cluster Autoscaler recognizes Nodes with GPUs (`GPULabel`).
pub(crate) const GPU_LABEL: &str = "autoscaler.vpsie.com/gpu";

/// Reserved labels.
pub(crate) const LABELS: [ReservedKeys; 4] = [
    ReservedKeys {
        keys: &[
            names::MANAGED,
            names::NODE_GROUP,
            names::OFFERING,
            names::DATACENTER,
            names::CAPACITY_TYPE,
            names::POOL,
            "kubernetes.io/hostname",
            "kubernetes.io/os",
            "kubernetes.io/arch",
            "node.kubernetes.io/instance-type",
            "node.kubernetes.io/windows-build",
            "topology.kubernetes.io/region",
            "topology.kubernetes.io/zone",
            "beta.kubernetes.io/os",
            "beta.kubernetes.io/arch",
            "beta.kubernetes.io/instance-type",
            "failure-domain.beta.kubernetes.io/region",
            "failure-domain.beta.kubernetes.io/zone",
        ],
        prefixes: &[],
        why: "Kubernetes or vpsie-autoscaler sets these labels on every Node, as facts about the Node",
    },
    ReservedKeys {
        keys: &[GPU_LABEL],
        prefixes: &[],
        why: "Cluster Autoscaler treats a Node with this label as unready until the Node has GPUs, and stops all \
              scaling if too many Nodes are unready",
    },
    ReservedKeys {
        keys: &[],
        prefixes: &["cluster-autoscaler.kubernetes.io/", "cluster-autoscaler.k8s.io/"],
        why: "Cluster Autoscaler marks Nodes with these labels for its own use",
    },
    ReservedKeys {
        keys: &["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"],
        prefixes: &[],
        why: "Kubernetes treats a Node with such a label as part of the control plane",
    },
];

/// Reserved taints.
pub(crate) const TAINTS: [ReservedKeys; 4] = [
    ReservedKeys {
        keys: &["ToBeDeletedByClusterAutoscaler", "DeletionCandidateOfClusterAutoscaler"],
        prefixes: &[],
        why: "Cluster Autoscaler sets these taints on Nodes that it removes, and does not count a Node with such a \
              taint",
    },
    ReservedKeys {
        keys: &[],
        prefixes: &[
            "startup-taint.cluster-autoscaler.kubernetes.io/",
            "ignore-taint.cluster-autoscaler.kubernetes.io/",
            "status-taint.cluster-autoscaler.kubernetes.io/",
        ],
        why: "Cluster Autoscaler treats a Node with such a taint as unready, and stops all scaling if too many \
              Nodes are unready; use another key; if a controller removes the taint later, list the key in Cluster \
              Autoscaler's --startup-taint",
    },
    ReservedKeys {
        keys: &["cloud.google.com/impending-node-termination", "NodeWithImpairedVolumes"],
        prefixes: &["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"],
        why: "Kubernetes sets and removes these taints by the conditions of a Node, and Cluster Autoscaler ignores \
              them in its simulations",
    },
    ReservedKeys { keys: &[], prefixes: &["autoscaler.vpsie.com/"], why: "vpsie-autoscaler uses these keys" },
];

/// The reservation of a key, if there is one.
pub(crate) fn reserved(table: &'static [ReservedKeys], key: &str) -> Option<&'static ReservedKeys> {
    table.iter().find(|reserved| {
        reserved.keys.contains(&key) || reserved.prefixes.iter().any(|prefix| key.starts_with(prefix))
    })
}

impl ReservedKeys {
    /// A CEL expression that is true if the expression `key` is one of these keys.
    pub(super) fn cel(&self, key: &str) -> String {
        let keys = (!self.keys.is_empty()).then(|| format!("{key} in ['{}']", self.keys.join("', '")));
        let prefixes = self.prefixes.iter().map(|prefix| format!("{key}.startsWith('{prefix}')"));
        keys.into_iter().chain(prefixes).collect::<Vec<_>>().join(" || ")
    }

    /// The keys, for messages.
    pub(super) fn list(&self) -> String {
        let prefixes = self.prefixes.iter().map(|prefix| format!("{prefix}*"));
        self.keys.iter().map(ToString::to_string).chain(prefixes).collect::<Vec<_>>().join(", ")
    }

    /// Each key, and one of each prefix.
    #[cfg(test)]
    pub(crate) fn examples(&self) -> Vec<String> {
        let prefixes = self.prefixes.iter().map(|prefix| format!("{prefix}x"));
        self.keys.iter().map(ToString::to_string).chain(prefixes).collect()
    }
}
