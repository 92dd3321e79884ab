//! Cloud provider for Kubernetes Cluster Autoscaler on VPSie.
//!
//! ```text
//!   Cluster Autoscaler ──gRPC──► grpc ──► control (writer) ──► fleet   PURE: decides
//!                                  │          │    ▲             │
//!                                  │          │    └── changes ──┘
//!                                  │          ├──► store          durable records
//!                                  │          ├──► vpsie ──HTTPS──► VPSie, or simulator
//!                                  │          └──► Kubernetes     node identity
//!                                  └─ reads answer from memory
//! ```
//!
//! Pure rooms ([`fleet`], [`catalog`], [`cost`], [`join`], [`placement`]) have no async, no clock, no randomness and no I/O.
//! The others are adapters around them; arrows point from the shell to the pure rooms only.

pub mod api;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod cost;
pub mod fleet;
pub mod grpc;
pub mod join;
pub mod kubernetes;
pub mod placement;
pub mod retry_after;
#[cfg(any(feature = "simulator", test))]
pub mod simulator;
pub mod store;
pub mod telemetry;
pub mod validation;
pub mod vpsie;
