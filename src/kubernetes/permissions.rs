//! The permissions of vpsie-autoscaler in the cluster. Manifests and docs are generated from them.

/// The scope of a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the whole cluster.
    Cluster,
    /// In the namespace of NodeGroups and records.
    Namespace,
    /// In this namespace.
    Other(&'static str),
}

/// A permission and its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Cluster or namespace.
    pub scope: Scope,
    /// API group; empty for core.
    pub group: &'static str,
    /// Resource, with subresource.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Only the object of this name.
    pub name: Option<&'static str>,
    /// Its purpose.
    pub why: &'static str,
}

const OURS: &str = "autoscaler.vpsie.com";

const fn cluster(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    why: &'static str,
) -> Permission {
    Permission { scope: Scope::Cluster, group, resource, verbs, name: None, why }
}

const fn namespace(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    why: &'static str,
) -> Permission {
    Permission { scope: Scope::Namespace, group, resource, verbs, name: None, why }
}

/// All permissions that `serve --store=kubernetes` needs.
pub const PERMISSIONS: &[Permission] = &[
    cluster(
        "",
        "nodes",
        &["list", "watch", "patch", "delete"],
        "set providerID, labels and taints of Nodes, cordon Nodes, delete Nodes whose VM is gone",
    ),
    cluster(
        "",
        "pods",
        &["list", "delete"],
        "list the pods of a Node for its drain; delete pods whose eviction is blocked before an interruption",
    ),
    cluster("", "pods/eviction", &["create"], "drain the Nodes of machines that are being deleted"),
    cluster(OURS, "autoscalerconfigs", &["list", "watch"], "read the limits of the cluster"),
    cluster(OURS, "autoscalerconfigs/status", &["patch"], "report whether they are applied"),
    cluster("events.k8s.io", "events", &["create", "patch"], "publish events, also of Nodes"),
    namespace(
        OURS,
        "nodegroups",
        &["get", "list", "watch", "patch"],
        "read NodeGroups, and set the finalizer",
    ),
    namespace(OURS, "nodegroups/status", &["patch"], "report the state of NodeGroups"),
    namespace(
        OURS,
        "vpsienodes",
        &["get", "list", "watch", "create", "patch", "delete"],
        "keep the record of each machine",
    ),
    namespace(OURS, "vpsienodes/status", &["patch"], "keep the observed state of each machine"),
    namespace(
        "",
        "configmaps",
        &["get", "list", "create", "patch"],
        "keep the catalog, size profiles and unmanaged nodes",
    ),
    namespace("coordination.k8s.io", "leases", &["get", "watch", "create", "update"], "elect the leader"),
    namespace("", "pods", &["patch"], "label the leader's pod, which a Service selects (--pod-name)"),
    Permission {
        scope: Scope::Namespace,
        group: "",
        resource: "secrets",
        verbs: &["get", "list", "watch"],
        name: Some("vpsie-secret"),
        why: "read VPSie's credentials (--vpsie-secret-name)",
    },
];

