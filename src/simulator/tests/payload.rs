//! Payloads of VMs, read as kubeadm, k3s and RKE2 read them.

use super::*;

pub(super) const TOKEN: &str = "abcdef.0123456789abcdef";
const HASH: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// A kubeadm payload with the fields of `nodeRegistration`.
pub(super) fn kubeadm(hash: &str, registration: &str) -> String {
    format!(
        "#!/bin/bash\nset -eu\numask 077\ncat > /run/join.yaml <<'EOF'\napiVersion: kubeadm.k8s.io/v1beta4\n\
         kind: JoinConfiguration\ndiscovery:\n  bootstrapToken:\n    apiServerEndpoint: api.test:6443\n    \
         token: {TOKEN}\n    caCertHashes: [\"sha256:{hash}\"]\nnodeRegistration:\n{registration}EOF\n\
         kubeadm join --config /run/join.yaml\nrm -f /run/join.yaml\n"
    )
}

/// A payload of k3s or RKE2 with further fields of its `config.yaml`.
pub(super) fn agent(distribution: &str, token: &str, fields: &str) -> String {
    format!(
        "#!/bin/sh\nmkdir -p /etc/rancher/{distribution}\ncat > /etc/rancher/{distribution}/config.yaml <<'EOF'\n\
         server: https://api.test:6443/\ntoken: {token}\n{fields}EOF\nsystemctl enable --now {distribution}-agent\n"
    )
}

fn hash() -> [u8; 32] {
    data_encoding::HEXLOWER.decode(HASH.as_bytes()).unwrap().try_into().unwrap()
}

fn taint(key: &str, value: Option<&str>, effect: &str) -> NodeTaint {
    NodeTaint { key: key.to_owned(), value: value.map(ToOwned::to_owned), effect: effect.to_owned() }
}

