//! Payloads that cannot join a cluster.

/// A payload that cannot join a cluster. The text has no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It does not begin with `#!`.
    #[error("the payload does not begin with #!: it would not run as a script")]
    NotAScript,
    /// A here-document does not end.
    #[error("the here-document {delimiter} does not end")]
    OpenDocument {
        /// Its delimiter.
        delimiter: String,
    },
    /// No file configures a join.
    #[error(
        "the script writes no configuration of a join: a kubeadm JoinConfiguration, /etc/rancher/k3s/config.yaml, \
         or /etc/rancher/rke2/config.yaml"
    )]
    NoConfiguration,
    /// Files of several kinds configure a join.
    #[error("the script configures joins of several kinds")]
    SeveralKinds,
    /// A file depends on variables of the shell.
    #[error("{path} contains variables or commands of the shell, which are not evaluated here")]
    Variables {
        /// The file.
        path: String,
    },
    /// No command uses the configuration.
    #[error("no command of the script runs {command}")]
    NotRun {
        /// The missing command.
        command: &'static str,
    },
    /// A file is not valid YAML of its kind.
    #[error("{path} is invalid{at}")]
    Invalid {
        /// The file.
        path: String,
        /// The place in it.
        at: String,
    },
    /// A field is missing.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field has a malformed or unusable value.
    #[error("{field}: {problem}")]
    Value {
        /// The field.
        field: &'static str,
        /// The problem, without the value of secrets.
        problem: String,
    },
}
