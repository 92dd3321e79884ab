use std::time::Duration;

use serde_json::json;

use super::script::{Script, ScriptedReply, ok, reply};
use crate::catalog::CapacityType;
use crate::vpsie::Credentials;
use crate::vpsie::client::Client;
use crate::vpsie::error::{ApiError, ErrorKind};

const LOGIN: &str = "POST auth/from/api";
const LIST: &str = "GET k8s/cluster/all";
const ADD: &str = "POST k8s/cluster/byId/c/add/slave/group/5";

async fn list(client: &Client) -> Result<(), ApiError> {
    client.list_clusters().await.map(drop)
}

fn client(script: &Script) -> Client {
    script.client_with(Credentials::client("me", "s3cret"), |_| ())
}

/// Reply to a login with this token, valid for an hour from 2026-01-01T00:00Z.
fn token(token: &str) -> ScriptedReply {
    let expires = "2026-01-01T01:00:00Z";
    reply(200, &json!({"error": false, "accessToken": {"token": token, "expires": expires}}))
}

fn clusters() -> ScriptedReply {
    ok(&json!([]))
}

fn refused() -> ScriptedReply {
    reply(401, r#"{"error":true,"message":"Please authenticate"}"#)
}

#[tokio::test(start_paused = true)]
async fn the_first_call_logs_in_and_the_next_ones_do_not() {
    let script = Script::new([(LOGIN, token("one")), (LIST, clusters()), (LIST, clusters())]);
    let client = client(&script);
    list(&client).await.unwrap();
    list(&client).await.unwrap();
    let seen = script.seen();
    assert_eq!(seen[0].json(), json!({"clientId": "me", "clientSecret": "s3cret"}));
    assert_eq!(seen[0].header("authorization"), "");
    assert_eq!(seen[1].header("authorization"), "Bearer one");
}

#[tokio::test(start_paused = true)]
async fn retries_a_refused_json_login_as_form_and_keeps_the_format() {
    for refusal in [
        refused(),
        reply(415, r#"{"error":true,"message":"Unsupported Media Type"}"#),
        reply(400, "Bad Request"),
        reply(200, r#"{"error":true,"message":"clientId is required"}"#),
        reply(200, r#"{"error":false}"#),
    ] {
        let script = Script::new([
            (LOGIN, refusal),
            (LOGIN, token("one")),
            (LIST, refused()),
            (LOGIN, token("two")),
            (LIST, clusters()),
        ]);
        list(&client(&script)).await.unwrap();
        let seen = script.seen();
        for form in [&seen[1], &seen[3]] {
            assert_eq!(form.header("content-type"), "application/x-www-form-urlencoded");
            assert_eq!(form.body, "clientId=me&clientSecret=s3cret");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_expires() {
    let script = Script::new([(LOGIN, token("one")), (LIST, clusters())]);
    let client = client(&script);
    list(&client).await.unwrap();
    tokio::time::sleep(Duration::from_mins(54)).await;
    script.then([(LIST, clusters())]);
    list(&client).await.unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    script.then([(LOGIN, token("two")), (LIST, clusters())]);
    list(&client).await.unwrap();
    assert_eq!(script.seen().last().unwrap().header("vpsie-auth"), "two");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_early_is_used_on() {
    let script = Script::new([(LOGIN, token("one")), (LIST, clusters())]);
    let client = client(&script);
    list(&client).await.unwrap();
    tokio::time::sleep(Duration::from_mins(55)).await;
    script.then([(LOGIN, ScriptedReply::Lost), (LIST, clusters()), (LIST, clusters())]);
    list(&client).await.unwrap();
    list(&client).await.unwrap();
    assert_eq!(script.seen().last().unwrap().header("vpsie-auth"), "one");
}

#[tokio::test(start_paused = true)]
async fn a_401_brings_one_new_login_and_one_more_try() {
    let script = Script::new([
        (LOGIN, token("one")),
        (LIST, refused()),
        (LOGIN, token("two")),
        (LIST, clusters()),
        (LIST, refused()),
        (LOGIN, token("three")),
        (LIST, refused()),
    ]);
    let client = client(&script);
    list(&client).await.unwrap();
    assert_eq!(list(&client).await.unwrap_err().kind, ErrorKind::Unauthenticated);
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn renews_the_token_of_unrepeatable_calls_after_a_401() {
    for unauthenticated in
        [refused(), reply(200, r#"{"error":true,"code":401,"message":"Please authenticate"}"#)]
    {
        let script = Script::new([
            (LOGIN, token("one")),
            (ADD, unauthenticated),
            (LOGIN, token("two")),
            (ADD, ok(&json!(true))),
        ]);
        client(&script).add_worker(&"c".into(), 5, CapacityType::OnDemand).await.unwrap();
        assert_eq!(script.seen()[3].header("vpsie-auth"), "two");
    }
}

#[tokio::test(start_paused = true)]
async fn many_calls_wait_for_one_login() {
    let script =
        Script::new([(LOGIN, token("one")), (LIST, clusters()), (LIST, clusters()), (LIST, clusters())]);
    let client = client(&script);
    let (a, b, c) = tokio::join!(list(&client), list(&client), list(&client));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_not_repeated_at_once() {
    let script = Script::new([(LOGIN, refused()), (LOGIN, refused())]);
    let client = client(&script);
    for _ in 0..3 {
        let error = list(&client).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated);
        assert_eq!(error.message, "VPSie refused the login: Please authenticate");
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    script.then([(LOGIN, token("one")), (LIST, clusters())]);
    list(&client).await.unwrap();
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn repeats_a_lost_login_for_reads_only() {
    let script = Script::new([(LOGIN, ScriptedReply::Lost), (LOGIN, token("one")), (LIST, clusters())]);
    list(&client(&script)).await.unwrap();
    script.seen();

    for reply in [ScriptedReply::Lost, ScriptedReply::Silence, ScriptedReply::NotSent, reply(502, "<html>")] {
        let script = Script::new([(LOGIN, reply)]);
        let error = client(&script).add_worker(&"c".into(), 5, CapacityType::OnDemand).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotSent);
        script.seen();
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_at_a_wrong_server_reports_it() {
    let script = Script::new([(LOGIN, reply(404, "<html>nginx</html>"))]);
    let error = list(&client(&script)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::WrongServer);
    assert!(error.message.contains("check host and prefix"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn reports_a_refused_static_token() {
    let script = Script::new([(LIST, refused())]);
    let error = list(&script.client()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    assert_eq!(error.message, "VPSie refused the API token; it may have expired");
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn replaced_credentials_are_used_from_the_next_request_on() {
    let script = Script::new([(LIST, refused())]);
    let client = script.client();
    list(&client).await.unwrap_err();
    client.replace_credentials(Credentials::token("new"), None);
    script.then([(LIST, clusters())]);
    list(&client).await.unwrap();
    assert_eq!(script.seen()[1].header("vpsie-auth"), "new");

    let script = Script::new([(LOGIN, refused()), (LOGIN, refused())]);
    let client = self::client(&script);
    list(&client).await.unwrap_err();
    client.replace_credentials(Credentials::client("me", "better"), None);
    script.then([(LOGIN, token("one")), (LIST, clusters())]);
    list(&client).await.unwrap();
    assert_eq!(script.seen()[2].json()["clientSecret"], "better");
}

#[tokio::test(start_paused = true)]
async fn secrets_are_in_no_error() {
    let echo = |secret: &str| reply(400, &json!({"error": true, "message": format!("bad value {secret}")}));
    let script = Script::new([(LOGIN, echo("s3cret")), (LOGIN, echo("s3cret"))]);
    assert!(!format!("{:?}", list(&client(&script)).await.unwrap_err()).contains("s3cret"));
    let script = Script::new([(LIST, echo("t0ken"))]);
    assert!(!format!("{:?}", list(&script.client()).await.unwrap_err()).contains("t0ken"));
}

#[tokio::test(start_paused = true)]
async fn refuses_a_token_with_a_line_break_without_showing_it() {
    let script = Script::default();
    let error = list(&script.client_with(Credentials::token("to\nken"), |_| ())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Forbidden);
    assert!(!error.message.contains("ken\""), "{}", error.message);
}
