//! Generates docs/use/nodegroups.md from the schemas of the CRDs.

use std::fmt::Write as _;
use std::path::Path;

use kube::CustomResourceExt;
use serde_json::Value;

use super::{AutoscalerConfig, NodeGroup, VPSieNode};

const HEAD: &str = r#"# NodeGroups

Generated from the program's own definitions by `UPDATE=1 cargo test --lib docs`.

A NodeGroup lists the VPSie offers that may be rented, and limits the number of machines. Each of its offers is a *pool*,
which is a node group of Cluster Autoscaler:

```text
<nodegroup>/<datacenter>/<offer as written>/<on-demand|spot>        workers/ams1/s-2vcpu-4gb/on-demand
```

A complete NodeGroup:

```yaml
apiVersion: autoscaler.vpsie.com/v1alpha1
kind: NodeGroup
metadata:
  name: workers
spec:
  minNodes: 1
  maxNodes: 10
  resourceIdentifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f
  datacenterID: ams1
  offeringIDs: [s-2vcpu-4gb, s-4vcpu-8gb]
```

- With `--store=kubernetes`, NodeGroups are objects ([Kubernetes](../operate/kubernetes.md)). Otherwise `--node-groups`
  names a YAML file, which may hold several documents, or a folder of files.
- Manifests of the original VPSie autoscaler are accepted unchanged. The log at start and `vpsie-autoscaler validate` name
  the fields without effect.
- All NodeGroups of a managed cluster must have the same cluster and datacenter: a managed cluster is in one datacenter.
- A NodeGroup has either `resourceIdentifier` or `selfManaged` ([self-managed clusters](self-managed.md)).
- Machines in several datacenters: [Datacenters](datacenters.md). Spot machines: [Spot](spot.md).
- VPSie has one group of workers per size in each cluster. Pools of one size share it; each machine belongs to one pool.
- The program sets labels and taints of Nodes only with `--kubeconfig`.
- Unknown fields are errors, because a misspelt limit would cost money.

## In a cluster

`vpsie-autoscaler crds | kubectl apply --server-side -f -` installs the CustomResourceDefinitions of NodeGroup,
VPSieNode and AutoscalerConfig, which are also in `deployments/crds`. The API server then refuses the same objects as
`vpsie-autoscaler validate`, without a webhook. The rules need Kubernetes 1.25 or newer and are tested with 1.36.

- `kubectl get vpsie` lists all kinds; short names are `ng`, `vn` and `asc`.
- `kubectl scale nodegroup workers --replicas 3` sets `minNodes` to 3. Cluster Autoscaler decides about more nodes. It
  adds nodes up to `minNodes` only with `--enforce-node-group-min-size`.

## Templates of new Nodes

Cluster Autoscaler scales up an empty pool only for pods that fit the template of the pool: a Node that vpsie-autoscaler
describes. For a pool with Nodes it uses a real one. The template has three sources:

1. `nodeTemplate`: architecture, operating system, labels of other programs, devices and huge pages. Declared labels
   always apply. The other values apply until three Nodes of the NodeGroup have less, or another architecture. Otherwise
   Cluster Autoscaler would add machines again and again for pods that do not fit on them.
2. Nodes of the NodeGroup with that size, namely the last three that registered. An amount is their median (the smaller
   one of two); a label is used if all three have it. A Node counts once it is Ready and unchanged for 30 seconds; a change
   counts after 2 minutes. If VPSie's listings do not show the sizes of workers, a Node with the cores of another pool's
   offer does not count, because its VM may be bound to a machine of another size. If this NodeGroup has had no Nodes of
   the size, cores, memory, disk, pods and architecture come from Nodes of other NodeGroups.
3. The nominal size of the offer, less `--reserved-cpu-millis`, `--reserved-memory-mib` and `--reserved-disk-gib`; `amd64`,
   `linux`.

The program does not learn labels that identify a Node (name, addresses, UUIDs), labels of Cluster Autoscaler, and labels
that this page lists as set on every Node.

```yaml
spec:
  nodeTemplate:
    architecture: arm64
    labels: {region: ams1}              # a CSI driver's: without it, pods with volumes do not scale the pool from zero
    resources: {nvidia.com/gpu: "1"}
```

