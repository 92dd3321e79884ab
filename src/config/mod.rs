//! Flags, environment and NodeGroup manifests, made into one validated [`Settings`].

mod args;
mod duration;
mod manifests;
mod node_group;
mod problem;
mod regions;
mod schema;
mod settings;
mod syntax;
#[cfg(test)]
mod tests;

pub use args::{
    ApiArgs, FleetArgs, GrpcArgs, KubernetesArgs, LogArgs, LogFormat, OperationsArgs, ServeArgs,
    TemplateArgs, TimingArgs,
};
pub use duration::parse_duration;
pub use manifests::{Manifests, Source, load_manifests, parse_manifests};
pub use problem::{Problem, Problems};
pub use settings::{KubernetesAccess, Settings, VpsieSettings, sample_manifests};
