//! What vpsie-autoscaler may do in the cluster: the least that works. The manifests and docs are made of this.

/// Where a right holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the whole cluster.
    Cluster,
    /// In the namespace of NodeGroups and records.
    Namespace,
}

/// A right, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Where.
    pub scope: Scope,
    /// API group; empty for core.
    pub group: &'static str,
    /// Resource, with subresource.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Only the object of this name.
    pub name: Option<&'static str>,
    /// Why.
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

/// All rights that `serve --store=kubernetes` needs.
pub const PERMISSIONS: &[Permission] = &[
    cluster(
        "",
        "nodes",
        &["list", "watch", "patch", "delete"],
        "give Nodes their providerID, labels and taints, cordon them, delete those whose VM is gone",
    ),
    cluster("", "pods", &["list"], "find what runs on a Node that is drained"),
    cluster("", "pods/eviction", &["create"], "drain the Nodes of machines that are being deleted"),
    cluster(OURS, "autoscalerconfigs", &["list", "watch"], "read the limits of the whole cluster"),
    cluster(OURS, "autoscalerconfigs/status", &["patch"], "say that they are in force"),
    cluster("events.k8s.io", "events", &["create", "patch"], "tell what happened, on Nodes too"),
    namespace(OURS, "nodegroups", &["get", "list", "watch", "patch"], "read them, and set the finalizer"),
    namespace(OURS, "nodegroups/status", &["patch"], "say how they are"),
    namespace(
        OURS,
        "vpsienodes",
        &["get", "list", "watch", "create", "patch", "delete"],
        "keep the record of each machine",
    ),
    namespace(OURS, "vpsienodes/status", &["patch"], "keep what was seen of each machine"),
    namespace(
        "",
        "configmaps",
        &["get", "list", "create", "patch"],
        "keep the catalog and what is known of other nodes",
    ),
    namespace(
        "coordination.k8s.io",
        "leases",
        &["get", "watch", "create", "update"],
        "agree on the replica that leads",
    ),
    namespace("", "pods", &["patch"], "label the pod that leads, which a Service looks for (--pod-name)"),
    Permission {
        scope: Scope::Namespace,
        group: "",
        resource: "secrets",
        verbs: &["get", "list", "watch"],
        name: Some("vpsie-secret"),
        why: "read VPSie's credentials (--api-secret)",
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
        let written =
            "# Written by a test from src/kubernetes/permissions.rs: UPDATE=1 cargo test --lib permissions";
        let file = |object: Value| {
            let kind = object["kind"].as_str().unwrap().to_lowercase();
            let text = format!("{written}\n{}", serde_saphyr::to_string(&object).unwrap());
            (format!("deployments/base/{kind}.yaml"), text)
        };
        objects.map(file).into()
    }

    fn page() -> String {
        let mut page = format!(
            "# Permissions\n\n\
             Written by a test from the program's own table: `UPDATE=1 cargo test --lib permissions` writes it \
             again.\n\n\
             What `serve --store=kubernetes` may do, and why: the role and the cluster role in \
             [deployments/base](../../deployments/base) give a service account exactly this. The end-to-end tests run \
             with them, and fail on anything that is forbidden. The namespace there is `{NAMESPACE}`, the Secret \
             `vpsie-secret`: change both with `--namespace` and `--api-secret`.\n\n\
             With `--store=file --kubeconfig` only the rights on nodes, pods and evictions are used; without Kubernetes, none.\n\
             \n| Where | Group | Resource | Verbs | Why |\n| --- | --- | --- | --- | --- |\n"
        );
        for Permission { scope, group, resource, verbs, name, why } in PERMISSIONS {
            let place = if *scope == Scope::Cluster { "cluster" } else { "namespace" };
            let group = if group.is_empty() { "core" } else { group };
            let only = name.map(|name| format!(" (only `{name}`)")).unwrap_or_default();
            let verbs = verbs.join(", ");
            writeln!(page, "| {place} | {group} | `{resource}`{only} | {verbs} | {why} |").unwrap();
        }
        page
    }

    #[test]
    fn manifests_and_docs_are_as_the_table_is() {
        let mut files = manifests();
        files.push(("docs/operate/permissions.md".to_owned(), page()));
        for (file, text) in files {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(written == text, "{file} differs: UPDATE=1 cargo test --lib permissions");
        }
    }
}
