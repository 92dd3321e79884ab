//! PURE. The join of a VM to a self-managed cluster: the payload that it runs at its first boot.

mod ca;
mod config;
mod credential;
mod hash;
mod labels;
mod render;
mod variables;

#[cfg(test)]
mod tests;

pub use ca::{CaError, ClusterCa, ca_of_cluster_info};
pub use config::{
    CloudController, Credential, JoinConfig, JoinKind, ObjectKey, PayloadTemplate, VariableSource,
};
pub use credential::{CredentialError, join_token};
pub use hash::{PayloadHash, PayloadInput};
pub use labels::refused_label;
pub use render::{MAX_PAYLOAD, RenderError, builtin_template, render};
pub use variables::Variables;
