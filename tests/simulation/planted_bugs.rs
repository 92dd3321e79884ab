//! One planted bug for each invariant.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use vpsie_autoscaler::grpc::proto::{NodeGroupTargetSizeResponse, NodeGroupsResponse};

use super::hazards::Hazard;

/// A bug, by the invariant that it breaks (docs/develop/architecture.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedBug {
    /// 1: the target size counts one machine too many.
    TargetOffByOne,
    /// 2: an increase is acknowledged and not written.
    AcknowledgedBeforeDurable,
    /// 3: a read waits for something.
    ReadsWait,
    /// 4: the server does not hold the NodeGroup's maximum.
    MaximumIgnored,
    /// 5: orphans are not recorded.
    OrphanForgotten,
    /// 6: a creation whose reply was lost is taken for one that was not sent, and made again at once.
    LostTakenForNotDone,
    /// 7: a deletion takes another VM than the one that was named.
    AnotherVictim,
    /// 8: a pool is left out of NodeGroups.
    PoolHidden,
    /// 5: the request that a VM is the result of is removed before the VM is recorded.
    HalvesSwapped,
    /// 2: a write that was refused because somebody else changed the object is taken for done.
    ConflictTakenForDone,
    /// 7: a deletion takes another VM of the same hostname.
    NamesakeDeleted,
    /// All requests wait for as long as one reply asked for.
    ObeysRetryAfter,
}

impl PlantedBug {
    pub(crate) const ALL: [Self; 8] = [
        Self::TargetOffByOne,
        Self::AcknowledgedBeforeDurable,
        Self::ReadsWait,
        Self::MaximumIgnored,
        Self::OrphanForgotten,
        Self::LostTakenForNotDone,
        Self::AnotherVictim,
        Self::PoolHidden,
    ];

    /// What can be wrong with the store of a cluster.
    pub(crate) const KUBERNETES: [Self; 3] =
        [Self::AcknowledgedBeforeDurable, Self::HalvesSwapped, Self::ConflictTakenForDone];

    /// What shows only under a hazard.
    pub(crate) const UNDER_HAZARDS: [Self; 2] = [Self::NamesakeDeleted, Self::ObeysRetryAfter];

    /// The hazard under which it shows.
    pub(crate) fn hazard(self) -> Option<Hazard> {
        Some(match self {
            Self::NamesakeDeleted => Hazard::Namesakes,
            Self::ObeysRetryAfter => Hazard::AbsurdRetryAfter,
            _ => return None,
        })
    }

    /// Changes a reply: a gRPC frame around one message.
    pub(crate) fn change(self, frame: &[u8]) -> Bytes {
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
