//! The end of a replica that led: who connects to it is led to the one that leads next.
//!
//! Until a Service has heard of the next one, it leads here. Nobody else can take such a connection, and Cluster
//! Autoscaler fails a loop, and may back a NodeGroup off, when it is refused. One that is not accepted yet waits, and what
//! is then passed on is only bytes: TLS is between the two ends.

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

use super::server::ready;

/// How long the next one may take until it serves: it has the Lease already, and reads its records.
const SERVES_WITHIN: Duration = Duration::from_secs(10);

/// Between two attempts to reach it.
const AGAIN: Duration = Duration::from_millis(50);

/// A connection over which nothing goes for so long after an answer is closed, so that the client connects anew and finds
/// the next one by itself: between two calls any moment will do.
const QUIET: Duration = Duration::from_millis(300);

/// The same after the client has sent something: it may wait for an answer.
const UNANSWERED: Duration = Duration::from_secs(5);

/// How long a connection may be in use here. It ends by force then.
const LONGEST: Duration = Duration::from_secs(10);

/// Proxies connections from `listener` to `next` for `lasts`, then drains them. Returns the number of connections.
pub async fn hand_over(listener: Arc<TcpListener>, next: SocketAddr, lasts: Duration) -> usize {
    let mut led = JoinSet::new();
    let until = Instant::now() + lasts;
    while let Ok(accepted) = timeout_at(until, listener.accept()).await {
        if let Some(client) = ready(accepted.map(|(client, _)| client)).await {
            led.spawn(timeout(LONGEST, lead(client, next)));
        }
    }
    drop(listener);
    led.join_all().await.len()
}

async fn lead(client: TcpStream, next: SocketAddr) {
    let connected = timeout(SERVES_WITHIN, async {
        loop {
            match TcpStream::connect(next).await {
                Ok(server) => return server,
                Err(_) => sleep(AGAIN).await,
            }
        }
    });
    let server = match connected.await {
        Ok(server) => ready(Ok(server)).await,
        Err(_) => None,
    };
    let Some(server) = server else {
        tracing::warn!(%next, "the replica that leads next does not serve, so a connection to it is closed");
        return;
    };
    let (passed, answered) = (Notify::new(), AtomicBool::new(false));
    let pass = |answer| {
        answered.store(answer, Relaxed);
        passed.notify_one();
    };
    let mut client = InspectReader::new(client, |_| pass(false));
    let mut server = InspectReader::new(server, |_| pass(true));
    let quiet = async {
        let longest = || if answered.load(Relaxed) { QUIET } else { UNANSWERED };
        while timeout(longest(), passed.notified()).await.is_ok() {}
    };
    tokio::select! {
        // However it ends, both ends see it.
        _ = copy_bidirectional(&mut client, &mut server) => {}
        () = quiet => {}
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

    /// Answers each byte with the next one, 10 with some thought.
    async fn next(listener: TcpListener) {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while let Ok(byte) = client.read_u8().await {
                    if byte == 10 {
                        sleep(2 * QUIET).await;
                    }
                    client.write_u8(byte + 1).await.unwrap();
                }
            });
        }
    }

    #[tokio::test]
    async fn who_connected_before_the_next_one_served_is_led_to_it_and_sent_away_when_quiet() {
        let (old, door) = listener().await;
        let mut early = TcpStream::connect(door).await.unwrap();
        early.write_u8(1).await.unwrap();
        let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = place.local_addr().unwrap();
        drop(place);
        let lasts = Duration::from_millis(500);
        let handed = tokio::spawn(hand_over(old, address, lasts));
        let mut late = TcpStream::connect(door).await.unwrap();
        late.write_u8(7).await.unwrap();
        tokio::time::sleep(2 * AGAIN).await;
        tokio::spawn(next(TcpListener::bind(address).await.unwrap()));
        assert_eq!(early.read_u8().await.unwrap(), 2);
        assert_eq!(late.read_u8().await.unwrap(), 8);
        late.write_u8(10).await.unwrap();
        assert_eq!(late.read_u8().await.unwrap(), 11, "it is waited for");
        assert_eq!(early.read(&mut [0]).await.unwrap(), 0, "closed, not broken off");
        assert_eq!(handed.await.unwrap(), 2);
        TcpStream::connect(door).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_never_serves_does_not_keep_the_process() {
        let (old, door) = listener().await;
        let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut client = TcpStream::connect(door).await.unwrap();
        let before = Instant::now();
        assert_eq!(hand_over(old, nowhere, Duration::from_secs(5)).await, 1);
        assert!(before.elapsed() <= Duration::from_secs(5) + LONGEST, "{:?}", before.elapsed());
        assert_eq!(client.read(&mut [0]).await.unwrap_or_default(), 0);
    }
}
