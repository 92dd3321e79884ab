//! `--simulate`, in a build without the simulator.

use std::path::{Path, PathBuf};

use super::args::VpsieArgs;
use super::vpsie_settings::VpsieSettings;
use crate::validation::Problem;

/// Refuses the flag. If it were ignored, a process with credentials would create VMs that cost money.
pub(super) fn simulated_vpsie(
    _: &VpsieArgs,
    _: Option<&Path>,
    _: PathBuf,
    problems: &mut Vec<Problem>,
) -> Option<VpsieSettings> {
    let message = "needs the simulator, which images and releases do not have: build from source with \
                   `cargo build --release`";
    problems.push(Problem::new("--simulate", "", message));
    None
}
