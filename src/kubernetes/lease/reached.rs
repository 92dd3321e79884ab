//! Where the replica that leads is reached: on the Lease, for the one that hands over to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Annotation of the Lease: where the one that leads serves Cluster Autoscaler.
const GRPC: &str = "autoscaler.vpsie.com/grpc-address";
/// Annotation of the Lease: where it serves the expander.
const EXPANDER: &str = "autoscaler.vpsie.com/expander-address";

/// Where a replica is reached by the others once it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its gRPC port.
    pub grpc: SocketAddr,
    /// The expander's own port.
    pub expander: Option<SocketAddr>,
}

impl Reached {
    /// What a Lease says. What cannot be read is not there.
    pub(super) fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let address = |key| annotations.get(key)?.parse().ok();
        Some(Self { grpc: address(GRPC)?, expander: address(EXPANDER) })
    }

    /// Says it, in the place of what another has said; `None` says nothing.
    pub(super) fn write(reached: Option<Self>, annotations: &mut BTreeMap<String, String>) {
        let grpc = reached.map(|reached| reached.grpc);
        let expander = reached.and_then(|reached| reached.expander);
        for (key, address) in [(GRPC, grpc), (EXPANDER, expander)] {
            match address {
                Some(address) => annotations.insert(key.to_owned(), address.to_string()),
                None => annotations.remove(key),
            };
        }
    }
}
