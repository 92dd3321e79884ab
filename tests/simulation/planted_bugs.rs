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
    /// Bugs that need neither a hazard nor Kubernetes, each with a seed that finds it.
    pub(crate) const WITHOUT_HAZARDS: [(Self, u64); 8] = [
        (Self::TargetOffByOne, 0),
        (Self::AcknowledgedBeforeDurable, 0),
        (Self::ReadsWait, 0),
        (Self::MaximumIgnored, 0),
        (Self::OrphanForgotten, 13),
        (Self::LostReplyIsNotSent, 6),
        (Self::WrongVmDeleted, 0),
        (Self::PoolHidden, 0),
    ];

    /// Bugs of the store in an API server, each with a seed that finds it.
    pub(crate) const KUBERNETES: [(Self, u64); 3] =
        [(Self::AcknowledgedBeforeDurable, 0), (Self::RequestRemovedFirst, 27), (Self::ConflictIsSuccess, 0)];

    /// Bugs that have an effect only under a hazard, each with a seed that finds it.
    pub(crate) const UNDER_HAZARDS: [(Self, u64); 2] =
        [(Self::NamesakeDeleted, 0), (Self::UnboundedRetryAfter, 0)];

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