fn labels(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_join_configuration_is_a_plan() {
    let registration = "  name: pool-a1\n  taints:\n  - {key: dedicated, value: gpu, effect: NoSchedule}\n  \
        kubeletExtraArgs:\n  - {name: node-labels, value: \"a=b,pool.example.com/x=y\"}\n  \
        - {name: provider-id, value: \"vpsie://pool-a1\"}\n";
    let plan = JoinPlan::parse(&kubeadm(HASH, registration)).unwrap();
    let expected = JoinPlan {
        kind: JoinKind::Kubeadm,
        endpoint: "https://api.test:6443".to_owned(),
        token: BootstrapToken { id: "abcdef".to_owned(), secret: "0123456789abcdef".to_owned().into() },
        ca_hashes: vec![CaHash::PublicKey(hash())],
        node_name: Some("pool-a1".to_owned()),
        labels: labels(&[("a", "b"), ("pool.example.com/x", "y")]),
        taints: vec![taint("dedicated", Some("gpu"), "NoSchedule")],
        provider_id: Some("vpsie://pool-a1".to_owned()),
        external_cloud_provider: false,
    };
    assert_eq!(plan, expected);
    assert_eq!(plan.provider_id("pool-a1").as_deref(), Some("vpsie://pool-a1"));
}

#[test]
fn kubelet_arguments_may_be_a_map() {
    let registration = "  kubeletExtraArgs:\n    cloud-provider: external\n    node-labels: a=b\n    \
        register-with-taints: x=y:NoExecute,z:NoSchedule\n";
    let payload = kubeadm(HASH, registration).replace("v1beta4", "v1beta3");
    let plan = JoinPlan::parse(&payload).unwrap();
    assert_eq!((plan.node_name.as_deref(), plan.labels.len()), (None, 1));
    assert!(plan.external_cloud_provider);
    assert_eq!(plan.taints, [taint("x", Some("y"), "NoExecute"), taint("z", None, "NoSchedule")]);
    assert_eq!(plan.provider_id("n"), None);
}

#[test]
fn a_join_configuration_may_be_one_of_several_documents() {
    let payload = kubeadm(HASH, "  name: a\n")
        .replace("EOF\nkubeadm", "---\nkind: KubeletConfiguration\nserverTLSBootstrap: true\nEOF\nkubeadm");
    assert_eq!(JoinPlan::parse(&payload).unwrap().node_name.as_deref(), Some("a"));
}

#[test]
fn a_configuration_of_an_agent_is_a_plan() {
    let fields = "node-name: a1\nnode-label:\n- a=b\n- c=d\nnode-taint: [\"x=y:NoSchedule\"]\n";
    for (distribution, kind) in [("k3s", JoinKind::K3s), ("rke2", JoinKind::Rke2)] {
        let plan = JoinPlan::parse(&agent(distribution, &format!("K10{HASH}::{TOKEN}"), fields)).unwrap();
        assert_eq!((plan.kind, plan.endpoint.as_str()), (kind, "https://api.test:6443"));
        assert_eq!((plan.token.id.as_str(), plan.token.secret.reveal()), ("abcdef", "0123456789abcdef"));
        assert_eq!(plan.ca_hashes, [CaHash::Bundle(hash())]);
        assert_eq!(plan.labels, labels(&[("a", "b"), ("c", "d")]));
        assert_eq!(plan.taints, [taint("x", Some("y"), "NoSchedule")]);
        assert_eq!(plan.provider_id("a1"), Some(format!("{distribution}://a1")));
    }
}

#[test]
fn a_file_in_the_folder_replaces_fields_of_the_configuration() {
    let extra = "cat > /etc/rancher/k3s/config.yaml.d/90-node.yaml <<'EOF'\nnode-name: late\n\
        kubelet-arg: provider-id=vpsie://late\nEOF\nsystemctl";
    let payload =
        agent("k3s", &format!("K10{HASH}::{TOKEN}"), "node-name: early\n").replace("systemctl", extra);
    let plan = JoinPlan::parse(&payload).unwrap();
    assert_eq!(plan.node_name.as_deref(), Some("late"));
    assert_eq!(plan.provider_id("late").as_deref(), Some("vpsie://late"));
}

#[test]
fn a_payload_that_cannot_join_names_the_problem() {
    let good = kubeadm(HASH, "  name: a\n");
    let k3s = |token: &str| agent("k3s", token, "");
    for (payload, problem) in [
        (good.replace("#!/bin/bash", "#cloud-config"), "the payload does not begin with #!"),
        ("#!/bin/sh\ntrue\n".to_owned(), "the script writes no configuration of a join"),
        (good.replace("kubeadm join", "echo"), "no command of the script runs kubeadm join"),
        (
            good.replace("name: a", "name: $(hostname)").replace("'EOF'", "EOF"),
            "/run/join.yaml contains variables",
        ),
        (good.replace("EOF\nkubeadm", "kubeadm"), "the here-document EOF does not end"),
        (good.replace("discovery:", "discovery: ["), "/run/join.yaml is invalid"),
        (good.replace(TOKEN, "ABC.def"), "token: must be a bootstrap token"),
        (good.replace("sha256:", "sha1:"), "caCertHashes: must begin with sha256:"),
        (good.replace(&format!("[\"sha256:{HASH}\"]"), "[]"), "caCertHashes is missing"),
        (good.replace("api.test:6443", "https://api.test"), "apiServerEndpoint: must be host:port"),
        (
            good.replace("nodeRegistration", "controlPlane: {}\nnodeRegistration"),
            "controlPlane: must not be set",
        ),
        (
            kubeadm(HASH, "  kubeletExtraArgs: {node-labels: node-role.kubernetes.io/worker=}\n"),
            "node labels: a kubelet must not set node-role.kubernetes.io/worker",
        ),
        (
            kubeadm(HASH, "  kubeletExtraArgs: {cloud-provider: vpsie}\n"),
            "cloud-provider: a kubelet does not start with \"vpsie\"",
        ),
        (
            kubeadm(HASH, "  kubeletExtraArgs: {register-with-taints: a=b}\n"),
            "register-with-taints: \"a=b\" must be",
        ),
        (k3s(TOKEN), "token: must begin with K10"),
        (
            k3s(&format!("K10{HASH}::server:1234")),
            "token: must be a bootstrap token, not the token of the server",
        ),
        (
            k3s(&format!("K10{HASH}::{TOKEN}")).replace("systemctl", "echo").replace("k3s-agent", ""),
            "runs k3s",
        ),
        (format!("{good}{}", k3s(TOKEN).replace("#!/bin/sh\n", "")), "joins of several kinds"),
    ] {
        let error = JoinPlan::parse(&payload).unwrap_err().to_string();
        assert!(error.contains(problem), "{problem:?} is not in {error:?}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
    }
}

#[test]
fn secrets_stay_out_of_debug() {
    let plan = JoinPlan::parse(&kubeadm(HASH, "  name: a\n")).unwrap();
    assert!(!format!("{plan:?}").contains("0123456789abcdef"), "{plan:?}");
}
