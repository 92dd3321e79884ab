//! The CRDs, as installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::{AutoscalerConfig, NodeGroup, VPSieNode};

/// All CRDs.
pub fn crds() -> [CustomResourceDefinition; 3] {
    [AutoscalerConfig::crd(), NodeGroup::crd(), VPSieNode::crd()]
}

/// A CRD as YAML. Words that YAML 1.1 reads as booleans (`no`, `on`, `y`) are quoted.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(crd)
}
