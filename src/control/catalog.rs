//! The loop that reads the catalog.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::handle::{CommandError, FleetHandle};
use crate::clock::{Clock as _, SystemClock};
use crate::fleet::{Cause, Fleet, Pool};
use crate::kubernetes::{EventType, Events, Object, ObjectEvent};
use crate::telemetry::Registry;
use crate::vpsie::Backend;

/// Metrics of the catalog.
#[derive(Clone, Debug, Default)]
pub struct CatalogMetrics {
    read_at: Gauge<f64, AtomicU64>,
}

impl CatalogMetrics {
    /// Registers `catalog_read_timestamp_seconds`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Time of the last read of offers and prices from VPSie, Unix time; 0 if this process has only \
            used stored ones";
        registry.register("catalog_read_timestamp", help, Some(Unit::Seconds), &self.read_at);
    }
}

/// The loop that reads offers and prices.
pub struct CatalogRefresh {
    handle: FleetHandle,
    backend: Arc<dyn Backend>,
    interval: Duration,
    metrics: CatalogMetrics,
    events: Events,
}

impl CatalogRefresh {
    /// Creates the loop, without metrics and events.
    pub fn new(handle: FleetHandle, backend: Arc<dyn Backend>, interval: Duration) -> Self {
        Self { handle, backend, interval, metrics: CatalogMetrics::default(), events: Events::none() }
    }

    /// Adds metrics, and events about offers whose price is unknown or contradictory.
    pub fn with_reporting(self, metrics: CatalogMetrics, events: Events) -> Self {
        Self { metrics, events, ..self }
    }

    /// Reads them every interval, and sooner after a failure, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_mins(1));
        let mut price_warnings = BTreeSet::new();
        loop {
            let Some(read) = shutdown.run_until_cancelled(self.backend.catalog()).await else { return };
            let next = match read {
                Ok(catalog) => match self
                    .handle
                    .update(Cause::VPSieCatalog, move |fleet, _, _| fleet.update_catalog(catalog))
                    .await
                {
                    Ok(_) => {
                        self.metrics.read_at.set(SystemClock.now().as_second() as f64);
                        backoff.record_success();
                        Instant::now() + self.interval
                    }
                    Err(CommandError::Stopped) => return,
                    Err(error) => {
                        tracing::warn!(%error, "cannot record VPSie's offers; retrying");
                        backoff.record_failure(None);
                        backoff.until()
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot read VPSie's offers; the last known ones stay in use");
                    backoff.record_failure(None);
                    backoff.until()
                }
            };
            self.note_inactive_datacenters().await;
            price_warnings = self.report_price_warnings(&price_warnings);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Notes the datacenters that VPSie lists as inactive.
    async fn note_inactive_datacenters(&self) {
        match self.backend.inactive_datacenters().await {
            Ok(inactive) => {
                let noted = self.handle.update(Cause::VPSieCatalog, move |fleet, now, _| {
                    fleet.note_inactive_datacenters(inactive, now)
                });
                if let Err(error) = noted.await {
                    tracing::warn!(%error, "cannot record which datacenters are inactive; retrying");
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read which datacenters are inactive; retrying"),
        }
    }

    /// Reports each pool with an unknown or contradictory price, once.
    fn report_price_warnings(&self, reported: &BTreeSet<PriceWarning>) -> BTreeSet<PriceWarning> {
        let now = self.handle.read(price_warnings);
        for warning in now.difference(reported) {
            tracing::warn!(nodegroup = warning.node_group, pool = %warning.pool, "{}", warning.message);
            let on = Object::NodeGroup(warning.node_group.clone());
            self.events.publish(ObjectEvent::new(
                on,
                EventType::Warning,
                warning.reason,
                warning.message.clone(),
            ));
        }
        now
    }
}

/// A warning about a pool whose price is unknown, or whose two prices contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PriceWarning {
    pool: Arc<str>,
    node_group: String,
    reason: &'static str,
    message: String,
}

fn price_warnings(fleet: &Fleet) -> BTreeSet<PriceWarning> {
    let warning = |pool: &Pool| {
        let id = &pool.text;
        let offer = &pool.offer.name;
        let (reason, message) = match (pool.price, fleet.prices().contradiction(&pool.offer)) {
            (None, _) => {
                let message = format!(
                    "pool {id}: the price of {offer} is unknown, so the pool is chosen after all others, and \
                     never under a cost limit; set the price in --price-file"
                );
                ("PriceUnknown", message)
            }
            (Some(_), Some((hourly, monthly))) => {
                let message = format!(
                    "pool {id}: VPSie's hourly price of {offer} ({hourly}) contradicts its monthly price \
                     ({monthly} when divided by the hours of a month); the monthly price is used; set the correct \
                     price in --price-file"
                );
                ("PriceContradicted", message)
            }
            (Some(_), None) => return None,
        };
        let node_group = pool.id.node_group.to_string();
        Some(PriceWarning { pool: Arc::clone(id), node_group, reason, message })
    };
    fleet.pools().filter(|pool| pool.growable).filter_map(warning).collect()
}
