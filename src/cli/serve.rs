//! `serve`: everything together.

use tokio_util::sync::CancellationToken;

use crate::config::{ServeArgs, Settings};
use crate::telemetry::init_logs;

pub(super) async fn run(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let settings = Settings::new(args)?;
    init_logs(&settings.log)?;
    for note in &settings.manifests.notes {
        tracing::warn!("{note}");
    }
    drop(shutdown);
    anyhow::bail!("the settings are valid, but this build cannot serve yet")
}
