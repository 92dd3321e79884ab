//! The provider's network to VPSie, with the planted bugs.

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::Value;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;
use vpsie_autoscaler::simulator::{Simulator, VmKind};
use vpsie_autoscaler::vpsie::Transport;

use super::cloud::Cloud;
use super::planted_bugs::Bug;

/// Wraps the network so that it has the planted bug.
pub(super) fn plant(inner: Transport, simulator: &Simulator, cloud: &Cloud, bug: Option<Bug>) -> Transport {
    let simulator = simulator.clone();
    let cloud = cloud.clone();
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
        let inner = inner.clone();
        let simulator = simulator.clone();
        let cloud = cloud.clone();
        async move {
            let path = request.uri().path().to_owned();
            let is_deletion = request.method() == Method::DELETE && path.contains("delete/slave");
            match bug {
                Some(Bug::DoubledCreation) if path.contains("/add/slave/") => {
                    drop(inner.clone().oneshot(request.clone()).await);
                    inner.oneshot(request).await
                }
                Some(Bug::VmLeaked) if is_deletion && has_notice(&request, &cloud) => Ok(Response::new(
                    Bytes::from_static(br#"{"error": false, "message": "ok", "code": 200}"#),
                )),
                Some(Bug::WrongVmDeleted) if is_deletion => inner.oneshot(rename(request, &simulator)).await,
                _ => inner.oneshot(request).await,
            }
        }
    }))
}

/// UUID of the VM that a request deletes.
fn deleted_vm(request: &Request<Bytes>) -> String {
    let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    body["identifier"].as_str().unwrap_or_default().to_owned()
}

fn has_notice(request: &Request<Bytes>, cloud: &Cloud) -> bool {
    let uuid = deleted_vm(request);
    cloud.all().iter().any(|one| one.uuid == uuid)
}

/// Lets a deletion name another worker, if there is one.
fn rename(mut request: Request<Bytes>, simulator: &Simulator) -> Request<Bytes> {
    let uuid = deleted_vm(&request);
    let vms = simulator.vms().into_iter().map(|vm| vm.vm);
    let other = vms.into_iter().find(|vm| vm.kind == VmKind::Worker && vm.uuid != uuid);
    if let Some(other) = other {
        let body = String::from_utf8_lossy(request.body()).replace(&uuid, &other.uuid);
        *request.body_mut() = Bytes::from(body);
    }
    request
}
