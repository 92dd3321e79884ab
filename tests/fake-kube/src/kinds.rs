//! Kinds that the server serves.

/// A resource.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) word: &'static str,
    pub(crate) namespaced: bool,
    /// Whether status is a subresource: writes of the object do not change it, and writes of `/status` change
    /// nothing else.
    pub(crate) status: bool,
    /// Whether a PUT needs no `metadata.resourceVersion`.
    pub(crate) unconditional: bool,
}

const fn kind(group: &'static str, version: &'static str, plural: &'static str, word: &'static str) -> Kind {
    Kind { group, version, plural, word, namespaced: true, status: false, unconditional: true }
}

const KINDS: &[Kind] = &[
    kind("", "v1", "configmaps", "ConfigMap"),
    kind("", "v1", "secrets", "Secret"),
    Kind { status: true, ..kind("", "v1", "pods", "Pod") },
    Kind { status: true, namespaced: false, ..kind("", "v1", "nodes", "Node") },
    Kind { namespaced: false, ..kind("", "v1", "namespaces", "Namespace") },
    kind("events.k8s.io", "v1", "events", "Event"),
    Kind { unconditional: false, ..kind("coordination.k8s.io", "v1", "leases", "Lease") },
    Kind { status: true, ..kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget") },
    Kind { status: true, ..kind("apps", "v1", "daemonsets", "DaemonSet") },
    Kind {
        status: true,
        namespaced: false,
        unconditional: false,
        ..kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
    },
    Kind {
        status: true,
        namespaced: false,
        unconditional: false,
        ..kind("autoscaler.vpsie.com", "v1alpha1", "autoscalerconfigs", "AutoscalerConfig")
    },
    Kind {
        status: true,
        unconditional: false,
        ..kind("autoscaler.vpsie.com", "v1alpha1", "nodegroups", "NodeGroup")
    },
    Kind {
        status: true,
        unconditional: false,
        ..kind("autoscaler.vpsie.com", "v1alpha1", "vpsienodes", "VPSieNode")
    },
];

impl Kind {
    pub(crate) fn served(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        KINDS.iter().find(|k| k.group == group && k.version == version && k.plural == plural)
    }

    pub(crate) fn by_plural(plural: &str) -> Option<&'static Self> {
        KINDS.iter().find(|k| k.plural == plural)
    }

    pub(crate) fn by_name(api_version: &str, kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|k| k.api_version() == api_version && k.word == kind)
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}
