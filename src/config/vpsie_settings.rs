//! Access to VPSie: the real API or a simulated one.

use super::args::VpsieArgs;
use super::credentials::{CredentialSource, read_credentials};
#[cfg(any(feature = "simulator", test))]
use crate::simulator::SimulatorConfig;
use crate::validation::Problem;
use crate::vpsie::{BaseUrl, ClientConfig, Credentials, Timeouts};

/// The real VPSie API, or a simulated one.
#[derive(Clone, Debug)]
pub enum VpsieSettings {
    /// A simulated one in this process.
    #[cfg(any(feature = "simulator", test))]
    Simulated {
        /// Its objects and behaviour.
        simulator: Box<SimulatorConfig>,
        /// File with its VMs.
        state: std::path::PathBuf,
        /// Settings of the client.
        client: ClientConfig,
    },
    /// The real one.
    Real {
        /// Settings of the client, with the credentials to start with.
        client: ClientConfig,
        /// Source of later credentials.
        source: CredentialSource,
    },
}

impl VpsieSettings {
    /// Source of credentials while the process runs.
    pub fn credential_source(&self) -> &CredentialSource {
        match self {
            #[cfg(any(feature = "simulator", test))]
            Self::Simulated { .. } => &CredentialSource::Fixed,
            Self::Real { source, .. } => source,
        }
    }

    /// Settings of the client.
    pub fn client(&self) -> &ClientConfig {
        match self {
            #[cfg(any(feature = "simulator", test))]
            Self::Simulated { client, .. } => client,
            Self::Real { client, .. } => client,
        }
    }

    /// Whether VPSie is simulated.
    pub fn is_simulated(&self) -> bool {
        !matches!(self, Self::Real { .. })
    }
}

pub(super) fn real_vpsie(
    args: &VpsieArgs,
    secret: Option<CredentialSource>,
    problems: &mut Vec<Problem>,
) -> Option<VpsieSettings> {
    let base = BaseUrl::parse(&args.vpsie_api_url)
        .map_err(|error| problems.push(Problem::new("--vpsie-api-url", "", error.to_string())))
        .ok();
    let (credentials, source) = read_credentials(args, secret, problems).unzip();
    let client = client_config(args, base, credentials, problems)?;
    Some(VpsieSettings::Real { client, source: source? })
}

pub(super) fn client_config(
    args: &VpsieArgs,
    base: Option<BaseUrl>,
    credentials: Option<Credentials>,
    problems: &mut Vec<Problem>,
) -> Option<ClientConfig> {
    let timeouts = Timeouts { request: args.vpsie_timeout, ..Timeouts::default() };
    if args.vpsie_timeout >= timeouts.call {
        let message = format!("is {:?}, must be less than {:?}", args.vpsie_timeout, timeouts.call);
        problems.push(Problem::new("--vpsie-timeout", "", message));
    }
    Some(ClientConfig {
        rate_per_minute: args.vpsie_rate_limit,
        deletion_share: f64::from(args.vpsie_deletion_share) / 100.0,
        timeouts,
        interruption_fields: args.vpsie_interruption_fields.clone(),
        ..ClientConfig::new(base?, credentials?)
    })
}
