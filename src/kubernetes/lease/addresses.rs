//! The leader's addresses, as annotations of the Lease. The previous leader forwards connections to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Annotation of the Lease: the leader's address for Cluster Autoscaler.
const GRPC: &str = "autoscaler.vpsie.com/grpc-address";
/// Annotation of the Lease: the leader's address for the expander.
const EXPANDER: &str = "autoscaler.vpsie.com/expander-address";

/// The addresses at which other replicas connect to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderAddresses {
    /// Its gRPC port.
    pub grpc: SocketAddr,
    /// The expander's own port.
    pub expander: Option<SocketAddr>,
}

impl LeaderAddresses {
    /// Reads the annotations of a Lease. Unreadable values count as missing.
    pub(super) fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let address = |key| annotations.get(key)?.parse().ok();
        Some(Self { grpc: address(GRPC)?, expander: address(EXPANDER) })
    }

    /// Replaces the annotations; `None` removes them.
    pub(super) fn write(addresses: Option<Self>, annotations: &mut BTreeMap<String, String>) {
        let grpc = addresses.map(|addresses| addresses.grpc);
        let expander = addresses.and_then(|addresses| addresses.expander);
        for (key, address) in [(GRPC, grpc), (EXPANDER, expander)] {
            match address {
                Some(address) => annotations.insert(key.to_owned(), address.to_string()),
                None => annotations.remove(key),
            };
        }
    }
}
