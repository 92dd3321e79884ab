//! The permissions of vpsie-autoscaler in the cluster. Manifests and docs are generated from them.

/// The scope of a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the whole cluster.
    Cluster,
    /// In the namespace of NodeGroups and records.
    Namespace,
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    const NAME: &str = "vpsie-autoscaler";
    const NAMESPACE: &str = "vpsie-system";
    const RBAC: &str = "rbac.authorization.k8s.io";

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
        let header = "# Generated from src/kubernetes/permissions.rs: UPDATE=1 cargo test --lib permissions";
        let file = |object: Value| {
            let kind = object["kind"].as_str().unwrap().to_lowercase();
            let text = format!("{header}\n{}", serde_saphyr::to_string(&object).unwrap());
            (format!("deployments/base/{kind}.yaml"), text)
        };
        objects.map(file).into()
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
             \n| Where | Group | Resource | Verbs | Why |\n| --- | --- | --- | --- | --- |\n"
        );
        for Permission { scope, group, resource, verbs, name, why } in PERMISSIONS {
            let scope = if *scope == Scope::Cluster { "cluster" } else { "namespace" };
            let group = if group.is_empty() { "core" } else { group };
            let only = name.map(|name| format!(" (only `{name}`)")).unwrap_or_default();
            let verbs = verbs.join(", ");
            writeln!(page, "| {scope} | {group} | `{resource}`{only} | {verbs} | {why} |").unwrap();
        }
        page
    }

    #[test]
    fn manifests_and_docs_match_the_table() {
        let mut files = manifests();
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
