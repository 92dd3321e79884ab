//! Errors of the simulator's configuration.

/// An invalid value of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// The field.
    pub field: String,
    /// The problem, with the allowed values.
    pub problem: String,
}
