//! The gRPC services that Cluster Autoscaler calls.

mod convert;
mod deadline;
mod expander;
mod hand_over;
mod limited;
mod metrics;
mod options;
mod pod;
mod pricing;
mod recent_pools;
mod server;
mod service;
mod status;
#[cfg(test)]
mod tests;
mod tls;

pub use expander::{DecisionRecord, Decisions, ExpanderService, RecordedOption, debug_routes};
pub use hand_over::hand_over;
pub use metrics::GrpcMetrics;
pub use server::{GrpcConfig, GrpcConfigError, ServeError, Services, serve};
pub use service::CloudProviderService;
pub use tls::{TlsError, TlsFiles};

/// Messages, client and server generated from `proto/`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("clusterautoscaler.cloudprovider.v1.externalgrpc");

    /// The compiled schema, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

    /// Messages, client and server of the expander.
    pub mod grpcplugin {
        tonic::include_proto!("grpcplugin");
    }

    /// Kubernetes' messages, as far as their fields are read or written here.
    pub(super) mod kubernetes {
        tonic::include_proto!("kubernetes");
    }
}
