//! The body of a request. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::fleet::{MAX_NOTICE, MachineId};

/// Maximum difference between `sentAt` and this server's clock.
const MAX_SKEW: Duration = Duration::from_mins(5);

/// A notice, or its withdrawal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Message {
    /// UUID or hostname of the VM.
    pub(super) vm: Option<String>,
    /// Name of the Node.
    pub(super) node: Option<String>,
    /// Time at which the sender created the message.
    pub(super) sent_at: Timestamp,
    /// Time at which VPSie will interrupt the VM. None if it is unknown.
    pub(super) deadline: Option<Timestamp>,
    /// Whether the VM will not be interrupted after all.
    #[serde(default)]
    pub(super) withdrawn: bool,
}

/// The VM of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageTarget<'a> {
    /// By UUID or hostname.
    Vm(&'a str),
    /// By the name of its Node.
    Node(&'a str),
}

/// A message that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("the body is not a notice: {0}")]
    Body(String),
    #[error("vm, node: set exactly one of them")]
    MessageTarget,
    #[error("sentAt: is {sent_at}; it must be within 5 minutes of {now}, the time of this server")]
    SentAt { sent_at: Timestamp, now: Timestamp },
    #[error("deadline: is {0}; it must be at most 24 hours ahead")]
    Deadline(Timestamp),
    #[error("deadline: is not allowed with withdrawn: true")]
    DeadlineOfWithdrawal,
}

/// A message that does not follow the last accepted one about its VM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sentAt: is {sent_at}; a message that was sent at {last} about this VM was accepted before")]
pub(super) struct Outdated {
    sent_at: Timestamp,
    last: Timestamp,
}

impl Message {
    /// Reads and checks a body.
    pub(super) fn parse(body: &[u8], now: Timestamp) -> Result<Self, Invalid> {
        let message: Self = serde_json::from_slice(body).map_err(|error| Invalid::Body(error.to_string()))?;
        let difference = now.duration_since(message.sent_at).abs();
        if difference > SignedDuration::try_from(MAX_SKEW).unwrap_or(SignedDuration::MAX) {
            return Err(Invalid::SentAt { sent_at: message.sent_at, now });
        }
        match message.deadline {
            Some(_) if message.withdrawn => return Err(Invalid::DeadlineOfWithdrawal),
            Some(deadline) if deadline > now + MAX_NOTICE => return Err(Invalid::Deadline(deadline)),
            Some(_) | None => {}
        }
        message.target()?;
        Ok(message)
    }

    /// The VM.
    pub(super) fn target(&self) -> Result<MessageTarget<'_>, Invalid> {
        match (self.vm.as_deref(), self.node.as_deref()) {
            (Some(vm), None) => Ok(MessageTarget::Vm(vm)),
            (None, Some(node)) => Ok(MessageTarget::Node(node)),
            (Some(_), Some(_)) | (None, None) => Err(Invalid::MessageTarget),
        }
    }
}

/// The last accepted message about each machine: a replayed message is older, or the same.
#[derive(Debug, Default)]
pub(super) struct LastMessages(BTreeMap<MachineId, Message>);

impl LastMessages {
    /// Accepts a message that is newer than the last one, or the same: a sender repeats it if it got no reply.
    pub(super) fn accept(&mut self, machine: &MachineId, message: &Message) -> Result<(), Outdated> {
        match self.0.get(machine) {
            Some(last) if last != message && message.sent_at <= last.sent_at => {
                Err(Outdated { sent_at: message.sent_at, last: last.sent_at })
            }
            Some(_) | None => {
                self.0.insert(machine.clone(), message.clone());
                Ok(())
            }
        }
    }

    /// Removes messages that would be refused because of their age.
    pub(super) fn remove_old(&mut self, now: Timestamp) {
        self.0.retain(|_, message| message.sent_at + 2 * MAX_SKEW > now);
    }
}
