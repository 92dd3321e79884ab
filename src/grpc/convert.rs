//! Conversions between the fleet's types and protobuf.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::proto::kubernetes::{
    Node, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, ObjectMeta, Quantity, Taint,
};
use super::proto::{
    ExternalGrpcNode, Instance, InstanceErrorInfo, InstanceStatus, instance_status::InstanceState,
};
use crate::catalog::Resources;
use crate::fleet::{Amounts, Machine, NodeRef, Phase, Template};

/// Annotation of fake nodes, which Cluster Autoscaler creates for instances that failed or never registered
/// (docs/reference/cluster-autoscaler.md#made-up-nodes).
const FAKE_NODE_REASON: &str = "k8s.io/cluster-autoscaler/fake-node-reason";

/// The node of a request.
pub(super) fn node_ref(node: ExternalGrpcNode) -> NodeRef {
    NodeRef {
        fake: node.annotations.contains_key(FAKE_NODE_REASON),
        provider_id: node.provider_id,
        name: node.name,
    }
}

/// A machine as Cluster Autoscaler sees it. A failed one is `creating` with an error: in any other state the
/// error is not seen (docs/reference/cluster-autoscaler.md#creation-errors).
pub(super) fn instance(machine: &Machine) -> Instance {
    let (state, error_info) = match &machine.phase {
        Phase::Pending | Phase::Creating { .. } => (InstanceState::InstanceCreating, None),
        Phase::Running { .. } => (InstanceState::InstanceRunning, None),
        Phase::Failed { failure, .. } => (
            InstanceState::InstanceCreating,
            Some(InstanceErrorInfo {
                error_code: failure.reason.code().to_owned(),
                error_message: failure.message.clone(),
                instance_error_class: failure.reason.class(),
            }),
        ),
        Phase::Deleting { .. } => (InstanceState::InstanceDeleting, None),
    };
    Instance {
        id: machine.instance_id(),
        status: Some(InstanceStatus { instance_state: state.into(), error_info }),
    }
}

/// The bytes of a bare `core.v1.Node`, as both template fields carry them
/// (docs/reference/cluster-autoscaler.md#nodegrouptemplatenodeinfo).
pub(super) fn template_bytes(pool: &str, template: &Template) -> Bytes {
    let label = |key: &str| template.labels.get(key).cloned();
    let system = NodeSystemInfo {
        operating_system: label("kubernetes.io/os"),
        architecture: label("kubernetes.io/arch"),
    };
    let ready = NodeCondition {
        r#type: Some("Ready".to_owned()),
        status: Some("True".to_owned()),
        reason: Some("KubeletReady".to_owned()),
    };
    let node = Node {
        metadata: Some(ObjectMeta {
            name: Some(pool.replace('/', ".")),
            labels: template.labels.clone(),
            annotations: template.annotations.clone(),
        }),
        spec: Some(NodeSpec {
            taints: template
                .taints
                .iter()
                .map(|taint| Taint {
                    key: Some(taint.key.clone()),
                    value: Some(taint.value.clone()),
                    effect: Some(taint.effect.to_string()),
                })
                .collect(),
        }),
        status: Some(NodeStatus {
            capacity: quantities(template.capacity, &template.extended_capacity),
            allocatable: quantities(template.allocatable, &template.extended_allocatable),
            conditions: vec![ready],
            node_info: Some(system),
        }),
    };
    node.encode_to_vec().into()
}

/// The resources that a kubelet reports, including zero huge pages: Cluster Autoscaler's comparison of
/// similar node groups needs equal keys.
fn quantities(resources: Resources, extended: &Amounts) -> BTreeMap<String, Quantity> {
    let usual = [
        ("cpu", cpu(resources.cpu_millis)),
        ("memory", binary(resources.memory_mib, &["Mi", "Gi", "Ti"])),
        ("ephemeral-storage", binary(resources.disk_gib, &["Gi", "Ti"])),
        ("pods", resources.pods.to_string()),
        ("hugepages-1Gi", "0".to_owned()),
        ("hugepages-2Mi", "0".to_owned()),
    ];
    let usual = usual.map(|(name, value)| (name.to_owned(), value));
    let extended = extended.iter().map(|(name, amount)| (name.clone(), amount_of(name, *amount)));
    let all = usual.into_iter().chain(extended);
    all.map(|(name, value)| (name, Quantity { string: Some(value) })).collect()
}

/// Bytes of huge pages, or a number of devices.
fn amount_of(name: &str, amount: u64) -> String {
    if name.starts_with("hugepages-") && amount.is_multiple_of(1024) {
        return binary(amount / 1024, &["Ki", "Mi", "Gi", "Ti"]);
    }
    amount.to_string()
}

