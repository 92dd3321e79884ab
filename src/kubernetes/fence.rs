//! The check at the write: what changes something passes only while this process leads.
//!
//! It is made at each step of a request's way out, not once before: a process that stood still in between does not
//! send what it had begun. What was sent before is the margin's business, by which a lease lasts longer than its
//! holder goes on.

use bytes::Bytes;
use http::{Method, Request};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt as _};

use super::lease::Leadership;
use crate::vpsie::{Transport, TransportError};

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The same client, for the one that leads. What does not pass is answered with [`LeaseLost`](super::LeaseLost) in a
/// [`kube::Error::Service`]. Not for the election itself.
pub fn fence_client(client: &Client, leadership: Leadership) -> Client {
    let inner = client.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, leadership) = (inner.clone(), leadership.clone());
        async move {
            let fenced = changes(request.method());
            let sending = client.send(request);
            let reply = if fenced { leadership.during(sending).await? } else { sending.await };
            reply.map_err(BoxError::from)
        }
    });
    ClientBuilder::new(service, client.default_namespace()).with_valid_until(*client.valid_until()).build()
}

/// The same way to VPSie, for the one that leads.
pub fn fence_transport(transport: Transport, leadership: Leadership) -> Transport {
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
        let (transport, leadership) = (transport.clone(), leadership.clone());
        async move {
            let fenced = changes(request.method());
            let sending = transport.oneshot(request);
            if !fenced {
                return sending.await;
            }
            leadership.during(sending).await.unwrap_or_else(|lost| {
                let text = lost.to_string();
                Err(if lost.begun { TransportError::Lost(text) } else { TransportError::NotSent(text) })
            })
        }
    }))
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

    /// Takes five seconds for an answer, and counts what arrives.
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

    fn slow_transport(arrived: &Arc<AtomicU32>) -> Transport {
        let arrived = Arc::clone(arrived);
        BoxCloneSyncService::new(tower::service_fn(move |_| {
            arrived.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok(Response::new(Bytes::new()))
            }
        }))
    }

    fn lost(error: &kube::Error) -> Option<LeaseLost> {
        let kube::Error::Service(error) = error else { return None };
        error.downcast_ref::<LeaseLost>().copied()
    }

    fn held(seconds: u64) -> Leadership {
        Leadership::until(Instant::now() + Duration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_server_is_changed_only_while_the_lease_is_held() {
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

    #[tokio::test(start_paused = true)]
    async fn vpsie_is_changed_only_while_the_lease_is_held() {
        let arrived = Arc::default();
        let transport = fence_transport(slow_transport(&arrived), held(7));
        let ask = async |method: Method| {
            let request = Request::builder().method(method).uri("/x").body(Bytes::new()).unwrap();
            transport.clone().oneshot(request).await
        };
        assert!(ask(Method::POST).await.is_ok());
        assert!(matches!(ask(Method::DELETE).await, Err(TransportError::Lost(_))));
        assert!(matches!(ask(Method::DELETE).await, Err(TransportError::NotSent(_))));
        assert_eq!(arrived.load(Ordering::Relaxed), 2);
        assert!(ask(Method::GET).await.is_ok());
    }
}
