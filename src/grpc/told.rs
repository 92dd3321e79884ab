//! Pools that Cluster Autoscaler was told of lately: one that is gone since must not end its loop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Fleet, Template};

/// Cluster Autoscaler ends a loop that takes longer (`--max-inactivity`).
const LOOP: Duration = Duration::from_mins(10);

/// The pools of the answers to `NodeGroups`, with the template of each. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct ToldPools(Arc<Mutex<HashMap<Arc<str>, Told>>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    template: Arc<Template>,
}

impl ToldPools {
    /// Notes that all pools of the fleet are told now.
    pub(super) fn note(&self, fleet: &Fleet) {
        let at = Instant::now();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, told| at.duration_since(told.at) < LOOP);
        for pool in fleet.pools() {
            told.insert(Arc::clone(&pool.text), Told { at, template: fleet.template(pool) });
        }
    }

    /// The template of a pool, if it was told within the longest loop.
    pub(super) fn template(&self, id: &str) -> Option<Arc<Template>> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(id).filter(|told| told.at.elapsed() < LOOP).map(|told| Arc::clone(&told.template))
    }

    /// Whether a pool was told within the longest loop.
    pub(super) fn has(&self, id: &str) -> bool {
        self.template(id).is_some()
    }
}
