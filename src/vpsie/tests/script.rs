//! A scripted transport for tests: the expected requests, and their replies.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;

use crate::clock::Clock;
use crate::vpsie::{BaseUrl, Client, ClientConfig, Credentials, Metrics, Transport, TransportError};

/// Reply to a request, or failure.
#[derive(Clone)]
pub(in crate::vpsie) enum ScriptedReply {
    Reply(u16, String, Vec<(&'static str, String)>),
    NotSent,
    Lost,
    Silence,
}

impl ScriptedReply {
    /// Replaces `<hostname>.<cluster>-random` by the last added name of this form.
    fn naming(self, added: &[String]) -> Self {
        let Self::Reply(status, mut body, headers) = self else { return self };
        for name in added.iter().rev() {
            let (stem, _) = name.rsplit_once('-').unwrap();
            body = body.replace(&format!("{stem}-random"), name);
        }
        Self::Reply(status, body, headers)
    }
}

pub(in crate::vpsie) fn reply(status: u16, body: &(impl ToString + ?Sized)) -> ScriptedReply {
    ScriptedReply::Reply(status, body.to_string(), Vec::new())
}

pub(in crate::vpsie) fn ok(data: &Value) -> ScriptedReply {
    reply(200, &serde_json::json!({"error": false, "data": data}))
}

pub(in crate::vpsie) fn refuse(message: &str) -> ScriptedReply {
    reply(200, &serde_json::json!({"error": true, "message": message}))
}

pub(in crate::vpsie) fn slow_down(seconds: u64) -> ScriptedReply {
    ScriptedReply::Reply(429, r#"{"error":true}"#.into(), vec![("retry-after", seconds.to_string())])
}

/// A request of the client.
#[derive(Clone, Debug)]
pub(in crate::vpsie) struct SentRequest {
    pub(in crate::vpsie) headers: http::HeaderMap,
    pub(in crate::vpsie) body: String,
    pub(in crate::vpsie) at: Instant,
}

impl SentRequest {
    pub(in crate::vpsie) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(in crate::vpsie) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[derive(Clone, Default)]
pub(in crate::vpsie) struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    steps: VecDeque<(String, ScriptedReply)>,
    seen: Vec<SentRequest>,
    /// Names of the added scripts.
    added: Vec<String>,
}

impl Script {
    pub(in crate::vpsie) fn new(steps: impl IntoIterator<Item = (&'static str, ScriptedReply)>) -> Self {
        let script = Self::default();
        script.then(steps);
        script
    }

    /// Adds steps. A line is method and path without `/apps/v2/`, such as `GET datacenter`; with another host
    /// the whole URL.
    pub(in crate::vpsie) fn then(&self, steps: impl IntoIterator<Item = (&'static str, ScriptedReply)>) {
        let steps = steps.into_iter().map(|(line, reply)| (line.to_owned(), reply));
        self.0.lock().unwrap().steps.extend(steps);
    }

    /// Adds steps before the others.
    pub(in crate::vpsie) fn first(&self, steps: impl IntoIterator<Item = (&'static str, ScriptedReply)>) {
        let mut first: VecDeque<_> =
            steps.into_iter().map(|(line, reply)| (line.to_owned(), reply)).collect();
        let rest = &mut self.0.lock().unwrap().steps;
        first.append(rest);
        *rest = first;
    }

    /// All requests of the client. Fails unless all expected ones were sent.
    pub(in crate::vpsie) fn seen(&self) -> Vec<SentRequest> {
        let state = self.0.lock().unwrap();
        let left: Vec<&String> = state.steps.iter().map(|(line, _)| line).collect();
        assert!(left.is_empty(), "these requests were not sent: {left:?}");
        state.seen.clone()
    }

    pub(in crate::vpsie) fn transport(&self) -> Transport {
        let script = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let reply = script.next(&request);
            async move {
                // Lets other tasks run while a request is in progress.
                tokio::task::yield_now().await;
                match reply {
                    ScriptedReply::Reply(status, body, headers) => {
                        let mut reply = Response::builder().status(status);
                        for (name, value) in headers {
                            reply = reply.header(name, value);
                        }
                        Ok(reply.body(Bytes::from(body)).unwrap())
                    }
                    ScriptedReply::NotSent => Err(TransportError::NotSent("connection refused".into())),
                    ScriptedReply::Lost => Err(TransportError::Lost("connection reset".into())),
                    ScriptedReply::Silence => std::future::pending().await,
                }
            }
        }))
    }

    fn next(&self, request: &Request<Bytes>) -> ScriptedReply {
        let uri = request.uri().to_string();
        let path = uri.strip_prefix("https://vpsie.test/apps/v2/").unwrap_or(&uri);
        let line = format!("{} {path}", request.method());
        let mut state = self.0.lock().unwrap();
        let body = String::from_utf8(request.body().to_vec()).unwrap();
        let headers = request.headers().clone();
        let at = Instant::now();
        if line == "POST script/add" {
            let added: Value = serde_json::from_str(&body).unwrap();
            state.added.push(added["name"].as_str().unwrap().to_owned());
        }
        state.seen.push(SentRequest { headers, body, at });
        match state.steps.pop_front() {
            Some((expected, reply)) if expected == line => reply.naming(&state.added),
            other => panic!("unexpected request {line}, expected {:?}", other.map(|(line, _)| line)),
        }
    }

    pub(in crate::vpsie) fn client(&self) -> Client {
        self.client_with(Credentials::token("t0ken"), |_| ())
    }

    pub(in crate::vpsie) fn client_with(
        &self,
        credentials: Credentials,
        configure: impl FnOnce(&mut ClientConfig),
    ) -> Client {
        self.client_metered(credentials, Metrics::default(), configure)
    }

    pub(in crate::vpsie) fn client_metered(
        &self,
        credentials: Credentials,
        metrics: Metrics,
        configure: impl FnOnce(&mut ClientConfig),
    ) -> Client {
        let base = BaseUrl::parse("https://vpsie.test").unwrap();
        let mut config = ClientConfig::new(base, credentials);
        configure(&mut config);
        Client::new(config, self.transport(), Arc::new(TestClock::default()), metrics)
    }
}

/// Wall clock that follows the clock of tokio, from 2026-01-01.
pub(in crate::vpsie) struct TestClock(Instant);

impl Default for TestClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        start + self.0.elapsed()
    }
}
