//! A fence for writes: they pass only while this process leads.
//!
//! The fence checks at each poll of a request, not once before it, so that a process that was suspended in
//! between does not send the rest. Requests already sent are covered by the margin between `lease_duration`
//! and `renew_deadline`.

use http::{Method, Request};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tower::BoxError;

use super::lease::Leadership;

/// Returns true iff a request with this method may change something.
pub fn is_write(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Wraps a client with the fence. Refused requests fail with [`LeaseLost`](super::LeaseLost) in a
/// [`kube::Error::Service`]. The election itself must use the unwrapped client.
pub fn fence_client(client: &Client, leadership: Leadership) -> Client {
    let inner = client.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = inner.clone();
        let leadership = leadership.clone();
        async move {
            let fenced = is_write(request.method());
            let sending = client.send(request);
            let reply = if fenced { leadership.during(sending).await? } else { sending.await };
            reply.map_err(BoxError::from)
        }
    });
    ClientBuilder::new(service, client.default_namespace()).with_valid_until(*client.valid_until()).build()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use http::Response;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::PostParams;
    use tokio::time::Instant;

    use super::super::LeaseLost;
    use super::*;

    /// Replies after five seconds, and counts the requests.
    fn slow_client(arrived: &Arc<AtomicU32>) -> Client {
        let arrived = Arc::clone(arrived);
        let service = tower::service_fn(move |_: Request<Body>| {
            arrived.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok::<_, BoxError>(Response::new(Body::from(b"{}".to_vec())))
            }
        });
        Client::new(service, "default")
    }

    fn lost(error: &kube::Error) -> Option<LeaseLost> {
        let kube::Error::Service(error) = error else { return None };
        error.downcast_ref::<LeaseLost>().copied()
    }

    fn held(seconds: u64) -> Leadership {
        Leadership::until(Instant::now() + Duration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn writes_pass_only_while_the_lease_is_held() {
        let arrived = Arc::default();
        let api: Api<ConfigMap> = Api::default_namespaced(fence_client(&slow_client(&arrived), held(7)));
        let create = async || api.create(&PostParams::default(), &ConfigMap::default()).await;
        assert!(create().await.is_ok());
        let cut = create().await.unwrap_err();
        assert_eq!(lost(&cut), Some(LeaseLost { begun: true }));
        let refused = create().await.unwrap_err();
        assert_eq!(lost(&refused), Some(LeaseLost { begun: false }));
        assert_eq!(arrived.load(Ordering::Relaxed), 2);
        assert!(api.get("a").await.is_ok(), "reads change nothing");
    }
}
