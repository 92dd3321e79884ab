//! One attempt of a VM to join a cluster.

use data_encoding::BASE64;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::config::Kubeconfig;
use kube::{Api, Client};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::connect::{Connect, Trust};
use super::plan::{JoinKind, JoinPlan};
use super::trust::check_ca;
use crate::simulator::plain::{Hidden, KubeletIdentity};

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JoinFailure {
    /// Another attempt has the same result.
    Refused(String),
    /// Another attempt may succeed.
    Retry(String),
}

/// Time between checks of a certificate signing request.
const POLL_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);
/// Number of checks before a new request, as a kubelet has it: 15 minutes.
const POLLS: u32 = 15 * 60;
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// Gets a client certificate for the Node with the plan's endpoint, token and hash of the CA.
pub(super) async fn bootstrap(
    connect: &dyn Connect,
    plan: &JoinPlan,
    node: &str,
) -> Result<KubeletIdentity, JoinFailure> {
    let anyone = connect.connect(&plan.endpoint, Trust::Anyone).map_err(JoinFailure::Retry)?;
    let ca = fetch_ca(&anyone, plan.kind).await?;
    check_ca(&ca, &plan.ca_hashes).map_err(|error| JoinFailure::Refused(error.to_string()))?;
    let trust = Trust::Token { ca: &ca, token: &plan.token };
    let client = connect.connect(&plan.endpoint, trust).map_err(JoinFailure::Retry)?;
    let (request, key) = signing_request(node).map_err(|error| JoinFailure::Retry(error.to_string()))?;
    let requests: Api<CertificateSigningRequest> = Api::all(client);
    let created = requests.create(&PostParams::default(), &request).await.map_err(failure)?;
    let certificate = await_certificate(&requests, &created.metadata.name.unwrap_or_default()).await?;
    let endpoint = plan.endpoint.clone();
    Ok(KubeletIdentity { node: node.to_owned(), endpoint, ca, certificate, key, registered: None })
}

/// The CA that the server shows: `/cacerts` of k3s and RKE2, else the `cluster-info` of kubeadm.
async fn fetch_ca(client: &Client, kind: JoinKind) -> Result<String, JoinFailure> {
    if matches!(kind, JoinKind::K3s | JoinKind::Rke2) {
        let request = http::Request::get("/cacerts").body(Vec::new());
        let request = request.map_err(|error| JoinFailure::Retry(error.to_string()))?;
        match client.request_text(request).await {
            Ok(ca) => return Ok(ca),
            // A plain API server.
            Err(kube::Error::Api(status)) if [401, 403, 404].contains(&status.code) => {}
            Err(error) => return Err(failure(error)),
        }
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    let info = maps.get("cluster-info").await.map_err(|error| anonymous_failure(&error))?;
    let text = info.data.and_then(|mut data| data.remove("kubeconfig"));
    let kubeconfig = text.and_then(|text| Kubeconfig::from_yaml(&text).ok());
    let cluster = kubeconfig.and_then(|config| config.clusters.into_iter().find_map(|named| named.cluster));
    let ca = cluster.and_then(|cluster| cluster.certificate_authority_data);
    let ca =
        ca.and_then(|data| BASE64.decode(data.as_bytes()).ok()).and_then(|ca| String::from_utf8(ca).ok());
    ca.ok_or_else(|| JoinFailure::Retry("kube-public/cluster-info has no CA".to_owned()))
}

fn signing_request(node: &str) -> Result<(CertificateSigningRequest, Hidden), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(&key)?.pem()?;
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), "client auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    Ok((request, Hidden::from(key.serialize_pem())))
}

async fn await_certificate(
    requests: &Api<CertificateSigningRequest>,
    name: &str,
) -> Result<String, JoinFailure> {
    for _ in 0..POLLS {
        let status = requests.get(name).await.map_err(failure)?.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        if let Some(end) = conditions.iter().find(|c| ["Denied", "Failed"].contains(&c.type_.as_str())) {
            return Err(JoinFailure::Refused(format!(
                "the request for a client certificate is {}",
                end.type_
            )));
        }
        if let Some(ByteString(certificate)) = status.certificate {
            return String::from_utf8(certificate).map_err(|error| JoinFailure::Retry(error.to_string()));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(JoinFailure::Retry("the request for a client certificate is not approved".to_owned()))
}

/// Registers the Node under its own identity. A Node of that name that is not ready is taken over.
pub(super) async fn register(nodes: &Api<Node>, node: &Node) -> Result<(), JoinFailure> {
    match nodes.create(&PostParams::default(), node).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let existing = nodes.get(name).await.map_err(failure)?;
            if is_ready(&existing) {
                return Err(JoinFailure::Refused(format!("a ready Node has the name {name}")));
            }
            Ok(())
        }
        Err(error) => Err(failure(error)),
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Adds the data of the plan to the Node, which has those of every kubelet.
pub(super) fn apply_plan(node: &mut Node, plan: &JoinPlan, name: &str) {
    node.metadata.name = Some(name.to_owned());
    let labels = node.metadata.labels.get_or_insert_default();
    labels.insert("kubernetes.io/hostname".to_owned(), name.to_owned());
    labels.extend(plan.labels.clone());
    let spec = node.spec.get_or_insert_default();
    let taint = |key: &str, value: Option<String>, effect: &str| Taint {
        key: key.to_owned(),
        value,
        effect: effect.to_owned(),
        time_added: None,
    };
    let own = plan.taints.iter().map(|own| taint(&own.key, own.value.clone(), &own.effect));
    let uninitialized = plan.external_cloud_provider.then(|| {
        taint("node.cloudprovider.kubernetes.io/uninitialized", Some("true".to_owned()), "NoSchedule")
    });
    let taints: Vec<Taint> = own.chain(uninitialized).collect();
    spec.taints = (!taints.is_empty()).then_some(taints);
    spec.provider_id = plan.provider_id(name);
    let addresses = node.status.as_mut().and_then(|status| status.addresses.as_mut());
    for address in addresses.into_iter().flatten().filter(|address| address.type_ == "Hostname") {
        name.clone_into(&mut address.address);
    }
}

/// A failure of a request with a credential.
fn failure(error: kube::Error) -> JoinFailure {
    match error {
        kube::Error::Api(status) if status.code == 401 => JoinFailure::Refused(
            "the API server refuses the credential (401): the token is unknown or expired".to_owned(),
        ),
        other => JoinFailure::Retry(other.to_string()),
    }
}

/// A failure of a request without a credential.
fn anonymous_failure(error: &kube::Error) -> JoinFailure {
    JoinFailure::Retry(format!("kube-public/cluster-info cannot be read: {error}"))
}
