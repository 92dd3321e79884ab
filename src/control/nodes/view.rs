//! Nodes as the watch has them, for others to read.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::fleet::Hostname;

/// Which Nodes are Ready. Clones are one view.
#[derive(Clone, Debug)]
pub struct NodesView {
    ready: Arc<RwLock<HashSet<Hostname>>>,
    changes: watch::Sender<u64>,
}

impl Default for NodesView {
    fn default() -> Self {
        Self { ready: Arc::default(), changes: watch::channel(0).0 }
    }
}

impl NodesView {
    /// Whether the Node of the VM is Ready.
    pub fn ready(&self, hostname: &Hostname) -> bool {
        self.ready.read().unwrap_or_else(PoisonError::into_inner).contains(hostname)
    }

    /// Ticks when some answer may be another.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
