//! Objects of one kind, and conditional writes of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::StoreError;
use crate::kubernetes::LeaseLost;

/// One request: after that another is tried.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Waits between attempts: this, and twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const ATTEMPTS: u32 = 8;

/// An object that records something.
pub(super) trait Kept:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize
{
    /// Whether both record the same. Metadata, and what else people may change, does not count.
    fn same(&self, other: &Self) -> bool;
}

/// The half of an object that one request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// All but its status.
    Main,
    Status,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is as wanted.
    Done,
    /// It was as wanted when it was seen last. The server was not asked.
    AsItWas,
    /// It is not there.
    Missing,
}

/// Objects as they were seen last.
pub(super) struct Shelf<K> {
    api: Api<K>,
    namespace: String,
    seen: Mutex<BTreeMap<String, K>>,
}

impl<K: Kept> Shelf<K> {
    pub(super) fn new(api: Api<K>, namespace: &str) -> Self {
        Self { api, namespace: namespace.to_owned(), seen: Mutex::default() }
    }

    pub(super) fn fill(&self, objects: impl IntoIterator<Item = K>) {
        *self.lock() = objects.into_iter().map(|object| (object.name_any(), object)).collect();
    }

    pub(super) fn seen(&self, name: &str) -> Option<K> {
        self.lock().get(name).cloned()
    }

    pub(super) fn find<T>(&self, pick: impl FnMut(&K) -> Option<T>) -> Option<T> {
        self.lock().values().find_map(pick)
    }

    pub(super) fn pick<T>(&self, pick: impl FnMut(&K) -> Option<T>) -> Vec<T> {
        self.lock().values().filter_map(pick).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, K>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, object: K) {
        self.lock().insert(object.name_any(), object);
    }

    /// How people find it.
    pub(super) fn title(&self, name: &str) -> String {
        format!("{} {}/{name}", K::kind(&()), self.namespace)
    }

    /// Makes an object that is not there. One that records the same is as good: an earlier reply may have been lost.
    pub(super) async fn create(&self, object: &K, deadline: Instant) -> Result<(), StoreError> {
        let name = object.name_any();
        let mut pace = Pace::new(self.title(&name), deadline);
        loop {
            let error = match pace.attempt(self.api.create(&PostParams::default(), object)).await {
                Ok(made) => {
                    self.keep(made);
                    return Ok(());
                }
                Err(error) => error,
            };
            if error.code() == Some(409) {
                match pace.attempt(self.api.get_opt(&name)).await {
                    Ok(Some(there)) if there.same(object) => {
                        self.keep(there);
                        return Ok(());
                    }
                    Ok(Some(_)) => return Err(pace.conflict()),
                    Ok(None) => pace.again(&error).await?,
                    Err(error) => pace.again(&error).await?,
                }
            } else {
                pace.again(&error).await?;
            }
        }
    }

    /// Brings a half of an object to where `wanted` has no patch for it any more. Not when somebody else changed
    /// what it records.
    pub(super) async fn patch(
        &self,
        name: &str,
        half: Half,
        deadline: Instant,
        wanted: impl Fn(&K) -> Option<Value>,
    ) -> Result<Written, StoreError> {
        let Some(believed) = self.seen(name) else { return Ok(Written::Missing) };
        let mut pace = Pace::new(self.title(name), deadline);
        let mut stored = believed.clone();
        let mut asked = false;
        loop {
            let Some(mut patch) = wanted(&stored) else {
                self.keep(stored);
                return Ok(if asked { Written::Done } else { Written::AsItWas });
            };
            asked = true;
            patch["metadata"]["resourceVersion"] = json!(stored.resource_version());
            let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
            let sent = match half {
                Half::Main => pace.attempt(self.api.patch(name, &params, &patch)).await,
                Half::Status => pace.attempt(self.api.patch_status(name, &params, &patch)).await,
            };
            let error = match sent {
                Ok(new) => {
                    self.keep(new);
                    return Ok(Written::Done);
                }
                Err(error) => error,
            };
            match error.code() {
                Some(404) => return Ok(self.forget(name)),
                // Somebody changed it: maybe this, and its reply was lost.
                Some(409) => match pace.attempt(self.api.get_opt(name)).await {
                    Ok(None) => return Ok(self.forget(name)),
                    Ok(Some(fresh)) if wanted(&fresh).is_some() && !fresh.same(&believed) => {
                        return Err(pace.conflict());
                    }
                    Ok(Some(fresh)) => {
                        stored = fresh;
                        pace.count(&error)?;
                    }
                    Err(error) => pace.again(&error).await?,
                },
                _ => pace.again(&error).await?,
            }
        }
    }

