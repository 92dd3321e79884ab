//! Watches: streams of changes of objects.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::BoxError;

use crate::FakeKube;
use crate::kinds::Kind;
use crate::objects::ObjectChange;
use crate::request::{RequestTarget, Selector};
use crate::status_error::StatusError;

/// Time between bookmarks.
const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);
/// Time from the last bookmark to the end of a watch, as in Kubernetes.
const LAST_BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Duration of a watch without `timeoutSeconds`.
const DEFAULT_WATCH_DURATION: Duration = Duration::from_mins(30);

pub(crate) struct Watch {
    kube: FakeKube,
    client: String,
    kind: &'static Kind,
    namespace: Option<String>,
    selector: Selector,
    version: u64,
    ready: VecDeque<Bytes>,
    cuts: u64,
    silences: u64,
    changed: watch::Receiver<()>,
    ends: Instant,
    bookmark: Option<Instant>,
    /// No lines follow the ready ones.
    over: bool,
}

impl Watch {
    pub(crate) fn new(kube: &FakeKube, client: &str, target: &RequestTarget) -> Result<Self, StatusError> {
        let selector = target.selector()?;
        let namespace = target.namespace.clone();
        let changed = kube.changes();
        let state = kube.state();
        let mut ready = VecDeque::new();
        let version = match target.param("resourceVersion") {
            None | Some("0") => {
                let existing = state.objects.all(target.kind, namespace.as_deref());
                ready.extend(
                    existing.filter(|object| selector.fits(object)).map(|object| line("ADDED", object)),
                );
                state.objects.version()
            }
            Some(version) => version
                .parse()
                .map_err(|_| StatusError::new(400, format!("resourceVersion: {version:?} is not valid")))?,
        };
        let bookmarks = target.param("allowWatchBookmarks") == Some("true");
        if target.param("sendInitialEvents") == Some("true") {
            let mut mark = bookmark(target.kind, version);
            mark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            ready.push_back(line("BOOKMARK", &mark));
        }
        let seconds = target.param("timeoutSeconds").and_then(|text| text.parse().ok());
        let now = Instant::now();
        let ends = now + seconds.map_or(DEFAULT_WATCH_DURATION, Duration::from_secs);
        let last_mark = ends.checked_sub(LAST_BOOKMARK_BEFORE_END).map_or(now, |at| at.max(now));
        Ok(Self {
            kube: kube.clone(),
            client: client.to_owned(),
            kind: target.kind,
            namespace,
            selector,
            version,
            ready,
            cuts: state.faults.cuts,
            silences: state.faults.silences,
            changed,
            ends,
            bookmark: bookmarks.then_some((now + BOOKMARK_INTERVAL).min(last_mark)),
            over: false,
        })
    }

    pub(crate) fn stream(self) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
        futures::stream::unfold(self, |mut watch| async move { Some((watch.next().await?, watch)) })
    }

    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            self.changed.mark_unchanged();
            match self.update_state() {
                _ if self.over && self.ready.is_empty() => return None,
                WatchState::Cut => {
                    self.ready.clear();
                    self.over = true;
                    let eof = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Some(Err(eof.into()));
                }
                WatchState::Held => {
                    // A silenced connection does not end.
                    let _ = self.changed.changed().await;
                    continue;
                }
                WatchState::Clear => {}
            }
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            let mark = self.bookmark.unwrap_or(self.ends);
            tokio::select! {
                biased;
                _ = self.changed.changed() => {}
                () = tokio::time::sleep_until(self.ends) => return None,
                () = tokio::time::sleep_until(mark), if self.bookmark.is_some() => {
                    self.bookmark = Some(mark + BOOKMARK_INTERVAL);
                    self.ready.push_back(line("BOOKMARK", &bookmark(self.kind, self.version)));
                }
            }
        }
    }

    fn update_state(&mut self) -> WatchState {
        let kube = self.kube.clone();
        let state = kube.state();
        if state.faults.cuts != self.cuts {
            return WatchState::Cut;
        }
        if state.faults.silences != self.silences {
            return WatchState::Held;
        }
        if state.faults.watches_held || state.faults.down || state.faults.partitioned.contains(&self.client) {
            return WatchState::Held;
        }
        if self.over {
            return WatchState::Clear;
        }
        match state.objects.since(self.version) {
            Ok(changes) => {
                for change in changes {
                    self.ready.extend(self.render_change(change));
                    self.version = change.version;
                }
            }
            Err(error) => {
                self.ready.push_back(line("ERROR", &error.status()));
                self.over = true;
            }
        }
        WatchState::Clear
    }

    /// The line for a change. An object that the selector no longer matches counts as deleted.
    fn render_change(&self, change: &ObjectChange) -> Option<Bytes> {
        if change.plural != self.kind.plural
            || self.namespace.as_ref().is_some_and(|namespace| *namespace != change.namespace)
        {
            return None;
        }
        let fits = |object: &Option<_>| {
            object.as_ref().is_some_and(|object: &std::sync::Arc<Value>| self.selector.fits(object))
        };
        let word = match (fits(&change.before), fits(&change.after)) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(line(word, &change.last))
    }
}

enum WatchState {
    Clear,
    Held,
    Cut,
}

fn bookmark(kind: &Kind, version: u64) -> Value {
    json!({
        "apiVersion": kind.api_version(), "kind": kind.word, "metadata": {"resourceVersion": version.to_string()},
    })
}

fn line(word: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": word, "object": object})).into()
}
