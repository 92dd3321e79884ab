//! Forwards connections from a stopping leader to the next one.
//!
//! A Service routes to the old leader until its endpoints change. A refused connection would fail a loop of
//! Cluster Autoscaler, which may then back a NodeGroup off. Forwarding copies bytes only: TLS is between the
//! client and the next leader.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::io::InspectReader;

use super::server::set_up;

/// Time for the next leader to serve. It has the Lease already and reads its records.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Wait between connection attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Idle time after a reply, after which a connection is closed, so that the client connects to the next
/// leader itself.
const IDLE_TIMEOUT: Duration = Duration::from_millis(300);

/// Idle time after a request, after which a connection is closed.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum duration of a forwarded connection.
const MAX_CONNECTION_TIME: Duration = Duration::from_secs(10);

/// Proxies connections from `listener` to `next` for `duration`, then drains them. Returns the number of
/// connections.
pub async fn hand_over(listener: Arc<TcpListener>, next: SocketAddr, duration: Duration) -> usize {
    let mut forwarded = JoinSet::new();
    let until = Instant::now() + duration;
    while let Ok(accepted) = timeout_at(until, listener.accept()).await {
        if let Some(client) = set_up(accepted.map(|(client, _)| client)).await {
            forwarded.spawn(timeout(MAX_CONNECTION_TIME, forward(client, next)));
        }
    }
    drop(listener);
    forwarded.join_all().await.len()
}

async fn forward(client: TcpStream, next: SocketAddr) {
    let connected = timeout(CONNECT_TIMEOUT, async {
        loop {
            match TcpStream::connect(next).await {
                Ok(server) => return server,
                Err(_) => sleep(RETRY_INTERVAL).await,
            }
        }
    });
    let server = match connected.await {
        Ok(server) => set_up(Ok(server)).await,
        Err(_) => None,
    };
    let Some(server) = server else {
        tracing::warn!(%next, "the next leader does not accept connections; closed a client connection");
        return;
    };
    let transferred = Notify::new();
    let is_reply = AtomicBool::new(false);
    let note_transfer = |reply| {
        is_reply.store(reply, Relaxed);
        transferred.notify_one();
    };
    let mut client = InspectReader::new(client, |_| note_transfer(false));
    let mut server = InspectReader::new(server, |_| note_transfer(true));
    let idle = async {
        let limit = || if is_reply.load(Relaxed) { IDLE_TIMEOUT } else { REPLY_TIMEOUT };
        while timeout(limit(), transferred.notified()).await.is_ok() {}
    };
    tokio::select! {
        // Both ends are closed in either case.
        _ = copy_bidirectional(&mut client, &mut server) => {}
        () = idle => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn listener() -> (Arc<TcpListener>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Arc::new(listener), address)
    }

    /// Replies to each byte with the next one, to 10 after a delay.
    async fn serve_next(listener: TcpListener) {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while let Ok(byte) = client.read_u8().await {
                    if byte == 10 {
                        sleep(2 * IDLE_TIMEOUT).await;
                    }
                    client.write_u8(byte + 1).await.unwrap();
                }
            });
        }
    }

    #[tokio::test]
    async fn early_connections_are_forwarded_and_closed_when_idle() {
        let (old, address) = listener().await;
        let mut early = TcpStream::connect(address).await.unwrap();
        early.write_u8(1).await.unwrap();
        let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let next = reserved.local_addr().unwrap();
        drop(reserved);
        let duration = Duration::from_millis(500);
        let handed = tokio::spawn(hand_over(old, next, duration));
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_u8(7).await.unwrap();
        tokio::time::sleep(2 * RETRY_INTERVAL).await;
        tokio::spawn(serve_next(TcpListener::bind(next).await.unwrap()));
        assert_eq!(early.read_u8().await.unwrap(), 2);
        assert_eq!(late.read_u8().await.unwrap(), 8);
        late.write_u8(10).await.unwrap();
        assert_eq!(late.read_u8().await.unwrap(), 11, "a slow reply is awaited");
        assert_eq!(early.read(&mut [0]).await.unwrap(), 0, "closed, not reset");
        assert_eq!(handed.await.unwrap(), 2);
        TcpStream::connect(address).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_next_leader_does_not_delay_the_stop() {
        let (old, address) = listener().await;
        let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let before = Instant::now();
        assert_eq!(hand_over(old, nowhere, Duration::from_secs(5)).await, 1);
        assert!(before.elapsed() <= Duration::from_secs(5) + MAX_CONNECTION_TIME, "{:?}", before.elapsed());
        assert_eq!(client.read(&mut [0]).await.unwrap_or_default(), 0);
    }
}
