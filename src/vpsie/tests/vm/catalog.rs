use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::fleet::FailureReason;
use crate::vpsie::Backend;
use crate::vpsie::tests::managed::{assert_refused, assert_unavailable};
use crate::vpsie::tests::script::{refuse, reply};

fn names(catalog: &crate::catalog::Catalog) -> Vec<(&str, &str, Option<&str>)> {
    let offers = catalog.offers.iter();
    offers.map(|o| (o.datacenter.as_str(), o.name.as_str(), o.identifier.as_deref())).collect()
}

fn place(image: &str) -> VmPlace {
    VmPlace { image: image.to_owned(), ..group().places.remove("dc-1").unwrap() }
}

#[tokio::test(start_paused = true)]
async fn every_call_fails_until_cluster_and_groups_are_set() {
    let script = Script::default();
    let backend = VmBackend::new(script.client(), Arc::new(FixedPayload(Ok(PAYLOAD))));
    let message = assert_unavailable(backend.list().await, FailureReason::InvalidConfiguration);
    assert!(message.contains("UID"), "{message}");
    backend.set_cluster(CLUSTER.into());
    let message = assert_unavailable(backend.catalog().await, FailureReason::InvalidConfiguration);
    assert!(message.contains("NodeGroup"), "{message}");
    backend.set_groups(BTreeMap::new());
    let message = assert_unavailable(backend.catalog().await, FailureReason::InvalidConfiguration);
    assert!(message.contains("no NodeGroup names a datacenter"), "{message}");
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn an_unknown_datacenter_explains_missing_plans() {
    let no_plans = || [(CATEGORIES, categories()), (PLANS, none())];
    let datacenter = |id: &str, name: &str| rows(&[json!({"identifier": id, "dc_name": name})]);
    for (known, want) in [
        (datacenter("DC-1", "AMS"), "VPSie lists no plan for the images"),
        (datacenter("dc-2", "FRA"), "VPSie has no datacenter dc-1 in this account; it has: dc-2 (FRA)"),
    ] {
        let script = Script::new(no_plans());
        script.then([("GET datacenter", known)]);
        let error = backend(&script).catalog().await;
        let message = assert_unavailable(error, FailureReason::InvalidConfiguration);
        assert!(message.contains(want), "{message}");
        script.seen();
    }
}

#[tokio::test(start_paused = true)]
async fn plans_of_each_category_are_offers() {
    let script = Script::new([
        (
            CATEGORIES,
            rows(&[json!({"identifier": "c1", "name": "C"}), json!({"identifier": "m1", "name": "M"})]),
        ),
        (PLANS, rows(&[plan("map-1", "small"), json!({"nickname": "no id", "cpu": 1, "ram": 1})])),
        (PLANS, rows(&[plan("map-2", "big")])),
    ]);
    let catalog = backend(&script).catalog().await.unwrap();
    let offer = catalog.offers.iter().find(|offer| offer.name == "small").unwrap();
    assert_eq!(offer.size, SizeId::from_plan("SMALL"));
    assert_eq!(
        (offer.resources.cpu_millis, offer.resources.memory_mib, offer.resources.disk_gib),
        (2000, 4096, 80)
    );
    assert_eq!((offer.monthly, offer.hourly), (Some(24.into()), None));
    assert_eq!(catalog.offers.len(), 2);
    let seen = script.seen();
    assert_eq!(seen[1].header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(
        seen[1].body,
        "dcIdentifier=dc-1&osIdentifier=os-1&planCatIdentifier=c1&name=query&description=query&isCustom=0"
    );
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_one_offer_in_each_datacenter() {
    let script = Script::new([
        (CATEGORIES, rows(&[json!({"identifier": "c1", "name": "C"})])),
        (PLANS, rows(&[plan("map-11", "small")])),
        (PLANS, rows(&[plan("map-12", "small")])),
        (PLANS, rows(&[plan("map-2", "small")])),
    ]);
    let two = VmGroup {
        places: BTreeMap::from([("dc-1".into(), place("os-1")), ("dc-2".into(), place("os-1"))]),
        ..group()
    };
    let other = VmGroup { places: BTreeMap::from([("dc-1".into(), place("os-2"))]), ..group() };
    let backend = backend(&script);
    backend.set_groups(BTreeMap::from([("workers".into(), two), ("other".into(), other)]));
    let catalog = backend.catalog().await.unwrap();
    assert_eq!(names(&catalog), [("dc-1", "small", Some("map-11")), ("dc-2", "small", Some("map-2"))]);
    script.then([
        (ADD_SCRIPT, accepted()),
        (SCRIPTS, rows(&[json!({"identifier": "s-1", "script_name": SCRIPT})])),
        (CREATE, accepted()),
    ]);
    let request = CreateRequest { pool: PoolId { node_group: "other".into(), ..pool() }, ..request("small") };
    backend.create(&request).await.unwrap();
    let body = script.seen()[6].json();
    assert_eq!((&body["resourceIdentifier"], &body["osIdentifier"]), (&json!("map-12"), &json!("os-2")));
}

#[tokio::test(start_paused = true)]
async fn plans_with_shared_memory_are_offers_only_if_allowed() {
    let script = Script::new(plans());
    assert_eq!(backend(&script).catalog().await.unwrap().offers.len(), 1);
    assert!(script.seen()[1].body.contains("planCatIdentifier=cat-c"));

    let script = Script::new([
        (CATEGORIES, categories()),
        (PLANS, rows(&[plan("map-a", "shared"), plan("map-a1", "small")])),
        (PLANS, rows(&[plan("map-1", "small")])),
    ]);
    let backend = backend(&script);
    let shared = VmGroup { allow_shared_memory: true, ..group() };
    backend.set_groups(BTreeMap::from([("shared".into(), shared), ("workers".into(), group())]));
    let catalog = backend.catalog().await.unwrap();
    let mut offers = names(&catalog);
    offers.sort_unstable();
    assert_eq!(offers, [("dc-1", "shared", Some("map-a")), ("dc-1", "small", Some("map-1"))]);
    let refused = backend.create(&request("shared")).await;
    assert!(refused.clone().unwrap_err().to_string().contains("allowSharedMemory"));
    assert_refused(refused, FailureReason::InvalidConfiguration);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn without_categories_one_call_reads_all_plans() {
    for categories in [reply(404, "<html>"), refuse("Not found"), none()] {
        let script = Script::new([(CATEGORIES, categories), (PLANS, rows(&[plan("map-1", "small")]))]);
        assert_eq!(backend(&script).catalog().await.unwrap().offers.len(), 1);
        assert!(!script.seen()[1].body.contains("planCatIdentifier"));
    }
    let datacenters = || ("GET datacenter", rows(&[json!({"identifier": "dc-1", "dc_name": "AMS"})]));
    let script = Script::new([(CATEGORIES, reply(403, "{}")), (PLANS, reply(403, "{}")), datacenters()]);
    assert_unavailable(backend(&script).catalog().await, FailureReason::Authentication);
}

#[tokio::test(start_paused = true)]
async fn a_failing_datacenter_keeps_its_known_offers() {
    let categories = || rows(&[json!({"identifier": "c1", "name": "C"})]);
    let script = Script::new([
        (CATEGORIES, categories()),
        (PLANS, rows(&[plan("map-1", "small")])),
        (PLANS, rows(&[plan("map-2", "small")])),
    ]);
    let backend = backend(&script);
    let places = BTreeMap::from([("dc-1".into(), place("os-1")), ("dc-2".into(), place("os-1"))]);
    backend.set_groups(BTreeMap::from([("workers".into(), VmGroup { places, ..group() })]));
    backend.catalog().await.unwrap();
    script.then([
        (CATEGORIES, categories()),
        (PLANS, refuse("Not found")),
        (PLANS, rows(&[plan("map-3", "new")])),
    ]);
    let catalog = backend.catalog().await.unwrap();
    assert_eq!(names(&catalog), [("dc-1", "small", Some("map-1")), ("dc-2", "new", Some("map-3"))]);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn no_plan_at_all_is_an_error() {
    let script = Script::new([(CATEGORIES, categories())]);
    script.then(std::iter::repeat_n((PLANS, ScriptedReply::Lost), 4));
    assert_unavailable(backend(&script).catalog().await, FailureReason::ApiUnavailable);
    script.seen();
}
