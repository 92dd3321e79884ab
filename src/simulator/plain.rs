//! VMs outside managed clusters: the fields of their requests, and their boot.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A text that `Debug` does not show.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

/// The part of a VM that only VMs outside managed clusters have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlainVm {
    /// The fields of its request.
    pub request: VmRequest,
    /// Time from which it is not pending any more. None: that of its first listing.
    pub pending_until: Option<Timestamp>,
    /// Whether an action has stopped it.
    pub stopped: bool,
    /// Whether an action has locked it.
    pub locked: bool,
    /// Number of restarts.
    pub restarts: u32,
    /// Its addresses in VPCs.
    pub private_ips: Vec<PrivateIp>,
    /// Identifiers of its firewall groups.
    pub firewall_groups: Vec<String>,
    /// Time until which a firewall group is being attached.
    pub firewall_busy_until: Option<Timestamp>,
    /// Its progress after the start.
    pub boot: Boot,
    /// Identity that its kubelet keeps on disk.
    pub kubelet: Option<KubeletIdentity>,
}

/// The fields of a request for a VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmRequest {
    /// `osIdentifier`: an operating system, or a custom image.
    pub os: String,
    /// Whether `os` is a custom image.
    pub from_image: bool,
    /// Number of its project.
    pub project: u64,
    /// `notes`.
    pub notes: Option<String>,
    /// `tags`.
    pub tags: Vec<String>,
    /// `scriptIdentifier`.
    pub script: Option<String>,
    /// `userData`.
    pub user_data: Option<Hidden>,
    /// `sshKeyIdentifier`.
    pub ssh_key: Option<String>,
    /// `ssd`, GiB.
    pub disk: Option<u64>,
    /// `vmPassword`, or the generated one.
    pub password: Hidden,
    /// `isGeneratedPassword`.
    pub password_is_generated: bool,
    /// `processId`.
    pub process: Option<String>,
    /// `addPublicIpV4` and so on.
    pub options: VmOptions,
}

/// The flags of a request for a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the API")]
pub struct VmOptions {
    /// `addPublicIpV4`.
    pub public_ipv4: bool,
    /// `addPublicIpV6`.
    pub public_ipv6: bool,
    /// `addPrivateIp`.
    pub private_ip: bool,
    /// `backupEnabled`.
    pub backup: bool,
    /// `weeklyBackupEnabled`.
    pub weekly_backup: bool,
    /// `monthlyBackupEnabled`.
    pub monthly_backup: bool,
}

/// The address of a VM in a VPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivateIp {
    /// Its number, for the release.
    pub id: u64,
    /// Number of the VPC.
    pub vpc: u64,
    /// The address.
    pub address: String,
    /// Time from which it is shown.
    pub shown_at: Timestamp,
}

/// The progress of a VM after its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Boot {
    /// It has not joined a cluster yet.
    #[default]
    Waiting,
    /// The last attempt to join failed; it is repeated.
    Retrying {
        /// The problem.
        reason: String,
    },
    /// It will not join.
    Refused {
        /// The problem.
        reason: String,
    },
    /// It is a Node.
    Joined {
        /// Name of the Node.
        node: String,
    },
}

/// Identity that a kubelet keeps on disk once it has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeletIdentity {
    /// Name of its Node.
    pub node: String,
    /// URL of the API server.
    pub endpoint: String,
    /// The CA of the API server, PEM.
    pub ca: String,
    /// Its client certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: Hidden,
    /// Number of restarts at the last registration of the Node.
    pub registered: Option<u32>,
}
