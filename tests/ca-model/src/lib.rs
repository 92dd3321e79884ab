//! A model of the loop of Kubernetes Cluster Autoscaler.
