//! `kubeadm join` with a JoinConfiguration. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::plan::{
    CaHash, JoinKind, JoinPlan, NodeTaint, apply_kubelet_argument, sha256, token, value_error, yaml,
};
use super::plan_error::PlanError;
use super::script::{File, Script};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinConfiguration {
    discovery: Option<Discovery>,
    #[serde(default)]
    node_registration: NodeRegistration,
    control_plane: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discovery {
    bootstrap_token: Option<BootstrapTokenDiscovery>,
    tls_bootstrap_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BootstrapTokenDiscovery {
    token: Option<String>,
    api_server_endpoint: Option<String>,
    #[serde(default)]
    ca_cert_hashes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeRegistration {
    name: Option<String>,
    taints: Option<Vec<Taint>>,
    kubelet_extra_args: Option<Arguments>,
}

#[derive(Deserialize)]
struct Taint {
    key: String,
    #[serde(default)]
    value: Option<String>,
    effect: String,
}

/// v1beta4 has a list, v1beta3 a map.
#[derive(Deserialize)]
#[serde(untagged)]
enum Arguments {
    List(Vec<Argument>),
    Map(BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct Argument {
    name: String,
    value: String,
}

const KIND: &str = "kind: JoinConfiguration";

/// Returns true iff the script writes a JoinConfiguration.
pub(super) fn is_configured(script: &Script) -> bool {
    script.files.iter().any(|file| file.has(KIND))
}

pub(super) fn parse(script: &Script) -> Result<JoinPlan, PlanError> {
    let file = script.files.iter().find(|file| file.has(KIND)).ok_or(PlanError::NoConfiguration)?;
    if !script.runs(&["kubeadm", "join", "--config", &file.path]) {
        return Err(PlanError::NotRun { command: "kubeadm join --config with the file" });
    }
    let configuration = read(file)?;
    if configuration.control_plane.is_some() {
        return Err(value_error("controlPlane", "must not be set: a VM joins as a worker"));
    }
    let missing = |field| PlanError::Missing { field };
    let discovery = configuration.discovery.ok_or(missing("discovery"))?;
    let bootstrap = discovery.bootstrap_token.ok_or(missing("discovery.bootstrapToken"))?;
    let endpoint = bootstrap.api_server_endpoint.ok_or(missing("apiServerEndpoint"))?;
    let text = discovery.tls_bootstrap_token.or(bootstrap.token).ok_or(missing("token"))?;
    if bootstrap.ca_cert_hashes.is_empty() {
        return Err(missing("caCertHashes"));
    }
    let hash = |text: &String| {
        let hex = text.strip_prefix("sha256:");
        let hex = hex.ok_or_else(|| value_error("caCertHashes", "must begin with sha256:"))?;
        sha256("caCertHashes", hex).map(CaHash::PublicKey)
    };
    let registration = configuration.node_registration;
    let taints = registration.taints.into_iter().flatten();
    let mut plan = JoinPlan {
        kind: JoinKind::Kubeadm,
        endpoint: url(&endpoint)?,
        token: token("token", &text)?,
        ca_hashes: bootstrap.ca_cert_hashes.iter().map(hash).collect::<Result<_, _>>()?,
        node_name: registration.name,
        labels: BTreeMap::new(),
        taints: taints.map(|Taint { key, value, effect }| NodeTaint { key, value, effect }).collect(),
        provider_id: None,
        external_cloud_provider: false,
    };
    let arguments = match registration.kubelet_extra_args {
        None => Vec::new(),
        Some(Arguments::List(list)) => list.into_iter().map(|arg| (arg.name, arg.value)).collect(),
        Some(Arguments::Map(map)) => map.into_iter().collect(),
    };
    for (name, value) in arguments {
        apply_kubelet_argument(&mut plan, &name, &value)?;
    }
    Ok(plan)
}

/// The JoinConfiguration among the documents of a file.
fn read(file: &File) -> Result<JoinConfiguration, PlanError> {
    let content = file.content()?;
    let mut documents = content.split("\n---");
    let document = documents.find(|document| document.contains(KIND)).ok_or(PlanError::NoConfiguration)?;
    yaml(&file.path, document.trim_start_matches("---"))
}

/// The URL of `host:port`.
fn url(endpoint: &str) -> Result<String, PlanError> {
    let url = format!("https://{endpoint}");
    let uri: Option<http::Uri> = url.parse().ok();
    let is_valid = !endpoint.contains('/') && uri.is_some_and(|uri| uri.port().is_some());
    is_valid.then_some(url).ok_or_else(|| value_error("apiServerEndpoint", "must be host:port"))
}
