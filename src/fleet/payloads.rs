//! What is known of the payloads by which VMs join a self-managed cluster. The fleet knows no payloads: `control/join` finds
//! this out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ids::NodeGroupName;
use crate::catalog::DatacenterId;

/// What is known of the payloads of NodeGroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PayloadFindings {
    /// NodeGroups that add no machines because of their payload, with the reason.
    pub problems: BTreeMap<NodeGroupName, Arc<str>>,
    /// Datacenters in which a NodeGroup adds no machines because its payload never joins there, with the reason.
    pub stopped: BTreeMap<NodeGroupName, BTreeMap<DatacenterId, Arc<str>>>,
    /// NodeGroups of which a machine has joined with the present payload. None: unknown.
    pub proven: Option<BTreeSet<NodeGroupName>>,
}
