use std::time::Duration;

use super::*;
use crate::catalog::SizeId;
use crate::fleet::{AutoscalingOptions, SpotDefaults, Taint, TaintEffect};

/// A NodeGroup without mistakes.
pub(crate) const GOOD: &str = "
apiVersion: autoscaler.vpsie.com/v1alpha1
kind: NodeGroup
metadata:
  name: workers
  namespace: kube-system
  labels: {autoscaler.vpsie.com/managed: 'true'}
spec:
  minNodes: 2
  maxNodes: 10
  datacenterID: ams1
  resourceIdentifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f
  offeringIDs: [s-2vcpu-4gb, s-4vcpu-8gb]
";

/// All fields of the original, as its manifests have them.
const ORIGINAL: &str = "
apiVersion: autoscaler.vpsie.com/v1alpha1
kind: NodeGroup
metadata: {name: original, namespace: kube-system, creationTimestamp: null}
spec:
  minNodes: 2
  maxNodes: 8
  datacenterID: ams1
  resourceIdentifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f
  project: '42'
  offeringIDs: [s-2vcpu-4gb]
  osImageID: ubuntu-22.04
  kubernetesVersion: v1.33.2
  preferredInstanceType: S-2vCPU-4GB
  allowMixedInstances: false
  labels: {workload: general, example.com/tier: ''}
  taints: [{key: dedicated, value: db, effect: NoExecute}, {key: bare, effect: NoSchedule}]
  scaleUpPolicy: {stabilizationWindowSeconds: 60, cpuThreshold: 80, memoryThreshold: 80, enabled: true}
  scaleDownPolicy: {enabled: false, cooldownSeconds: 600}
  sshKeyIDs: [key-1]
  tags: [prod]
  notes: kept by the platform team
  kubeSizeID: 7
  spotConfig: {enabled: true, maxSpotPercentage: 80, interruptionGracePeriod: 120s}
  multiRegion: {enabled: true, datacenterIDs: [ams1, fra1], distributionStrategy: primary-backup}
  costOptimization: {enabled: true, strategy: conservative, minMonthlySavings: 10.5}
status:
  desiredNodes: 3
  vpsieGroupID: 12
";

fn parse(text: &str) -> Result<Manifests, Problems> {
    parse_manifests(
        "here",
        &[Source { name: "a.yaml".to_owned(), text: text.to_owned() }],
        SpotDefaults::default(),
    )
}

/// Problems of the good manifest after an edit, one a line.
fn problems(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    parse(&GOOD.replace(from, to)).unwrap_err().to_string()
}

fn notes(manifests: &Manifests) -> String {
    manifests.notes.iter().fold(String::new(), |text, note| text + &note.to_string() + "\n")
}

#[test]
fn a_node_group_becomes_pools() {
    let manifests = parse(GOOD).unwrap();
    assert_eq!(manifests.managed.as_ref().unwrap().cluster.as_str(), "5a1c94be-6f3d-11ef-9b52-bc24115e1e5f");
    assert_eq!(manifests.managed.as_ref().unwrap().datacenter.as_str(), "ams1");
    assert_eq!(notes(&manifests), "");
    let [group] = &manifests.groups[..] else { panic!("one NodeGroup") };
    assert_eq!((group.name.as_str(), group.min, group.max, group.size), ("workers", 2, 10, None));
    let pools: Vec<String> = group.pools.iter().map(ToString::to_string).collect();
    assert_eq!(pools, ["workers/ams1/s-2vcpu-4gb/on-demand", "workers/ams1/s-4vcpu-8gb/on-demand"]);
    assert!(group.options.is_empty());
}

