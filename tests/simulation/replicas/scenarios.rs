//! Single cases of leader election.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fake_kube::{FakeKube, FaultEffect, Verb};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vpsie_autoscaler::clock::Clock as _;
use vpsie_autoscaler::kubernetes::{ElectionConfig, Elector, LeaderAddresses, Leadership, LossReason};

use super::{LEASE, NAMESPACE, election_config};
use crate::clock::VirtualClock;

/// An API server and a clock.
struct Fixture {
    kube: FakeKube,
    clock: VirtualClock,
    never: CancellationToken,
}

impl Fixture {
    fn new() -> Self {
        let clock = VirtualClock::new();
        let now = clock.clone();
        Self { kube: FakeKube::new(move || now.now()), clock, never: CancellationToken::new() }
    }

    fn elector(&self, name: &str) -> Elector {
        let client = self.kube.client(name, NAMESPACE);
        Elector::new(client, election_config(name, None), Arc::new(self.clock.clone()), 1)
    }

    /// Creates an elector that leads.
    async fn leader(&self, name: &str) -> (Elector, Leadership) {
        let mut elector = self.elector(name);
        let leadership = elector.acquire(&self.never).await.unwrap();
        (elector, leadership)
    }

    /// Holder in the Lease.
    fn holder(&self) -> String {
        let lease = self.kube.get("leases", NAMESPACE, LEASE).unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn the_first_replica_leads_after_a_lease_duration() {
    let fixture = Fixture::new();
    let started = Instant::now();
    let (a, leadership) = fixture.leader("a").await;
    assert_eq!(started.elapsed(), seconds(15));
    assert!(!*a.is_on_standby().borrow(), "no other replica has led");
    let mut b = fixture.elector("b");
    let mut is_standby = b.is_on_standby();
    let standby = tokio::spawn(async move { b.acquire(&CancellationToken::new()).await });
    assert!(!*is_standby.borrow_and_update(), "b has not read the Lease yet");
    assert!(*is_standby.wait_for(|is_standby| *is_standby).await.unwrap());
    standby.abort();
    assert_eq!((fixture.holder().as_str(), leadership.remaining()), ("a", Some(seconds(10))));
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_after_a_partition_of_the_leader() {
    let fixture = Fixture::new();
    let (mut a, led) = fixture.leader("a").await;
    let mut b = fixture.elector("b");
    let never = fixture.never.clone();
    let renewing = tokio::spawn(async move { a.renew_until(&never).await });
    let standby = tokio::spawn(async move { b.acquire(&CancellationToken::new()).await.unwrap() });
    tokio::time::sleep(seconds(60)).await;
    assert!(led.holds());
    assert!(!standby.is_finished());
    fixture.kube.partition("a", true);
    let cut = Instant::now();
    led.ended().await;
    assert!(cut.elapsed() >= seconds(8) && cut.elapsed() <= seconds(10), "{:?}", cut.elapsed());
    let lost = renewing.await.unwrap().unwrap_err();
    assert!(matches!(lost, LossReason::NotRenewed { .. }), "{lost}");
    assert!(!standby.is_finished());
    let new_leadership = standby.await.unwrap();
    assert!(new_leadership.holds() && !led.holds());
    assert!(cut.elapsed() >= seconds(13) && cut.elapsed() <= seconds(15), "{:?}", cut.elapsed());
    assert_eq!(fixture.holder(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_a_released_lease_with_and_without_watch() {
    for (watched, longest) in [(true, Duration::from_millis(10)), (false, seconds(4))] {
        let fixture = Fixture::new();
        let (mut a, led) = fixture.leader("a").await;
        let mut b = fixture.elector("b");
        let standby = tokio::spawn(async move { b.acquire(&CancellationToken::new()).await.unwrap() });
        tokio::time::sleep(seconds(5)).await;
        fixture.kube.hold_watches(!watched);
        assert!(a.release().await);
        assert!(!led.holds());
        let released = Instant::now();
        assert!(standby.await.unwrap().holds());
        assert!(released.elapsed() <= longest, "watched: {watched}: {:?}", released.elapsed());
        // b holds the Lease, so a releases nothing.
        assert!(!a.release().await);
        assert_eq!(fixture.holder(), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_leader_learns_its_successors_addresses() {
    let fixture = Fixture::new();
    let addresses = |host: u8, expander: Option<u16>| LeaderAddresses {
        grpc: SocketAddr::from(([10, 0, 0, host], 8086)),
        expander: expander.map(|port| SocketAddr::from(([10, 0, 0, host], port))),
    };
    let elector = |name: &str, addresses| {
        let config = ElectionConfig { addresses, ..election_config(name, None) };
        Elector::new(fixture.kube.client(name, NAMESPACE), config, Arc::new(fixture.clock.clone()), 1)
    };
    let mut a = elector("a", Some(addresses(1, Some(8087))));
    a.acquire(&fixture.never).await.unwrap();
    let (mut b, mut c) = (elector("b", None), elector("c", Some(addresses(3, None))));
    a.release().await;
    b.acquire(&fixture.never).await.unwrap();
    let successor = tokio::time::timeout(seconds(20), a.successor()).await;
    assert!(successor.is_err(), "b publishes no addresses, and those of a were removed: {successor:?}");
    b.release().await;
    c.acquire(&fixture.never).await.unwrap();
    assert_eq!(a.successor().await, addresses(3, None));
}

#[tokio::test(start_paused = true)]
async fn a_leader_stops_if_the_lease_names_another_holder() {
    let fixture = Fixture::new();
    let (mut a, led) = fixture.leader("a").await;
    let other = json!({"spec": {"holderIdentity": "b"}});
    fixture.kube.patch("leases", NAMESPACE, LEASE, other).unwrap();
    let lost = a.renew_until(&fixture.never).await.unwrap_err();
    assert_eq!(lost, LossReason::Taken { holder: "b".to_owned() });
    assert!(!led.holds());
    assert_eq!(fixture.holder(), "b");
}

#[tokio::test(start_paused = true)]
async fn renewals_continue_after_transient_faults() {
    let fixture = Fixture::new();
    let (mut a, led) = fixture.leader("a").await;
    let renewing = tokio::spawn(async move { a.renew_until(&CancellationToken::new()).await });
    let update = |request: &fake_kube::ApiRequest| request.is_verb_on(Verb::Update, "leases");
    for (times, effect) in [
        (1, FaultEffect::ReplyLost),
        (3, FaultEffect::RequestLost),
        (1, FaultEffect::Hangs),
        (1, FaultEffect::DoneAndHangs),
    ] {
        fixture.kube.fail(times, update, effect);
        tokio::time::sleep(seconds(30)).await;
        assert!(led.holds());
    }
    // Another client labels the Lease: its version changes, its holder does not.
    fixture.kube.patch("leases", NAMESPACE, LEASE, json!({"metadata": {"labels": {"a": "b"}}})).unwrap();
    tokio::time::sleep(seconds(30)).await;
    fixture.kube.delete("leases", NAMESPACE, LEASE).unwrap();
    tokio::time::sleep(seconds(30)).await;
    assert!(led.holds() && !renewing.is_finished());
    let lease = fixture.kube.get("leases", NAMESPACE, LEASE).unwrap();
    assert_eq!((fixture.holder().as_str(), &lease["spec"]["leaseTransitions"]), ("a", &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn a_term_counts_from_the_sending_of_the_renewal() {
    let fixture = Fixture::new();
    let (mut a, led) = fixture.leader("a").await;
    fixture.kube.set_latency(seconds(4));
    let renewing = async { a.renew_until(&CancellationToken::new()).await };
    let watching = async {
        // Sent after 2 s, answered after 6 s: valid until 12 s, not 16 s.
        tokio::time::sleep(Duration::from_millis(6500)).await;
        led.remaining()
    };
    tokio::select! {
        lost = renewing => panic!("{lost:?}"),
        left = watching => assert_eq!(left, Some(Duration::from_millis(5500))),
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_acquisition_and_renewal() {
    let fixture = Fixture::new();
    let (mut a, led) = fixture.leader("a").await;
    let stop = CancellationToken::new();
    let stopping = async {
        tokio::time::sleep(seconds(30)).await;
        stop.cancel();
    };
    let (renewal, ()) = tokio::join!(a.renew_until(&stop), stopping);
    assert_eq!(renewal, Ok(()));
    assert!(led.holds(), "a leads until it releases the Lease");
    assert!(fixture.elector("b").acquire(&stop).await.is_none());
    a.release().await;
    assert_eq!((fixture.holder().as_str(), led.holds()), ("", false));
}
