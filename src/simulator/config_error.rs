//! Why a configuration is refused.

/// Why a configuration cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// The field.
    pub field: String,
    /// What is wrong with it, and what is allowed.
    pub problem: String,
}
