//! Planted bugs: the checks must find each of them.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use vpsie_autoscaler::grpc::proto::{NodeGroupTargetSizeResponse, NodeGroupsResponse};

use super::hazards::Hazard;

/// A planted bug. The number is the invariant that it violates (docs/develop/architecture.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedBug {
    /// 1: the target size counts one machine too many.
    TargetOffByOne,
    /// 2: an increase is acknowledged and not recorded.
    AcknowledgedBeforeDurable,
    /// 3: a read RPC waits.
    ReadsWait,
    /// 4: the server does not enforce the NodeGroup's maximum.
    MaximumIgnored,
    /// 5: orphans are not recorded.
    OrphanForgotten,
    /// 6: a creation whose reply was lost counts as not sent, and is repeated at once.
    LostReplyIsNotSent,
    /// 7: a deletion deletes another VM than the named one.
    WrongVmDeleted,
    /// 8: NodeGroups lacks a pool.
    PoolHidden,
    /// 5: a request is removed before its VM is recorded.
    RequestRemovedFirst,
    /// 2: a write that failed with 409 Conflict counts as successful.
    ConflictIsSuccess,
    /// 7: a deletion deletes another VM with the same hostname.
    NamesakeDeleted,
    /// L: after a reply with `Retry-After`, all requests wait for that time, even if it is days.
    UnboundedRetryAfter,
}

impl PlantedBug {
    pub(crate) const ALL: [Self; 8] = [
        Self::TargetOffByOne,
        Self::AcknowledgedBeforeDurable,
        Self::ReadsWait,
        Self::MaximumIgnored,
        Self::OrphanForgotten,
        Self::LostReplyIsNotSent,
        Self::WrongVmDeleted,
        Self::PoolHidden,
    ];

    /// Bugs of the store in an API server.
    pub(crate) const KUBERNETES: [Self; 3] =
        [Self::AcknowledgedBeforeDurable, Self::RequestRemovedFirst, Self::ConflictIsSuccess];

    /// Bugs that have an effect only under a hazard.
    pub(crate) const UNDER_HAZARDS: [Self; 2] = [Self::NamesakeDeleted, Self::UnboundedRetryAfter];

    /// The hazard under which this bug has an effect. None if it needs no hazard.
    pub(crate) fn hazard(self) -> Option<Hazard> {
        Some(match self {
            Self::NamesakeDeleted => Hazard::Namesakes,
            Self::UnboundedRetryAfter => Hazard::AbsurdRetryAfter,
            _ => return None,
        })
    }

    /// Changes a reply. `frame` is a gRPC frame with one message.
    pub(crate) fn change_reply(self, frame: &[u8]) -> Bytes {
        let message = frame.get(5..).unwrap_or_default();
        let changed = match self {
            Self::TargetOffByOne => {
                let mut reply = NodeGroupTargetSizeResponse::decode(message).unwrap();
                reply.target_size += 1;
                reply.encode_to_vec()
            }
            Self::PoolHidden => {
                let mut reply = NodeGroupsResponse::decode(message).unwrap();
                reply.node_groups.pop();
                reply.encode_to_vec()
            }
            _ => message.to_vec(),
        };
        let mut out = BytesMut::new();
        out.put_u8(0);
        out.put_u32(changed.len() as u32);
        out.extend_from_slice(&changed);
        out.freeze()
    }
}
