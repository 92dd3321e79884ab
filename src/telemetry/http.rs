use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::registry::Registry;

/// Whether RPCs can be answered. The state of VPSie does not count: replies come from memory.
pub type Readiness = Arc<dyn Fn() -> Result<(), Unready> + Send + Sync>;

/// The reason why RPCs cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// This replica is healthy but does not lead.
    #[error("another replica leads; this one stands by")]
    StandsBy,
    /// Data that was not read yet.
    #[error("{0} not read yet; see the log for the cause")]
    Waits(&'static str),
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct HttpState {
    registry: Arc<Registry>,
    readiness: Readiness,
}

/// Serves `/metrics`, `/healthz`, `/readyz` and `debug` until `shutdown`.
pub async fn serve_http(
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: Readiness,
    debug: Router,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(HttpState { registry, readiness })
        .merge(debug);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    match state.registry.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The query of `/readyz`. As with the API server, a check can be excluded.
#[derive(Deserialize)]
struct Checks {
    exclude: Option<String>,
}

/// Readiness probes exclude `leadership`, because a follower is healthy: otherwise a Deployment of two
/// replicas would never be available.
async fn ready(State(state): State<HttpState>, Query(checks): Query<Checks>) -> impl IntoResponse {
    let excludes_leadership = match checks.exclude.as_deref() {
        None => false,
        Some("leadership") => true,
        Some(other) => {
            let message = format!("exclude={other}: only leadership can be excluded\n");
            return (StatusCode::BAD_REQUEST, message);
        }
    };
    match (state.readiness)() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(Unready::StandsBy) if excludes_leadership => {
            (StatusCode::OK, format!("ok: {}\n", Unready::StandsBy))
        }
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    #[tokio::test]
    async fn shows_metrics_health_and_readiness_and_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, is) = watch::channel(Err(Unready::StandsBy));
        let readiness: Readiness = Arc::new(move || *is.borrow());
        let shutdown = CancellationToken::new();
        let server =
            tokio::spawn(serve_http(listener, Arc::default(), readiness, Router::new(), shutdown.clone()));

        let (status, head, body) = get(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        let version = env!("CARGO_PKG_VERSION");
        assert!(body.contains(&format!("vpsie_autoscaler_build_info{{version=\"{version}\"}} 1")), "{body}");
        assert!(body.ends_with("# EOF\n"));

        assert_eq!(get(address, "/healthz").await.0, 200);
        for (now, leads, stands_by) in [
            (Err(Unready::StandsBy), 503, 200),
            (Err(Unready::Waits("offers were")), 503, 503),
            (Ok(()), 200, 200),
        ] {
            state.send(now).unwrap();
            let (status, _, body) = get(address, "/readyz").await;
            assert_eq!(status, leads, "{body}");
            let (status, _, body) = get(address, "/readyz?exclude=leadership").await;
            assert_eq!(status, stands_by, "{body}");
        }
        assert_eq!(get(address, "/readyz?exclude=vpsie").await.0, 400);
        assert_eq!(get(address, "/").await.0, 404);

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
