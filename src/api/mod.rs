//! The Kubernetes types of `autoscaler.vpsie.com/v1alpha1`.
