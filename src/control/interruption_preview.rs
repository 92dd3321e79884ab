//! The endpoint that previews an interruption.

use std::sync::{Arc, OnceLock};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

use super::handle::FleetHandle;
use crate::catalog::Resources;
use crate::clock::Clock;
use crate::fleet::{Fleet, Hostname, Machine};

/// The query of `/debug/interruption`.
#[derive(Clone, Debug, Deserialize)]
pub struct PreviewQuery {
    /// Name of the Node.
    pub node: String,
    /// providerID of the Node, if it has one.
    pub provider_id: Option<String>,
    /// CPU that the pods that must move request, millicores.
    pub cpu_millis: u64,
    /// Their memory, MiB.
    pub memory_mib: u64,
    /// Their ephemeral storage, GiB.
    pub disk_gib: u64,
    /// Their number.
    pub pods: u32,
}

impl PreviewQuery {
    /// Its form in a URL.
    pub fn to_url_query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("node", &self.node);
        if let Some(provider_id) = &self.provider_id {
            query.append_pair("provider_id", provider_id);
        }
        for (name, value) in [
            ("cpu_millis", self.cpu_millis),
            ("memory_mib", self.memory_mib),
            ("disk_gib", self.disk_gib),
            ("pods", u64::from(self.pods)),
        ] {
            query.append_pair(name, &value.to_string());
        }
        query.finish()
    }
}

#[derive(Clone)]
struct Preview {
    fleet: Arc<OnceLock<FleetHandle>>,
    clock: Arc<dyn Clock>,
}

/// `/debug/interruption`: an [`InterruptionPreview`](crate::fleet::InterruptionPreview) as JSON. It changes nothing.
pub fn preview_routes(fleet: Arc<OnceLock<FleetHandle>>, clock: Arc<dyn Clock>) -> Router {
    Router::new().route("/debug/interruption", get(preview)).with_state(Preview { fleet, clock })
}

async fn preview(
    State(Preview { fleet, clock }): State<Preview>,
    Query(query): Query<PreviewQuery>,
) -> Response {
    let Some(handle) = fleet.get() else {
        let why = "this replica does not lead; send the request to the leader\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let needed = Resources {
        cpu_millis: query.cpu_millis,
        memory_mib: query.memory_mib,
        disk_gib: query.disk_gib,
        pods: query.pods,
    };
    let needed = (needed.pods > 0).then_some(needed);
    let preview = handle
        .read(|fleet| fleet.preview_interruption(&find_machine(fleet, &query)?.id, needed, clock.now()));
    if let Some(preview) = preview {
        return Json(preview).into_response();
    }
    let why = format!("node: no machine has a VM with the name or providerID {:?}\n", query.node);
    (StatusCode::NOT_FOUND, why).into_response()
}

fn find_machine<'a>(fleet: &'a Fleet, query: &PreviewQuery) -> Option<&'a Machine> {
    let by_provider_id = |provider_id: &String| {
        fleet.machines().find(|machine| {
            machine.vm().is_some_and(|vm| match (&vm.provider_id, &vm.id) {
                (Some(own), _) => own.as_str() == provider_id,
                (None, Some(id)) => id.provider_id() == *provider_id,
                (None, None) => false,
            })
        })
    };
    let by_id = query.provider_id.as_ref().and_then(by_provider_id);
    by_id.or_else(|| fleet.machine_by_hostname(&Hostname::new(&query.node)))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn an_unknown_node_and_a_standby_replica_are_reported() {
        for (fleet, status, why) in [
            (None, StatusCode::SERVICE_UNAVAILABLE, "does not lead"),
            (Some(Fleet::default()), StatusCode::NOT_FOUND, "\"slave-1\""),
        ] {
            let known = OnceLock::new();
            if let Some(fleet) = fleet {
                assert!(known.set(FleetHandle::fixed(fleet)).is_ok());
            }
            let path = "/debug/interruption?node=slave-1&cpu_millis=1&memory_mib=1&disk_gib=0&pods=1";
            let request = Request::get(path).body(Body::empty()).unwrap();
            let reply =
                preview_routes(Arc::new(known), Arc::new(SystemClock)).oneshot(request).await.unwrap();
            assert_eq!(reply.status(), status);
            let body = reply.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&body).contains(why), "{body:?}");
        }
    }
}
