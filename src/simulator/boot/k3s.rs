//! Agents of k3s and RKE2, with a `config.yaml`. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::plan::{
    CaHash, JoinKind, JoinPlan, add_labels, add_taints, apply_kubelet_argument, sha256, token, value_error,
    yaml,
};
use super::plan_error::PlanError;
use super::script::Script;

/// The place of the configuration, and the program that reads it.
#[derive(Clone, Copy)]
pub(super) struct Distribution {
    folder: &'static str,
    command: &'static str,
    kind: JoinKind,
}

pub(super) const K3S: Distribution =
    Distribution { folder: "/etc/rancher/k3s/config.yaml", command: "k3s", kind: JoinKind::K3s };
pub(super) const RKE2: Distribution =
    Distribution { folder: "/etc/rancher/rke2/config.yaml", command: "rke2", kind: JoinKind::Rke2 };

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Config {
    server: Option<String>,
    token: Option<String>,
    node_name: Option<String>,
    node_label: Option<Texts>,
    node_taint: Option<Texts>,
    kubelet_arg: Option<Texts>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn list(texts: Option<Self>) -> Vec<String> {
        match texts {
            None => Vec::new(),
            Some(Self::One(text)) => vec![text],
            Some(Self::Many(texts)) => texts,
        }
    }
}

/// Returns true iff the script writes a configuration of the distribution: `config.yaml`, or a file in `config.yaml.d`.
pub(super) fn is_configured(script: &Script, distribution: Distribution) -> bool {
    script.files.iter().any(|file| file.path.starts_with(distribution.folder))
}

pub(super) fn parse(script: &Script, distribution: Distribution) -> Result<JoinPlan, PlanError> {
    let is_run = script.commands.iter().any(|command| {
        let without_paths = command.replace(distribution.folder, "").replace("/etc/rancher/", "");
        without_paths.contains(distribution.command) && !without_paths.trim_start().starts_with("mkdir")
    });
    if !is_run {
        return Err(PlanError::NotRun { command: distribution.command });
    }
    let mut config = Config::default();
    for file in script.files.iter().filter(|file| file.path.starts_with(distribution.folder)) {
        config = merge(config, yaml(&file.path, file.content()?)?);
    }
    let missing = |field| PlanError::Missing { field };
    let endpoint = config.server.ok_or(missing("server"))?;
    if !endpoint.starts_with("https://") || endpoint.parse::<http::Uri>().is_err() {
        return Err(value_error("server", "must be an https URL"));
    }
    let (hash, credential) = split_token(&config.token.ok_or(missing("token"))?)?;
    let mut plan = JoinPlan {
        kind: distribution.kind,
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        token: token("token", &credential)?,
        ca_hashes: vec![CaHash::Bundle(hash)],
        node_name: config.node_name,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        provider_id: None,
        external_cloud_provider: false,
    };
    for label in Texts::list(config.node_label) {
        add_labels("node-label", &label, &mut plan.labels)?;
    }
    for taint in Texts::list(config.node_taint) {
        add_taints("node-taint", &taint, &mut plan.taints)?;
    }
    for argument in Texts::list(config.kubelet_arg) {
        let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
        apply_kubelet_argument(&mut plan, name.trim_start_matches('-'), value)?;
    }
    Ok(plan)
}

/// Fields of a later file replace those of an earlier one.
fn merge(earlier: Config, later: Config) -> Config {
    Config {
        server: later.server.or(earlier.server),
        token: later.token.or(earlier.token),
        node_name: later.node_name.or(earlier.node_name),
        node_label: later.node_label.or(earlier.node_label),
        node_taint: later.node_taint.or(earlier.node_taint),
        kubelet_arg: later.kubelet_arg.or(earlier.kubelet_arg),
    }
}

/// The hash and the credential of `K10<hash>::<credential>`. A server's or agent's token is no bootstrap token.
fn split_token(text: &str) -> Result<([u8; 32], String), PlanError> {
    let rest = text.strip_prefix("K10");
    let (hash, credential) = rest.and_then(|rest| rest.split_once("::")).ok_or_else(|| {
        value_error(
            "token",
            "must begin with K10, the hash of the CA, and two colons: without it, any server is trusted",
        )
    })?;
    if credential.contains(':') {
        return Err(value_error(
            "token",
            "must be a bootstrap token, not the token of the server or of agents",
        ));
    }
    Ok((sha256("token", hash)?, credential.to_owned()))
}
