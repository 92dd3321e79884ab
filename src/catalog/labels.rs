//! Labels of Nodes by which manifests for other clouds select a capacity type.

/// Capacity-type labels of Karpenter, EKS, GKE, AKS and others: key, value on spot Nodes, value on on-demand Nodes.
/// Nodes of NodeGroups with a spot offer have them, unless others set them.
pub(crate) const CAPACITY_TYPE_LABELS: [(&str, &str, Option<&str>); 5] = [
    ("karpenter.sh/capacity-type", "spot", Some("on-demand")),
    ("eks.amazonaws.com/capacityType", "SPOT", Some("ON_DEMAND")),
    ("cloud.google.com/gke-spot", "true", None),
    ("kubernetes.azure.com/scalesetpriority", "spot", None),
    ("node.kubernetes.io/lifecycle", "spot", Some("normal")),
];

/// Whether it is one of [`CAPACITY_TYPE_LABELS`].
pub(crate) fn is_capacity_type_label(key: &str) -> bool {
    CAPACITY_TYPE_LABELS.iter().any(|(label, ..)| *label == key)
}
