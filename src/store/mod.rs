//! Where the fleet's records are durable.

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
/// One writer at a time: the fleet's keeper. A local file writes all of a commit at once; in Kubernetes a record
/// is an object, and each is written for itself.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads everything back.
    async fn load(&self) -> Result<Records, StoreError>;

    /// Writes the changes and returns once they are durable. When it fails, a part of them may have been written:
    /// the caller loads again before it goes on.
    ///
    /// Only the last change of each record need be written; for a node that is saved and then dropped, both. The written
    /// part is a prefix of the list, or a prefix of this order: saves other than machines, then saves of machines in any
    /// order, then removals in any order. Neither loses anything, because a VM only ever moves
    /// - from a request to a machine, in one record,
    /// - from a request to a stranger, and the request goes with the machine that is saved after it,
    /// - from a machine to a stranger, saved before the machine is saved without it or dropped,
    /// - from a stranger to a machine, saved before the stranger is dropped.
    ///
    /// Two records of one VM are put right by the next listing: the machine's is the one that counts.
    ///
    /// A record that can never be written must not hold up the others: [`StoreError::Refused`] names it. All other
    /// changes are durable then, except those that [`HeldBack`](crate::fleet::HeldBack) holds.
    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError>;
}

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or object is not ours, damaged, or of a newer format. It is left as it is.
    #[error("{path}: {problem}")]
    Unusable {
        /// The file or object.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Another writer changed the record in an object since it was read.
    #[error("{object} was changed by somebody else; the records are read again")]
    Conflict {
        /// Its kind, namespace and name.
        object: String,
    },
    /// The API server refuses an object for good: it breaks its schema, is malformed or too large.
    #[error("{object} is refused: {problem}")]
    Invalid {
        /// Its kind, namespace and name.
        object: String,
        /// What the API server said.
        problem: String,
    },
    /// These records cannot be written in their present form. All other changes of the commit are written, except those
    /// that must wait for them.
    #[error("records are refused: {}", list(.0))]
    Refused(Vec<RefusedRecord>),
    /// Reading or writing failed.
    #[error("cannot {action} the records: {problem}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// What the layer below said.
        problem: String,
    },
}

/// A record that can never be written in its present form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Which.
    pub record: RecordKey,
    /// What the layer below said.
    pub problem: String,
}

fn list(refused: &[RefusedRecord]) -> String {
    let one = |refused: &RefusedRecord| format!("{}: {}", refused.record, refused.problem);
    refused.iter().map(one).collect::<Vec<_>>().join("; ")
}
