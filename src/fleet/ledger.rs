//! What is remembered of requests and listings for longer than machines and unmanaged nodes are.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{Hostname, PoolId};
use crate::catalog::{MachineClass, SizeId};

/// What is remembered of requests and listings for longer than machines and unmanaged nodes are. One record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Nodes that no request can have made: they were listed before the first one, or long after the last one, or a
    /// person says so. None before the first listing.
    #[serde(default)]
    pub known_before: Option<BTreeSet<Hostname>>,
    /// Late requests, from when their machines forgot them.
    #[serde(default)]
    pub abandoned: Vec<AbandonedRequests>,
}

/// Late requests of one pool: they have no VM, and their machines no longer wait for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AbandonedRequests {
    /// The pool.
    pub pool: PoolId,
    /// The size that was asked for.
    pub size: SizeId,
    /// When the newest of them was made.
    pub at: Timestamp,
    /// How many.
    pub count: u32,
}

impl AbandonedRequests {
    /// The class of the VMs that they may make.
    pub fn class(&self) -> MachineClass {
        self.pool.class(self.size)
    }
}
