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
    /// Only the last change of each record need be written; of a node that is saved and then dropped, both. The part is
    /// one from the front of the list, or from the front of this order: what is saved that is no machine, then machines
    /// that are saved in any order, then what is dropped in any order. Either loses nothing, because a VM only ever goes
    /// - from a request to a machine, in one record,
    /// - from a request to a stranger, and the request goes with the machine that is saved after it,
    /// - from a machine to a stranger, saved before the machine is saved without it or dropped,
    /// - from a stranger to a machine, saved before the stranger is dropped.
    ///
    /// Two records of one VM are put right by the next listing: the machine's is the one that counts.
    ///
    /// A record that can never be written as it is must not hold up the others: [`StoreError::Refused`] names it. Then
    /// all other changes are durable, except those that [`HeldBack`](crate::fleet::HeldBack) holds.
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
    /// Somebody else changed what an object records since it was read.
    #[error("{object} was changed by somebody else; the records are read again")]
    Conflict {
        /// Its kind, namespace and name.
        object: String,
    },
    /// The API server refuses an object as it is: against its schema, malformed or too large.
    #[error("{object} is refused: {problem}")]
    Invalid {
        /// Its kind, namespace and name.
        object: String,
        /// What the API server said.
        problem: String,
    },
    /// These records are refused as they are. All other changes of the commit are written, except those that must wait
    /// for them.
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

/// A record that can never be written as it is.
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
