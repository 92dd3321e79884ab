//! Memory of requests and listings that lasts longer than machines and unmanaged nodes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{Hostname, PoolId};
use crate::catalog::{MachineClass, SizeId};

/// Memory of requests and listings that lasts longer than machines and unmanaged nodes. One record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Nodes that no request can have made: they were listed before the first request or long after the last one, or a
    /// person annotated them. None before the first listing.
    #[serde(default)]
    pub known_before: Option<BTreeSet<Hostname>>,
    /// Requests whose machines stopped waiting for them.
    #[serde(default)]
    pub abandoned: Vec<AbandonedRequests>,
}

/// Abandoned requests of one pool: they have no VM, and their machines no longer wait for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AbandonedRequests {
    /// The pool.
    pub pool: PoolId,
    /// The requested size.
    pub size: SizeId,
    /// Time of the newest of them.
    pub at: Timestamp,
    /// How many.
    pub count: u32,
}

impl AbandonedRequests {
    /// The class of the VMs that they may still make.
    pub fn class(&self) -> MachineClass {
        self.pool.class(self.size)
    }
}
