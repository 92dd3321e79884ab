//! The pods of a request. Cluster Autoscaler sends a pod once for every option that would take it.

use std::collections::HashMap;

use bytes::Bytes;

use crate::grpc::pod::pod_requests;
use crate::placement::PodRequest;

/// The distinct pods.
#[derive(Debug, Default)]
pub(super) struct Pods {
    numbers: HashMap<Bytes, u32>,
    requests: Vec<PodRequest>,
}

impl Pods {
    /// The distinct numbers of an option's pods.
    pub(super) fn numbers(&mut self, pods: Vec<Bytes>) -> Vec<u32> {
        let mut numbers: Vec<u32> = pods.into_iter().map(|pod| self.number(pod)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The number of a pod. A pod has the same bytes in each option. Unreadable bytes count as a pod without
    /// requests, which is pending all the same.
    fn number(&mut self, pod: Bytes) -> u32 {
        if let Some(number) = self.numbers.get(&pod) {
            return *number;
        }
        let number = u32::try_from(self.requests.len()).unwrap_or(u32::MAX);
        self.requests.push(pod_requests(&pod).unwrap_or_default());
        self.numbers.insert(pod, number);
        number
    }

    pub(super) fn into_requests(self) -> Vec<PodRequest> {
        self.requests
    }
}
