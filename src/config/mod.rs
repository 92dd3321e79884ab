//! Flags, environment and files, made into one validated [`Settings`].

mod args;
mod credentials;
mod election;
mod manifest_files;
mod original;
mod price_file;
mod settings;
#[cfg(test)]
mod tests;

pub use args::{
    ApiArgs, ElectionArgs, FleetArgs, GrpcArgs, KubernetesArgs, OperationsArgs, ServeArgs, StoreKind,
    TemplateArgs, TimingArgs,
};
pub use credentials::CredentialSource;
pub use manifest_files::load_manifests;
pub use original::{CONTROLLER, Fate, MANIFESTS, OriginalFlag, RefusedArgs, WEBHOOK};
pub use settings::{Settings, StoreSettings, VpsieSettings, sample_manifests};
