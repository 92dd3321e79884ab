//! The gRPC services that Cluster Autoscaler calls.
