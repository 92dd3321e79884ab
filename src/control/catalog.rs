//! Keeps the catalog fresh.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{CommandError, FleetHandle};
use super::pace::Backoff;
use crate::vpsie::Backend;

/// Reads offers and prices every `interval`, and sooner after a failure, until `shutdown`.
pub async fn refresh_catalog(
    handle: FleetHandle,
    backend: Arc<dyn Backend>,
    interval: Duration,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_mins(1));
    loop {
        let Some(read) = shutdown.run_until_cancelled(backend.catalog()).await else { return };
        let next = match read {
            Ok(catalog) => match handle.update(move |fleet, _, _| fleet.take_catalog(catalog)).await {
                Ok(_) => {
                    backoff.success();
                    Instant::now() + interval
                }
                Err(CommandError::Stopped) => return,
                Err(error) => {
                    tracing::warn!(%error, "VPSie's offers could not be recorded; trying again");
                    backoff.failure(None);
                    backoff.until()
                }
            },
            Err(error) => {
                tracing::warn!(%error, "VPSie's offers could not be read; the last ones stand");
                backoff.failure(None);
                backoff.until()
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
    }
}
