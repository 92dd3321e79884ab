//! `--simulate`, in a build with the simulator.

use std::path::{Path, PathBuf};

use super::args::VpsieArgs;
use super::vpsie_settings::{VpsieSettings, client_config};
use crate::simulator::SimulatorConfig;
use crate::validation::Problem;
use crate::vpsie::{BaseUrl, Credentials};

pub(super) fn simulated_vpsie(
    args: &VpsieArgs,
    config: Option<&Path>,
    state: PathBuf,
    problems: &mut Vec<Problem>,
) -> Option<VpsieSettings> {
    let simulator = match config.map_or_else(|| Ok(SimulatorConfig::default()), simulator_config) {
        Ok(simulator) => Some(simulator),
        Err(problem) => {
            problems.push(Problem::new("--simulator-config", "", problem));
            None
        }
    };
    let credentials = simulator.as_ref().map(|simulator| Credentials::token(simulator.account.token.clone()));
    // Requests stay in the process, so the host does not matter.
    let base = BaseUrl::parse("http://localhost").ok();
    let client = client_config(args, base, credentials, problems)?;
    Some(VpsieSettings::Simulated { simulator: Box::new(simulator?), state, client })
}

fn simulator_config(path: &Path) -> Result<SimulatorConfig, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let config: SimulatorConfig =
        serde_saphyr::from_str(&text).map_err(|error| format!("{shown}: {}", error.without_snippet()))?;
    config.validate().map_err(|error| format!("{shown}: {error}"))?;
    Ok(config)
}