#[test]
fn takes_a_manifest_of_the_original_and_names_what_is_unused() {
    let manifests = parse(ORIGINAL).unwrap();
    let group = &manifests.groups[0];
    assert_eq!(group.size, Some(SizeId(7)));
    assert_eq!(group.preferred, Some("s-2vcpu-4gb".into()));
    assert_eq!(group.labels["workload"], "general");
    let taint =
        |key: &str, value: &str, effect| Taint { key: key.to_owned(), value: value.to_owned(), effect };
    assert_eq!(
        group.taints,
        [taint("dedicated", "db", TaintEffect::NoExecute), taint("bare", "", TaintEffect::NoSchedule)]
    );
    insta::assert_snapshot!(notes(&manifests));
}

#[test]
fn every_error_of_every_document_is_reported_at_once() {
    let text = format!(
        "{GOOD}---
apiVersion: autoscaler.vpsie.com/v1alpha1
kind: NodeGroup
metadata: {{name: Workers_2}}
spec:
  minNodes: -1
  maxNode: 3
  datacenterID: ams/1
  resourceIdentifier: ../other
  offeringIDs: []
  kubeSizeID: 0
  taints: [{{key: a b, effect: Never}}]
  labels: {{replicas: 3}}
  scaleDownPolicy: {{cpuThreshold: 150, enabled: maybe}}
---
apiVersion: autoscaler.vpsie.com/v1alpha1
kind: NodeGroup
metadata: {{name: workers}}
spec:
  minNodes: 5
  maxNodes: 3
  datacenterID: fra1
  resourceIdentifier: another-cluster
  offeringIDs: [s-2vcpu-4gb, a/b, S-2VCPU-4GB, '']
  labels: {{autoscaler.vpsie.com/nodegroup: mine, 'bad key': ok, fine: -bad-}}
  taints:
    - {{key: dedicated, value: 'no spaces', effect: NoSchedule}}
    - {{key: dedicated, effect: NoSchedule}}
  autoscalingOptions:
    scaleDownUnneededTime: soon
    maxNodeProvisionTime: 0s
---
apiVersion: autoscaler.vpsie.com/v1
kind: NodeGroup
metadata: {{name: newer}}
---
apiVersion: autoscaler.vpsie.com/v1alpha1
kind: NodeGroup
metadata: {{name: empty}}
"
    );
    insta::assert_snapshot!(parse(&text).unwrap_err());
}

#[test]
fn text_that_is_no_yaml_is_named_with_its_line() {
    let problem = parse("kind: NodeGroup\nspec: [1, 2\n").unwrap_err().to_string();
    assert!(problem.starts_with("a.yaml:"), "{problem}");
    assert!(problem.contains("is not YAML"), "{problem}");
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    let problem = problems("  maxNodes: 10\n", "  maxNodes: 10\n  maxNodes: 100\n");
    assert!(problem.contains("maxNodes"), "{problem}");
}

#[test]
fn a_misspelt_field_is_refused_with_a_suggestion() {
    assert_eq!(
        problems("maxNodes", "maxnodes"),
        "a.yaml:2: NodeGroup workers: spec.maxnodes: is not a known field; did you mean maxNodes?\n\
         a.yaml:2: NodeGroup workers: spec.maxNodes: is missing"
    );
}

#[test]
fn limits_are_not_compared_with_one_that_cannot_be_read() {
    assert_eq!(
        problems("maxNodes: 10", "maxNodes: ten"),
        "a.yaml:2: NodeGroup workers: spec.maxNodes: is \"ten\", must be a whole number"
    );
}

#[test]
fn options_for_cluster_autoscaler_are_read() {
    let text = format!(
        "{GOOD}  autoscalingOptions: {{scaleDownUtilizationThreshold: 0.25, scaleDownUnneededTime: 1h30m, \
         ignoreDaemonSetsUtilization: true}}\n"
    );
    assert_eq!(
        parse(&text).unwrap().groups[0].options,
        AutoscalingOptions {
            scale_down_utilization_threshold: Some(0.25),
            scale_down_unneeded_time: Some(Duration::from_mins(90)),
            ignore_daemon_sets_utilization: Some(true),
            ..AutoscalingOptions::default()
        }
    );
    let problem = parse(&text.replace("0.25", "25")).unwrap_err().to_string();
    assert!(problem.ends_with("scaleDownUtilizationThreshold: is 25, must be at most 1"), "{problem}");
}

