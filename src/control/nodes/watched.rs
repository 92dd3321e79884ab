//! Nodes as the watch shows them.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

/// Whether the watch shows a version of the Node that is not newer than the known one.
pub(super) fn is_stale(reported: &Node, known: &Node) -> bool {
    if reported.uid() != known.uid() {
        return false;
    }
    let version = |node: &Node| node.resource_version()?.parse::<u64>().ok();
    match (version(reported), version(known)) {
        (Some(reported), Some(known)) => reported.cmp(&known) != Ordering::Greater,
        _ => reported.resource_version() == known.resource_version(),
    }
}

pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

/// Removes unused parts of a Node, such as images and managed fields, which would use most of the memory.
pub(super) fn strip_unused(mut node: Node) -> Node {
    node.metadata.managed_fields = None;
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
    }
    node
}
