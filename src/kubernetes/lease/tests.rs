//! Tests of the rules. tests/replicas has the tests over the network.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;

use super::election::{Election, LeaseAction};
use super::*;

const NOON: &str = "2026-01-01T12:00:00Z";

fn noon() -> Timestamp {
    NOON.parse().unwrap()
}

fn config() -> ElectionConfig {
    ElectionConfig {
        namespace: "kube-system".to_owned(),
        name: "leader".to_owned(),
        identity: "me".to_owned(),
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
        addresses: None,
    }
}

fn lease(holder: &str, version: u32, renewed: Timestamp, seconds: i32) -> Lease {
    Lease {
        metadata: ObjectMeta {
            resource_version: Some(version.to_string()),
            labels: Some([("kept".to_owned(), "yes".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(MicroTime(renewed)),
            acquire_time: Some(MicroTime(renewed)),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }),
    }
}

/// The expected action. Times are seconds since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Create,
    TakeOver,
    Renew,
    Wait(u64),
}
use Want::{Create, Renew, TakeOver, Wait};

fn check(name: &str, sights: &[(u64, Option<Lease>, Want)]) {
    let start = Instant::now();
    let mut election = Election::new(config());
    for (at, lease, want) in sights {
        let action = match election.observe(lease.as_ref(), start + Duration::from_secs(*at)) {
            LeaseAction::Create => Create,
            LeaseAction::TakeOver => TakeOver,
            LeaseAction::Renew => Renew,
            LeaseAction::Wait(until) => Wait((until - start).as_secs()),
        };
        assert_eq!(action, *want, "{name}, after {at} s");
    }
}

#[test]
fn actions_follow_from_observed_leases() {
    let now = noon();
    let other = |version| Some(lease("other", version, now, 15));
    check("never held", &[(0, None, Create), (1, None, Create)]);
    check("held by another", &[(0, other(1), Wait(15)), (9, other(1), Wait(15)), (15, other(1), TakeOver)]);
    check(
        "the holder renews",
        &[(0, other(1), Wait(15)), (14, other(2), Wait(29)), (28, other(2), Wait(29))],
    );
    check("released", &[(0, Some(lease("", 1, now, 15)), TakeOver)]);
    check("held by this process", &[(0, Some(lease("me", 1, now, 15)), Renew)]);
    check("stolen", &[(0, Some(lease("me", 1, now, 15)), Renew), (3, other(2), Wait(18))]);
    check("the Lease has a longer duration", &[(0, Some(lease("other", 1, now, 60)), Wait(60))]);
    check("the Lease has no duration", &[(0, Some(lease("other", 1, now, 0)), Wait(15))]);
    for wrong in [SignedDuration::from_hours(-1), SignedDuration::from_hours(1)] {
        let other =
            |version, at: i64| Some(lease("other", version, now + wrong + SignedDuration::from_secs(at), 15));
        check(
            "the holder's clock is wrong by an hour",
            &[(0, other(1, 0), Wait(15)), (2, other(2, 2), Wait(17)), (16, other(2, 2), Wait(17))],
        );
    }
    check("deleted by hand", &[(0, other(1), Wait(15)), (8, None, Create)]);
    check(
        "created again by another",
        &[(0, None, Create), (8, other(1), Wait(23)), (20, other(2), Wait(35))],
    );
}

/// A Lease as the API server returns it.
fn written(uid: &str) -> Lease {
    let mut lease = lease("me", 1, noon(), 15);
    lease.metadata.uid = Some(uid.to_owned());
    lease
}

#[test]
fn a_term_begins_when_no_other_holder_is_possible() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let term = |election: &mut Election, action, uid, sent, now| {
        let term = election.record_claim(action, &written(uid), after(sent), after(now));
        ((term.from - start).as_secs(), (term.until - start).as_secs())
    };

    let mut taken = Election::new(config());
    assert_eq!(term(&mut taken, LeaseAction::TakeOver, "a", 100, 102), (102, 110));
    assert_eq!(
        term(&mut taken, LeaseAction::Renew, "a", 104, 105),
        (102, 114),
        "counted from when it was sent"
    );
    assert_eq!(
        term(&mut taken, LeaseAction::Create, "b", 113, 114),
        (102, 123),
        "deleted: no other process leads yet"
    );
    assert_eq!(
        term(&mut taken, LeaseAction::Create, "c", 123, 124),
        (139, 133),
        "deleted, and our time was over"
    );

    let mut made = Election::new(config());
    assert_eq!(
        term(&mut made, LeaseAction::Create, "a", 0, 1),
        (16, 10),
        "another process may have held a deleted Lease"
    );
    assert_eq!(term(&mut made, LeaseAction::Renew, "a", 9, 9), (16, 19));
    assert_eq!(term(&mut made, LeaseAction::Create, "b", 11, 12), (27, 21), "deleted while waiting");
    assert_eq!(term(&mut made, LeaseAction::Renew, "b", 27, 28), (27, 37));
    made.resign();
    assert_eq!(term(&mut made, LeaseAction::Renew, "b", 40, 41), (56, 50));

    let mut patient = Election::new(config());
    patient.observe(Some(&lease("other", 1, noon(), 60)), after(0));
    assert_eq!(
        term(&mut patient, LeaseAction::Create, "a", 1, 2),
        (62, 11),
        "the earlier Lease had a duration of a minute"
    );

    // The reply to the takeover was lost: the process finds itself as the holder.
    let mut found = Election::new(config());
    let mut free = lease("", 1, noon(), 15);
    free.metadata.uid = Some("a".to_owned());
    assert_eq!(found.observe(Some(&free), after(0)), LeaseAction::TakeOver);
    assert_eq!(term(&mut found, LeaseAction::Renew, "a", 3, 4), (4, 13));
    // The reply to the creation was lost.
    let mut found = Election::new(config());
    assert_eq!(term(&mut found, LeaseAction::Renew, "a", 3, 4), (19, 13));
}

