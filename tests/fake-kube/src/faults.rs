//! Faults of requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::request::ApiRequest;
use crate::status_error::StatusError;

/// The fault of a request; by default none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFault {
    /// Delay before the request arrives.
    pub delay: Duration,
    /// Its effect.
    pub effect: FaultEffect,
}

/// The effect of a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FaultEffect {
    /// The request is executed, and the reply is sent.
    #[default]
    Done,
    /// The request is not executed; this error is the reply.
    Refused(StatusError),
    /// The request is executed, and the connection breaks before the reply.
    ReplyLost,
    /// The request is not executed; the connection breaks.
    RequestLost,
    /// The request is not executed; no reply is sent.
    Hangs,
    /// The request is executed; no reply is sent.
    DoneAndHangs,
}

impl From<FaultEffect> for RequestFault {
    fn from(effect: FaultEffect) -> Self {
        Self { delay: Duration::ZERO, effect }
    }
}

impl RequestFault {
    /// Refused with this HTTP status.
    pub fn refused(code: u16) -> Self {
        FaultEffect::Refused(StatusError::new(code, "refused by a test")).into()
    }

    /// Refused with 429 and this `retryAfterSeconds`.
    pub fn throttled(seconds: u32) -> Self {
        let error = StatusError::new(429, "too many requests, please try again later");
        FaultEffect::Refused(StatusError { retry_after: Some(seconds), ..error }).into()
    }
}

type Matches = Arc<dyn Fn(&ApiRequest) -> bool + Send + Sync>;
type FaultHook = Arc<dyn Fn(&ApiRequest) -> RequestFault + Send + Sync>;

#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) latency: Duration,
    pub(crate) rules: Vec<(u32, Matches, RequestFault)>,
    pub(crate) hook: Option<FaultHook>,
    pub(crate) partitioned: BTreeSet<String>,
    pub(crate) down: bool,
    pub(crate) watches_held: bool,
    /// Number of cuts: watches of an earlier number end with an error.
    pub(crate) cuts: u64,
    /// Number of silences: watches of an earlier number hang.
    pub(crate) silences: u64,
}

impl Faults {
    /// Selects the fault of a request: by the first matching rule, or else by the hook, which is called
    /// without the lock.
    pub(crate) fn select_fault(&mut self, request: &ApiRequest) -> Result<RequestFault, Option<FaultHook>> {
        if self.down {
            return Ok(FaultEffect::RequestLost.into());
        }
        let Some(at) = self.rules.iter().position(|(_, matches, _)| matches(request)) else {
            return Err(self.hook.clone());
        };
        let (left, _, fault) = &mut self.rules[at];
        *left = left.saturating_sub(1);
        let fault = fault.clone();
        let done = *left == 0;
        if done {
            self.rules.remove(at);
        }
        Ok(fault)
    }
}
