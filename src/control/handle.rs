//! A handle of the fleet: it reads memory, and sends changes to the writer.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::fleet::{
    Cause, Change, Declaration, DrainState, Fleet, Hostname, MachineId, Names, NodeRef, ObservedNode,
    ProviderId, Refusal,
};
use crate::store::StoreError;

/// Reads the fleet and sends it commands. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FleetHandle {
    pub(super) fleet: Arc<RwLock<Fleet>>,
    pub(super) messages: mpsc::Sender<WriterMessage>,
    pub(super) commits: watch::Receiver<u64>,
}

/// Changes the fleet. The returned changes are made durable.
type Decide = Box<dyn FnOnce(&mut Fleet, Timestamp, Names<'_>) -> Result<Vec<Change>, Refusal> + Send>;

/// A message to the writer.
pub(super) enum WriterMessage {
    /// A change of the fleet.
    Job(WriteJob),
    /// New declarations of users.
    Declare(Declaration, oneshot::Sender<()>),
}

/// A change of the fleet, its cause, and its caller.
pub(super) struct WriteJob {
    pub(super) cause: Cause,
    pub(super) decide: Decide,
    pub(super) reply: oneshot::Sender<Result<Vec<Change>, CommandError>>,
    pub(super) on_partial_write: OnPartialWrite,
}

/// Treatment of a job that is written in part, or whose caller has stopped waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnPartialWrite {
    /// The job fails and is undone: commands of Cluster Autoscaler.
    Undo,
    /// The job fails, and its written changes stay.
    Fail,
    /// The job returns its written changes.
    Keep,
}

/// Commands of Cluster Autoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `NodeGroupIncreaseSize`.
    IncreaseSize {
        /// Pool id of the request.
        pool: String,
        /// Number of machines to add.
        delta: i32,
    },
    /// `NodeGroupDecreaseTargetSize`.
    DecreaseTargetSize {
        /// Pool id of the request.
        pool: String,
        /// Number of machines to remove, below 0.
        delta: i32,
    },
    /// `NodeGroupDeleteNodes`.
    DeleteNodes {
        /// Pool id of the request.
        pool: String,
        /// The victims.
        nodes: Vec<NodeRef>,
    },
}

/// The failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command is refused. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The records could not be written. The command is not acknowledged.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The caller's deadline passed first.
    #[error("the deadline of the call passed and the command is undone; retry")]
    Deadline,
    /// The process is stopping.
    #[error("this replica is shutting down; retry with the next leader")]
    Stopped,
}

impl FleetHandle {
    /// A handle of a constant fleet: every command fails with [`CommandError::Stopped`].
    pub fn fixed(fleet: Fleet) -> Self {
        Self {
            fleet: Arc::new(RwLock::new(fleet)),
            messages: mpsc::channel(1).0,
            commits: watch::channel(0).1,
        }
    }

