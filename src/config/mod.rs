//! Reads flags, environment variables and files into validated [`Settings`].

mod args;
mod credentials;
mod election;
mod legacy_flags;
mod manifest_files;
#[cfg(not(any(feature = "simulator", test)))]
mod no_simulator;
mod price_file;
mod settings;
#[cfg(any(feature = "simulator", test))]
mod simulated;
#[cfg(test)]
mod tests;
mod vpsie_settings;

pub use args::{
    ElectionArgs, FleetArgs, GrpcArgs, KubernetesArgs, OperationsArgs, ServeArgs, StoreKind, TemplateArgs,
    TimingArgs, VpsieArgs,
};
pub use credentials::CredentialSource;
pub use legacy_flags::{CONTROLLER, LegacyFlag, MANIFESTS, RefusedArgs, Support, WEBHOOK};
pub use manifest_files::load_manifests;
pub use settings::{NoticeWebhookSettings, Settings, StoreSettings, sample_manifests};
pub use vpsie_settings::VpsieSettings;
