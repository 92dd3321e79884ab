use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::registry::Registry;

/// Says whether RPCs can be answered: Ok, or what is still waited for. VPSie's weather is no reason not to be
/// ready: answers come from memory.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Shown {
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
        .with_state(Shown { registry, readiness })
        .merge(debug);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    match shown.registry.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    match (shown.readiness)() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
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
        let (loaded, is_loaded) = watch::channel(false);
        let readiness: Readiness = Arc::new(move || {
            if *is_loaded.borrow() { Ok(()) } else { Err("waiting for the first catalog".to_owned()) }
        });
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
        let (status, _, body) = get(address, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "not ready: waiting for the first catalog\n"));
        loaded.send(true).unwrap();
        assert_eq!(get(address, "/readyz").await.0, 200);
        assert_eq!(get(address, "/").await.0, 404);

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
