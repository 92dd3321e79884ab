//! Where the fleet's records are durable.

mod file;
mod memory;
#[cfg(test)]
mod tests;

pub use file::FileStore;
pub use memory::MemoryStore;

use async_trait::async_trait;

use crate::fleet::{Change, Records};

/// Keeps the fleet's records through a crash.
///
/// One writer at a time: the fleet's keeper. A local file and Kubernetes both fit: a record is an object, a
/// [`Change`] is one conditional write.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads everything back.
    async fn load(&self) -> Result<Records, StoreError>;

    /// Writes the changes in their order and returns once they are durable. When it fails, a part of them,
    /// from the front, may have been written: the caller loads again before it goes on.
    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError>;
}

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is not ours, damaged, or of a newer format. It is left as it is.
    #[error("{path}: {problem}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Reading or writing failed.
    #[error("cannot {action} the records: {problem}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// What the layer below said.
        problem: String,
    },
}
