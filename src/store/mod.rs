//! Durable records of the fleet.

mod file;
#[cfg(test)]
mod formats;
mod kubernetes;
mod memory;
#[cfg(test)]
mod tests;

pub use file::FileStore;
pub use kubernetes::{KubernetesStore, records_of};
pub use memory::MemoryStore;

use async_trait::async_trait;

use crate::fleet::{Change, RecordKey, Records};

/// Keeps the fleet's records through a crash.
///
/// One writer at a time. A local file writes a commit as a whole; in Kubernetes each record is an object of
/// its own, and each object is written separately.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads all records.
    async fn load(&self) -> Result<Records, StoreError>;

    /// Writes the changes and returns once they are durable. A failed commit may have written a part of them:
    /// the caller must load again before the next commit.
    ///
    /// Only the last change of each record need be written; for a node that is saved and then dropped, both.
    /// The written part is a prefix of the list, or a prefix of this order: saves other than machines, then
    /// saves of machines in any order, then removals in any order. Neither loses anything, because a VM only
    /// ever moves
    /// - from a request to a machine, in one record,
    /// - from a request to an unmanaged node, saved before the machine is saved without the request,
    /// - from a machine to an unmanaged node, saved before the machine is saved without it or dropped,
    /// - from an unmanaged node to a machine, saved before the unmanaged node is dropped.
    ///
    /// The next listing corrects two records of one VM: the machine's record counts. It removes a request
    /// that the record of its VM names ([`RequestRef`](crate::fleet::RequestRef)).
    ///
    /// A record that can never be written must not block the others: [`StoreError::Refused`] names it. All
    /// other changes are durable then, except the deferred ones
    /// ([`DeferredChanges`](crate::fleet::DeferredChanges)).
    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError>;
}

/// A failure to read or write records.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or object is not ours, damaged, or of a newer format. It stays unchanged.
    #[error("{path}: {problem}")]
    Unusable {
        /// The file or object.
        path: String,
        /// The problem and its remedy.
        problem: String,
    },
    /// Another writer changed the record in an object since it was read.
    #[error("{object} was changed by another writer; the records are read again")]
    Conflict {
        /// Its kind, namespace and name.
        object: String,
    },
    /// The API server refuses an object permanently: it violates its schema, is malformed or too large.
    #[error("the API server refuses {object}: {problem}")]
    Invalid {
        /// Its kind, namespace and name.
        object: String,
        /// The API server's message.
        problem: String,
    },
    /// These records cannot be written in their present form. All other changes of the commit are written,
    /// except changes that must wait for them.
    #[error("the API server refuses records: {}", format_refused(.0))]
    Refused(Vec<RefusedRecord>),
    /// Reading or writing failed.
    #[error("cannot {action} the records: {problem}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The message of the layer below.
        problem: String,
    },
}

/// A record that can never be written in its present form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Its key.
    pub record: RecordKey,
    /// The message of the layer below.
    pub problem: String,
}

fn format_refused(refused: &[RefusedRecord]) -> String {
    let one = |refused: &RefusedRecord| format!("{}: {}", refused.record, refused.problem);
    refused.iter().map(one).collect::<Vec<_>>().join("; ")
}
