//! The fence before VPSie: a request that may change something is sent only while this replica holds the
//! Lease.

use bytes::Bytes;
use http::Request;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use crate::kubernetes::{Leadership, is_write};
use crate::vpsie::{Transport, TransportError};

/// Wraps a transport for the leader: after it loses its Lease, requests that may change something fail.
pub fn fence_transport(transport: Transport, leadership: Leadership) -> Transport {
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
        let transport = transport.clone();
        let leadership = leadership.clone();
        async move {
            let fenced = is_write(request.method());
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

    use http::{Method, Response};
    use tokio::time::Instant;

    use super::*;

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

    #[tokio::test(start_paused = true)]
    async fn vpsie_is_changed_only_while_the_lease_is_held() {
        let arrived = Arc::default();
        let transport = fence_transport(
            slow_transport(&arrived),
            Leadership::until(Instant::now() + Duration::from_secs(7)),
        );
        let send = async |method: Method| {
            let request = Request::builder().method(method).uri("/x").body(Bytes::new()).unwrap();
            transport.clone().oneshot(request).await
        };
        assert!(send(Method::POST).await.is_ok());
        assert!(matches!(send(Method::DELETE).await, Err(TransportError::Lost(_))));
        assert!(matches!(send(Method::DELETE).await, Err(TransportError::NotSent(_))));
        assert_eq!(arrived.load(Ordering::Relaxed), 2);
        assert!(send(Method::GET).await.is_ok());
    }
}
