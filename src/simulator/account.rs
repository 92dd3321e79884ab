//! Objects of the account other than VMs: scripts, SSH keys, networks, firewall groups, projects, images, tags.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::plain::Hidden;

/// Number of the default project.
pub(super) const DEFAULT_PROJECT: u64 = 71128;
/// UUID of the default project.
pub(super) const DEFAULT_PROJECT_IDENTIFIER: &str = "4d2f7a10-5b1e-11ee-8bba-0050569c68dc";

/// Objects of the account by number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Account {
    pub scripts: BTreeMap<u64, Script>,
    pub ssh_keys: BTreeMap<u64, SshKey>,
    pub vpcs: BTreeMap<u64, Vpc>,
    pub firewall_groups: BTreeMap<u64, FirewallGroup>,
    pub projects: BTreeMap<u64, Project>,
    pub images: BTreeMap<u64, Image>,
    /// Tags of other objects than VMs.
    pub tags: Vec<Tag>,
}

impl Default for Account {
    fn default() -> Self {
        let default = Project {
            identifier: DEFAULT_PROJECT_IDENTIFIER.to_owned(),
            name: "Default".to_owned(),
            description: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
        };
        Self {
            scripts: BTreeMap::new(),
            ssh_keys: BTreeMap::new(),
            vpcs: BTreeMap::new(),
            firewall_groups: BTreeMap::new(),
            projects: [(DEFAULT_PROJECT, default)].into_iter().collect(),
            images: BTreeMap::new(),
            tags: Vec::new(),
        }
    }
}

/// A script for the first boot of VMs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Script {
    pub identifier: String,
    /// Name as listed, with the suffix that VPSie appends.
    pub name: String,
    pub content: Hidden,
    /// `scriptType`, such as `bash`.
    pub kind: String,
    pub created_at: Timestamp,
}

/// A public SSH key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SshKey {
    pub identifier: String,
    pub name: String,
    /// `privateKey` in requests, though it is the public one.
    pub key: String,
    pub created_at: Timestamp,
}

/// A private network of a datacenter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Vpc {
    pub name: String,
    pub description: String,
    pub datacenter: String,
    pub network_range: String,
    pub network_size: u64,
    pub created_at: Timestamp,
    /// Number of addresses that VMs have received.
    pub addresses: u64,
}

/// A firewall group. Its rules are not kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FirewallGroup {
    pub identifier: String,
    pub name: String,
    pub created_at: Timestamp,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Project {
    pub identifier: String,
    pub name: String,
    pub description: String,
    pub created_at: Timestamp,
}

/// A custom image of a datacenter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Image {
    pub identifier: String,
    pub name: String,
    pub url: String,
    pub datacenter: String,
    pub created_at: Timestamp,
}

/// A tag of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tag {
    /// Kind of the object, such as `ssh_keys`.
    pub entity: String,
    pub identifier: String,
    pub text: String,
}

impl Account {
    pub(super) fn script(&self, identifier: &str) -> Option<(u64, &Script)> {
        self.scripts.iter().find(|(_, script)| script.identifier == identifier).map(|(id, s)| (*id, s))
    }

    pub(super) fn ssh_key(&self, identifier: &str) -> Option<(u64, &SshKey)> {
        self.ssh_keys.iter().find(|(_, key)| key.identifier == identifier).map(|(id, key)| (*id, key))
    }

    pub(super) fn firewall_group(&self, identifier: &str) -> Option<(u64, &FirewallGroup)> {
        let mut groups = self.firewall_groups.iter();
        groups.find(|(_, group)| group.identifier == identifier).map(|(id, group)| (*id, group))
    }

    /// The project of that UUID or number.
    pub(super) fn project(&self, reference: &str) -> Option<(u64, &Project)> {
        let mut projects = self.projects.iter();
        let is_meant =
            |(id, project): &(&u64, &Project)| project.identifier == reference || id.to_string() == reference;
        projects.find(is_meant).map(|(id, project)| (*id, project))
    }

    pub(super) fn image(&self, identifier: &str) -> Option<(u64, &Image)> {
        self.images.iter().find(|(_, image)| image.identifier == identifier).map(|(id, image)| (*id, image))
    }
}
