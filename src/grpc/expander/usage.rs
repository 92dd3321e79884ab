//! Whether Cluster Autoscaler uses the expander.

use std::sync::{Arc, Mutex, PoisonError};

/// Whether Cluster Autoscaler uses the expander. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(in crate::grpc) struct ExpanderUsage(Arc<Mutex<Usage>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    /// No request showed it so far.
    Assumed(bool),
    /// Cluster Autoscaler called the expander.
    Used,
    /// Cluster Autoscaler increased a pool, and never called the expander.
    Unused,
}

impl Default for Usage {
    fn default() -> Self {
        Self::Assumed(false)
    }
}

impl ExpanderUsage {
    pub(super) fn assumed(is_used: bool) -> Self {
        Self(Arc::new(Mutex::new(Usage::Assumed(is_used))))
    }

    /// Whether Cluster Autoscaler uses the expander, as far as its requests show it.
    pub(in crate::grpc) fn is_used(&self) -> bool {
        matches!(self.get(), Usage::Used | Usage::Assumed(true))
    }

    /// Notes a request to the expander.
    pub(super) fn note_request(&self) {
        self.set(Usage::Used);
    }

    /// Notes an increase of a pool. Cluster Autoscaler calls its expander before it.
    pub(in crate::grpc) fn note_increase(&self) {
        if self.get() != Usage::Used {
            self.set(Usage::Unused);
        }
    }

    fn get(&self) -> Usage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, usage: Usage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_override_the_assumption() {
        for assumed in [false, true] {
            let usage = ExpanderUsage::assumed(assumed);
            assert_eq!(usage.is_used(), assumed);
            usage.note_increase();
            assert!(!usage.is_used(), "an increase without a request");
            usage.note_request();
            usage.note_increase();
            usage.note_increase();
            assert!(usage.is_used(), "later increases may follow no request");
        }
    }
}
