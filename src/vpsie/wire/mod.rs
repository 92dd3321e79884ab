//! Rows of VPSie's replies. They are read leniently, because the sources contradict each other
//! (docs/reference/vpsie-api.md#contradictions): unreadable fields count as absent, and rows without a key
//! are skipped and counted.

mod interruption;
mod node;
mod row;
mod rows;
mod vm;

pub use interruption::{INTERRUPTION_FIELDS, InterruptionFields};
pub(super) use node::{Node, NodeRows, read_nodes};
pub(super) use row::Row;
pub(super) use rows::{Cluster, Datacenter, Group, VmKind, VmName, read_offers, read_plan};
pub(super) use vm::{PendingVm, PlainVm, PlanCategory, read_created_vm, read_script};