    /// Reads the fleet. `f` must be short: it holds the read lock.
    pub fn read<R>(&self, f: impl FnOnce(&Fleet) -> R) -> R {
        f(&self.fleet.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends a command and waits until it is durable or refused.
    pub async fn execute(&self, command: Command) -> Result<(), CommandError> {
        let decide = move |fleet: &mut Fleet, now: Timestamp, names: Names<'_>| match command {
            Command::IncreaseSize { pool, delta } => fleet.increase(&pool, delta, now, names),
            Command::DecreaseTargetSize { pool, delta } => fleet.decrease(&pool, delta),
            Command::DeleteNodes { pool, nodes } => fleet.delete_nodes(&pool, &nodes, now),
        };
        self.decide(Cause::ClusterAutoscaler, OnPartialWrite::Undo, decide).await.map(drop)
    }

    /// Sends a command with a timeout. A command that times out is undone.
    pub async fn execute_within(
        &self,
        command: Command,
        timeout: Option<Duration>,
    ) -> Result<(), CommandError> {
        let Some(timeout) = timeout else { return self.execute(command).await };
        let done = tokio::time::timeout(timeout, self.execute(command)).await;
        done.unwrap_or(Err(CommandError::Deadline))
    }

    /// Replaces the declarations of users, and returns once they are in force.
    pub async fn declare(&self, declaration: Declaration) -> Result<(), CommandError> {
        let (reply, done) = oneshot::channel();
        let message = WriterMessage::Declare(declaration, reply);
        self.messages.send(message).await.map_err(|_| CommandError::Stopped)?;
        done.await.map_err(|_| CommandError::Stopped)
    }

    /// Records that the Node of a VM registered.
    pub async fn note_registered(&self, node: Hostname) -> Result<(), CommandError> {
        self.update(Cause::Node, move |fleet, now, _| fleet.note_registered(&node, now)).await.map(drop)
    }

    /// Notes the machines whose Node is not Ready.
    pub(crate) async fn note_unready_nodes(&self, machines: BTreeSet<MachineId>) -> Result<(), CommandError> {
        self.update(Cause::Node, move |fleet, now, _| fleet.note_unready_nodes(machines, now)).await.map(drop)
    }

    /// Adds the Node of a VM as a sample of its size.
    pub async fn add_node_sample(&self, vm: Hostname, node: ObservedNode) -> Result<(), CommandError> {
        self.update(Cause::Node, move |fleet, now, _| fleet.add_node_sample(&vm, node, now)).await.map(drop)
    }

    /// Adopts the providerID that another controller set on the machine's Node. Returns whether the machine
    /// has it now.
    pub(crate) async fn adopt_provider_id(
        &self,
        machine: MachineId,
        provider_id: ProviderId,
    ) -> Result<bool, CommandError> {
        let adopt = move |fleet: &mut Fleet, _: Timestamp, _: Names<'_>| {
            fleet.adopt_provider_id(&machine, &provider_id)
        };
        let adopted = self.update(Cause::Node, adopt).await?;
        Ok(!adopted.is_empty())
    }

    /// Makes the second VM of a machine's request the machine's VM. Returns whether it is.
    pub(crate) async fn keep_joined(&self, machine: MachineId, vm: Hostname) -> Result<bool, CommandError> {
        let keep =
            move |fleet: &mut Fleet, now: Timestamp, _: Names<'_>| fleet.keep_joined(&machine, &vm, now);
        Ok(!self.update(Cause::Node, keep).await?.is_empty())
    }

    /// Records the drain state of a machine that is being deleted.
    pub async fn note_drain(&self, machine: MachineId, drain: DrainState) -> Result<(), CommandError> {
        self.update(Cause::Drain, move |fleet, _, _| fleet.note_drain(&machine, drain)).await.map(drop)
    }

    /// Changes the fleet, and returns the changes once they are durable.
    pub(crate) async fn update(
        &self,
        cause: Cause,
        change: impl FnOnce(&mut Fleet, Timestamp, Names<'_>) -> Vec<Change> + Send + 'static,
    ) -> Result<Vec<Change>, CommandError> {
        self.decide(cause, OnPartialWrite::Fail, move |fleet, now, names| Ok(change(fleet, now, names))).await
    }

    /// Applies independent changes to the fleet, and returns the durable ones: without the changes whose record
    /// the store refused.
    pub(crate) async fn update_independent(
        &self,
        cause: Cause,
        change: impl FnOnce(&mut Fleet, Timestamp, Names<'_>) -> Vec<Change> + Send + 'static,
    ) -> Result<Vec<Change>, CommandError> {
        self.decide(cause, OnPartialWrite::Keep, move |fleet, now, names| Ok(change(fleet, now, names))).await
    }

    /// Completes after the next durable change since the last call.
    pub(crate) async fn changed(&mut self) {
        if self.commits.changed().await.is_err() {
            // The writer has ended: there are no more changes.
            std::future::pending::<()>().await;
        }
    }

    async fn decide(
        &self,
        cause: Cause,
        on_partial_write: OnPartialWrite,
        decide: impl FnOnce(&mut Fleet, Timestamp, Names<'_>) -> Result<Vec<Change>, Refusal> + Send + 'static,
    ) -> Result<Vec<Change>, CommandError> {
        let (reply, result) = oneshot::channel();
        let job = WriteJob { cause, decide: Box::new(decide), reply, on_partial_write };
        self.messages.send(WriterMessage::Job(job)).await.map_err(|_| CommandError::Stopped)?;
        result.await.map_err(|_| CommandError::Stopped)?
    }
}
