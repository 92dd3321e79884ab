//! The records of joins: a ConfigMap with an entry for each credential, and with the failures of payloads. An entry is
//! written before its credential, and removed after it, so that a crash leaves no credential behind. Secrets are not
//! listed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::catalog::DatacenterId;
use crate::fleet::{Hostname, MachineId, NodeGroupName};
use crate::join::PayloadHash;

const CONFIG_MAP: &str = "vpsie-autoscaler-joins";
const JOIN: &str = "join.";
const PAYLOAD: &str = "payload.";

/// The join of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JoinRecord {
    /// Its machine.
    pub(super) machine: MachineId,
    /// The NodeGroup of the machine.
    pub(super) node_group: NodeGroupName,
    /// The id of its bootstrap token. None for a shared credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    /// Time at which the payload was made.
    pub(super) issued_at: Timestamp,
    /// Time at which its token expires.
    pub(super) expires_at: Timestamp,
    /// Time since which VPSie lists its VM with a UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) listed_at: Option<Timestamp>,
    /// The payload.
    pub(super) payload: PayloadHash,
}

/// The last payload of a NodeGroup whose joins have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PayloadRecord {
    /// The payload.
    pub(super) payload: PayloadHash,
    /// Time at which the payload of the last machine that joined was made. None: no machine has joined with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) joined_issued_at: Option<Timestamp>,
    /// Failures since a machine joined, in any datacenter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) datacenters: BTreeMap<DatacenterId, FailedJoins>,
}

/// Failures of a payload in a datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailedJoins {
    /// Number of failures in a row: a VM existed and never joined. A burst is one.
    pub(super) unjoined: u32,
    /// Time at which the payload of the last counted machine was made.
    pub(super) last_issued_at: Timestamp,
    /// Time of the last stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stopped_at: Option<Timestamp>,
    /// Number of stops.
    #[serde(default)]
    pub(super) stops: u32,
}

impl PayloadRecord {
    pub(super) fn new(payload: PayloadHash) -> Self {
        Self { payload, joined_issued_at: None, datacenters: BTreeMap::new() }
    }

    /// Whether a machine with the payload has joined.
    pub(super) fn is_proven(&self) -> bool {
        self.joined_issued_at.is_some()
    }

    /// Time at which the payload of the last counted machine was made.
    pub(super) fn last_issued_at(&self) -> Option<Timestamp> {
        let failed = self.datacenters.values().map(|failed| failed.last_issued_at).max();
        failed.max(self.joined_issued_at)
    }
}

/// All records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Joins {
    /// Joins whose clean-up is not done.
    pub(super) open: BTreeMap<Hostname, JoinRecord>,
    pub(super) payloads: BTreeMap<NodeGroupName, PayloadRecord>,
    /// Keys of values that this version cannot read, with the tokens that they name.
    pub(super) unreadable: BTreeMap<String, Option<String>>,
}

impl Joins {
    fn parse(data: BTreeMap<String, String>) -> Self {
        let mut joins = Self::default();
        for (key, value) in data {
            if let Some(hostname) = key.strip_prefix(JOIN)
                && let Ok(record) = serde_json::from_str(&value)
            {
                joins.open.insert(Hostname::new(hostname), record);
            } else if let Some(group) = key.strip_prefix(PAYLOAD)
                && let Ok(record) = serde_json::from_str(&value)
            {
                joins.payloads.insert(group.into(), record);
            } else {
                joins.unreadable.insert(key, token_of(&value));
            }
        }
        joins
    }
}

/// The id of the token in a value whose other fields cannot be read.
fn token_of(value: &str) -> Option<String> {
    let value: Value = serde_json::from_str(value).ok()?;
    let token = value.get("token")?.as_str()?;
    let is_id = token.len() == 6 && token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    is_id.then(|| token.to_owned())
}

/// Changes of records. One write.
#[derive(Debug, Default)]
pub(super) struct JoinChanges(BTreeMap<String, Option<String>>);

impl JoinChanges {
    pub(super) fn save(&mut self, hostname: &Hostname, record: &JoinRecord) {
        self.0.insert(format!("{JOIN}{hostname}"), Some(json!(record).to_string()));
    }

    pub(super) fn remove(&mut self, hostname: &Hostname) {
        self.0.insert(format!("{JOIN}{hostname}"), None);
    }

    pub(super) fn set_payload(&mut self, group: &NodeGroupName, record: &PayloadRecord) {
        self.0.insert(format!("{PAYLOAD}{group}"), Some(json!(record).to_string()));
    }

    pub(super) fn remove_payload(&mut self, group: &NodeGroupName) {
        self.0.insert(format!("{PAYLOAD}{group}"), None);
    }

    pub(super) fn remove_key(&mut self, key: String) {
        self.0.insert(key, None);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Access to the records.
#[derive(Clone)]
pub(super) struct JoinRecords(Api<ConfigMap>);

impl JoinRecords {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self(Api::namespaced(client, namespace))
    }

    pub(super) async fn read(&self) -> Result<Joins, kube::Error> {
        let map = self.0.get_opt(CONFIG_MAP).await?;
        Ok(Joins::parse(map.and_then(|map| map.data).unwrap_or_default()))
    }

    pub(super) async fn write(&self, changes: &JoinChanges) -> Result<(), kube::Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"data": changes.0}));
        match self.0.patch(CONFIG_MAP, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            done => return done.map(drop),
        }
        let values = changes.0.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONFIG_MAP.to_owned()),
                // Not `managed-by`, by which the records of the fleet are listed.
                labels: Some(BTreeMap::from([(
                    "app.kubernetes.io/part-of".to_owned(),
                    "vpsie-autoscaler".to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            data: Some(values.collect()),
            ..ConfigMap::default()
        };
        self.0.create(&PostParams::default(), &map).await.map(drop)
    }
}
