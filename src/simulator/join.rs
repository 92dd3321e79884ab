//! Machines that join a Kubernetes API server.
