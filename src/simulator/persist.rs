//! Saves the state to a file, so that it survives a restart.

use std::path::{Path, PathBuf};

use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::state::State;

const FORMAT: u32 = 1;

/// A snapshot of the simulator: its objects and the state of its random generator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    format: u32,
    pub(super) state: State,
    pub(super) rng: Xoshiro256PlusPlus,
}

/// A snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read or written.
    #[error("cannot read or write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a snapshot of this format. It stays unchanged.
    #[error(
        "{}: not a simulator state of format {FORMAT}: {problem}; move the file away to start without state",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
}

impl Snapshot {
    pub(super) fn new(state: State, rng: Xoshiro256PlusPlus) -> Self {
        Self { format: FORMAT, state, rng }
    }

    /// Reads the file. None if it does not exist.
    pub fn load(path: &Path) -> Result<Option<Self>, SnapshotError> {
        let unusable = |problem| SnapshotError::Unusable { path: path.to_owned(), problem };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SnapshotError::Io { path: path.to_owned(), source }),
        };
        let snapshot: Self = serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        match snapshot.format {
            FORMAT => Ok(Some(snapshot)),
            other => Err(unusable(format!("its format is {other}"))),
        }
    }

    fn save(&self, path: &Path) -> Result<(), SnapshotError> {
        let io = |source| SnapshotError::Io { path: path.to_owned(), source };
        let bytes = serde_json::to_vec(self).map_err(|error| io(error.into()))?;
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, bytes).map_err(io)?;
        std::fs::rename(&temporary, path).map_err(io)
    }
}

/// Writes the state to a file whenever it has changed.
pub(super) struct Saver {
    path: PathBuf,
    saved: Mutex<Option<u64>>,
}

impl Saver {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, saved: Mutex::new(None) }
    }

    /// Writes the snapshot that `changed` returns for the last written revision. None: nothing has changed.
    pub(super) async fn save(
        &self,
        changed: impl FnOnce(Option<u64>) -> Option<Snapshot>,
    ) -> Result<(), SnapshotError> {
        let mut saved = self.saved.lock().await;
        let Some(snapshot) = changed(*saved) else { return Ok(()) };
        let revision = snapshot.state.revision;
        let path = self.path.clone();
        let write = move || snapshot.save(&path);
        tokio::task::spawn_blocking(write).await.map_err(|error| SnapshotError::Io {
            path: self.path.clone(),
            source: std::io::Error::other(error),
        })??;
        *saved = Some(revision);
        Ok(())
    }
}
