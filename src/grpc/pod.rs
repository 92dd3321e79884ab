//! Reads the resource requests of a pod from its bytes.

use prost::Message as _;

use super::proto::kubernetes::{Pod, PodSpec, Quantity, ResourceRequirements};
use crate::catalog::quantity;
use crate::placement::PodRequest;

/// The requests of a pod as the scheduler counts them: its pod-level requests, or else the sum of its
/// containers and sidecars or the maximum during its init containers, whichever is larger; plus its overhead.
/// None for malformed bytes.
pub(super) fn pod_requests(bytes: &[u8]) -> Option<PodRequest> {
    let spec = Pod::decode(bytes).ok()?.spec.unwrap_or_default();
    Some(PodRequest {
        cpu_millis: spec.total("cpu", &|text| parse(text, 1000.0)),
        memory_bytes: spec.total("memory", &|text| parse(text, 1.0)),
    })
}

impl PodSpec {
    fn total(&self, name: &str, units: &dyn Fn(&str) -> u64) -> u64 {
        let amount = |quantity: &Quantity| units(quantity.string());
        let requested =
            |resources: &Option<ResourceRequirements>| resources.as_ref()?.requests.get(name).map(amount);
        let containers = || {
            let mut sidecars = 0_u64;
            let mut max = 0;
            for container in &self.init_containers {
                let own = requested(&container.resources).unwrap_or_default();
                max = max.max(sidecars.saturating_add(own));
                if container.restart_policy() == "Always" {
                    sidecars = sidecars.saturating_add(own);
                }
            }
            let running = self.containers.iter().filter_map(|container| requested(&container.resources));
            running.fold(sidecars, u64::saturating_add).max(max)
        };
        let overhead = self.overhead.get(name).map_or(0, amount);
        requested(&self.resources).unwrap_or_else(containers).saturating_add(overhead)
    }
}

/// A quantity multiplied by `units`, as an integer. An unreadable quantity is 0.
fn parse(text: &str, units: f64) -> u64 {
    // Rounded up as in Kubernetes, except for the error of a binary fraction.
    (quantity::parse(text).unwrap_or(0.0) * units - 1e-6).ceil() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_pb::api::core::v1::{self, PodSpec, ResourceRequirements};
    use k8s_pb::apimachinery::pkg::api::resource;
    use k8s_pb::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn quantities(cpu: &str, memory: &str) -> BTreeMap<String, resource::Quantity> {
        let quantity = |text: &str| resource::Quantity { string: Some(text.to_owned()) };
        [("cpu".to_owned(), quantity(cpu)), ("memory".to_owned(), quantity(memory))].into()
    }

    fn requirements(cpu: &str, memory: &str) -> ResourceRequirements {
        let requests = quantities(cpu, memory);
        ResourceRequirements { requests, limits: quantities("99", "99Gi"), ..Default::default() }
    }

    fn container(cpu: &str, memory: &str) -> v1::Container {
        let name = Some("a".to_owned());
        let image = Some("b".to_owned());
        v1::Container { name, image, resources: Some(requirements(cpu, memory)), ..Default::default() }
    }

    fn sidecar(cpu: &str, memory: &str) -> v1::Container {
        v1::Container { restart_policy: Some("Always".to_owned()), ..container(cpu, memory) }
    }

    /// Millicores and MiB.
    fn asks_for(spec: PodSpec) -> (u64, u64) {
        let metadata = Some(ObjectMeta::default());
        let pod = v1::Pod { metadata, spec: Some(spec), status: Some(v1::PodStatus::default()) };
        let got = pod_requests(&pod.encode_to_vec()).unwrap();
        (got.cpu_millis, got.memory_bytes >> 20)
    }

    #[test]
    fn requests_are_of_containers_or_the_largest_init_container() {
        let spec = PodSpec {
            containers: vec![container("500m", "1Gi"), container("1", "1Gi")],
            init_containers: vec![container("100m", "3Gi")],
            ..PodSpec::default()
        };
        assert_eq!(asks_for(spec), (1500, 3072));
    }

    #[test]
    fn sidecars_count_with_containers_and_later_init_containers() {
        let spec = |init_containers| PodSpec {
            containers: vec![container("1", "1Gi")],
            init_containers,
            ..PodSpec::default()
        };
        assert_eq!(asks_for(spec(vec![sidecar("200m", "1Gi"), container("900m", "3Gi")])), (1200, 4096));
        assert_eq!(asks_for(spec(vec![container("900m", "3Gi"), sidecar("200m", "1Gi")])), (1200, 3072));
    }

    #[test]
    fn pod_level_requests_replace_those_of_containers() {
        let spec = PodSpec {
            containers: vec![container("1", "1Gi")],
            resources: Some(requirements("3", "500Mi")),
            overhead: quantities("250m", "12Mi"),
            ..PodSpec::default()
        };
        assert_eq!(asks_for(spec), (3250, 512));
    }

    #[test]
    fn amounts_are_exact_and_rounded_up() {
        let cpu = |text: &str| parse(text, 1000.0);
        let asked = ["100m", "1.1", "0.1", "2", "1u", "0", "many"];
        assert_eq!(asked.map(cpu), [100, 1100, 100, 2000, 1, 0, 0]);
        assert_eq!(parse("100m", 1.0), 1);
        assert_eq!(parse("1e30", 1.0), u64::MAX);
    }

    #[test]
    fn malformed_bytes_have_no_requests() {
        assert_eq!(pod_requests(&[]), Some(PodRequest::default()));
        assert_eq!(pod_requests(&[0xff]), None);
    }
}
