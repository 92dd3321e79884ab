//! Pools that recent answers to `NodeGroups` had: a pool that is gone since must not end Cluster Autoscaler's loop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Fleet, Template};

/// Cluster Autoscaler ends a loop that takes longer (`--max-inactivity`).
const LOOP: Duration = Duration::from_mins(10);

/// The pools of the answers to `NodeGroups`, with the template of each. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentPools(Arc<Mutex<HashMap<Arc<str>, Listed>>>);

#[derive(Debug)]
struct Listed {
    at: Instant,
    template: Arc<Template>,
}

impl RecentPools {
    /// Notes that an answer has all pools of the fleet now.
    pub(super) fn note(&self, fleet: &Fleet) {
        let at = Instant::now();
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, pool| at.duration_since(pool.at) < LOOP);
        for pool in fleet.pools() {
            pools.insert(Arc::clone(&pool.text), Listed { at, template: fleet.template(pool) });
        }
    }

    /// The template of a pool, if an answer had it within the longest loop.
    pub(super) fn template(&self, id: &str) -> Option<Arc<Template>> {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.get(id).filter(|pool| pool.at.elapsed() < LOOP).map(|pool| Arc::clone(&pool.template))
    }

    /// Whether an answer had the pool within the longest loop.
    pub(super) fn has(&self, id: &str) -> bool {
        self.template(id).is_some()
    }
}
