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

/// Whether this replica can serve RPCs. The state of VPSie does not count: replies come from memory.
pub type Readiness = Arc<dyn Fn() -> Result<(), Unready> + Send + Sync>;

/// The reason why this replica cannot serve RPCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// This replica is healthy, and another replica leads.
    #[error("this replica is on standby: another replica leads")]
    Standby,
    /// This replica has not seen a leader since its start.
    #[error("no leader is known yet; see the log for the cause")]
    NoLeader,
    /// This replica leads, but has not read all that its replies need.
    #[error("the records, NodeGroups or VPSie's offers have not been read yet; see the log for the cause")]
    Loading,
    /// The offers have not been read, and no earlier ones are recorded.
    #[error("VPSie's offers have not been read yet; see the log for the cause")]
    NoOffers,
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

/// Readiness probes exclude `leadership`, because a standby replica is healthy: otherwise a Deployment of two
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
        Err(Unready::Standby) if excludes_leadership => {
            (StatusCode::OK, format!("ok: {}\n", Unready::Standby))
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
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
        let (state, is) = watch::channel(Err(Unready::Standby));
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
        for (now, of_leader, of_replica) in [
            (Err(Unready::Standby), 503, 200),
            (Err(Unready::NoLeader), 503, 503),
            (Err(Unready::Loading), 503, 503),
            (Ok(()), 200, 200),
        ] {
            state.send(now).unwrap();
            let (status, _, body) = get(address, "/readyz").await;
            assert_eq!(status, of_leader, "{body}");
            let (status, _, body) = get(address, "/readyz?exclude=leadership").await;
            assert_eq!(status, of_replica, "{body}");
        }
        assert_eq!(get(address, "/readyz?exclude=vpsie").await.0, 400);
        assert_eq!(get(address, "/").await.0, 404);

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
