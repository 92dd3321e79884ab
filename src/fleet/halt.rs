//! Causes for which the runaway guard halts growth.

use std::fmt;

use super::ids::Hostname;
use super::template::names;

/// Maximum of names in a message.
const MAX_NAMES: usize = 5;

/// The cause of a halt of growth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// As many VMs may be paid for as the VM limit allows: the maxima and the margin.
    TooManyVms {
        /// VMs that may be paid for.
        counted: u32,
        /// The VM limit.
        limit: u32,
        /// Creations among them whose VM has not been listed yet.
        unseen: u32,
        /// VMs among them that are no longer listed, and whose deletion is not confirmed.
        missing: u32,
        /// Workers that VPSie counts but does not list.
        hidden: u32,
    },
    /// More nodes appeared than were requested.
    UnexplainedNodes(Vec<Hostname>),
    /// VMs are still listed long after their deletion was requested.
    DeletionsOverdue(Vec<Hostname>),
}

impl Halt {
    /// The cause as a code, as in conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooManyVms { .. } => "TooManyVMs",
            Self::UnexplainedNodes(_) => "UnexplainedNodes",
            Self::DeletionsOverdue(_) => "DeletionsOverdue",
        }
    }

    /// All causes.
    pub const REASONS: [&'static str; 3] = ["TooManyVMs", "UnexplainedNodes", "DeletionsOverdue"];
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyVms { counted, limit, unseen, missing, hidden } => write!(
                f,
                "growth is halted: {counted} VMs may be paid for, and at most {limit} are allowed (maxNodes and a \
                 margin). Requested, not listed yet: {unseen}. No longer listed: {missing}. Counted by VPSie, not \
                 listed: {hidden}. Compare VPSie's list of VMs with the VPSieNodes"
            ),
            Self::UnexplainedNodes(nodes) => write!(
                f,
                "growth is halted: {} unexplained nodes ({}) appeared in addition to the requested VMs. Delete \
                 them at VPSie, or annotate the Nodes that were added by hand with {}=true",
                nodes.len(),
                list_names(nodes),
                names::ADDED_BY_HAND
            ),
            Self::DeletionsOverdue(nodes) => write!(
                f,
                "growth is halted: {} VMs are still listed half an hour after the first request to delete them \
                 ({}). Check that the token may delete workers, or delete them at VPSie",
                nodes.len(),
                list_names(nodes)
            ),
        }
    }
}

fn list_names(nodes: &[Hostname]) -> String {
    let mut names: Vec<&str> = nodes.iter().take(MAX_NAMES).map(Hostname::as_str).collect();
    if nodes.len() > MAX_NAMES {
        names.push("…");
    }
    names.join(", ")
}
