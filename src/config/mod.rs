//! Flags, environment and NodeGroup manifests, made into one validated Settings.

mod duration;
mod manifests;
mod node_group;
mod problem;
mod schema;
mod syntax;

pub use duration::parse_duration;
pub use manifests::{Manifests, Source, load_manifests, parse_manifests};
pub use problem::{Problem, Problems};
