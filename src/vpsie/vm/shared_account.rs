//! One reading of the account for several deletions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::account::Account;
use crate::fleet::ClusterId;
use crate::vpsie::client::Client;
use crate::vpsie::error::ApiError;
use crate::vpsie::limiter::Purpose;

/// Time that a reading is shared.
const SHARED_FOR: Duration = Duration::from_secs(10);

/// The last reading. Deletions at the same time wait for one.
#[derive(Default)]
pub(super) struct SharedAccount {
    /// Number of requests for VMs. An earlier reading may lack the VM of a later request.
    requests: AtomicU64,
    reading: Mutex<Option<Reading>>,
}

struct Reading {
    cluster: ClusterId,
    requests: u64,
    at: Instant,
    account: Arc<Account>,
}

impl SharedAccount {
    /// Notes that a VM was requested.
    pub(super) fn note_request(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    /// The VMs of the account, not older than the last request and [`SHARED_FOR`].
    pub(super) async fn read(&self, client: &Client, cluster: &ClusterId) -> Result<Arc<Account>, ApiError> {
        let mut reading = self.reading.lock().await;
        let (requests, at) = (self.requests.load(Ordering::SeqCst), Instant::now());
        if let Some(known) = &*reading
            && known.requests == requests
            && known.cluster == *cluster
            && known.at.elapsed() < SHARED_FOR
        {
            return Ok(Arc::clone(&known.account));
        }
        let account = Arc::new(Account::read(client, cluster, Purpose::Deletion).await?);
        *reading = Some(Reading { cluster: cluster.clone(), requests, at, account: Arc::clone(&account) });
        Ok(account)
    }
}
