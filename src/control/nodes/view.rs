//! Nodes as the watch has them, for others to read.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::fleet::MachineId;

/// Which Nodes are Ready. Clones are one view.
#[derive(Clone, Debug)]
pub struct NodesView {
    ready: Arc<RwLock<HashSet<MachineId>>>,
    changes: watch::Sender<u64>,
}

impl Default for NodesView {
    fn default() -> Self {
        Self { ready: Arc::default(), changes: watch::channel(0).0 }
    }
}

impl NodesView {
    /// Whether the machine's Node is Ready.
    pub fn ready(&self, machine: &MachineId) -> bool {
        self.ready.read().unwrap_or_else(PoisonError::into_inner).contains(machine)
    }

    /// Ticks when some answer may be another.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
