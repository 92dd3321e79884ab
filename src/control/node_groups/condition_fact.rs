//! Conditions of a NodeGroup. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::Condition;

/// A condition without its transition time.
pub(super) struct ConditionFact {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl ConditionFact {
    /// Creates it.
    pub(super) fn new(
        kind: &'static str,
        holds: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, holds, reason, message: message.into() }
    }

    /// The condition. It keeps the transition time of the old one while its status stays.
    pub(super) fn condition(self, old: &[Condition], now: Timestamp) -> Condition {
        let status = if self.holds { "True" } else { "False" };
        let same = old.iter().find(|old| old.type_ == self.kind && old.status == status);
        let since = same.and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(now));
        Condition {
            type_: self.kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(since),
            last_update_time: None,
            reason: self.reason.to_owned(),
            message: self.message,
        }
    }
}
