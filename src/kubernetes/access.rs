//! Access to the API server.

use std::fmt;
use std::path::{Path, PathBuf};

/// `--kubeconfig` for the pod's service account.
const IN_CLUSTER: &str = "in-cluster";

/// Credentials and address of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubernetesAccess {
    /// With the pod's service account.
    InCluster,
    /// With a kubeconfig.
    Kubeconfig(PathBuf),
}

/// The value of `--kubeconfig`.
impl fmt::Display for KubernetesAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InCluster => f.write_str(IN_CLUSTER),
            Self::Kubeconfig(path) => write!(f, "{}", path.display()),
        }
    }
}

impl From<PathBuf> for KubernetesAccess {
    fn from(kubeconfig: PathBuf) -> Self {
        if kubeconfig == Path::new(IN_CLUSTER) { Self::InCluster } else { Self::Kubeconfig(kubeconfig) }
    }
}
