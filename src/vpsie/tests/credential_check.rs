use serde_json::json;

use super::script::{Script, ScriptedReply, ok, reply, slow_down};
use crate::vpsie::error::ErrorKind;
use crate::vpsie::{BaseUrl, CredentialCheck, Credentials, ManagedBackend, ManagedConfig};

const LOGIN: &str = "POST auth/from/api";
const LIST: &str = "GET k8s/cluster/all";
const ELSEWHERE: &str = "GET https://other.test/v2/k8s/cluster/all";

fn refused() -> ScriptedReply {
    reply(401, r#"{"error":true,"message":"Please authenticate"}"#)
}

fn clusters() -> ScriptedReply {
    ok(&json!([]))
}

fn login() -> ScriptedReply {
    reply(200, &json!({"error": false, "accessToken": {"token": "fresh", "expires": "2026-01-01T01:00:00Z"}}))
}

fn elsewhere() -> BaseUrl {
    BaseUrl::parse("https://other.test/v2").unwrap()
}

#[tokio::test(start_paused = true)]
async fn calls_without_credentials_fail_with_the_reason() {
    let script = Script::default();
    let client = script.client_with(Credentials::missing("Secret a/b is not there yet"), |_| ());
    let error = client.list_clusters().await.unwrap_err();
    assert_eq!((error.kind, &*error.message), (ErrorKind::Unauthenticated, "Secret a/b is not there yet"));
    script.then([(LIST, clusters())]);
    client.replace_credentials(Credentials::token("new"), None);
    client.list_clusters().await.unwrap();
    assert_eq!(script.seen()[0].header("vpsie-auth"), "new");
}

#[tokio::test(start_paused = true)]
async fn a_check_reports_the_reply_and_changes_nothing() {
    let script = Script::new([(LIST, clusters())]);
    let client = script.client();
    let new = Credentials::token("new");
    assert_eq!(client.check_credentials(&new, None).await, CredentialCheck::Accepted);
    assert_eq!(script.seen()[0].header("vpsie-auth"), "new");

    for reply in [refused(), reply(403, r#"{"error":true,"message":"Forbidden"}"#)] {
        script.then([(LIST, reply)]);
        assert!(matches!(client.check_credentials(&new, None).await, CredentialCheck::Refused(_)));
    }
    for reply in [reply(502, "<html>"), slow_down(1), ScriptedReply::NotSent, ScriptedReply::Lost] {
        script.then([(LIST, reply.clone()), (LIST, reply.clone()), (LIST, reply.clone()), (LIST, reply)]);
        assert!(matches!(client.check_credentials(&new, None).await, CredentialCheck::Unknown(_)));
        script.then([(LIST, clusters())]);
        client.list_clusters().await.unwrap();
        assert_eq!(script.seen().last().unwrap().header("vpsie-auth"), "t0ken");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_without_our_cluster_is_refused() {
    const NODES: &str = "GET k8s/cluster/byId/c-1";
    const GROUPS: &str = "GET k8s/node/groups/byClusterId/c-1";
    let new = Credentials::token("new");
    let has = |id: &str| ok(&json!([{"identifier": id, "cluster_name": "HEL"}]));
    let nodes = || ok(&json!({"identifier": "c-1", "nodes": []}));
    let check = async |steps: Vec<(&'static str, ScriptedReply)>| {
        let script = Script::new(steps);
        let client = script.client();
        let target = ManagedConfig { cluster: "c-1".into(), datacenter: "dc-1".into() };
        let _backend = ManagedBackend::new(client.clone(), target);
        let check = client.check_credentials(&new, None).await;
        script.seen();
        check
    };
    let words = "the account of the credentials has no cluster c-1; it has: c-9 (HEL)".to_owned();
    assert_eq!(check(vec![(LIST, has("c-9"))]).await, CredentialCheck::Refused(words));
    assert!(matches!(check(vec![(LIST, clusters())]).await, CredentialCheck::Refused(_)));
    let forbidden = reply(403, r#"{"error":true,"message":"Forbidden"}"#);
    let refused = check(vec![(LIST, has("C-1")), (NODES, forbidden.clone())]).await;
    assert!(matches!(refused, CredentialCheck::Refused(_)), "{refused:?}");
    let refused = check(vec![(LIST, has("C-1")), (NODES, nodes()), (GROUPS, forbidden)]).await;
    assert!(matches!(refused, CredentialCheck::Refused(_)), "{refused:?}");
    let accepted = check(vec![(LIST, has("C-1")), (NODES, nodes()), (GROUPS, clusters())]).await;
    assert_eq!(accepted, CredentialCheck::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_client_id_is_tried_by_a_login() {
    let script = Script::new([(LOGIN, login()), (LIST, clusters())]);
    let client = script.client();
    let new = Credentials::client("me", "s3cret");
    assert_eq!(client.check_credentials(&new, None).await, CredentialCheck::Accepted);
    script.then([(LOGIN, refused()), (LOGIN, refused())]);
    let words = "VPSie refused the login: Please authenticate".to_owned();
    assert_eq!(client.check_credentials(&new, None).await, CredentialCheck::Refused(words));
    // VPSie did not refuse our own credentials.
    script.then([(LIST, clusters())]);
    client.list_clusters().await.unwrap();
    script.seen();
}

#[tokio::test(start_paused = true)]
async fn sends_credentials_only_to_their_url() {
    let script = Script::new([(ELSEWHERE, clusters())]);
    let client = script.client();
    let new = Credentials::token("new");
    assert_eq!(client.check_credentials(&new, Some(&elsewhere())).await, CredentialCheck::Accepted);
    script.then([(LIST, clusters()), (ELSEWHERE, clusters()), (LIST, clusters())]);
    client.list_clusters().await.unwrap();
    client.replace_credentials(new.clone(), Some(elsewhere()));
    client.list_clusters().await.unwrap();
    client.replace_credentials(new, None);
    client.list_clusters().await.unwrap();
    let sent: Vec<_> = script.seen().iter().map(|seen| seen.header("vpsie-auth").to_owned()).collect();
    assert_eq!(sent, ["new", "t0ken", "new", "new"]);
}

#[tokio::test(start_paused = true)]
async fn another_server_does_not_open_our_circuit_breaker() {
    let script = Script::new((0..8).map(|_| (ELSEWHERE, ScriptedReply::NotSent)));
    let client = script.client();
    for _ in 0..2 {
        let check = client.check_credentials(&Credentials::token("new"), Some(&elsewhere())).await;
        assert!(matches!(check, CredentialCheck::Unknown(_)));
    }
    script.then([(LIST, clusters())]);
    client.list_clusters().await.unwrap();
    script.seen();
}
