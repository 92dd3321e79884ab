//! No log, error or `Debug` text shows a payload or a password, whatever VPSie replies.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;
use crate::vpsie::tests::script::{refuse, reply};
use crate::vpsie::{Backend, DeletionKey, Scripts as _};

/// The log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Secrets of the tests: of the payload, the derived and the initial password, and their parts.
const SECRETS: [&str; 5] =
    ["abcdef.0123456789abcdef", "0123456789ab", "Vp1-oEh56s3ExbcnYp5D5kcT", "oEh56s3Exbcn", "initial-secret"];

#[track_caller]
fn assert_no_secret(text: &str) {
    for secret in SECRETS {
        assert!(!text.to_lowercase().contains(&secret.to_lowercase()), "{secret} is in {text}");
    }
}

/// Replies that contain the text: in a message, as HTML, as broken JSON, with the end cut off.
fn echoes(text: &str) -> Vec<ScriptedReply> {
    let escaped = serde_json::to_string(text).unwrap();
    let cut = &escaped[..escaped.len() - 4];
    let mut replies = Vec::new();
    for status in [200, 400, 422, 500, 502] {
        replies.push(reply(status, &json!({"error": true, "message": format!("invalid request: {text}")})));
        replies.push(reply(status, &json!({"error": {"message": format!("bad: {escaped}")}})));
        replies.push(reply(status, &json!({"error": true, "message": format!("bad: {cut}")})));
        replies.push(reply(status, &format!("<html><pre>{text}</pre></html>")));
        replies.push(reply(status, &format!("{{\"data\":[{escaped}")));
        replies.push(reply(status, &format!("{}{text}", "x".repeat(495))));
    }
    replies
}

/// Runs a call, and checks its result and all its logs.
async fn check<T: fmt::Debug>(call: impl Future<Output = T>) {
    // Without this, threads of other tests that have no subscriber would disable log lines that they reach
    // first.
    drop(tracing::subscriber::set_global_default(tracing_subscriber::registry()));
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let result = call.await;
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("endpoint="), "no request was logged: {text}");
    assert_no_secret(&text);
    assert_no_secret(&format!("{result:?}"));
}

fn echoed_request() -> String {
    json!({"hostname": HOSTNAME, "userData": PAYLOAD, "vmPassword": "Vp1-oEh56s3ExbcnYp5D5kcT"}).to_string()
}

fn keyed(script: &Script, delivery: Delivery) -> VmBackend {
    let backend = backend_with(script, Ok(PAYLOAD), VmGroup { delivery, ..group() });
    backend.with_deletion_key(DeletionKey::new(b"key"))
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_is_repeated_in_the_reply_shows_nothing() {
    for text in [PAYLOAD.to_owned(), echoed_request(), "--token abcdef.0123456789abcdef".to_owned()] {
        for echo in echoes(&text) {
            let script = Script::new(plans());
            script.then([(CREATE, echo)]);
            let backend = keyed(&script, Delivery::UserData);
            check(backend.create(&request("small"))).await;
            script.seen();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_shows_no_script_that_the_reply_repeats() {
    let listed = || rows(&[json!({"identifier": "s-1", "script_name": SCRIPT})]);
    for echo in echoes(PAYLOAD) {
        let script = Script::new(plans());
        script.then([
            (ADD_SCRIPT, accepted()),
            (SCRIPTS, listed()),
            (CREATE, echo),
            (DELETE_SCRIPT, accepted()),
        ]);
        check(keyed(&script, Delivery::Script).create(&request("small"))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_that_is_repeated_in_the_reply_shows_nothing() {
    for echo in echoes(PAYLOAD) {
        let script = Script::new(plans());
        // A lost reply is followed by listings.
        script.then([(ADD_SCRIPT, echo)]);
        script.then(std::iter::repeat_n((SCRIPTS, none()), 3));
        check(keyed(&script, Delivery::Script).create(&request("small"))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_list_shows_no_content() {
    let listed = format!(r#"{{"data":[{{"script":{},"#, serde_json::to_string(PAYLOAD).unwrap());
    let vms = r#"{"data":[{"initial_password":"initial-secret","#;
    for status in [200, 403, 404] {
        let script = Script::new([(SCRIPTS, reply(status, &listed))]);
        if status == 200 {
            script.then(std::iter::repeat_n((SCRIPTS, reply(status, &listed)), 3));
        }
        check(backend(&script).list_scripts()).await;
        let script = Script::new([(PENDING, reply(status, vms)), (LIST, reply(status, vms))]);
        if status == 200 {
            script.first(std::iter::repeat_n((PENDING, reply(status, vms)), 3));
            script.then(std::iter::repeat_n((LIST, reply(status, vms)), 3));
        }
        check(backend(&script).list()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_shows_no_password() {
    let vms = rows(&[row("u-1", HOSTNAME, &json!({"initial_password": "initial-secret"}))]);
    let pending =
        rows(&[json!({"data": {"hostname": "workers-0a1b2c3d-2", "vmPassword": "initial-secret"}})]);
    let script = Script::new([(PENDING, pending), (LIST, vms)]);
    check(backend(&script).list()).await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_repeated_in_the_reply_shows_nothing() {
    let wrong = |password: &str| refuse(&format!("Incorrect password {password}"));
    let script = Script::new([
        (DELETE, wrong("Vp1-oEh56s3ExbcnYp5D5kcT")),
        (LIST, rows(&[row("u-1", HOSTNAME, &json!({"initial_password": "initial-secret"}))])),
        (DELETE, wrong("initial-secret")),
        (DELETE, wrong("")),
    ]);
    check(keyed(&script, Delivery::Script).delete(&vm(HOSTNAME, Some("u-1")))).await;
    script.seen();
}

#[test]
fn debug_shows_no_secret() {
    assert_eq!(format!("{:?}", Payload::new(PAYLOAD)), "Payload(..)");
    assert_eq!(format!("{:?}", DeletionKey::new(b"key")), "DeletionKey(..)");
}
