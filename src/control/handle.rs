//! The door to the fleet: reads from memory, commands through the keeper.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{mpsc, oneshot};

use crate::fleet::{Fleet, NodeRef, Refusal};
use crate::store::StoreError;

/// Reads the fleet and sends it commands. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FleetHandle {
    fleet: Arc<RwLock<Fleet>>,
    commands: mpsc::Sender<CommandRequest>,
}

/// A command, and where its outcome is awaited.
pub type CommandRequest = (Command, oneshot::Sender<Result<(), CommandError>>);

/// What can be asked of the fleet from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `NodeGroupIncreaseSize`.
    IncreaseSize {
        /// Pool id, as it came.
        pool: String,
        /// How many more.
        delta: i32,
    },
    /// `NodeGroupDecreaseTargetSize`.
    DecreaseTargetSize {
        /// Pool id, as it came.
        pool: String,
        /// How many fewer, below 0.
        delta: i32,
    },
    /// `NodeGroupDeleteNodes`.
    DeleteNodes {
        /// Pool id, as it came.
        pool: String,
        /// The victims.
        nodes: Vec<NodeRef>,
    },
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Against the rules; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The records could not be written; nothing is acknowledged.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The process is stopping.
    #[error("shutting down; ask again")]
    Stopped,
}

impl FleetHandle {
    /// A handle on a fleet whose commands are taken at the other end of the channel.
    pub fn new(fleet: Arc<RwLock<Fleet>>, commands: mpsc::Sender<CommandRequest>) -> Self {
        Self { fleet, commands }
    }

    /// Reads from memory. Keep `f` short: it holds the read lock.
    pub fn read<R>(&self, f: impl FnOnce(&Fleet) -> R) -> R {
        f(&self.fleet.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends a command and waits until it is durable, or refused.
    pub async fn execute(&self, command: Command) -> Result<(), CommandError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send((command, reply)).await.map_err(|_| CommandError::Stopped)?;
        answer.await.map_err(|_| CommandError::Stopped)?
    }
}