/// Millicores, as Kubernetes writes them.
fn cpu(millis: u64) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// A size in the notation of Kubernetes, with the largest suffix that leaves an integer.
fn binary(mut value: u64, suffixes: &[&str]) -> String {
    let mut suffixes = suffixes.iter();
    let mut suffix = suffixes.next().copied().unwrap_or_default();
    if value == 0 {
        return "0".to_owned();
    }
    while value.is_multiple_of(1024)
        && let Some(larger) = suffixes.next()
    {
        value /= 1024;
        suffix = larger;
    }
    format!("{value}{suffix}")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_pb::api::core::v1::Node;
    use k8s_pb::apimachinery::pkg::api::resource::Quantity;

    use super::*;
    use crate::catalog::{SizeId, quantity};
    use crate::fleet::{Failure, FailureReason, TaintEffect, Vm};

    fn machine(phase: Phase) -> Machine {
        Machine {
            id: "workers-0a1b2c3d".into(),
            pool: "workers/ams1/s-2vcpu-4gb/on-demand".parse().unwrap(),
            size: SizeId(1),
            created_at: Timestamp::UNIX_EPOCH,
            phase,
            requests: Vec::new(),
            notice: None,
            replaces: None,
        }
    }

    fn vm(id: Option<&str>) -> Vm {
        Vm {
            hostname: crate::fleet::Hostname::new("worker-1"),
            id: id.map(Into::into),
            addresses: Vec::new(),
            provider_id: None,
            attached: None,
            request: None,
        }
    }

    #[test]
    fn a_failed_machine_is_creating_with_an_error_under_its_old_id() {
        let failure = Failure { reason: FailureReason::Stockout, message: "no capacity".to_owned() };
        let got = instance(&machine(Phase::Failed { failure, at: Timestamp::UNIX_EPOCH }));
        assert_eq!(got.id, "vpsie://machine/workers-0a1b2c3d");
        let status = got.status.unwrap();
        assert_eq!(status.instance_state(), InstanceState::InstanceCreating);
        let error = status.error_info.unwrap();
        assert_eq!(
            (error.error_code.as_str(), error.error_message.as_str(), error.instance_error_class),
            ("STOCKOUT", "no capacity", 1)
        );
    }

    #[test]
    fn no_phase_is_unspecified() {
        let since = Timestamp::UNIX_EPOCH;
        let id = Some("0b54b0a0-0000-4000-8000-000000000001");
        for (phase, state, placeholder) in [
            (Phase::Pending, InstanceState::InstanceCreating, true),
            (Phase::Creating { vm: None, since }, InstanceState::InstanceCreating, true),
            (Phase::Creating { vm: Some(vm(None)), since }, InstanceState::InstanceCreating, true),
            (Phase::Creating { vm: Some(vm(id)), since }, InstanceState::InstanceCreating, false),
            (Phase::Running { vm: vm(id), since }, InstanceState::InstanceRunning, false),
            (
                Phase::Deleting {
                    vm: Some(vm(id)),
                    since,
                    reason: crate::fleet::DeletionReason::default(),
                    drain: crate::fleet::DrainState::Done,
                    accepted_at: None,
                },
                InstanceState::InstanceDeleting,
                false,
            ),
        ] {
            let got = instance(&machine(phase));
            assert_eq!(got.id.starts_with("vpsie://machine/"), placeholder, "{}", got.id);
            let status = got.status.unwrap();
            assert_eq!(status.instance_state(), state);
            assert_eq!(status.error_info, None);
        }
    }

    #[test]
    fn a_template_is_a_node_with_all_that_a_kubelet_reports() {
        let resources = Resources { cpu_millis: 2000, memory_mib: 4096, disk_gib: 80, pods: 110 };
        let template = Template {
            labels: BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]),
            annotations: BTreeMap::new(),
            taints: vec![crate::fleet::Taint {
                key: "dedicated".to_owned(),
                value: "batch".to_owned(),
                effect: TaintEffect::NoSchedule,
            }],
            capacity: resources,
            allocatable: Resources { cpu_millis: 1930, memory_mib: 3500, disk_gib: 72, pods: 110 },
            extended_capacity: Amounts::from([
                ("nvidia.com/gpu".to_owned(), 2),
                ("hugepages-2Mi".to_owned(), 1 << 30),
            ]),
            extended_allocatable: Amounts::from([("nvidia.com/gpu".to_owned(), 1)]),
        };
        let node = Node::decode(template_bytes("workers/ams1/s/spot", &template)).unwrap();
        let status = node.status.unwrap();
        let read = |map: &BTreeMap<String, Quantity>| {
            map.iter()
                .map(|(k, v)| format!("{k}={}", v.string.as_deref().unwrap()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            read(&status.capacity),
            "cpu=2 ephemeral-storage=80Gi hugepages-1Gi=0 hugepages-2Mi=1Gi memory=4Gi nvidia.com/gpu=2 pods=110"
        );
        assert_eq!(
            read(&status.allocatable),
            "cpu=1930m ephemeral-storage=72Gi hugepages-1Gi=0 hugepages-2Mi=0 memory=3500Mi nvidia.com/gpu=1 pods=110"
        );
        assert_eq!(status.conditions[0].status.as_deref(), Some("True"));
        assert_eq!(node.spec.unwrap().taints[0].effect.as_deref(), Some("NoSchedule"));
        assert_eq!(node.metadata.unwrap().labels["kubernetes.io/os"], "linux");
    }

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, want) in [
            ("2", Some(2.0)),
            ("500m", Some(0.5)),
            ("1.5", Some(1.5)),
            ("4Gi", Some(4_294_967_296.0)),
            ("128974848", Some(128_974_848.0)),
            ("129e6", Some(129e6)),
            ("129M", Some(129e6)),
            ("1E", Some(1e18)),
            ("", None),
            ("-1", None),
            ("4GB", None),
            ("inf", None),
        ] {
            assert_eq!(quantity::parse(text), want, "{text:?}");
        }
    }
}
