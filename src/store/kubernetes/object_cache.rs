//! A cache of the objects of one kind, and conditional writes of them.

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

/// Timeout of one request; the next attempt follows.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// First wait between attempts; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const MAX_ATTEMPTS: u32 = 8;

/// An object that holds records.
pub(super) trait RecordObject:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize
{
    /// Returns true iff both hold the same records. Metadata and fields that users may edit do not count.
    fn has_same_records(&self, other: &Self) -> bool;
}

/// The endpoint that one request patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// The object without its status.
    Main,
    /// The `status` endpoint.
    Status,
}

/// The result of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteResult {
    /// The stored object is as wanted.
    Written,
    /// The cached object is as wanted; no request was made.
    Unchanged,
    /// The object does not exist.
    Missing,
}

/// Objects of one kind as they were last read.
pub(super) struct ObjectCache<K> {
    api: Api<K>,
    namespace: String,
    cached: Mutex<BTreeMap<String, K>>,
}

impl<K: RecordObject> ObjectCache<K> {
    pub(super) fn new(api: Api<K>, namespace: &str) -> Self {
        Self { api, namespace: namespace.to_owned(), cached: Mutex::default() }
    }

    pub(super) fn replace_all(&self, objects: impl IntoIterator<Item = K>) {
        *self.lock() = objects.into_iter().map(|object| (object.name_any(), object)).collect();
    }

    pub(super) fn get(&self, name: &str) -> Option<K> {
        self.lock().get(name).cloned()
    }

    pub(super) fn find_map<T>(&self, select: impl FnMut(&K) -> Option<T>) -> Option<T> {
        self.lock().values().find_map(select)
    }

    pub(super) fn filter_map<T>(&self, select: impl FnMut(&K) -> Option<T>) -> Vec<T> {
        self.lock().values().filter_map(select).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, K>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, object: K) {
        self.lock().insert(object.name_any(), object);
    }

    /// Kind, namespace and name, for messages.
    pub(super) fn display_name(&self, name: &str) -> String {
        format!("{} {}/{name}", K::kind(&()), self.namespace)
    }

    /// Creates an object. An existing object with the same records counts as created: the reply to an earlier
    /// attempt may have been lost.
    pub(super) async fn create(&self, object: &K, deadline: Instant) -> Result<(), StoreError> {
        let name = object.name_any();
        let mut retry = Retry::new(self.display_name(&name), deadline);
        loop {
            let error = match retry.attempt(self.api.create(&PostParams::default(), object)).await {
                Ok(created) => {
                    self.insert(created);
                    return Ok(());
                }
                Err(error) => error,
            };
            if error.code() == Some(409) {
                match retry.attempt(self.api.get_opt(&name)).await {
                    Ok(Some(existing)) if existing.has_same_records(object) => {
                        self.insert(existing);
                        return Ok(());
                    }
                    Ok(Some(_)) => return Err(retry.conflict_error()),
                    Ok(None) => retry.wait_after(&error).await?,
                    Err(error) => retry.wait_after(&error).await?,
                }
            } else {
                retry.wait_after(&error).await?;
            }
        }
    }

    /// Patches an endpoint of an object until `wanted` returns no patch. Fails with a conflict if another
    /// writer changed the records in it.
    pub(super) async fn patch(
        &self,
        name: &str,
        endpoint: Endpoint,
        deadline: Instant,
        wanted: impl Fn(&K) -> Option<Value>,
    ) -> Result<WriteResult, StoreError> {
        let Some(cached) = self.get(name) else { return Ok(WriteResult::Missing) };
        let mut retry = Retry::new(self.display_name(name), deadline);
        let mut stored = cached.clone();
        let mut requested = false;
        loop {
            let Some(mut patch) = wanted(&stored) else {
                self.insert(stored);
                return Ok(if requested { WriteResult::Written } else { WriteResult::Unchanged });
            };
            requested = true;
            patch["metadata"]["resourceVersion"] = json!(stored.resource_version());
            let params = PatchParams::default();
            let patch = Patch::Merge(patch);
            let result = match endpoint {
                Endpoint::Main => retry.attempt(self.api.patch(name, &params, &patch)).await,
                Endpoint::Status => retry.attempt(self.api.patch_status(name, &params, &patch)).await,
            };
            let error = match result {
                Ok(patched) => {
                    self.insert(patched);
                    return Ok(WriteResult::Written);
                }
                Err(error) => error,
            };
            match error.code() {
                Some(404) => return Ok(self.remove_missing(name)),
                // The object changed: possibly by this patch, if the reply to it was lost.
                Some(409) => match retry.attempt(self.api.get_opt(name)).await {
                    Ok(None) => return Ok(self.remove_missing(name)),
                    Ok(Some(fresh)) if wanted(&fresh).is_some() && !fresh.has_same_records(&cached) => {
                        return Err(retry.conflict_error());
                    }
                    Ok(Some(fresh)) => {
                        stored = fresh;
                        retry.count_attempt(&error)?;
                    }
                    Err(error) => retry.wait_after(&error).await?,
                },
                _ => retry.wait_after(&error).await?,
            }
        }
    }

