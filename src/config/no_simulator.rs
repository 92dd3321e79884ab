//! `--simulate`, in a build without the simulator.

use std::path::{Path, PathBuf};

use super::args::VpsieArgs;
use super::vpsie_settings::VpsieSettings;
use crate::validation::Problem;

/// Refused, and not ignored: with credentials at hand the process would create VMs that cost money.
pub(super) fn simulated(
    _: &VpsieArgs,
    _: Option<&Path>,
    _: PathBuf,
    problems: &mut Vec<Problem>,
) -> Option<VpsieSettings> {
    let message = "needs the simulator, which images and releases are built without: run a build from source, made by \
                   `cargo build --release`";
    problems.push(Problem::new("--simulate", "", message));
    None
}
