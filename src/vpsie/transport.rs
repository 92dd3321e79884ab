//! The transport of requests: a service, which tests and the simulator replace.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use tower::util::BoxCloneSyncService;

/// Sends a request to VPSie and returns the whole reply.
pub type Transport = BoxCloneSyncService<Request<Bytes>, Response<Bytes>, TransportError>;

/// Failure to get a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The request was not sent.
    #[error("could not connect: {0}")]
    NotSent(String),
    /// The request was sent, and VPSie may have executed it.
    #[error("the reply was lost: {0}")]
    Lost(String),
}

/// Timeouts of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Timeout of connections, including TLS.
    pub connect: Duration,
    /// Timeout of one request, from its first byte to the last byte of its reply.
    pub request: Duration,
    /// Timeout of one call, including login, waiting for the rate limit, and repeats.
    pub call: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(30),
            call: Duration::from_secs(90),
        }
    }
}

/// Maximum size of a reply, bytes. A node takes a few hundred bytes of a listing.
const MAX_REPLY: usize = 16 * 1024 * 1024;

/// HTTPS with the root certificates of the system. Does not follow redirects, which would send the
/// credentials to another server.
pub fn https(timeouts: &Timeouts) -> Transport {
    // Fails if a provider is already installed, which is sufficient.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .connect_timeout(timeouts.connect)
        .timeout(timeouts.request)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| TransportError::NotSent(error_chain(&error)));
    BoxCloneSyncService::new(tower::service_fn(move |request| {
        let client = client.clone();
        async move { fetch(&client?, request).await }
    }))
}

async fn fetch(client: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
    let request = reqwest::Request::try_from(request)
        .map_err(|error| TransportError::NotSent(error_chain(&error.without_url())))?;
    let mut reply = client.execute(request).await.map_err(|error| {
        let sent = !(error.is_connect() || error.is_builder());
        let text = error_chain(&error.without_url());
        if sent { TransportError::Lost(text) } else { TransportError::NotSent(text) }
    })?;
    let status = reply.status();
    let headers = std::mem::take(reply.headers_mut());
    let mut body = BytesMut::new();
    while let Some(chunk) =
        reply.chunk().await.map_err(|error| TransportError::Lost(error_chain(&error.without_url())))?
    {
        if body.len() + chunk.len() > MAX_REPLY {
            return Err(TransportError::Lost(format!("it is longer than {MAX_REPLY} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    let mut response = Response::new(body.freeze());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The error with its causes. reqwest has the decisive one ("connection refused") at the end of the chain.
fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut error = error;
    while let Some(cause) = error.source() {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        error = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tower::ServiceExt;

    use super::*;

    async fn send_request(address: std::net::SocketAddr) -> Result<Response<Bytes>, TransportError> {
        let request = Request::post(format!("http://{address}/apps/v2/x")).body(Bytes::from("{}")).unwrap();
        https(&Timeouts::default()).oneshot(request).await
    }

    async fn server(reply: Vec<u8>) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(&reply).await;
        });
        address
    }

    #[tokio::test]
    async fn brings_status_headers_and_body() {
        let reply = b"HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}".to_vec();
        let reply = send_request(server(reply).await).await.unwrap();
        assert_eq!((reply.status().as_u16(), &reply.headers()["retry-after"]), (429, &"7".parse().unwrap()));
        assert_eq!(reply.body(), "{}");
    }

    #[tokio::test]
    async fn a_closed_port_means_not_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = send_request(address).await.unwrap_err();
        assert!(matches!(&error, TransportError::NotSent(text) if text.contains("refused")), "{error}");
    }

    #[tokio::test]
    async fn a_closed_connection_means_lost() {
        let error = send_request(server(Vec::new()).await).await.unwrap_err();
        assert!(matches!(error, TransportError::Lost(_)), "{error}");
    }

    #[tokio::test]
    async fn an_endless_reply_is_cut() {
        let mut reply = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        reply.resize(MAX_REPLY + 1000, b' ');
        let error = send_request(server(reply).await).await.unwrap_err();
        assert!(matches!(&error, TransportError::Lost(text) if text.contains("longer")), "{error}");
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let reply =
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_vec();
        assert_eq!(send_request(server(reply).await).await.unwrap().status(), 302);
    }
}
