//! The VPSie scripts that deliver payloads.

use async_trait::async_trait;

use crate::fleet::Hostname;
use crate::vpsie::BackendError;

/// The scripts of this cluster at VPSie.
#[async_trait]
pub trait Scripts: Send + Sync + 'static {
    /// Lists the scripts that deliver payloads to VMs of this cluster, without other scripts of the account.
    async fn list_scripts(&self) -> Result<Vec<Script>, BackendError>;

    /// Deletes a script. Succeeds if it does not exist.
    async fn delete_script(&self, script: &Script) -> Result<(), BackendError>;
}

/// A script that delivers a payload. Its text is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its identifier at VPSie.
    pub id: String,
    /// The hostname of the VM.
    pub hostname: Hostname,
}
