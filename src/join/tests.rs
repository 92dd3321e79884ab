//! Rendered payloads, and what is refused.

mod scripts;

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};

use super::*;
use crate::fleet::{Reserved, Taint, TaintEffect};

const TOKEN: &str = "abcdef.0123456789abcdef";

fn ca() -> ClusterCa {
    ClusterCa {
        pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        key_hashes: vec!["sha256:aa".to_owned(), "sha256:bb".to_owned()],
        pem_hash: "c0ffee".to_owned(),
    }
}

fn variables(kind: JoinKind) -> Variables {
    let labels = [("autoscaler.vpsie.com/pool", "it"), ("topology.kubernetes.io/zone", "ams1")];
    Variables {
        kind,
        node_name: "workers-1a2b3c4d-1".to_owned(),
        pool: "workers/ams1/s-2vcpu-4gb/on-demand".to_owned(),
        datacenter: "ams1".to_owned(),
        offering: "s-2vcpu-4gb".to_owned(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        taints: vec![Taint { key: "a/b".into(), value: "c".into(), effect: TaintEffect::NoSchedule }],
        reserved: Reserved { cpu_millis: 100, memory_mib: 512, disk_gib: 10 },
        endpoint: "10.0.0.1:6443".to_owned(),
        kubernetes_version: None,
        cloud_provider_external: false,
        ca: ca(),
        token: join_token(kind, &TOKEN.into(), &ca()).unwrap(),
        vars: BTreeMap::new(),
    }
}

fn builtin(variables: &Variables) -> String {
    let payload = render(builtin_template(variables.kind).unwrap(), variables).unwrap();
    payload.expose_secret().to_owned()
}

fn custom(template: &str, variables: &Variables) -> Result<String, RenderError> {
    render(template, variables).map(|payload| payload.expose_secret().to_owned())
}

#[test]
fn builtin_payloads() {
    insta::assert_snapshot!("kubeadm", builtin(&variables(JoinKind::Kubeadm)));
    insta::assert_snapshot!("k3s", builtin(&variables(JoinKind::K3s)));
    let mut rke2 = variables(JoinKind::Rke2);
    rke2.endpoint = "[fd00::1]:9345".to_owned();
    rke2.taints.clear();
    rke2.reserved = Reserved::default();
    rke2.vars.insert("install_command".to_owned(), "dnf -y install rke2-agent".into());
    insta::assert_snapshot!("rke2", builtin(&rke2));
}

#[test]
fn builtin_payloads_are_valid_scripts() {
    for kind in [JoinKind::Kubeadm, JoinKind::K3s, JoinKind::Rke2] {
        let mut variables = variables(kind);
        variables.cloud_provider_external = true;
        variables.vars.insert("install_command".to_owned(), "echo 'a b'".into());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("payload.sh");
        std::fs::write(&file, builtin(&variables)).unwrap();
        let checked = std::process::Command::new("sh").arg("-n").arg(&file).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// The configuration file in a payload.
fn config_in(payload: &str) -> serde_json::Value {
    let (_, rest) = payload.split_once("cat >\"$config\" <<'VPSIE_JOIN_END'\n").unwrap();
    let (yaml, _) = rest.split_once("VPSIE_JOIN_END\n").unwrap();
    serde_saphyr::from_str(yaml).unwrap()
}

#[test]
fn kubeadm_config_has_name_labels_taints_and_all_ca_hashes() {
    let mut variables = variables(JoinKind::Kubeadm);
    variables.cloud_provider_external = true;
    let config = config_in(&builtin(&variables));
    let token = &config["discovery"]["bootstrapToken"];
    assert_eq!(token["token"], TOKEN);
    assert_eq!(token["caCertHashes"], serde_json::json!(["sha256:aa", "sha256:bb"]));
    assert!(token.get("unsafeSkipCAVerification").is_none());
    let registration = &config["nodeRegistration"];
    assert_eq!(registration["name"], "workers-1a2b3c4d-1");
    assert_eq!(
        registration["taints"],
        serde_json::json!([{"effect": "NoSchedule", "key": "a/b", "value": "c"}])
    );
    assert_eq!(
        registration["kubeletExtraArgs"],
        serde_json::json!([
            {"name": "node-labels", "value": "autoscaler.vpsie.com/pool=it,topology.kubernetes.io/zone=ams1"},
            {"name": "kube-reserved", "value": "cpu=100m,memory=412Mi"},
            {"name": "cloud-provider", "value": "external"},
        ])
    );
}

#[test]
fn k3s_token_pins_the_ca() {
    let config = config_in(&builtin(&variables(JoinKind::K3s)));
    assert_eq!(config["token"], format!("K10c0ffee::{TOKEN}"));
    assert_eq!(config["server"], "https://10.0.0.1:6443");
    assert_eq!(config["node-taint"], serde_json::json!(["a/b=c:NoSchedule"]));
}

#[test]
fn no_value_ends_a_word_or_a_file() {
    let mut variables = variables(JoinKind::K3s);
    variables.node_name = "a'; reboot '".to_owned();
    variables.labels.insert("x".to_owned(), "\nVPSIE_JOIN_END\nreboot".to_owned());
    let payload = builtin(&variables);
    assert!(payload.contains("node='a'\\''; reboot '\\'''\n"), "{payload}");
    assert!(!payload.lines().any(|line| line == "reboot"), "{payload}");
}

#[test]
fn template_errors_name_line_and_cause_but_no_value() {
    let mut variables = variables(JoinKind::Custom);
    variables.vars.insert("known".to_owned(), "hunter2".into());
    for (template, want) in [
        (
            "#!/bin/sh\n{{ vars.known }}\n{{ vars.missing }}",
            "line 3 of the payload template uses an undefined value (vars.missing): define it, or correct its name",
        ),
        (
            "#!/bin/sh\n{{ node }}",
            "line 2 of the payload template uses an undefined value (node): define it, or correct its name",
        ),
        (
            "#!/bin/sh\n{{ vars.missing|yaml }}",
            "line 2 of the payload template uses an undefined value (vars.missing): define it, or correct its name",
        ),
        (
            "#!/bin/sh\n{% if vars.missing %}x{% endif %}",
            "line 2 of the payload template uses an undefined value (vars.missing): define it, or correct its name",
        ),
        (
            "#!/bin/sh\n{{ kubernetes_version }}",
            "line 2 of the payload template uses an undefined value (kubernetes_version): define it, or correct its name",
        ),
        ("#!/bin/sh\n{{ vars.known + 1 }}", "line 2 of the payload template: invalid operation"),
        (
            "#!/bin/sh\n{{ token|file }}",
            "line 2 of the payload template: unknown filter: filter file is unknown",
        ),
        (
            "#!/bin/sh\n{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "line 2 of the payload template: engine ran out of fuel",
        ),
        (
            "#cloud-config\n",
            "the payload must be a script that begins with #!, because VPSie runs it as a program",
        ),
        (
            "#!/bin/sh\nK10aa::server:{{ vars.known }}",
            "the payload contains a server token (`::server:`), which makes its holder an administrator of the cluster",
        ),
    ] {
        let error = custom(template, &variables).unwrap_err();
        assert_eq!(error.to_string(), want);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    for template in
        ["#!/bin/sh\n{% include 'a' %}", "#!/bin/sh\n{% extends 'a' %}", "#!/bin/sh\n{{ open('/a') }}"]
    {
        assert!(
            matches!(custom(template, &variables), Err(RenderError::Template { line: 2, .. })),
            "{template}"
        );
    }
}

#[test]
fn payload_has_at_most_16_kib() {
    let variables = variables(JoinKind::Custom);
    let template = |bytes: usize| format!("#!{}\n", "x".repeat(bytes - 3));
    assert_eq!(custom(&template(MAX_PAYLOAD), &variables).unwrap().len(), MAX_PAYLOAD);
    assert_eq!(custom(&template(MAX_PAYLOAD + 1), &variables), Err(RenderError::TooLong(MAX_PAYLOAD + 1)));
}

#[test]
fn a_user_template_has_all_variables() {
    let mut variables = variables(JoinKind::Custom);
    variables.kubernetes_version = Some("v1.33.2".to_owned());
    variables.vars.insert("region".to_owned(), "a \"b\"".into());
    let template = "#!/bin/sh\n\
        {{ node_name }} {{ pool }} {{ datacenter }} {{ offering }} {{ endpoint }} {{ kubernetes_version }} {{ join_kind }}\n\
        {{ labels|yaml }} {{ labels['topology.kubernetes.io/zone'] }}\n\
        {% for taint in taints %}{{ taint.key }}={{ taint.value }}:{{ taint.effect }}{% endfor %}\n\
        {{ kubelet_labels }} {{ kubelet_taints }} {{ reserved.cpu_millis }} {{ reserved.memory_mib|yaml }}\n\
        {{ cloud_provider_external }} {{ token }} {{ ca_hashes[0] }} {{ ca_certificate|sh }}\n\
        {{ vars.region|yaml }} {{ vars.other|default('none') }}";
    insta::assert_snapshot!("custom", custom(template, &variables).unwrap());
}

#[test]
fn kubelet_may_set_only_some_labels_of_kubernetes() {
    for (label, allowed) in [
        ("autoscaler.vpsie.com/nodegroup", true),
        ("team", true),
        ("topology.kubernetes.io/region", true),
        ("node.kubernetes.io/lifecycle", true),
        ("a.kubelet.kubernetes.io/x", true),
        ("notkubernetes.io/x", true),
        ("node-role.kubernetes.io/worker", false),
        ("node-restriction.kubernetes.io/x", false),
        ("topology.kubernetes.io/rack", false),
        ("kubernetes.io/role", false),
        ("a.k8s.io/x", false),
    ] {
        assert_eq!(refused_label([&label.to_owned()]), (!allowed).then_some(label));
    }
    let mut variables = variables(JoinKind::Kubeadm);
    variables.labels.insert("node-role.kubernetes.io/worker".to_owned(), String::new());
    let error = render("#!/bin/sh", &variables).unwrap_err();
    assert_eq!(error, RenderError::RefusedLabel("node-role.kubernetes.io/worker".to_owned()));
}

#[test]
fn credentials_fit_the_program_and_pin_the_ca() {
    let token = |kind, text: &str| {
        let token = join_token(kind, &SecretString::from(text), &ca());
        token.map(|token| token.expose_secret().to_owned())
    };
    assert_eq!(token(JoinKind::Kubeadm, TOKEN).unwrap(), TOKEN);
    assert_eq!(token(JoinKind::Rke2, TOKEN).unwrap(), format!("K10c0ffee::{TOKEN}"));
    assert_eq!(token(JoinKind::K3s, "pa55\n").unwrap(), "K10c0ffee::node:pa55");
    assert_eq!(token(JoinKind::K3s, "K10c0ffee::node:pa55").unwrap(), "K10c0ffee::node:pa55");
    assert_eq!(token(JoinKind::Custom, "any").unwrap(), "any");
    for (kind, text, want) in [
        (JoinKind::K3s, "K10c0ffee::server:pa55", CredentialError::ServerToken),
        (JoinKind::Custom, "K10c0ffee::server:pa55", CredentialError::ServerToken),
        (JoinKind::K3s, "K10decade::node:pa55", CredentialError::OtherCa),
        (JoinKind::Kubeadm, "pa55", CredentialError::NotBootstrapToken),
        (JoinKind::Kubeadm, "ABCDEF.0123456789abcdef", CredentialError::NotBootstrapToken),
        (JoinKind::Custom, " ", CredentialError::Malformed),
        (JoinKind::Custom, "a b", CredentialError::Malformed),
    ] {
        let error = token(kind, text).unwrap_err();
        assert_eq!(error, want);
        assert!(!format!("{error} {error:?}").contains("pa55"));
    }
}

mod cas {
    use data_encoding::{BASE64, HEXLOWER};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData as _};

    use super::*;

    fn sha256(bytes: &[u8]) -> String {
        HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
    }

    fn authority(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn root(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        CertifiedIssuer::self_signed(authority(name), KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn one_certificate_is_hashed_as_its_file() {
        let root = root("a");
        let ca = ClusterCa::parse(&root.pem()).unwrap();
        assert_eq!(ca.key_hashes, [format!("sha256:{}", sha256(&root.key().subject_public_key_info()))]);
        assert_eq!(ca.pem_hash, sha256(root.pem().as_bytes()));
    }

    #[test]
    fn cluster_info_during_a_rotation_gives_both_hashes() {
        let (old, new) = (root("old"), root("new"));
        let pem = old.pem() + &new.pem();
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: ''\n  cluster:\n    server: https://a:6443\n    \
             certificate-authority-data: {}\n",
            BASE64.encode(pem.as_bytes())
        );
        let ca = ca_of_cluster_info(&kubeconfig).unwrap();
        let hashes = [&old, &new].map(|ca| format!("sha256:{}", sha256(&ca.key().subject_public_key_info())));
        assert_eq!(ca.key_hashes, hashes);
        assert_eq!(ca.pem_hash, sha256(pem.as_bytes()), "the first is not issued by the second");
    }

    #[test]
    fn k3s_hashes_the_root_of_a_custom_ca() {
        let root = root("root");
        let key = KeyPair::generate().unwrap();
        let middle = CertifiedIssuer::signed_by(authority("middle"), key, &root).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertifiedIssuer::signed_by(authority("server"), key, &middle).unwrap();
        let pem = server.pem() + &middle.pem() + &root.pem();
        assert_eq!(ClusterCa::parse(&pem).unwrap().pem_hash, sha256(root.der()));
    }

    #[test]
    fn an_unknown_ca_is_an_error() {
        assert_eq!(ClusterCa::parse(""), Err(CaError::NoCertificate));
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(ClusterCa::parse(text), Err(CaError::Unreadable));
        for kubeconfig in ["", "clusters: []", "clusters: [{name: a, cluster: {server: b}}]"] {
            assert_eq!(ca_of_cluster_info(kubeconfig), Err(CaError::NoCaInClusterInfo));
        }
    }
}

#[test]
fn payload_hash_changes_with_each_part_but_not_with_names() {
    let config = JoinConfig {
        kind: JoinKind::Kubeadm,
        endpoint: "10.0.0.1:6443".to_owned(),
        template: PayloadTemplate::BuiltIn,
        variables: BTreeMap::new(),
        credential: Credential::BootstrapToken,
        cloud_controller: CloudController::None,
        kubernetes_version: None,
    };
    let other = JoinConfig { endpoint: "10.0.0.2:6443".to_owned(), ..config.clone() };
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let vars = BTreeMap::from([("a".to_owned(), SecretString::from("hunter2"))]);
    let (none, no_vars, ca) = (BTreeMap::new(), BTreeMap::new(), ca());
    let secret = SecretString::from("pa55");
    let (vms, other_vms) = (serde_json::json!({"image": "a"}), serde_json::json!({"image": "b"}));
    let input = || PayloadInput {
        config: &config,
        vms: &vms,
        template: "#!",
        labels: &none,
        taints: &[],
        variables: &no_vars,
        shared_credential: None,
        ca: &ca,
    };
    let first = input().hash();
    assert_eq!(first, input().hash());
    for changed in [
        PayloadInput { config: &other, ..input() },
        PayloadInput { vms: &other_vms, ..input() },
        PayloadInput { template: "#!/bin/sh", ..input() },
        PayloadInput { labels: &labels, ..input() },
        PayloadInput { variables: &vars, ..input() },
        PayloadInput { shared_credential: Some(&secret), ..input() },
    ] {
        assert_ne!(changed.hash(), first);
    }
    assert_eq!(first.to_string().len(), 12);
}
