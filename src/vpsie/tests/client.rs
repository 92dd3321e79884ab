use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::script::{Script, ScriptedReply, ok, refuse, reply, slow_down};
use crate::catalog::CapacityType;
use crate::retry_after::RetryAfter;
use crate::vpsie::client::Client;
use crate::vpsie::error::{ApiError, ErrorKind};
use crate::vpsie::limiter::Purpose;
use crate::vpsie::{Credentials, Metrics};

const LIST: &str = "GET k8s/cluster/all";
const ADD: &str = "POST k8s/cluster/byId/c/add/slave/group/5";
const DELETE: &str = "DELETE k8s/cluster/byId/c/delete/slave";

async fn list(client: &Client) -> Result<usize, ApiError> {
    client.list_clusters().await.map(|clusters| clusters.len())
}

async fn add(client: &Client) -> Result<(), ApiError> {
    client.add_worker(&"c".into(), 5, CapacityType::OnDemand).await
}

fn clusters() -> ScriptedReply {
    ok(&json!([{"identifier": "c", "cluster_name": "HEL"}]))
}

#[tokio::test(start_paused = true)]
async fn every_request_carries_both_headers() {
    let script = Script::new([(LIST, clusters())]);
    assert_eq!(list(&script.client_with(Credentials::token("t0ken\n"), |_| ())).await, Ok(1));
    let seen = &script.seen()[0];
    assert_eq!(seen.header("vpsie-auth"), "t0ken");
    assert_eq!(seen.header("authorization"), "Bearer t0ken");
    assert_eq!(seen.header("accept"), "application/json");
    assert!(seen.header("user-agent").starts_with("vpsie-autoscaler/"));
    assert!(!format!("{seen:?}").contains("t0ken"), "headers are marked as sensitive");
}

