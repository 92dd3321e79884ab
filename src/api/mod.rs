//! The Kubernetes types of `autoscaler.vpsie.com/v1alpha1`.
//!
//! NodeGroup and VPSieNode have all fields of the original VPSie autoscaler, so that its manifests apply
//! unchanged. `validation` notes the fields without effect.
//!
//! The API server validates objects by the schema: types and ranges of fields, syntax of strings (`text`),
//! and rules over several fields (`rules`).

mod autoscaler_config;
mod conditions;
mod cost_limit;
mod crds;
mod lenient;
mod node_group;
mod node_template;
mod policies;
mod record;
mod reserved;
mod rules;
mod self_managed;
mod status;
mod text;
mod vpsie_node;

pub use autoscaler_config::{AutoscalerConfig, AutoscalerConfigSpec, AutoscalerConfigStatus, GlobalSettings};
pub use cost_limit::CostLimit;
pub use crds::{crds, to_yaml};

pub use node_group::{AutoscalingOptions, DeletionPolicy, NodeGroup, NodeGroupSpec, Taint};
pub use node_template::NodeTemplate;
pub use policies::{
    CostOptimization, CostStrategy, DistributionStrategy, MultiRegion, ScaleDownPolicy, ScaleUpPolicy,
    SpotConfig, SpotTaint,
};
pub use record::NotARecord;
pub(crate) use reserved::{GPU_LABEL, LABELS, ReservedKeys, TAINTS, reserved};
pub(crate) use rules::NAME_MAX;
pub use self_managed::{
    CloudController, Delivery, JoinKind, KeyRef, Network, Payload, SelfManaged, Variable,
};
pub use status::{
    BreakerStatus, Condition, NodeGroupCost, NodeGroupDatacenter, NodeGroupNode, NodeGroupPool,
    NodeGroupSpot, NodeGroupStatus, SpotPool,
};
pub use vpsie_node::{
    InterruptionNotice, InterruptionReport, MachinePhase, NodeResources, RequestOutcome, RequestRef,
    VPSieNode, VPSieNodeSpec, VPSieNodeStatus, VmRequest,
};

#[cfg(test)]
mod docs;

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;
    use serde_json::{Value, json};

    use super::*;

    fn spec_schema() -> Value {
        let crd = serde_json::to_value(NodeGroup::crd()).unwrap();
        crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap().clone()
    }

    #[test]
    fn the_crd_has_the_original_names() {
        let crd = serde_json::to_value(NodeGroup::crd()).unwrap();
        assert_eq!(crd["metadata"]["name"], "nodegroups.autoscaler.vpsie.com");
        assert_eq!(crd["spec"]["names"]["shortNames"], json!(["ng", "ngs"]));
        let columns: Vec<&str> = crd["spec"]["versions"][0]["additionalPrinterColumns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(columns, ["Min", "Max", "Desired", "Current", "Ready", "Age"]);
    }

    /// Except for two defaults of `spotConfig`, which flags replace: with a default in the schema, they would never apply.
    #[test]
    fn the_schema_keeps_fields_and_defaults_of_the_original() {
        insta::assert_json_snapshot!(spec_schema());
    }

    #[test]
    fn defaults_are_the_schemas() {
        let spec: NodeGroupSpec = serde_json::from_value(json!({
            "minNodes": 0, "maxNodes": 1, "datacenterID": "d", "resourceIdentifier": "c", "offeringIDs": ["o"],
            "scaleUpPolicy": {}, "scaleDownPolicy": {}, "spotConfig": {}, "multiRegion": {},
            "costOptimization": {}, "selfManaged": {"joinKind": "kubeadm", "endpoint": "a:1"},
        }))
        .unwrap();
        let spec = serde_json::to_value(spec).unwrap();
        let mut missing = Vec::new();
        compare(&spec_schema(), &spec, "spec", &mut missing);
        assert!(missing.is_empty(), "{missing:#?}");
    }

    fn compare(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            let value = &value[name];
            if !schema["default"].is_null() && schema["default"] != *value {
                wrong.push(format!("{path}: schema {}, serde {value}", schema["default"]));
            }
            compare(schema, value, &path, wrong);
        }
    }
}