#[test]
fn what_nodes_have_is_declared() {
    let text = format!(
        "{GOOD}  nodeTemplate: {{architecture: arm64, labels: {{region: ams1}}, resources: {{nvidia.com/gpu: '2', \
         hugepages-2Mi: 512Mi}}}}\n"
    );
    let text = text.replace("metadata:", "metadata:\n  annotations: {autoscaler.vpsie.com/relearn: again}");
    let node = &parse(&text).unwrap().groups[0].node;
    assert_eq!((node.architecture.as_deref(), &node.operating_system), (Some("arm64"), &None));
    assert_eq!(node.labels["region"], "ams1");
    assert_eq!((node.resources["nvidia.com/gpu"], node.resources["hugepages-2Mi"]), (2, 512 << 20));
    assert_eq!(node.relearn.as_deref(), Some("again"));
    let problem = parse(&format!("{GOOD}  nodeTemplate: {{labels: {{kubernetes.io/arch: arm64}}}}\n"));
    let problem = problem.unwrap_err().to_string();
    assert!(problem.ends_with("write spec.nodeTemplate.architecture instead"), "{problem}");
}

#[test]
fn without_mixed_instances_there_is_one_pool() {
    let pools = |more: &str| {
        let manifests = parse(&format!("{GOOD}  allowMixedInstances: false\n{more}")).unwrap();
        manifests.groups[0].pools.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(pools(""), ["workers/ams1/s-2vcpu-4gb/on-demand"]);
    assert_eq!(pools("  preferredInstanceType: s-4vcpu-8gb\n"), ["workers/ams1/s-4vcpu-8gb/on-demand"]);
}

#[test]
fn a_size_for_several_offers_has_no_effect() {
    let manifests = parse(&format!("{GOOD}  kubeSizeID: 3\n")).unwrap();
    assert_eq!(manifests.groups[0].size, None);
    let notes = notes(&manifests);
    assert!(notes.contains("spec.kubeSizeID: 3 has no effect with 2 offeringIDs"), "{notes}");
}

#[test]
fn notes_other_kinds_and_unmanaged_node_groups() {
    let unmanaged = GOOD.replace("'true'", "'false'").replace("name: workers", "name: unmanaged");
    let text = format!(
        "apiVersion: v1\nkind: Secret\ndata: {{a: b}}\n---\n{unmanaged}\n---\n# nothing\n---\n{GOOD}"
    );
    let manifests = parse(&text).unwrap();
    assert_eq!(manifests.groups.len(), 1);
    let notes = notes(&manifests);
    assert!(notes.contains("is a Secret, not a NodeGroup: ignored"), "{notes}");
    assert!(notes.contains("has the label autoscaler.vpsie.com/managed=false: ignored"), "{notes}");
}

#[test]
fn a_list_as_kubectl_prints_it_is_read() {
    let item = GOOD.trim().lines().fold(String::new(), |text, line| text + "  " + line + "\n");
    let text = format!("apiVersion: v1\nkind: List\nitems:\n-{}", &item[1..]);
    assert_eq!(parse(&text).unwrap().groups, parse(GOOD).unwrap().groups);
}

#[test]
fn no_node_group_at_all_is_an_error() {
    assert_eq!(
        parse("# nothing\n").unwrap_err().to_string(),
        "here: has no NodeGroup: name a file or folder with at least one"
    );
}

#[test]
fn manifest_in_the_docs_is_valid() {
    let page = include_str!("../../docs/use/nodegroups.md");
    let text = page.split("```yaml").nth(1).unwrap().split("```").next().unwrap();
    let source = Source { name: "docs".to_owned(), text: text.to_owned() };
    let manifests = parse_manifests("docs", &[source], SpotDefaults::default()).unwrap();
    assert_eq!((manifests.groups.len(), manifests.notes.len()), (1, 0));
}
