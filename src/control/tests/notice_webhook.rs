//! The webhook for notices, against an API server in the process.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use ring::hmac;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::drain::{Cluster, id};
use super::*;
use crate::fleet::{Notice, NoticeSource};

const KEY: &str = "0123456789abcdef0123456789abcdef";

struct Webhook {
    cluster: Cluster,
    router: Router,
    key_file: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Webhook {
    async fn new() -> Self {
        let cluster = Cluster::new(2).await;
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("key");
        std::fs::write(&key_file, format!("{KEY}\n")).unwrap();
        let router = router(&cluster, &key_file);
        Self { cluster, router, key_file, _dir: dir }
    }

    /// Sends a message with the signature of this key.
    async fn send_signed(&self, body: &str, key: &str) -> (StatusCode, String) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        let signature = data_encoding::HEXLOWER.encode(hmac::sign(&key, body.as_bytes()).as_ref());
        let request = Request::post("/v1/notices").header("X-Signature-256", format!("sha256={signature}"));
        self.reply(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn send(&self, body: &Value) -> (StatusCode, String) {
        self.send_signed(&body.to_string(), KEY).await
    }

    async fn reply(&self, request: Request<Body>) -> (StatusCode, String) {
        let reply = self.router.clone().oneshot(request).await.unwrap();
        let status = reply.status();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn notice(&self, n: u32) -> Option<Notice> {
        self.cluster.handle.read(|fleet| fleet.machine(&id(n))?.notice.clone())
    }

    /// Now, plus seconds.
    fn at(&self, seconds: i64) -> Timestamp {
        self.cluster.clock.now() + jiff::SignedDuration::from_secs(seconds)
    }
}

fn router(cluster: &Cluster, key_file: &std::path::Path) -> Router {
    let (handle, nodes) = (cluster.handle.clone(), cluster.nodes.clone());
    let clock = Arc::clone(&cluster.clock);
    NoticeWebhook::new(handle, nodes, clock, key_file.to_owned()).router()
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_recorded_moved_and_withdrawn() {
    let webhook = Webhook::new().await;
    // The drain of an empty Node would begin at once.
    (1..=2).for_each(|n| webhook.cluster.pod(&format!("web-{n}"), n, &json!({})));
    let vm = webhook.cluster.handle.read(|f| f.machine(&id(1)).unwrap().vm().unwrap().id.clone().unwrap());
    let deadline = webhook.at(120);
    let first = json!({"vm": vm.as_str(), "sentAt": webhook.at(0), "deadline": deadline});
    let (status, text) = webhook.send(&first).await;
    assert_eq!((status, text.contains(&deadline.to_string())), (StatusCode::OK, true), "{text}");
    let notice = webhook.notice(1).unwrap();
    assert_eq!(notice.deadlines, [(NoticeSource::Webhook, deadline)].into());
    assert_eq!(webhook.send(&first).await.0, StatusCode::OK, "repeated");
    let moved = json!({"node": "slave-1", "sentAt": webhook.at(1), "deadline": webhook.at(90)});
    assert_eq!(webhook.send(&moved).await.0, StatusCode::OK);
    assert_eq!(webhook.notice(1).unwrap().deadline(), webhook.at(90));
    let withdrawn = json!({"vm": "slave-1", "sentAt": webhook.at(2), "withdrawn": true});
    assert_eq!(webhook.send(&withdrawn).await.0, StatusCode::OK);
    assert_eq!(webhook.notice(1), None);
    let (status, text) = webhook.send(&first).await;
    assert_eq!((status, webhook.notice(1)), (StatusCode::CONFLICT, None), "replayed: {text}");
    let (_, text) = webhook.send(&json!({"node": "slave-2", "sentAt": webhook.at(0)})).await;
    assert_eq!(webhook.notice(2).unwrap().deadline(), webhook.at(120), "without a deadline: {text}");
}

#[tokio::test(start_paused = true)]
async fn a_notice_of_the_webhook_is_handled_like_others() {
    let mut webhook = Webhook::new().await;
    webhook.cluster.pod("web", 1, &json!({}));
    let notice = json!({"node": "slave-1", "sentAt": webhook.at(0), "deadline": webhook.at(120)});
    assert_eq!(webhook.send(&notice).await.0, StatusCode::OK);
    let has_replacement = |c: &Cluster| c.handle.read(|fleet| fleet.replacements_of(&id(1)).count()) == 1;
    webhook.cluster.until("a replacement is recorded", has_replacement).await;
    webhook.cluster.until("it is drained", |c| c.drained(1)).await;
}

#[tokio::test(start_paused = true)]
async fn invalid_requests_are_refused() {
    let webhook = Webhook::new().await;
    let now = webhook.at(0);
    let valid = json!({"node": "slave-1", "sentAt": now}).to_string();
    assert_eq!(
        webhook.send_signed(&valid, "another key of sufficient length").await.0,
        StatusCode::UNAUTHORIZED
    );
    let unsigned = Request::post("/v1/notices").body(Body::from(valid.clone())).unwrap();
    assert_eq!(webhook.reply(unsigned).await.0, StatusCode::UNAUTHORIZED);
    let garbled = Request::post("/v1/notices").header("X-Signature-256", "sha256=zz");
    assert_eq!(webhook.reply(garbled.body(Body::from(valid)).unwrap()).await.0, StatusCode::UNAUTHORIZED);
    for (body, status, want) in [
        (json!({"node": "slave-9", "sentAt": now}), StatusCode::NOT_FOUND, "no machine"),
        (json!({"vm": "foreign", "sentAt": now}), StatusCode::NOT_FOUND, "no machine"),
        (json!({"sentAt": now}), StatusCode::BAD_REQUEST, "vm, node"),
        (json!({"vm": "slave-1", "node": "slave-1", "sentAt": now}), StatusCode::BAD_REQUEST, "vm, node"),
        (json!({"node": "slave-1"}), StatusCode::BAD_REQUEST, "sentAt"),
        (json!({"node": "slave-1", "sentAt": webhook.at(-400)}), StatusCode::BAD_REQUEST, "sentAt"),
        (json!({"node": "slave-1", "sentAt": webhook.at(400)}), StatusCode::BAD_REQUEST, "sentAt"),
        (json!({"node": "slave-1", "sentAt": now, "deadLine": now}), StatusCode::BAD_REQUEST, "deadLine"),
        (
            json!({"node": "slave-1", "sentAt": now, "deadline": webhook.at(90_000)}),
            StatusCode::BAD_REQUEST,
            "deadline",
        ),
        (
            json!({"node": "slave-1", "sentAt": now, "deadline": now, "withdrawn": true}),
            StatusCode::BAD_REQUEST,
            "withdrawn",
        ),
        (json!("x".repeat(5000)), StatusCode::PAYLOAD_TOO_LARGE, ""),
        (json!([]), StatusCode::BAD_REQUEST, "not a notice"),
    ] {
        let (got, text) = webhook.send(&body).await;
        assert_eq!(got, status, "{body}: {text}");
        assert!(text.contains(want), "{body}: {text}");
    }
    assert_eq!(webhook.notice(1), None);
}

#[tokio::test(start_paused = true)]
async fn a_missing_or_changed_key_takes_effect() {
    let webhook = Webhook::new().await;
    let body = json!({"node": "slave-1", "sentAt": webhook.at(0)}).to_string();
    let other = "fedcba9876543210fedcba9876543210";
    std::fs::write(&webhook.key_file, other).unwrap();
    assert_eq!(webhook.send_signed(&body, KEY).await.0, StatusCode::UNAUTHORIZED);
    std::fs::write(&webhook.key_file, "short").unwrap();
    assert_eq!(webhook.send_signed(&body, "short").await.0, StatusCode::SERVICE_UNAVAILABLE);
    std::fs::remove_file(&webhook.key_file).unwrap();
    assert_eq!(webhook.send_signed(&body, other).await.0, StatusCode::SERVICE_UNAVAILABLE);
    std::fs::write(&webhook.key_file, other).unwrap();
    assert_eq!(webhook.send_signed(&body, other).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_notice_without_a_record_is_not_acknowledged() {
    let mut webhook = Webhook::new().await;
    let body = json!({"node": "slave-1", "sentAt": webhook.at(0)});
    webhook.cluster.handle = FleetHandle::fixed(webhook.cluster.handle.read(Clone::clone));
    webhook.router = router(&webhook.cluster, &webhook.key_file);
    for _ in 0..2 {
        let (status, text) = webhook.send(&body).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "not refused as a replay: {text}");
    }
}
