//! The simulator over TCP.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::handle::Simulator;
use super::requests::CallError;

/// Serves HTTP/1.1 until `shutdown`. Faults that lose a request or a reply close the connection.
pub async fn listen(simulator: Simulator, listener: TcpListener, shutdown: CancellationToken) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => serve(&simulator, stream, &graceful),
            Err(error) => {
                tracing::warn!(%error, "the simulator cannot accept a connection");
                tokio::task::yield_now().await;
            }
        }
    }
    let limit = std::time::Duration::from_secs(2);
    if tokio::time::timeout(limit, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections to the simulator were still open");
    }
}

fn serve(simulator: &Simulator, stream: TcpStream, graceful: &GracefulShutdown) {
    let simulator = simulator.clone();
    let service = tower::service_fn(move |request: Request<_>| {
        let simulator = simulator.clone();
        async move {
            let (parts, body) = request.map(Body::new).into_parts();
            let body = body.collect().await.map_err(|_| CallError::NotSent)?.to_bytes();
            simulator.handle(Request::from_parts(parts, body)).await
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let connection = graceful.watch(connection.into_owned());
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the simulator was closed");
        }
    });
}
