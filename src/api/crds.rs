//! The CRDs as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::{AutoscalerConfig, NodeGroup, VPSieNode};

/// The CRDs, in the order to install them.
pub fn crds() -> [CustomResourceDefinition; 3] {
    [AutoscalerConfig::crd(), NodeGroup::crd(), VPSieNode::crd()]
}

/// A CRD as YAML. Every word that some reader of YAML takes for something else (`no`, `on`, `y`) is in quotes.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(crd)
}
