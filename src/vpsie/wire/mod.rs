//! Rows of VPSie's replies, read as leniently as the evidence asks
//! (docs/reference/vpsie-api.md#contradictions). A field that cannot be read is as good as absent; a row
//! without its key is skipped and counted.

mod node;
mod row;
mod rows;

pub(super) use node::{Node, nodes};
pub(super) use row::Row;
pub(super) use rows::{Cluster, Datacenter, Group, VmKind, VmName, offer};
