//! `vpsie-autoscaler simulator`.
