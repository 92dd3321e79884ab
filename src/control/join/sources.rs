//! Reads the objects that a payload needs, each by its name.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::join::{
    ClusterCa, Credential, JoinConfig, JoinKind, ObjectKey, PayloadTemplate, VariableSource,
    builtin_template, ca_of_cluster_info,
};
use crate::vpsie::PayloadError;

/// Time for which the CA is cached. During a rotation, VMs need the new one soon.
const CA_TTL: Duration = Duration::from_mins(1);

/// Reads templates, variables, credentials and the CA.
pub(super) struct Sources {
    client: Client,
    namespace: String,
    /// By source: true for `cluster-info` of kubeadm, false for `kube-root-ca.crt`.
    ca: Mutex<BTreeMap<bool, (Instant, ClusterCa)>>,
}

/// The inputs of a payload that do not depend on its Node.
pub(super) struct PayloadSources {
    pub(super) template: String,
    pub(super) variables: BTreeMap<String, SecretString>,
    pub(super) shared_credential: Option<SecretString>,
    pub(super) ca: ClusterCa,
}

impl Sources {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), ca: Mutex::default() }
    }

    pub(super) async fn read(&self, config: &JoinConfig) -> Result<PayloadSources, PayloadError> {
        let template = match &config.template {
            PayloadTemplate::BuiltIn => builtin_template(config.kind).map_err(invalid)?.to_owned(),
            PayloadTemplate::ConfigMap(key) => self.config_map_value(key).await?,
        };
        let mut variables = BTreeMap::new();
        for (name, source) in &config.variables {
            let value = match source {
                VariableSource::Value(value) => value.as_str().into(),
                VariableSource::ConfigMap(key) => self.config_map_value(key).await?.into(),
                VariableSource::Secret(key) => self.secret_value(key).await?,
            };
            variables.insert(name.clone(), value);
        }
        let shared_credential = match &config.credential {
            Credential::BootstrapToken => None,
            Credential::Shared(key) => Some(self.secret_value(key).await?),
        };
        Ok(PayloadSources { template, variables, shared_credential, ca: self.ca(config.kind).await? })
    }

    /// The CA: of `cluster-info` for kubeadm, which the VM compares it with; else of the ConfigMap that Kubernetes keeps
    /// in each namespace.
    async fn ca(&self, kind: JoinKind) -> Result<ClusterCa, PayloadError> {
        let from_cluster_info = kind == JoinKind::Kubeadm;
        let mut cached = self.ca.lock().await;
        if let Some((at, ca)) = cached.get(&from_cluster_info)
            && at.elapsed() < CA_TTL
        {
            return Ok(ca.clone());
        }
        let ca = if from_cluster_info { self.ca_of_cluster_info().await? } else { self.root_ca().await? };
        cached.insert(from_cluster_info, (Instant::now(), ca.clone()));
        Ok(ca)
    }

    async fn ca_of_cluster_info(&self) -> Result<ClusterCa, PayloadError> {
        let kubeconfig = self.value_in("kube-public", "cluster-info", "kubeconfig").await?;
        ca_of_cluster_info(&kubeconfig).map_err(invalid)
    }

    async fn root_ca(&self) -> Result<ClusterCa, PayloadError> {
        let pem = self.value_in(&self.namespace, "kube-root-ca.crt", "ca.crt").await?;
        ClusterCa::parse(&pem).map_err(invalid)
    }

    async fn config_map_value(&self, ObjectKey { name, key }: &ObjectKey) -> Result<String, PayloadError> {
        self.value_in(&self.namespace, name, key).await
    }

    async fn value_in(&self, namespace: &str, name: &str, key: &str) -> Result<String, PayloadError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let place = format!("ConfigMap {namespace}/{name}");
        let right = "a Role of vpsie-autoscaler must permit to get it";
        let map = api.get_opt(name).await.map_err(|error| unreadable(&place, right, &error))?;
        let map = map.ok_or_else(|| invalid(format!("{place} does not exist: create it")))?;
        let value = map.data.and_then(|mut data| data.remove(key));
        value.ok_or_else(|| invalid(format!("{place} has no key {key}: add it")))
    }

    async fn secret_value(&self, ObjectKey { name, key }: &ObjectKey) -> Result<SecretString, PayloadError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let place = format!("Secret {}/{name}", self.namespace);
        let right = format!(
            "add {name} to provider.selfManaged.secretNames (Helm), or to the Role of the component self-managed"
        );
        let secret = api.get_opt(name).await.map_err(|error| unreadable(&place, &right, &error))?;
        let secret = secret.ok_or_else(|| invalid(format!("{place} does not exist: create it")))?;
        let value = secret.data.and_then(|mut data| data.remove(key));
        let value = value.ok_or_else(|| invalid(format!("{place} has no key {key}: add it")))?;
        let text = String::from_utf8(value.0);
        text.map(SecretString::from).map_err(|_| invalid(format!("{place}: {key} is not UTF-8 text")))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it converts errors in map_err")]
pub(super) fn invalid(error: impl ToString) -> PayloadError {
    PayloadError::Invalid(error.to_string())
}

/// The object cannot be read. `right` says how to permit it.
fn unreadable(place: &str, right: &str, error: &kube::Error) -> PayloadError {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            invalid(format!("vpsie-autoscaler may not read {place}: {right}"))
        }
        _ => unavailable(&format!("read {place}"), error),
    }
}

/// `task` completes "cannot".
pub(super) fn unavailable(task: &str, error: &kube::Error) -> PayloadError {
    PayloadError::Unavailable(format!("cannot {task}: {error}"))
}