#[tokio::test(start_paused = true)]
async fn repeats_a_read_until_there_is_a_reply() {
    for reply in [
        ScriptedReply::NotSent,
        ScriptedReply::Lost,
        reply(500, r#"{"error":true,"message":"oops"}"#),
        reply(502, "<html>"),
        reply(408, ""),
        reply(200, "<html>"),
        slow_down(3),
    ] {
        let script = Script::new([(LIST, reply.clone()), (LIST, reply), (LIST, clusters())]);
        assert_eq!(list(&script.client()).await, Ok(1));
        let seen = script.seen();
        let pauses = [seen[1].at - seen[0].at, seen[2].at - seen[1].at];
        assert!(pauses[0] >= Duration::from_millis(500) && pauses[1] >= Duration::from_secs(1), "{pauses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn repeats_a_read_up_to_the_maximum() {
    let script = Script::new(std::iter::repeat_n((LIST, ScriptedReply::Lost), 4));
    assert_eq!(list(&script.client()).await.unwrap_err().kind, ErrorKind::Unclear);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_repeated() {
    for (reply, kind) in [
        (refuse("quota exceeded"), ErrorKind::Quota),
        (refuse("The moon is full"), ErrorKind::Refused),
        (reply(500, r#"{"error":true,"message":"Quota exceeded"}"#), ErrorKind::Quota),
        (reply(403, "{}"), ErrorKind::Forbidden),
        (reply(404, r#"{"error":true,"message":"Not found"}"#), ErrorKind::NotFound),
        (reply(404, "<html>nginx</html>"), ErrorKind::WrongServer),
    ] {
        let script = Script::new([(LIST, reply)]);
        assert_eq!(list(&script.client()).await.unwrap_err().kind, kind);
        script.seen();
    }
}

#[tokio::test(start_paused = true)]
async fn respects_retry_after_within_the_timeout() {
    let script = Script::new([(LIST, slow_down(40)), (LIST, clusters())]);
    assert_eq!(list(&script.client()).await, Ok(1));
    let seen = script.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(40));

    let script = Script::new([(LIST, slow_down(40))]);
    let client =
        script.client_with(Credentials::token("t"), |config| config.timeouts.call = Duration::from_secs(20));
    let start = Instant::now();
    let error = list(&client).await.unwrap_err();
    let wait = RetryAfter::new(Duration::from_secs(40));
    assert_eq!((error.kind, error.retry_after), (ErrorKind::RateLimited, Some(wait)));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_stops_no_call_for_longer_than_the_cap() {
    for text in ["86400", "1e19", "Fri, 01 Jan 2027 00:00:00 GMT"] {
        for status in [429, 503] {
            let busy = ScriptedReply::Reply(status, "{}".into(), vec![("retry-after", text.into())]);
            let script = Script::new([(ADD, busy), (DELETE, ok(&json!(true))), (LIST, clusters())]);
            let client = script.client();
            let start = Instant::now();
            add(&client).await.unwrap_err();
            client.delete_worker(&"c".into(), &"u-1".into()).await.unwrap();
            list(&client).await.unwrap();
            assert!(start.elapsed() <= RetryAfter::MAX, "{status} {text}: {:?}", start.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_holds_other_calls_back_too() {
    let script = Script::new([(ADD, slow_down(20)), (LIST, clusters())]);
    let client = script.client();
    assert_eq!(add(&client).await.unwrap_err().kind, ErrorKind::RateLimited);
    list(&client).await.unwrap();
    let seen = script.seen();
    assert_eq!(seen[1].at - seen[0].at, Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn requests_a_worker_once_for_each_reply() {
    for (reply, kind) in [
        (ScriptedReply::NotSent, ErrorKind::NotSent),
        (ScriptedReply::Lost, ErrorKind::Unclear),
        (ScriptedReply::Silence, ErrorKind::Unclear),
        (reply(500, "{}"), ErrorKind::Unclear),
        (reply(504, "<html>"), ErrorKind::Unclear),
        (reply(200, "<html>"), ErrorKind::Unclear),
        (reply(200, r#"{"error":false,"data":false}"#), ErrorKind::Unclear),
        (slow_down(1), ErrorKind::RateLimited),
        (reply(503, r#"{"error":true,"message":"No capacity available"}"#), ErrorKind::Shortage),
        (refuse("Worker nodes count exceeds the allowed limit"), ErrorKind::Quota),
    ] {
        let script = Script::new([(ADD, reply)]);
        assert_eq!(add(&script.client()).await.unwrap_err().kind, kind);
        script.seen();
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_accepted_in_every_form() {
    for body in [
        r#"{"error":false,"data":true}"#,
        r#"{"error":false,"data":{"id":9,"hostname":"x","status":"creating"}}"#,
        r#"{"error":false}"#,
        "",
    ] {
        let script = Script::new([(ADD, reply(200, body))]);
        add(&script.client()).await.unwrap();
        assert_eq!(script.seen()[0].body, "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_repeated_and_names_its_vm() {
    let script = Script::new([(DELETE, ScriptedReply::Lost), (DELETE, ok(&json!(true)))]);
    script.client().delete_worker(&"c".into(), &"u-1".into()).await.unwrap();
    for seen in script.seen() {
        assert_eq!(seen.json()["identifier"], "u-1");
        assert_eq!(seen.header("content-type"), "application/json");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_in_time() {
    let script = Script::new([(ADD, ScriptedReply::Silence)]);
    let client = script.client();
    let start = Instant::now();
    let error = add(&client).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Unclear, "no reply within 30s"));
    assert_eq!(start.elapsed(), Duration::from_secs(30));

    let script = Script::new(std::iter::repeat_n((LIST, ScriptedReply::Silence), 3));
    let client = script.client();
    let start = Instant::now();
    assert_eq!(list(&client).await.unwrap_err().kind, ErrorKind::Unclear);
    assert!(start.elapsed() <= Duration::from_mins(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_while_the_breaker_is_open() {
    let script = Script::new(std::iter::repeat_n((ADD, reply(500, "{}")), 5));
    let client = script.client();
    for _ in 0..5 {
        assert_eq!(add(&client).await.unwrap_err().kind, ErrorKind::Unclear);
    }
    let error = add(&client).await.unwrap_err();
    assert_eq!(
        (error.kind, error.retry_after),
        (ErrorKind::NotAdmitted, Some(RetryAfter::new(Duration::from_secs(30))))
    );
    assert_eq!(list(&client).await.unwrap_err().kind, ErrorKind::NotAdmitted);

    tokio::time::sleep(Duration::from_secs(30)).await;
    script.then([(LIST, clusters()), (LIST, clusters())]);
    list(&client).await.unwrap();
    list(&client).await.unwrap();
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn refusals_do_not_open_the_breaker() {
    let full = reply(503, r#"{"error":true,"message":"out of stock"}"#);
    let script = Script::new(std::iter::repeat_n((ADD, full), 12));
    let client = script.client();
    for _ in 0..12 {
        assert_eq!(add(&client).await.unwrap_err().kind, ErrorKind::Shortage);
    }
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept_and_deletions_have_their_share() {
    let script = Script::new(std::iter::repeat_n((LIST, clusters()), 8));
    script.then([(DELETE, ok(&json!(true))), (DELETE, ok(&json!(true))), (LIST, clusters())]);
    let client = script.client_with(Credentials::token("t"), |config| config.rate_per_minute = 10);
    for _ in 0..8 {
        list(&client).await.unwrap();
    }
    let delete = async |id: &str| client.delete_worker(&"c".into(), &id.into()).await;
    let (ninth, first, second) = tokio::join!(list(&client), delete("u-1"), delete("u-2"));
    assert!(ninth.is_ok() && first.is_ok() && second.is_ok());
    let seen = script.seen();
    assert_eq!(seen[9].at, seen[0].at);
    assert!(seen[10].at - seen[0].at >= Duration::from_mins(1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_would_wait_too_long_for_the_rate_fails_at_once() {
    let script = Script::new([(LIST, clusters())]);
    let client = script.client_with(Credentials::token("t"), |config| {
        config.rate_per_minute = 1;
        config.timeouts.call = Duration::from_secs(20);
    });
    list(&client).await.unwrap();
    let error = list(&client).await.unwrap_err();
    assert_eq!(
        (error.kind, error.retry_after),
        (ErrorKind::NotAdmitted, Some(RetryAfter::new(RetryAfter::MAX)))
    );
}

#[tokio::test(start_paused = true)]
async fn further_pages_are_read_where_there_are_any() {
    let rows =
        |from: u32, to: u32| (from..to).map(|n| json!({"identifier": n.to_string()})).collect::<Vec<_>>();
    let page = |from, to| reply(200, &json!({"error": false, "data": rows(from, to), "total ": 25}));
    let all = "GET k8s/cluster/all?offset=0&limit=25";
    let script = Script::new([(LIST, page(0, 10)), (all, page(0, 25))]);
    assert_eq!(list(&script.client()).await, Ok(25));
    script.seen();

    let script = Script::new([
        (LIST, page(0, 10)),
        (all, page(0, 10)),
        ("GET k8s/cluster/all?offset=10&limit=100", page(5, 20)),
        ("GET k8s/cluster/all?offset=20&limit=100", page(20, 25)),
    ]);
    assert_eq!(list(&script.client()).await, Ok(25));
    script.seen();
}

/// A page of clusters, without a total.
fn untold(from: u32, to: u32) -> ScriptedReply {
    ok(&json!((from..to).map(|n| json!({"identifier": n.to_string()})).collect::<Vec<_>>()))
}

const ALL: &str = "GET k8s/cluster/all?offset=0&limit=10000";

#[tokio::test(start_paused = true)]
async fn a_list_without_a_total_is_read_to_its_end() {
    // Requests all rows at once. Later the client knows that VPSie truncates the list without a limit.
    let script = Script::new([
        (LIST, untold(0, 20)),
        (ALL, untold(0, 45)),
        ("GET k8s/cluster/all?offset=45&limit=100", untold(0, 0)),
        ("GET k8s/cluster/all?offset=2&limit=20", untold(40, 45)),
        (ALL, untold(0, 45)),
    ]);
    let client = script.client();
    assert_eq!(list(&client).await, Ok(45));
    assert_eq!(list(&client).await, Ok(45));
    script.seen();

    // `limit` is ignored, and `offset` counts pages.
    let script = Script::new([
        (LIST, untold(0, 20)),
        (ALL, untold(0, 20)),
        ("GET k8s/cluster/all?offset=20&limit=100", untold(0, 0)),
        ("GET k8s/cluster/all?offset=1&limit=20", untold(20, 25)),
        ("GET k8s/cluster/all?offset=25&limit=100", untold(0, 0)),
        ("GET k8s/cluster/all?offset=1&limit=20", untold(20, 25)),
    ]);
    assert_eq!(list(&script.client()).await, Ok(25));
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn requests_a_complete_list_without_a_total_once() {
    let script = Script::new([
        (LIST, untold(0, 12)),
        (ALL, untold(0, 12)),
        ("GET k8s/cluster/all?offset=12&limit=100", untold(0, 12)),
        ("GET k8s/cluster/all?offset=1&limit=12", untold(0, 12)),
        (LIST, untold(0, 12)),
        (LIST, untold(0, 11)),
        (LIST, untold(0, 13)),
        (ALL, reply(400, r#"{"error":true,"message":"limit is not allowed"}"#)),
    ]);
    let client = script.client();
    for rows in [12, 12, 11, 13] {
        assert_eq!(list(&client).await, Ok(rows));
    }
    script.seen();
    // A short list is not a full page.
    let script = Script::new([(LIST, untold(0, 9))]);
    assert_eq!(list(&script.client()).await, Ok(9));
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn rows_that_never_come_are_counted() {
    let metrics = Metrics::default();
    let page = || reply(200, &json!({"data": [{"identifier": "c"}], "total": 9}));
    let script = Script::new([
        (LIST, page()),
        ("GET k8s/cluster/all?offset=0&limit=9", page()),
        ("GET k8s/cluster/all?offset=1&limit=100", page()),
        ("GET k8s/cluster/all?offset=1&limit=1", page()),
    ]);
    let client = script.client_metered(Credentials::token("t"), metrics.clone(), |_| ());
    assert_eq!(list(&client).await, Ok(1));
    let mut registry = crate::telemetry::Registry::default();
    metrics.register(&mut registry);
    let text = registry.encode().unwrap();
    assert!(text.contains(r#"vpsie_api_missing_rows{endpoint="list_clusters"} 8"#), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_repeats_is_the_last() {
    let page = || reply(200, &json!({"data": {"rows": [{"identifier": "c"}], "count": 9}}));
    let script = Script::new([
        (LIST, page()),
        ("GET k8s/cluster/all?offset=0&limit=9", page()),
        ("GET k8s/cluster/all?offset=1&limit=100", page()),
        ("GET k8s/cluster/all?offset=1&limit=1", page()),
    ]);
    assert_eq!(list(&script.client()).await, Ok(1));
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_every_form() {
    for (body, rows) in [
        (r#"{"error":false,"data":[{"identifier":"c"}]}"#, 1),
        (r#"{"error":"false","data":{"rows":[{"identifier":"c"}],"count":1}}"#, 1),
        (r#"[{"identifier":"c"},{"identifier":"d"}]"#, 2),
        (r#"{"error":false,"data":false}"#, 0),
        (r#"{"error":false,"data":null}"#, 0),
        (r#"{"error":false}"#, 0),
        (r#"{"data":[7,{"cluster_name":"no id"},{"identifier":"c","more":[]}]}"#, 1),
    ] {
        let script = Script::new([(LIST, reply(200, body))]);
        assert_eq!(list(&script.client()).await, Ok(rows), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_by_outcome() {
    let metrics = Metrics::default();
    let script =
        Script::new([(LIST, ScriptedReply::Lost), (LIST, clusters()), (ADD, refuse("quota exceeded"))]);
    let client = script.client_metered(Credentials::token("t"), metrics.clone(), |_| ());
    list(&client).await.unwrap();
    add(&client).await.unwrap_err();
    let mut registry = crate::telemetry::Registry::default();
    metrics.register(&mut registry);
    let text = registry.encode().unwrap();
    for line in [
        r#"vpsie_api_requests_total{endpoint="list_clusters",outcome="unclear"} 1"#,
        r#"vpsie_api_requests_total{endpoint="list_clusters",outcome="ok"} 1"#,
        r#"vpsie_api_requests_total{endpoint="add_worker",outcome="quota"} 1"#,
        r#"vpsie_api_retries_total{endpoint="list_clusters"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn clients_with_one_seed_pause_alike() {
    let pauses = async |seed| {
        let script =
            Script::new([(LIST, ScriptedReply::Lost), (LIST, ScriptedReply::Lost), (LIST, clusters())]);
        list(&script.client_with(Credentials::token("t"), |config| config.seed = seed)).await.unwrap();
        let seen = script.seen();
        [seen[1].at - seen[0].at, seen[2].at - seen[1].at]
    };
    assert_eq!(pauses(1).await, pauses(1).await);
    assert_ne!(pauses(1).await, pauses(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_missing_cluster_is_an_error_not_an_empty_list() {
    for body in [r#"{"error":false,"data":false}"#, r#"{"error":false}"#] {
        let script = Script::new([("GET k8s/cluster/byId/c", reply(200, body))]);
        let nodes = script.client().list_nodes(&"c".into(), Purpose::Ordinary).await;
        assert_eq!(nodes.unwrap_err().kind, ErrorKind::NotFound);
    }
}