/// The permissions that `serve --backend=vm` needs in addition. Secrets in `kube-system` are written, but not read.
pub const JOIN_PERMISSIONS: &[Permission] = &[
    Permission {
        scope: Scope::Cluster,
        group: "",
        resource: "namespaces",
        verbs: &["get"],
        name: Some("kube-system"),
        why: "read the UID that marks the VMs of the cluster",
    },
    Permission {
        scope: Scope::Namespace,
        group: "",
        resource: "secrets",
        verbs: &["get"],
        name: Some("vpsie-join"),
        why: "read the user's variables and shared credentials of payloads",
    },
    Permission {
        scope: Scope::Other("kube-system"),
        group: "",
        resource: "secrets",
        verbs: &["create", "patch", "delete"],
        name: None,
        why: "write bootstrap tokens, as far as the ValidatingAdmissionPolicy permits",
    },
    Permission {
        scope: Scope::Other("kube-public"),
        group: "",
        resource: "configmaps",
        verbs: &["get"],
        name: Some("cluster-info"),
        why: "read the CA of a cluster of kubeadm",
    },
];

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    const NAME: &str = "vpsie-autoscaler";
    const NAMESPACE: &str = "vpsie-system";
    const RBAC: &str = "rbac.authorization.k8s.io";
    const JOIN_NAME: &str = "vpsie-autoscaler-join";
    const HEADER: &str =
        "# Generated from src/kubernetes/permissions.rs: UPDATE=1 cargo test --lib permissions";

    fn rule(permission: &Permission) -> Value {
        let mut rule = json!({
            "apiGroups": [permission.group], "resources": [permission.resource], "verbs": permission.verbs,
        });
        if let Some(name) = permission.name {
            rule["resourceNames"] = json!([name]);
        }
        rule
    }

    /// The files of deployments/base that give a service account exactly these rights.
    fn manifests() -> Vec<(String, String)> {
        let rules = |scope| PERMISSIONS.iter().filter(|p| p.scope == scope).map(rule).collect::<Vec<_>>();
        let account = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]);
        let object = |kind: &str, namespaced: bool, mut body: Value| {
            let group = if kind == "ServiceAccount" { "v1".to_owned() } else { format!("{RBAC}/v1") };
            body["apiVersion"] = json!(group);
            body["kind"] = json!(kind);
            body["metadata"] = json!({"name": NAME, "labels": {"app.kubernetes.io/name": NAME}});
            if namespaced {
                body["metadata"]["namespace"] = json!(NAMESPACE);
            }
            body
        };
        let to = |kind: &str| json!({"apiGroup": RBAC, "kind": kind, "name": NAME});
        let objects = [
            object("ServiceAccount", true, json!({})),
            object("ClusterRole", false, json!({"rules": rules(Scope::Cluster)})),
            object("ClusterRoleBinding", false, json!({"roleRef": to("ClusterRole"), "subjects": account})),
            object("Role", true, json!({"rules": rules(Scope::Namespace)})),
            object("RoleBinding", true, json!({"roleRef": to("Role"), "subjects": account})),
        ];
        let file = |object: Value| {
            let kind = object["kind"].as_str().unwrap().to_lowercase();
            let text = format!("{HEADER}\n{}", serde_saphyr::to_string(&object).unwrap());
            (format!("deployments/base/{kind}.yaml"), text)
        };
        objects.map(file).into()
    }

    /// The roles of the component `self-managed`, one in each namespace, with their bindings.
    fn join_roles() -> (String, String) {
        let mut scopes: Vec<Scope> = Vec::new();
        for permission in JOIN_PERMISSIONS {
            if !scopes.contains(&permission.scope) {
                scopes.push(permission.scope);
            }
        }
        let mut text = HEADER.to_owned() + "\n";
        for (at, scope) in scopes.into_iter().enumerate() {
            let (kind, namespace) = match scope {
                Scope::Cluster => ("ClusterRole", None),
                Scope::Namespace => ("Role", Some(NAMESPACE)),
                Scope::Other(namespace) => ("Role", Some(namespace)),
            };
            let mut metadata = json!({"name": JOIN_NAME, "labels": {"app.kubernetes.io/name": NAME}});
            if let Some(namespace) = namespace {
                metadata["namespace"] = json!(namespace);
            }
            let rules = JOIN_PERMISSIONS.iter().filter(|permission| permission.scope == scope).map(rule);
            let version = format!("{RBAC}/v1");
            let role = json!({
                "apiVersion": version, "kind": kind, "metadata": metadata, "rules": rules.collect::<Vec<_>>(),
            });
            let binding = json!({
                "apiVersion": version, "kind": format!("{kind}Binding"), "metadata": metadata,
                "roleRef": {"apiGroup": RBAC, "kind": kind, "name": JOIN_NAME},
                "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
            });
            for (n, object) in [role, binding].iter().enumerate() {
                let separator = if at + n == 0 { "" } else { "---\n" };
                write!(text, "{separator}{}", serde_saphyr::to_string(object).unwrap()).unwrap();
            }
        }
        ("deployments/components/self-managed/roles.yaml".to_owned(), text)
    }

    const TABLE_HEADER: &str =
        "\n| Where | Group | Resource | Verbs | Why |\n| --- | --- | --- | --- | --- |\n";

    fn table(permissions: &[Permission]) -> String {
        let mut table = String::new();
        for Permission { scope, group, resource, verbs, name, why } in permissions {
            let scope = match scope {
                Scope::Cluster => "cluster".to_owned(),
                Scope::Namespace => "namespace".to_owned(),
                Scope::Other(namespace) => format!("`{namespace}`"),
            };
            let group = if group.is_empty() { "core" } else { group };
            let only = name.map(|name| format!(" (only `{name}`)")).unwrap_or_default();
            let verbs = verbs.join(", ");
            writeln!(table, "| {scope} | {group} | `{resource}`{only} | {verbs} | {why} |").unwrap();
        }
        table
    }

    fn page() -> String {
        let mut page = format!(
            "# Permissions\n\n\
             Generated from the program's own table by `UPDATE=1 cargo test --lib permissions`.\n\n\
             The permissions of `serve --store=kubernetes`: the role and the cluster role in \
             [deployments/base](../../deployments/base) give a service account exactly these. The end-to-end tests run \
             with them, and fail on any forbidden request. The namespace there is `{NAMESPACE}`, the Secret \
             `vpsie-secret`: change both with `--namespace` and `--vpsie-secret-name`.\n\n\
             With `--store=file --kubeconfig` only the permissions on nodes, pods and evictions are used; without Kubernetes, none.\n\
{TABLE_HEADER}"
        );
        page += &table(PERMISSIONS);
        page += "\n## Self-managed clusters\n\n\
                 `serve --backend=vm` needs these in addition. The component \
                 [self-managed](../../deployments/components/self-managed) has them, and a ValidatingAdmissionPolicy that \
                 limits the writes in `kube-system` to Secrets of bootstrap tokens \
                 ([Self-managed clusters](../use/self-managed.md#permissions)).\n";
        page += TABLE_HEADER;
        page += &table(JOIN_PERMISSIONS);
        page
    }

    #[test]
    fn manifests_and_docs_match_the_table() {
        let mut files = manifests();
        files.push(join_roles());
        files.push(("docs/operate/permissions.md".to_owned(), page()));
        for (file, text) in files {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let stored = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(stored == text, "{file} differs: UPDATE=1 cargo test --lib permissions");
        }
    }
}
