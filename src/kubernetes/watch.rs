//! How objects are watched.

use std::fmt::Debug;

use futures::{Stream, StreamExt as _, future};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// How long one watch request lasts, seconds; the API server ends it then, and the next one goes on from there. A
/// connection that died silently is given up five seconds later: a scale-up must not wait longer for it.
const LASTS: u32 = 30;

/// For each watch of this program.
pub fn watch_config() -> watcher::Config {
    watcher::Config::default().timeout(LASTS)
}

/// The object of that name, each time that it may have changed. None while there is none. As kube's own, which takes no
/// configuration.
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