#[test]
fn a_claim_has_identity_times_and_transitions() {
    let election = Election::new(config());
    let fresh = election.claim(None, noon()).spec.unwrap();
    assert_eq!(fresh.holder_identity.as_deref(), Some("me"));
    assert_eq!((fresh.lease_duration_seconds, fresh.lease_transitions), (Some(15), Some(0)));
    let later = noon() + SignedDuration::from_secs(5);

    let taken = election.claim(Some(&lease("other", 7, noon(), 30)), later);
    assert_eq!(taken.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(taken.metadata.labels.as_ref().unwrap()["kept"], "yes");
    let spec = taken.spec.as_ref().unwrap();
    assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(15), Some(4)));
    assert_eq!((spec.acquire_time.clone().unwrap().0, spec.renew_time.clone().unwrap().0), (later, later));

    let renewed = election.claim(Some(&lease("me", 8, noon(), 15)), later).spec.unwrap();
    assert_eq!((renewed.lease_transitions, renewed.acquire_time.unwrap().0), (Some(3), noon()));
    assert_eq!(renewed.renew_time.unwrap().0, later);
}

#[test]
fn only_the_own_lease_is_released() {
    let election = Election::new(config());
    assert_eq!(election.released(&lease("other", 1, noon(), 15), noon()), None);
    let free = election.released(&lease("me", 9, noon(), 15), noon()).unwrap();
    assert_eq!(free.metadata.resource_version.as_deref(), Some("9"));
    assert_eq!(free.spec.unwrap().holder_identity.as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn leadership_expires_and_never_returns() {
    let leadership = Leadership::until(Instant::now() + Duration::from_secs(10));
    let seen = leadership.clone();
    assert!(seen.holds());
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(seen.remaining(), Some(Duration::from_secs(1)));
    assert!(leadership.extend(Instant::now() + Duration::from_secs(10)));
    assert_eq!(seen.remaining(), Some(Duration::from_secs(10)));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(!seen.holds());
    assert!(!leadership.extend(Instant::now() + Duration::from_secs(10)));
    assert_eq!((seen.holds(), seen.remaining()), (false, Some(Duration::ZERO)));
    seen.ended().await;
}

#[tokio::test(start_paused = true)]
async fn operations_survive_renewals_and_are_dropped_at_the_end() {
    let leadership = Leadership::until(Instant::now() + Duration::from_secs(10));
    let operation = leadership.during(tokio::time::sleep(Duration::from_secs(19)));
    let renewal = async {
        tokio::time::sleep(Duration::from_secs(9)).await;
        leadership.extend(Instant::now() + Duration::from_secs(11))
    };
    assert_eq!(tokio::join!(operation, renewal), (Ok(()), true));
    let started = Instant::now();
    let lost = leadership.during(std::future::pending::<()>()).await.unwrap_err();
    assert_eq!((lost, started.elapsed()), (LeaseLost { begun: true }, Duration::from_secs(1)));
    let lost = leadership.during(async { panic!("begun") }).await.unwrap_err();
    assert!(!lost.begun);
}

#[tokio::test(start_paused = true)]
async fn a_suspended_process_does_not_continue() {
    let leadership = Leadership::until(Instant::now() + Duration::from_secs(10));
    let mut steps = 0;
    let operation = async {
        tokio::task::yield_now().await;
        steps += 1;
    };
    {
        let mut operation = std::pin::pin!(leadership.during(operation));
        assert_eq!(futures::poll!(&mut operation), std::task::Poll::Pending);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(futures::poll!(&mut operation), std::task::Poll::Ready(Err(LeaseLost { begun: true })));
    }
    assert_eq!(steps, 0);
}

#[tokio::test(start_paused = true)]
async fn leadership_without_election_never_ends() {
    let always = Leadership::always();
    tokio::time::advance(Duration::from_hours(1000)).await;
    assert_eq!((always.holds(), always.remaining()), (true, None));
    assert_eq!(always.during(async { 1 }).await, Ok(1));
}