The metrics `vpsie_autoscaler_template_allocatable` and `vpsie_autoscaler_template_nodes` show the template of each pool
and the number of its Nodes that the template is based on. To discard what was learned from the Nodes of a NodeGroup,
change the value of an annotation. Existing Nodes count again after 30 seconds to 2 minutes:

```sh
kubectl annotate nodegroup workers --overwrite autoscaler.vpsie.com/relearn="$(date +%s)"
```

## Fields of `spec`

"#;

const FIELDS: &str = "| Field | Type | Default | |\n| --- | --- | --- | --- |\n";

const RULES: &str = "
## Rules

Rules in addition to types and ranges. Rules about changes apply only in a cluster.
";

const RULES_OF: &str = "\n| Field | Message of the refusal |\n| --- | --- |\n";

const MACHINES: &str = "
# VPSieNodes

A VPSieNode is one machine. It is written before its VM is requested, and exists until its Node is gone. `spec` holds the
request, `status` the observed state. Deleting a VPSieNode drains its Node and deletes its VM. vpsie-autoscaler writes
VPSieNodes with `--store=kubernetes`; do not create any yourself.

";

const CONFIG: &str = "
# AutoscalerConfig

Limits for all NodeGroups together. The only object is `default`; it is cluster-scoped. The program reads it with
`--store=kubernetes`. A change is in force within a second, which `status` shows.

";

fn page() -> String {
    let schema = |crd| {
        let crd = serde_json::to_value(crd).unwrap();
        crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
    };
    let group = schema(NodeGroup::crd());
    let machine = schema(VPSieNode::crd());
    let config = schema(AutoscalerConfig::crd());
    let mut page = HEAD.to_owned() + FIELDS;
    fields(&mut page, &group["properties"]["spec"], "");
    page += RULES;
    page += RULES_OF;
    rules(&mut page, &group, "");
    page += MACHINES;
    page += FIELDS;
    fields(&mut page, &machine["properties"]["spec"], "spec.");
    fields(&mut page, &machine["properties"]["status"], "status.");
    page += RULES_OF;
    rules(&mut page, &machine, "");
    page += CONFIG;
    page += FIELDS;
    fields(&mut page, &config["properties"]["spec"], "spec.");
    page += RULES_OF;
    rules(&mut page, &config, "");
    page
}

fn rules(page: &mut String, schema: &Value, path: &str) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let field = if path.is_empty() { String::new() } else { format!("`{path}`") };
        let message = rule["message"].as_str().unwrap();
        writeln!(page, "| {field} | {message} |").unwrap();
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        rules(page, field, format!("{path}.{name}").trim_start_matches('.'));
    }
    for entries in [&schema["items"], &schema["additionalProperties"]].into_iter().filter(|e| e.is_object()) {
        rules(page, entries, &format!("{path}[]"));
    }
}

fn fields(page: &mut String, schema: &Value, prefix: &str) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (kind, inner, inner_prefix) = match field["type"].as_str().unwrap_or("any") {
            "array" => ("list", &field["items"], format!("{prefix}{name}[].")),
            "object" => ("mapping", field, format!("{prefix}{name}.")),
            kind => (kind, field, String::new()),
        };
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str().into()) => "required".to_owned(),
            Value::Null => String::new(),
            default => format!("`{default}`"),
        };
        let text = field["description"].as_str().unwrap_or_default().replace('\n', " ");
        let bounds = bounds(field);
        writeln!(page, "| `{prefix}{name}` | {kind}{bounds} | {default} | {text} |").unwrap();
        fields(page, inner, &inner_prefix);
    }
}

fn bounds(field: &Value) -> String {
    let allowed: Vec<String> = field["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|v| !v.is_null())
        .map(|v| format!("`{v}`"))
        .collect();
    match (field["minimum"].as_f64(), field["maximum"].as_f64()) {
        _ if !allowed.is_empty() => format!(": {}", allowed.join(", ")),
        (Some(low), Some(high)) => format!(", {low} to {high}"),
        (Some(low), None) => format!(", at least {low}"),
        _ => String::new(),
    }
}

#[test]
fn docs_nodegroups_md_matches_the_crds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/use/nodegroups.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/use/nodegroups.md differs: UPDATE=1 cargo test --lib docs");
}