    fn forget(&self, name: &str) -> Written {
        self.lock().remove(name);
        Written::Missing
    }

    /// Whether an object is there still. It must record what it did when it was seen last.
    pub(super) async fn check(&self, name: &str, deadline: Instant) -> Result<Written, StoreError> {
        let mut pace = Pace::new(self.title(name), deadline);
        loop {
            match pace.attempt(self.api.get_opt(name)).await {
                Ok(None) => return Ok(self.forget(name)),
                Ok(Some(there)) if self.seen(name).is_some_and(|seen| seen.same(&there)) => {
                    self.keep(there);
                    return Ok(Written::Done);
                }
                Ok(Some(_)) => return Err(pace.conflict()),
                Err(error) => pace.again(&error).await?,
            }
        }
    }

    /// Removes an object. One that is not there is removed.
    pub(super) async fn delete(&self, name: &str, deadline: Instant) -> Result<(), StoreError> {
        let Some(stored) = self.seen(name) else { return Ok(()) };
        let uid = Preconditions { uid: stored.uid(), resource_version: None };
        let params = DeleteParams::default().preconditions(uid);
        let mut pace = Pace::new(self.title(name), deadline);
        loop {
            let Err(error) = pace.attempt(self.api.delete(name, &params)).await else { break };
            match error.code() {
                Some(404) => break,
                Some(409) => match pace.attempt(self.api.get_opt(name)).await {
                    Ok(Some(there)) if there.uid() == stored.uid() => pace.again(&error).await?,
                    // Another object of the name: the one that was meant is gone.
                    Ok(_) => break,
                    Err(error) => pace.again(&error).await?,
                },
                _ => pace.again(&error).await?,
            }
        }
        self.forget(name);
        Ok(())
    }
}

/// Attempts at one write.
struct Pace {
    title: String,
    deadline: Instant,
    attempts: u32,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    Slow,
}

impl Failed {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Whether the object can never be written as it is: malformed, too large, or against the schema.
    fn is_lasting(&self) -> bool {
        matches!(self.code(), Some(400 | 413 | 422))
    }

    /// Whether the same request may be answered otherwise, or its answer was lost.
    fn passes(&self) -> bool {
        match self {
            Self::Kube(kube::Error::Api(status)) => {
                status.code == 429 || status.code == 409 || status.code >= 500
            }
            Self::Kube(kube::Error::Service(error)) => !error.is::<LeaseLost>(),
            _ => true,
        }
    }

    /// How long the server wants to be left alone.
    fn wish(&self) -> Duration {
        let details = match self {
            Self::Kube(kube::Error::Api(status)) => status.details.as_ref(),
            _ => None,
        };
        Duration::from_secs(details.map_or(0, |details| details.retry_after_seconds).into())
    }
}

impl Pace {
    fn new(title: String, deadline: Instant) -> Self {
        Self { title, deadline, attempts: 0 }
    }

    async fn attempt<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
        let until = self.deadline.min(Instant::now() + ATTEMPT);
        Ok(tokio::time::timeout_at(until, request).await.map_err(|_| Failed::Slow)??)
    }

    /// Waits for another attempt, if one can help.
    async fn again(&mut self, error: &Failed) -> Result<(), StoreError> {
        self.count(error)?;
        let wait = (FIRST_WAIT * 2_u32.pow(self.attempts - 1)).max(error.wish());
        if !error.passes() || Instant::now() + wait >= self.deadline {
            return Err(self.gives_up(error));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn count(&mut self, error: &Failed) -> Result<(), StoreError> {
        self.attempts += 1;
        if self.attempts > ATTEMPTS { Err(self.gives_up(error)) } else { Ok(()) }
    }

    fn gives_up(&self, error: &Failed) -> StoreError {
        if error.is_lasting() {
            return StoreError::Invalid { object: self.title.clone(), problem: error.to_string() };
        }
        StoreError::Io { action: "write", problem: format!("{}: {error}", self.title) }
    }

    fn conflict(&self) -> StoreError {
        StoreError::Conflict { object: self.title.clone() }
    }
}
