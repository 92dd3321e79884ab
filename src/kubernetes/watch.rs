//! Watches of objects.

use std::fmt::Debug;

use futures::{Stream, StreamExt as _, future};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// Duration of one watch request, seconds. The API server ends it then, and the next request continues. A
/// dead connection is noticed five seconds later: a scale-up must not wait longer.
const WATCH_SECONDS: u32 = 30;

/// The configuration of every watch of this program.
pub fn watch_config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// A stream of one object's states, None while it does not exist. Like `kube::runtime::watch_object`, which
/// takes no configuration.
pub fn watch_object<K>(
    api: Api<K>,
    name: &str,
) -> impl Stream<Item = Result<Option<K>, watcher::Error>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watch_config().fields(&format!("metadata.name={name}"));
    let listed = watcher(api, config).scan(false, |listed, event| {
        match &event {
            Ok(Event::Init) => *listed = false,
            Ok(Event::InitApply(_)) => *listed = true,
            _ => {}
        }
        future::ready(Some((*listed, event)))
    });
    listed.filter_map(|(listed, event)| {
        future::ready(match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => Some(Ok(Some(object))),
            Ok(Event::Delete(_)) => Some(Ok(None)),
            Ok(Event::InitDone) if !listed => Some(Ok(None)),
            Ok(Event::Init | Event::InitDone) => None,
            Err(error) => Some(Err(error)),
        })
    })
}
