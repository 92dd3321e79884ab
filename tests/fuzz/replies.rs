//! Replies of VPSie to calls of the backend. The first part of an input is the call; each further part is a
//! reply: a line with status and headers, then the body.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tower::util::BoxCloneSyncService;
use vpsie_autoscaler::catalog::SizeId;
use vpsie_autoscaler::cost::{Prices, UsdPerHour};
use vpsie_autoscaler::fleet::{Fleet, Machine, PoolId};
use vpsie_autoscaler::retry_after::RetryAfter;
use vpsie_autoscaler::vpsie::{
    Backend as _, BackendError, BaseUrl, Client, ClientConfig, CreateRequest, Credentials, ManagedBackend,
    ManagedConfig, Metrics, Transport, TransportError,
};

use crate::fleets::{Fixed, block_on, catalog, group, records, run_fleet};
use crate::mutate::PART;

/// Maximum number of requests of an input, including pages and retries.
const MAX_REQUESTS: usize = 2000;

const NODES: &str = r#"{"error":false,"data":{"identifier":"c-1","cluster_name":"HEL","nodes":[
{"id":1,"hostname":"HEL-master-1","default_ip":"198.18.0.1","private_ip":"10.0.0.1","node_type":1,"created_on":"2026-01-01 00:00:00"},
{"id":2,"hostname":"HEL-slave-2","default_ip":"198.18.0.2","private_ip":"10.0.0.2","node_type":2,"datacenter_id":1,"dropped_on":null},
{"id":3,"identifier":"u-3","hostname":"HEL-slave-3","ip":"198.18.0.3","status":"running","role":"slave","cpu":2,"ram":4096,"disk":80,"group_id":5,"is_deleted":0,"created_on":"2026-01-01T00:00:00Z"}]}}"#;
const VMS: &str = r#"{"error":false,"data":[
{"hostname":"hel-slave-2","identifier":"u-2","type":"k8s","dcIdentifier":"ams1","datacenter_id":1,"default_ip":"198.18.0.2","private_ip":["10.0.0.2"]},
{"hostname":"hel-slave-2","identifier":"u-9","type":"vm"}],"total":2}"#;
const OFFERS: &str = r#"{"error":false,"data":{"rows":[
{"id":2,"name":"small","cpu":2,"ram":4096,"disk":80,"price":"24.00","hourly_price":0.033},
{"id":"4","nickname":"large","cpu":"4","ram":"8192","ssd":160,"price":48,"hourly_price":null}],"count":2}}"#;
const GROUPS: &str = r#"{"error":false,"data":[{"id":5,"identifier":"g-5","group_name":"web-2","boxsize_id":2,"cpu":2,"ram":4096,"ssd":80,"is_deleted":0,"dropped_on":null}],"total ":1}"#;
const CLUSTERS: &str =
    r#"{"error":false,"data":[{"identifier":"c-1","cluster_name":"HEL"}],"pagination":{"total":1}}"#;
const LOGIN: &str = r#"{"error":false,"accessToken":{"token":"t","expires":"2026-01-01T01:00:00Z"},"refreshToken":{"token":"r"}}"#;
const DONE: &str = r#"{"error":false,"data":true}"#;
const REFUSED: &str =
    r#"{"error":true,"code":500,"type":false,"message":"Worker nodes count exceeds the allowed limit of 5"}"#;

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let ok = |body: &str| format!("200 content-type: application/json\n{}", body.replace('\n', ""));
    let busy = "429 retry-after: 7; date: Thu, 01 Jan 2026 00:00:00 GMT\n{\"error\":true}".to_owned();
    let late = "503 retry-after: Thu, 01 Jan 2026 00:00:09 GMT\n<html>503</html>".to_owned();
    let refused = format!("500 x: y\n{REFUSED}");
    let script = |call: &str, replies: Vec<String>| {
        let mut parts = vec![call.to_owned()];
        parts.extend(replies);
        parts.join(std::str::from_utf8(PART).unwrap()).into_bytes()
    };
    vec![
        script("list", vec![ok(NODES), ok(VMS), ok(NODES), ok(GROUPS), ok(NODES)]),
        script("list", vec![busy.clone(), late.clone(), ok(NODES), ok(GROUPS)]),
        script("catalog", vec![ok(OFFERS), ok(OFFERS)]),
        script("create", vec![ok(GROUPS), ok(DONE), ok(DONE), ok(DONE)]),
        script("create", vec![ok("[]"), refused.clone(), ok(GROUPS), refused, busy.clone()]),
        script("create", vec![ok("[]"), ok(DONE), ok(GROUPS), ok(DONE)]),
        script("delete", vec![ok(NODES), ok(VMS), ok(DONE)]),
        script("delete", vec![ok(NODES), ok(VMS), "404 a: b\n{\"error\":true}".to_owned(), ok(NODES)]),
        script("try", vec![ok(LOGIN), ok(CLUSTERS), ok(NODES), ok(GROUPS)]),
        script("check", vec![ok(CLUSTERS), ok(CLUSTERS)]),
    ]
}

/// Splits an input at its separators.
pub(crate) fn parts(input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.windows(PART.len()).position(|window| window == PART) {
        parts.push(&rest[..at]);
        rest = &rest[at + PART.len()..];
    }
    parts.push(rest);
    parts
}

