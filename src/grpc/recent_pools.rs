//! Pools in recent replies to `NodeGroups`. A pool that was removed since must not end Cluster Autoscaler's
//! loop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Fleet, Template};

/// Maximum duration of a loop of Cluster Autoscaler (`--max-inactivity`).
const MAX_LOOP: Duration = Duration::from_mins(10);

/// The pools in replies to `NodeGroups`, with their templates. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentPools(Arc<Mutex<HashMap<Arc<str>, Listed>>>);

#[derive(Debug)]
struct Listed {
    at: Instant,
    template: Arc<Template>,
}

impl RecentPools {
    /// Records that a reply has all present pools of the fleet.
    pub(super) fn record_all(&self, fleet: &Fleet) {
        let at = Instant::now();
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, pool| at.duration_since(pool.at) < MAX_LOOP);
        for pool in fleet.pools() {
            pools.insert(Arc::clone(&pool.text), Listed { at, template: fleet.template(pool) });
        }
    }

    /// The template of a pool, if a reply of the last `MAX_LOOP` had it.
    pub(super) fn template(&self, id: &str) -> Option<Arc<Template>> {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.get(id).filter(|pool| pool.at.elapsed() < MAX_LOOP).map(|pool| Arc::clone(&pool.template))
    }

    /// Returns true iff a reply of the last `MAX_LOOP` had the pool.
    pub(super) fn is_recent(&self, id: &str) -> bool {
        self.template(id).is_some()
    }
}
