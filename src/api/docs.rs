//! Writes docs/use/nodegroups.md from the schemas of the CRDs, and checks that it is up to date.

use std::fmt::Write as _;
use std::path::Path;

use kube::CustomResourceExt;
use serde_json::Value;

use super::{AutoscalerConfig, NodeGroup, VPSieNode};

const HEAD: &str = r#"# NodeGroups

Written by a test from the program's own definitions: `UPDATE=1 cargo test --lib docs` writes it again.

A NodeGroup says which VPSie offers may be rented, and how many machines of them there may be. Each of its offers
is a *pool*, which is what Cluster Autoscaler calls a node group:

```text
<nodegroup>/<datacenter>/<offer as written>/<on-demand|spot>        workers/ams1/s-2vcpu-4gb/on-demand
```

This one is complete:

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

- In a cluster NodeGroups are objects: [Kubernetes](../operate/kubernetes.md). Without one, `--node-groups` takes a file, with several documents if you like, or a folder. Manifests of the original VPSie
  autoscaler are taken as they are; what has no effect (yet) is said at start and by `vpsie-autoscaler validate`.
- All NodeGroups name one cluster and one datacenter: a cluster that VPSie manages is in one datacenter.
- VPSie has one group of workers a size in each cluster. Pools of one size share it, and each machine still
  belongs to one pool.
- Labels and taints are given to the Nodes only with `--kubeconfig`.
- A field that is not known is an error, not ignored: a misspelt limit costs money.

## In a cluster

`vpsie-autoscaler crds | kubectl apply --server-side -f -` installs the CustomResourceDefinitions of NodeGroup,
VPSieNode and AutoscalerConfig (the same are in `deployments/crds`). The API server then refuses what
`vpsie-autoscaler validate` would refuse; no webhook is needed. The rules need Kubernetes 1.25 or newer and are tested
with 1.36.

- `kubectl get vpsie` lists all kinds; short names are `ng`, `vn` and `asc`.
- `kubectl scale nodegroup workers --replicas 3` sets `minNodes`: keep at least 3. How many more there are is for
  Cluster Autoscaler to say, and it adds nodes up to `minNodes` only with `--enforce-node-group-min-size`.

## What new Nodes are expected to have

Cluster Autoscaler scales an empty pool up only for pods that fit the pool's template, a Node that vpsie-autoscaler
describes. For a pool with Nodes it uses a real one. The template comes from three sources:

1. `nodeTemplate`: architecture, operating system, labels that others give the Nodes, devices and huge pages. Declared
   labels always hold. The rest holds until three Nodes of the NodeGroup show less, or another architecture: otherwise
   machines would be rented again and again for pods that do not fit on them.
2. Nodes of the NodeGroup with that size. The last three that registered decide: an amount is their median (the smaller
   one of two), a label is used if all three have it. A Node counts once it is ready and has been the same for 30 seconds; a
   change counts after 2 minutes. Where VPSie's listings do not show the sizes of workers, a Node with the cores of another
   pool's offer does not count: its VM may be bound to a machine of another size. Cores, memory, disk, pods and the
   architecture of a size are taken from Nodes of other NodeGroups where this one had none.
3. The nominal size of the offer, less `--reserved-cpu-millis`, `--reserved-memory-mib` and `--reserved-disk-gib`; `amd64`, `linux`.

Labels that identify a Node (its name, addresses, UUIDs), those of Cluster Autoscaler, and those that this page lists as
set for every Node are not learned.

```yaml
spec:
  nodeTemplate:
    architecture: arm64
    labels: {region: ams1}              # a CSI driver's: without it, pods with volumes do not scale the pool from zero
    resources: {nvidia.com/gpu: "1"}
```

The metrics `vpsie_autoscaler_template_allocatable` and `vpsie_autoscaler_template_nodes` show the
template of each pool and how many of its Nodes it is based on. To forget what the Nodes of a NodeGroup showed, change the value of an
annotation; existing Nodes count again after 30 seconds to 2 minutes:

```sh
kubectl annotate nodegroup workers --overwrite autoscaler.vpsie.com/learn-anew="$(date +%s)"
```

## Fields of `spec`

"#;

const FIELDS: &str = "| Field | Type | Default | |\n| --- | --- | --- | --- |\n";

const RULES: &str = "
## Rules

Beside types and ranges. Those that compare with what was there before hold in a cluster only: files have no before.
";

const RULES_OF: &str = "\n| Field | Message of the refusal |\n| --- | --- |\n";

const MACHINES: &str = "
# VPSieNodes

A VPSieNode is one machine: written before its VM is asked for, and there until its Node is gone. `spec` is what was
wanted and asked for, `status` what was seen. To delete one is to be rid of its VM: its Node is drained first.
vpsie-autoscaler writes them with `--store=kubernetes`; do not make any by hand.

";

const CONFIG: &str = "
# AutoscalerConfig

What holds for all NodeGroups together. It is cluster-scoped, there is one, `default`, and it is read with
`--store=kubernetes`. A change is in force within a second, as `status` says.

";

fn page() -> String {
    let schema = |crd| {
        let crd = serde_json::to_value(crd).unwrap();
        crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
    };
    let (group, machine) = (schema(NodeGroup::crd()), schema(VPSieNode::crd()));
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

fn rules(page: &mut String, schema: &Value, place: &str) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let field = if place.is_empty() { String::new() } else { format!("`{place}`") };
        let message = rule["message"].as_str().unwrap();
        writeln!(page, "| {field} | {message} |").unwrap();
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        rules(page, field, format!("{place}.{name}").trim_start_matches('.'));
    }
    for entries in [&schema["items"], &schema["additionalProperties"]].into_iter().filter(|e| e.is_object()) {
        rules(page, entries, &format!("{place}[]"));
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
fn docs_nodegroups_md_is_as_the_crd_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/use/nodegroups.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/use/nodegroups.md differs: UPDATE=1 cargo test --lib docs");
}
