//! Records in ConfigMaps, one for each, written only as they were last seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fake_kube::FakeKube;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use vpsie_autoscaler::fleet::{Change, Records};
use vpsie_autoscaler::store::{Store, StoreError};

pub(super) struct ConfigMaps {
    api: Api<ConfigMap>,
    versions: Mutex<BTreeMap<String, String>>,
}

impl ConfigMaps {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { api: Api::default_namespaced(client), versions: Mutex::default() }
    }

    async fn save(&self, name: String, record: Value) -> kube::Result<()> {
        let version = self.versions.lock().unwrap().get(&name).cloned();
        let object = json!({
            "metadata": {"name": name, "resourceVersion": version},
            "data": {"record": record.to_string()},
        });
        let map: ConfigMap = serde_json::from_value(object).unwrap();
        let params = PostParams::default();
        let saved = match version {
            Some(_) => self.api.replace(&name, &params, &map).await?,
            None => self.api.create(&params, &map).await?,
        };
        self.versions.lock().unwrap().insert(name, saved.resource_version().unwrap());
        Ok(())
    }

    async fn drop_it(&self, name: String) -> kube::Result<()> {
        let Some(version) = self.versions.lock().unwrap().remove(&name) else { return Ok(()) };
        let preconditions = Preconditions { resource_version: Some(version), uid: None };
        self.api.delete(&name, &DeleteParams::default().preconditions(preconditions)).await.map(drop)
    }
}

#[async_trait]
impl Store for ConfigMaps {
    async fn load(&self) -> Result<Records, StoreError> {
        let maps = self.api.list(&ListParams::default()).await.map_err(|error| failed("read", &error))?.items;
        let versions = maps.iter().map(|map| (map.name_any(), map.resource_version().unwrap()));
        *self.versions.lock().unwrap() = versions.collect();
        Ok(read(maps))
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes {
            let json = |value| serde_json::to_value(value).unwrap();
            let written = match change {
                Change::SaveMachine(machine) => {
                    self.save(format!("machine-{}", machine.id), serde_json::to_value(machine).unwrap()).await
                }
                Change::DropMachine(id) => self.drop_it(format!("machine-{id}")).await,
                Change::SaveStranger(stranger) => {
                    self.save(
                        format!("stranger-{}", stranger.hostname),
                        serde_json::to_value(stranger).unwrap(),
                    )
                    .await
                }
                Change::DropStranger(hostname) => self.drop_it(format!("stranger-{hostname}")).await,
                Change::SaveLearned(size, learned) => {
                    self.save(format!("learned-{size}"), json((*size, *learned))).await
                }
                Change::SaveCatalog(catalog) => {
                    self.save("catalog".to_owned(), serde_json::to_value(&**catalog).unwrap()).await
                }
            };
            written.map_err(|error| failed("write", &error))?;
        }
        Ok(())
    }
}

fn failed(action: &'static str, error: &kube::Error) -> StoreError {
    StoreError::Io { action, problem: error.to_string() }
}

/// What is recorded now, past all faults.
pub(super) fn recorded(kube: &FakeKube) -> Records {
    read(kube.all::<ConfigMap>())
}

fn read(maps: Vec<ConfigMap>) -> Records {
    let mut records = Records::default();
    for map in maps {
        let name = map.name_any();
        let text = &map.data.unwrap()["record"];
        match name.split('-').next().unwrap() {
            "machine" => records.machines.push(serde_json::from_str(text).unwrap()),
            "stranger" => records.strangers.push(serde_json::from_str(text).unwrap()),
            "learned" => records.learned.push(serde_json::from_str(text).unwrap()),
            _ => records.catalog = Some(Arc::new(serde_json::from_str(text).unwrap())),
        }
    }
    records
}
