//! The request history: abandoned requests, and nodes that no request can have created.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{Hostname, PoolId};
use super::machine::RequestRef;
use crate::catalog::{MachineClass, SizeId};

/// Abandoned requests, and nodes that no request can have created. One record, which outlives machines and
/// unmanaged nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestHistory {
    /// Nodes that no request can have created: they were listed before the first request or long after the
    /// last one, or are annotated as added by hand. None before the first listing.
    #[serde(default)]
    pub known_before: Option<BTreeSet<Hostname>>,
    /// Requests whose machines stopped waiting for them.
    #[serde(default)]
    pub abandoned: Vec<AbandonedRequests>,
    /// The last requests that were moved here. An interrupted write leaves them in the records of their
    /// machines, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<MovedRequest>,
}

/// A request that was moved from its machine to the request history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MovedRequest {
    /// The request.
    pub request: RequestRef,
    /// Time of the move.
    pub moved_at: Timestamp,
}

/// Names an abandoned request in the record of the node that counts as its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AbandonedRef {
    /// Its pool.
    pub pool: PoolId,
    /// The requested size.
    pub size: SizeId,
    /// The time of its entry in the request history. Only the hour counts.
    pub at: Timestamp,
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
    /// Number of requests.
    pub count: u32,
}

impl AbandonedRequests {
    /// The class of the VMs that they may still create.
    pub fn class(&self) -> MachineClass {
        self.pool.class(self.size)
    }
}
