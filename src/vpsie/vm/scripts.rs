//! The VPSie scripts that carry payloads (docs/reference/vpsie-api.md#scripts).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use uuid::Uuid;

use super::calls::ScriptRow;
use super::owner::{cluster_code, has_own_form};
use super::payload::Payload;
use crate::fleet::{ClusterId, FailureReason, Hostname};
use crate::retry_after::RetryAfter;
use crate::vpsie::backend::BackendError;
use crate::vpsie::client::Client;
use crate::vpsie::error::{ApiError, ErrorKind};

/// Maximum listings of the scripts after an addition, and the pause between them.
const LISTINGS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// Additions of scripts. Concurrent ones share listings, because a listing has the contents of all scripts.
#[derive(Default)]
pub(super) struct ScriptAdditions {
    /// Number of requests for a listing.
    needed: AtomicU64,
    listing: Mutex<Option<Listing>>,
}

struct Listing {
    /// Number of requests before the listing began. It serves all of them.
    needed: u64,
    rows: Vec<ScriptRow>,
}

/// The name of the script of a VM: `<hostname>.<cluster>-<addition>`. Another cluster of the account can have the same
/// hostnames, and an earlier script of the VM has a revoked credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptName {
    hostname: Hostname,
    /// Code of the cluster.
    cluster: String,
    /// Distinguishes the additions for one hostname.
    addition: String,
}

/// Length of the part that distinguishes additions.
const ADDITION_LENGTH: usize = 6;

impl ScriptName {
    /// The name of a new script.
    pub(super) fn new(hostname: &Hostname, cluster: &ClusterId, random: Uuid) -> Self {
        let addition = random.simple().to_string().chars().take(ADDITION_LENGTH).collect();
        Self { hostname: hostname.clone(), cluster: cluster_code(cluster), addition }
    }

    /// Reads the name of a listed script: VPSie appends `.sh`. None if it is not a script of the cluster.
    pub(super) fn read(listed: &str, cluster: &ClusterId) -> Option<Self> {
        let (hostname, rest) = listed.strip_suffix(".sh").unwrap_or(listed).rsplit_once('.')?;
        let (of, addition) = rest.split_once('-')?;
        let code = cluster_code(cluster);
        let is_own = of.eq_ignore_ascii_case(&code);
        let name = Self { hostname: Hostname::new(hostname), cluster: code, addition: addition.to_owned() };
        (is_own && has_own_form(&name.hostname)).then_some(name)
    }

    /// The hostname of the VM.
    pub(super) fn hostname(&self) -> &Hostname {
        &self.hostname
    }

    fn matches(&self, row: &ScriptRow) -> bool {
        row.name.strip_suffix(".sh").unwrap_or(&row.name).eq_ignore_ascii_case(&self.to_string())
    }
}

impl fmt::Display for ScriptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{}", self.hostname, self.cluster, self.addition)
    }
}

impl ScriptAdditions {
    /// Adds the script of a VM and returns its identifier. No VM is requested, so no error leaves one behind.
    pub(super) async fn add(
        &self,
        client: &Client,
        name: &ScriptName,
        content: &Payload,
    ) -> Result<String, BackendError> {
        match client.add_script(&name.to_string(), content).await {
            Ok(()) => {}
            // The listing shows the outcome.
            Err(error) if error.kind == ErrorKind::Unclear => {}
            Err(error) => return Err(error.into_write_error()),
        }
        for listing in 0..LISTINGS {
            if listing > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let found = self.find(client, name).await.map_err(ApiError::into_read_error)?;
            match &found[..] {
                [] => {}
                [only] => return Ok(only.clone()),
                several => {
                    for id in several {
                        delete(client, name, id).await;
                    }
                    let message = format!("VPSie listed {} scripts named {name}; deleted", several.len());
                    return Err(unavailable(message));
                }
            }
        }
        Err(unavailable(format!("VPSie does not list the new script {name} yet")))
    }

    /// Identifiers of the scripts of a VM, from a listing that begins after this call.
    async fn find(&self, client: &Client, name: &ScriptName) -> Result<Vec<String>, ApiError> {
        let needed = self.needed.fetch_add(1, Ordering::SeqCst) + 1;
        let mut shared = self.listing.lock().await;
        let listing = match shared.take() {
            Some(listing) if listing.needed >= needed => listing,
            _ => {
                let needed = self.needed.load(Ordering::SeqCst);
                Listing { needed, rows: client.list_script_rows().await? }
            }
        };
        let of_vm = listing.rows.iter().filter(|row| name.matches(row)).map(|row| row.id.clone()).collect();
        *shared = Some(listing);
        Ok(of_vm)
    }
}

/// Deletes a script that no VM needs. The clean-up deletes it later if this fails.
pub(super) async fn delete(client: &Client, name: &ScriptName, id: &str) {
    if let Err(error) = client.delete_script_row(id).await {
        tracing::warn!(
            script = %name,
            error = error.message,
            "cannot delete an unused VPSie script; the clean-up retries"
        );
    }
}

fn unavailable(message: String) -> BackendError {
    BackendError::Unavailable {
        reason: FailureReason::ApiUnavailable,
        message,
        retry_after: Some(RetryAfter::new(PAUSE)),
    }
}
