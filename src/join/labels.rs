//! Labels that a kubelet may set on its own Node. The API server refuses the registration of a Node with another one
//! (admission plug-in NodeRestriction), and kubelet does not start with it.

/// Labels of Kubernetes' domains that a kubelet may set.
const ALLOWED: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Domains of Kubernetes whose labels a kubelet may set, with their subdomains.
const ALLOWED_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The domains that are reserved, with their subdomains.
const RESERVED_DOMAINS: [&str; 2] = ["kubernetes.io", "k8s.io"];

/// The first label that a kubelet may not set. None if it may set all.
pub fn refused_label<'a>(labels: impl IntoIterator<Item = &'a String>) -> Option<&'a str> {
    labels.into_iter().map(String::as_str).find(|key| !is_allowed(key))
}

fn is_allowed(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let is_in = |parents: &[&str]| parents.iter().any(|parent| is_domain_in(domain, parent));
    !is_in(&RESERVED_DOMAINS) || is_in(&ALLOWED_DOMAINS) || ALLOWED.contains(&key)
}

/// Whether the domain is `parent` or a subdomain of it.
fn is_domain_in(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
