//! Flags, environment and NodeGroup manifests, made into one validated [`Settings`].

mod args;
mod credentials;
mod duration;
mod election;
mod manifests;
mod node_group;
mod original;
mod price_file;
mod problem;
mod regions;
mod schema;
mod settings;
mod syntax;
#[cfg(test)]
mod tests;

pub use args::{
    ApiArgs, ElectionArgs, FleetArgs, GrpcArgs, KubernetesArgs, OperationsArgs,
    ServeArgs, StoreKind, TemplateArgs, TimingArgs,
};
pub use credentials::CredentialSource;
pub use duration::parse_duration;
pub use manifests::{CheckedNodeGroup, Manifests, Source, check_node_group, load_manifests, parse_manifests};
pub use original::{CONTROLLER, Fate, MANIFESTS, OriginalFlag, RefusedArgs, WEBHOOK};
pub use problem::{Problem, Problems};
pub use settings::{Settings, StoreSettings, VpsieSettings, sample_manifests};