    fn remove_missing(&self, name: &str) -> WriteResult {
        self.lock().remove(name);
        WriteResult::Missing
    }

    /// Reads an object again, to verify that it exists and that its records are those of the cached one.
    pub(super) async fn verify(&self, name: &str, deadline: Instant) -> Result<WriteResult, StoreError> {
        let mut retry = Retry::new(self.display_name(name), deadline);
        loop {
            match retry.attempt(self.api.get_opt(name)).await {
                Ok(None) => return Ok(self.remove_missing(name)),
                Ok(Some(fresh)) if self.get(name).is_some_and(|cached| cached.has_same_records(&fresh)) => {
                    self.insert(fresh);
                    return Ok(WriteResult::Written);
                }
                Ok(Some(_)) => return Err(retry.conflict_error()),
                Err(error) => retry.wait_after(&error).await?,
            }
        }
    }

    /// Deletes an object. A missing object counts as deleted.
    pub(super) async fn delete(&self, name: &str, deadline: Instant) -> Result<(), StoreError> {
        let Some(cached) = self.get(name) else { return Ok(()) };
        let uid = Preconditions { uid: cached.uid(), resource_version: None };
        let params = DeleteParams::default().preconditions(uid);
        let mut retry = Retry::new(self.display_name(name), deadline);
        loop {
            let Err(error) = retry.attempt(self.api.delete(name, &params)).await else { break };
            match error.code() {
                Some(404) => break,
                Some(409) => match retry.attempt(self.api.get_opt(name)).await {
                    Ok(Some(fresh)) if fresh.uid() == cached.uid() => retry.wait_after(&error).await?,
                    // Another object has the name now: ours is deleted.
                    Ok(_) => break,
                    Err(error) => retry.wait_after(&error).await?,
                },
                _ => retry.wait_after(&error).await?,
            }
        }
        self.remove_missing(name);
        Ok(())
    }
}

/// The attempts at one write.
struct Retry {
    object: String,
    deadline: Instant,
    attempts: u32,
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    TimedOut,
}

impl AttemptError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Returns true iff the object can never be written as it is: malformed, too large, or against the
    /// schema.
    fn is_permanent(&self) -> bool {
        matches!(self.code(), Some(400 | 413 | 422))
    }

    /// Returns true iff the same request may succeed later, or its reply was lost.
    fn is_transient(&self) -> bool {
        match self {
            Self::Kube(kube::Error::Api(status)) => {
                status.code == 429 || status.code == 409 || status.code >= 500
            }
            Self::Kube(kube::Error::Service(error)) => !error.is::<LeaseLost>(),
            _ => true,
        }
    }

    /// The wait that the API server requests.
    fn retry_after(&self) -> Duration {
        let details = match self {
            Self::Kube(kube::Error::Api(status)) => status.details.as_ref(),
            _ => None,
        };
        Duration::from_secs(details.map_or(0, |details| details.retry_after_seconds).into())
    }
}

impl Retry {
    fn new(object: String, deadline: Instant) -> Self {
        Self { object, deadline, attempts: 0 }
    }

    async fn attempt<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, AttemptError> {
        let until = self.deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
        Ok(tokio::time::timeout_at(until, request).await.map_err(|_| AttemptError::TimedOut)??)
    }

    /// Waits before the next attempt. Fails if the error is final or the deadline is too near.
    async fn wait_after(&mut self, error: &AttemptError) -> Result<(), StoreError> {
        self.count_attempt(error)?;
        let wait = (FIRST_WAIT * 2_u32.pow(self.attempts - 1)).max(error.retry_after());
        if !error.is_transient() || Instant::now() + wait >= self.deadline {
            return Err(self.write_error(error));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn count_attempt(&mut self, error: &AttemptError) -> Result<(), StoreError> {
        self.attempts += 1;
        if self.attempts > MAX_ATTEMPTS { Err(self.write_error(error)) } else { Ok(()) }
    }

    fn write_error(&self, error: &AttemptError) -> StoreError {
        if error.is_permanent() {
            return StoreError::Invalid { object: self.object.clone(), problem: error.to_string() };
        }
        StoreError::Io { action: "write", problem: format!("{}: {error}", self.object) }
    }

    fn conflict_error(&self) -> StoreError {
        StoreError::Conflict { object: self.object.clone() }
    }
}
