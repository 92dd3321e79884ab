//! What happens to a lease, one case at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fake_kube::{FakeKube, FaultEffect, Verb};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vpsie_autoscaler::clock::Clock as _;
use vpsie_autoscaler::kubernetes::{ElectionConfig, Elector, LeaderAddresses, Leadership, LossReason};

use super::{LEASE, NAMESPACE, config};
use crate::clock::VirtualClock;

struct Scene {
    kube: FakeKube,
    clock: VirtualClock,
    never: CancellationToken,
}

impl Scene {
    fn new() -> Self {
        let clock = VirtualClock::new();
        let now = clock.clone();
        Self { kube: FakeKube::new(move || now.now()), clock, never: CancellationToken::new() }
    }

    fn elector(&self, name: &str) -> Elector {
        let client = self.kube.client(name, NAMESPACE);
        Elector::new(client, config(name, None), Arc::new(self.clock.clone()), 1)
    }

    /// One that leads.
    async fn leader(&self, name: &str) -> (Elector, Leadership) {
        let mut elector = self.elector(name);
        let leadership = elector.acquire(&self.never).await.unwrap();
        (elector, leadership)
    }

    fn holder(&self) -> String {
        let lease = self.kube.get("leases", NAMESPACE, LEASE).unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn the_first_start_waits_once_and_then_leads() {
    let scene = Scene::new();
    let started = Instant::now();
    let (a, leadership) = scene.leader("a").await;
    assert_eq!(started.elapsed(), seconds(15));
    assert!(!*a.is_on_standby().borrow(), "it never stood by for another");
    let mut b = scene.elector("b");
    let mut follows = b.is_on_standby();
    let following = tokio::spawn(async move { b.acquire(&CancellationToken::new()).await });
    assert!(!*follows.borrow_and_update(), "it has not looked yet");
    assert!(*follows.wait_for(|follows| *follows).await.unwrap());
    following.abort();
    assert_eq!((scene.holder().as_str(), leadership.remaining()), ("a", Some(seconds(10))));
}

#[tokio::test(start_paused = true)]
async fn a_follower_takes_over_when_the_leader_is_cut_off() {
    let scene = Scene::new();
    let (mut a, led) = scene.leader("a").await;
    let mut b = scene.elector("b");
    let never = scene.never.clone();
    let store_kind = tokio::spawn(async move { a.renew_until(&never).await });
    let following = tokio::spawn(async move { b.acquire(&CancellationToken::new()).await.unwrap() });
    tokio::time::sleep(seconds(60)).await;
    assert!(led.holds());
    assert!(!following.is_finished());
    scene.kube.partition("a", true);
    let cut = Instant::now();
    led.ended().await;
    assert!(cut.elapsed() >= seconds(8) && cut.elapsed() <= seconds(10), "{:?}", cut.elapsed());
    let lost = store_kind.await.unwrap().unwrap_err();
    assert!(matches!(lost, LossReason::NotRenewed { .. }), "{lost}");
    assert!(!following.is_finished());
    let leads = following.await.unwrap();
    assert!(leads.holds() && !led.holds());
    assert!(cut.elapsed() >= seconds(13) && cut.elapsed() <= seconds(15), "{:?}", cut.elapsed());
    assert_eq!(scene.holder(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_once_or_at_the_next_look_where_watches_tell_nothing() {
    for (watched, longest) in [(true, Duration::from_millis(10)), (false, seconds(4))] {
        let scene = Scene::new();
        let (mut a, led) = scene.leader("a").await;
        let mut b = scene.elector("b");
        let following = tokio::spawn(async move { b.acquire(&CancellationToken::new()).await.unwrap() });
        tokio::time::sleep(seconds(5)).await;
        scene.kube.hold_watches(!watched);
        assert!(a.release().await);
        assert!(!led.holds());
        let released = Instant::now();
        assert!(following.await.unwrap().holds());
        assert!(released.elapsed() <= longest, "watched: {watched}: {:?}", released.elapsed());
        // It is another's now: nothing to give back.
        assert!(!a.release().await);
        assert_eq!(scene.holder(), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_leader_learns_its_successors_addresses() {
    let scene = Scene::new();
    let addresses = |host: u8, expander: Option<u16>| LeaderAddresses {
        grpc: SocketAddr::from(([10, 0, 0, host], 8086)),
        expander: expander.map(|port| SocketAddr::from(([10, 0, 0, host], port))),
    };
    let elector = |name: &str, addresses| {
        let config = ElectionConfig { addresses, ..config(name, None) };
        Elector::new(scene.kube.client(name, NAMESPACE), config, Arc::new(scene.clock.clone()), 1)
    };
    let mut a = elector("a", Some(addresses(1, Some(8087))));
    a.acquire(&scene.never).await.unwrap();
    let (mut b, mut c) = (elector("b", None), elector("c", Some(addresses(3, None))));
    a.release().await;
    b.acquire(&scene.never).await.unwrap();
    let asked = tokio::time::timeout(seconds(20), a.successor()).await;
    assert!(asked.is_err(), "b publishes no address, and that of a is gone: {asked:?}");
    b.release().await;
    c.acquire(&scene.never).await.unwrap();
    assert_eq!(a.successor().await, addresses(3, None));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_names_another_is_lost() {
    let scene = Scene::new();
    let (mut a, led) = scene.leader("a").await;
    let other = json!({"spec": {"holderIdentity": "b"}});
    scene.kube.patch("leases", NAMESPACE, LEASE, other).unwrap();
    let lost = a.renew_until(&scene.never).await.unwrap_err();
    assert_eq!(lost, LossReason::Taken { holder: "b".to_owned() });
    assert!(!led.holds());
    assert_eq!(scene.holder(), "b");
}

#[tokio::test(start_paused = true)]
async fn renewals_go_on_through_what_passes() {
    let scene = Scene::new();
    let (mut a, led) = scene.leader("a").await;
    let store_kind = tokio::spawn(async move { a.renew_until(&CancellationToken::new()).await });
    let update = |asked: &fake_kube::ApiRequest| asked.is_verb_on(Verb::Update, "leases");
    for (times, then) in [
        (1, FaultEffect::ReplyLost),
        (3, FaultEffect::RequestLost),
        (1, FaultEffect::Hangs),
        (1, FaultEffect::DoneAndHangs),
    ] {
        scene.kube.fail(times, update, then);
        tokio::time::sleep(seconds(30)).await;
        assert!(led.holds());
    }
    // Somebody labels it: the version is another, the holder is not.
    scene.kube.patch("leases", NAMESPACE, LEASE, json!({"metadata": {"labels": {"a": "b"}}})).unwrap();
    tokio::time::sleep(seconds(30)).await;
    scene.kube.delete("leases", NAMESPACE, LEASE).unwrap();
    tokio::time::sleep(seconds(30)).await;
    assert!(led.holds() && !store_kind.is_finished());
    let lease = scene.kube.get("leases", NAMESPACE, LEASE).unwrap();
    assert_eq!((scene.holder().as_str(), &lease["spec"]["leaseTransitions"]), ("a", &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_counts_from_when_it_was_sent() {
    let scene = Scene::new();
    let (mut a, led) = scene.leader("a").await;
    scene.kube.set_latency(seconds(4));
    let store_kind = async { a.renew_until(&CancellationToken::new()).await };
    let watching = async {
        // Sent after 2 s, answered after 6 s: good until 12 s, not 16 s.
        tokio::time::sleep(Duration::from_millis(6500)).await;
        led.remaining()
    };
    tokio::select! {
        lost = store_kind => panic!("{lost:?}"),
        left = watching => assert_eq!(left, Some(Duration::from_millis(5500))),
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_and_the_keeping() {
    let scene = Scene::new();
    let (mut a, led) = scene.leader("a").await;
    let stop = CancellationToken::new();
    let stopping = async {
        tokio::time::sleep(seconds(30)).await;
        stop.cancel();
    };
    let (backing, ()) = tokio::join!(a.renew_until(&stop), stopping);
    assert_eq!(backing, Ok(()));
    assert!(led.holds(), "until it is released");
    assert!(scene.elector("b").acquire(&stop).await.is_none());
    a.release().await;
    assert_eq!((scene.holder().as_str(), led.holds()), ("", false));
}
