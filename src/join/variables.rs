//! The variables of a template.

use std::collections::BTreeMap;

use minijinja::Value;
use secrecy::{ExposeSecret as _, SecretString};

use super::ca::ClusterCa;
use super::config::JoinKind;
use crate::fleet::{Reserved, Taint};

/// Memory that kubelet keeps free by default (`evictionHard`), MiB. It is part of the reserved memory of templates.
const EVICTION_THRESHOLD_MIB: u64 = 100;

/// The variables of a template. Debug shows no secret.
#[derive(Clone, Debug)]
pub struct Variables {
    /// Program of the join.
    pub kind: JoinKind,
    /// Hostname of the VM and name of its Node.
    pub node_name: String,
    /// Pool id.
    pub pool: String,
    /// Datacenter of the VM.
    pub datacenter: String,
    /// Offer of the VM.
    pub offering: String,
    /// Labels of the Node, as in the template of its pool.
    pub labels: BTreeMap<String, String>,
    /// Taints of the Node: those of the template of its pool, and the startup taint of its network.
    pub taints: Vec<Taint>,
    /// Reserved resources of the Node.
    pub reserved: Reserved,
    /// Address that VMs join at, as `host:port`.
    pub endpoint: String,
    /// Version of Kubernetes, if the NodeGroup has one.
    pub kubernetes_version: Option<String>,
    /// Whether kubelet waits for an external cloud controller.
    pub cloud_provider_external: bool,
    /// The CA of the cluster.
    pub ca: ClusterCa,
    /// The token of [`join_token`](super::join_token).
    pub token: SecretString,
    /// Variables of the user.
    pub vars: BTreeMap<String, SecretString>,
}

impl Variables {
    /// The variables by name.
    pub(super) fn to_values(&self) -> BTreeMap<String, Value> {
        let mut values: BTreeMap<_, _> = [
            ("join_kind", text(self.kind.name())),
            ("node_name", text(&self.node_name)),
            ("pool", text(&self.pool)),
            ("datacenter", text(&self.datacenter)),
            ("offering", text(&self.offering)),
            ("labels", map(self.labels.iter().map(|(key, value)| (key.as_str(), text(value))))),
            ("taints", self.taints.iter().map(taint).collect()),
            ("label_list", self.label_list().map(Value::from).collect()),
            ("taint_list", self.taint_list().map(Value::from).collect()),
            ("kubelet_labels", self.label_list().collect::<Vec<_>>().join(",").into()),
            ("kubelet_taints", self.taint_list().collect::<Vec<_>>().join(",").into()),
            ("kubelet_reserved", self.kubelet_reserved().into()),
            ("kubelet_args", self.kubelet_args().into_iter().map(Value::from).collect()),
            ("reserved", self.reserved_values()),
            ("endpoint", text(&self.endpoint)),
            ("endpoint_host", text(host(&self.endpoint))),
            ("cloud_provider_external", self.cloud_provider_external.into()),
            ("ca_hashes", self.ca_hashes().into_iter().map(Value::from).collect()),
            ("ca_certificate", text(&self.ca.pem)),
            ("token", text(self.token.expose_secret())),
            ("vars", map(self.vars.iter().map(|(name, value)| (name.as_str(), text(value.expose_secret()))))),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        // A template that uses the version of a NodeGroup without one is refused.
        let version = self.kubernetes_version.as_deref();
        values.extend(version.map(|version| ("kubernetes_version".to_owned(), text(version))));
        values
    }

    /// `<key>=<value>` of each label.
    fn label_list(&self) -> impl Iterator<Item = String> {
        self.labels.iter().map(|(key, value)| format!("{key}={value}"))
    }

    /// `<key>=<value>:<effect>` of each taint.
    fn taint_list(&self) -> impl Iterator<Item = String> {
        self.taints.iter().map(|Taint { key, value, effect }| format!("{key}={value}:{effect}"))
    }

    /// The value of `--kube-reserved`. Empty if nothing is reserved. Kubelet reserves disk by its eviction threshold.
    fn kubelet_reserved(&self) -> String {
        let Reserved { cpu_millis, memory_mib, .. } = self.reserved;
        let memory = memory_mib.saturating_sub(EVICTION_THRESHOLD_MIB);
        let cpu = (cpu_millis > 0).then(|| format!("cpu={cpu_millis}m"));
        let memory = (memory > 0).then(|| format!("memory={memory}Mi"));
        cpu.into_iter().chain(memory).collect::<Vec<_>>().join(",")
    }

    /// Flags of kubelet, without dashes.
    fn kubelet_args(&self) -> Vec<String> {
        let reserved = self.kubelet_reserved();
        let reserved = (!reserved.is_empty()).then(|| format!("kube-reserved={reserved}"));
        let external = self.cloud_provider_external.then(|| "cloud-provider=external".to_owned());
        reserved.into_iter().chain(external).collect()
    }

    fn reserved_values(&self) -> Value {
        let Reserved { cpu_millis, memory_mib, disk_gib } = self.reserved;
        map([
            ("cpu_millis", cpu_millis.into()),
            ("memory_mib", memory_mib.into()),
            ("disk_gib", disk_gib.into()),
        ])
    }

    /// The hashes in the form of the program.
    fn ca_hashes(&self) -> Vec<String> {
        match self.kind {
            JoinKind::Kubeadm | JoinKind::Custom => self.ca.key_hashes.clone(),
            JoinKind::K3s | JoinKind::Rke2 => vec![self.ca.pem_hash.clone()],
        }
    }
}

fn text(text: &str) -> Value {
    Value::from(text)
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let entries: BTreeMap<String, Value> =
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    entries.into()
}

fn taint(Taint { key, value, effect }: &Taint) -> Value {
    map([("key", text(key)), ("value", text(value)), ("effect", effect.to_string().into())])
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
