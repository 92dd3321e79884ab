//! `serve`, with files or in a cluster.

mod cluster;
mod components;
#[cfg(test)]
mod docs;
mod local;
mod product;

use tokio_util::sync::CancellationToken;

use crate::config::{ServeArgs, Settings, StoreSettings};
use crate::telemetry::init_logs;

pub(super) async fn run(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let settings = Settings::new(args)?;
    init_logs(&settings.log)?;
    match settings.store.clone() {
        StoreSettings::File { manifests, data_file, kubernetes } => {
            local::run(settings, &manifests, &data_file, kubernetes.as_ref(), shutdown).await
        }
        StoreSettings::Kubernetes { access, namespace, election } => {
            Box::pin(cluster::run(settings, &access, &namespace, &election, shutdown)).await
        }
    }
}
