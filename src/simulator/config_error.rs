//! Errors of the simulator's configuration.

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// The field.
    pub field: String,
    /// The fault, and the allowed values.
    pub problem: String,
}