fn reply(part: &[u8]) -> Result<Response<Bytes>, TransportError> {
    let end = part.iter().position(|byte| *byte == b'\n').unwrap_or(part.len());
    let head = String::from_utf8_lossy(&part[..end]).into_owned();
    let (status, headers) = head.split_once(' ').unwrap_or((&head, ""));
    if status == "lost" {
        return Err(TransportError::Lost("reset".to_owned()));
    }
    let mut reply = Response::new(Bytes::copy_from_slice(part.get(end + 1..).unwrap_or_default()));
    *reply.status_mut() =
        status.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or_default();
    for header in headers.split("; ") {
        if let Some((name, value)) = header.split_once(": ")
            && let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value))
        {
            reply.headers_mut().insert(name, value);
        }
    }
    Ok(reply)
}

/// Returns the replies in order, then the last one repeatedly. Records the bodies of deletions.
pub(crate) fn transport(replies: &[&[u8]], deletions: &Arc<Mutex<Vec<String>>>) -> Transport {
    let replies: Vec<Vec<u8>> = replies.iter().map(|part| part.to_vec()).collect();
    let replies = Arc::new(replies);
    let requests = Arc::new(AtomicUsize::new(0));
    let deletions = Arc::clone(deletions);
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
        let number = requests.fetch_add(1, Ordering::Relaxed);
        assert!(number < MAX_REQUESTS, "the call sends more than {MAX_REQUESTS} requests");
        if request.method() == http::Method::DELETE {
            deletions.lock().unwrap().push(String::from_utf8_lossy(request.body()).into_owned());
        }
        let result = match replies.get(number).or(replies.last()) {
            Some(part) => reply(part),
            None => Err(TransportError::NotSent("refused".to_owned())),
        };
        async move { result }
    }))
}

pub(crate) fn run(input: &[u8]) {
    let parts = parts(input);
    let call = String::from_utf8_lossy(parts[0]).into_owned();
    let deletions = Arc::default();
    let base = BaseUrl::parse("https://vpsie.test").unwrap();
    let config = ClientConfig::new(base, Credentials::token("t0ken"));
    let client = Client::new(config, transport(&parts[1..], &deletions), Arc::new(Fixed), Metrics::default());
    let target = ManagedConfig { cluster: "c-1".into(), datacenter: "ams1".into() };
    let backend = ManagedBackend::new(client.clone(), target);
    backend.restore_offers(&catalog());
    block_on(async {
        match call.as_str() {
            "catalog" => {
                if let Ok(catalog) = backend.catalog().await {
                    for offer in &catalog.offers {
                        assert!(
                            offer.resources.cpu_millis > 0 && offer.resources.memory_mib > 0,
                            "{offer:?}"
                        );
                        assert!(offer.hourly.is_none_or(|price| price > 0.into()), "{offer:?}");
                        let price = Prices::default().price(offer);
                        assert!(price.is_none_or(UsdPerHour::is_positive), "{offer:?}");
                    }
                    let mut fleet = Fleet::restore(
                        vec![group()],
                        records(),
                        vpsie_autoscaler::fleet::FleetSettings::default(),
                    );
                    fleet.update_catalog(catalog);
                    run_fleet(fleet, &[]);
                }
            }
            "create" => {
                let pool: PoolId = "web/ams1/s/on-demand".parse().unwrap();
                let class = pool.class(SizeId(2));
                let request = CreateRequest { machine: "web-1".into(), class, pool, hostname: None };
                for _ in 0..3 {
                    check_retry_after(&backend.create(&request).await);
                }
            }
            "delete" => {
                for id in [serde_json::Value::Null, "u-7".into()] {
                    let time = "2026-01-01T00:00:00Z";
                    let drained = serde_json::json!({
                        "id": "web-00000001", "pool": "web/ams1/small/on-demand", "size": 2, "createdAt": time,
                        "phase": {
                            "phase": "deleting", "vm": {"hostname": "hel-slave-2", "id": id}, "since": time,
                            "drain": false, "acceptedAt": null,
                        },
                    });
                    let drained: Machine = serde_json::from_value(drained).unwrap();
                    check_retry_after(&backend.delete(&drained.deletable().unwrap()).await);
                }
            }
            "try" => {
                let _ = client.check_credentials(&Credentials::client("me", "s3cret"), None).await;
            }
            "check" => check_retry_after(&backend.check().await),
            _ => {
                let mut listings = Vec::new();
                for _ in 0..3 {
                    listings.extend(backend.list().await.ok());
                }
                for node in listings.iter().flat_map(|listing| &listing.nodes) {
                    assert!(!node.hostname.as_str().is_empty());
                }
                run_fleet(
                    Fleet::restore(
                        vec![group()],
                        records(),
                        vpsie_autoscaler::fleet::FleetSettings::default(),
                    ),
                    &listings,
                );
            }
        }
    });
    // Deleted VMs were named by the input or by a reply.
    for body in deletions.lock().unwrap().iter() {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let id = body["identifier"].as_str().unwrap().to_owned();
        let escaped = serde_json::to_string(&id).unwrap();
        let named = |text: &[u8]| String::from_utf8_lossy(input).contains(std::str::from_utf8(text).unwrap());
        assert!(
            id == "u-7"
                || named(id.as_bytes())
                || named(escaped.trim_matches('"').as_bytes())
                || !id.is_ascii()
                || input.windows(2).any(|two| two == b"\\u"),
            "{id} was deleted"
        );
    }
}

/// Checks that a `Retry-After` is at most its maximum.
pub(crate) fn check_retry_after<T>(result: &Result<T, BackendError>) {
    if let Err(BackendError::Unavailable { retry_after: Some(wait), .. }) = result {
        assert!(wait.get() <= RetryAfter::MAX);
    }
}
