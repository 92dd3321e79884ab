//! Errors of calls, by the evidence in the reply.

use http::StatusCode;
use uuid::Uuid;

use super::backend::BackendError;
use crate::fleet::FailureReason;
use crate::retry_after::RetryAfter;

/// Error of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) kind: ErrorKind,
    /// Message of the API, or else a description of the failure.
    pub(super) message: String,
    /// Wait that the API requests.
    pub(super) retry_after: Option<RetryAfter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorKind {
    /// VPSie did not accept the login or token. A new login may succeed.
    Unauthenticated,
    /// The credentials are valid, but do not permit the call.
    Forbidden,
    /// A limit of the account or cluster is reached.
    Quota,
    /// VPSie has no capacity.
    Shortage,
    /// An object of the call does not exist.
    NotFound,
    /// A parameter of the call is invalid.
    BadConfiguration,
    /// VPSie refused the deletion of a VM because of its password. Only deletions of plain VMs have this error.
    PasswordRefused,
    /// Refused with an unknown message.
    Refused,
    /// The reply is not from the VPSie API.
    WrongServer,
    /// Too many requests; VPSie did nothing.
    RateLimited,
    /// The request was not sent.
    NotSent,
    /// Our own limits did not admit the request. It must not be repeated within the call.
    NotAdmitted,
    /// The request was sent, and its outcome is unknown.
    Unclear,
}

impl ErrorKind {
    /// Value of the label `outcome` in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Quota => "quota",
            Self::Shortage => "shortage",
            Self::NotFound => "not_found",
            Self::BadConfiguration => "bad_configuration",
            Self::PasswordRefused => "password_refused",
            Self::Refused => "refused",
            Self::WrongServer => "wrong_server",
            Self::RateLimited => "rate_limited",
            Self::NotSent => "not_sent",
            Self::NotAdmitted => "not_admitted",
            Self::Unclear => "unclear",
        }
    }

    /// Whether VPSie refused a read for a reason that time does not change: a parameter, an object, or the call itself.
    pub(super) fn is_lasting(self) -> bool {
        match self {
            Self::NotFound | Self::WrongServer | Self::Forbidden | Self::BadConfiguration | Self::Refused => {
                true
            }
            Self::Unauthenticated
            | Self::Quota
            | Self::Shortage
            | Self::PasswordRefused
            | Self::RateLimited
            | Self::NotSent
            | Self::NotAdmitted
            | Self::Unclear => false,
        }
    }

    /// Classifies a refusal by its status (0 if there is none) and its message
    /// (docs/reference/vpsie-api.md#refusals).
    ///
    /// A known message takes precedence over the status, because VPSie reports quota and shortage in the
    /// message only. A 5xx with any other message is unclear.
    pub(super) fn classify(status: u16, message: &str) -> Self {
        let message = message.to_lowercase();
        // "exceeds the allowed 5 limit" is "exceeds the allowed limit".
        let is_number =
            |word: &&str| word.trim_matches(|c: char| !c.is_alphanumeric()).parse::<f64>().is_ok();
        let plain: Vec<&str> = message.split_whitespace().filter(|word| !is_number(word)).collect();
        let plain = plain.join(" ");
        let has_any =
            |words: &[&str]| words.iter().any(|word| message.contains(word) || plain.contains(word));
        let too_fast = has_any(&["too many requests", "rate limit", "rate-limit"]);
        match status {
            429 => Self::RateLimited,
            _ if !too_fast && has_any(QUOTA) => Self::Quota,
            _ if !too_fast && has_any(SHORTAGE) => Self::Shortage,
            408 | 500.. => Self::Unclear,
            _ if too_fast => Self::RateLimited,
            401 => Self::Unauthenticated,
            _ if has_any(&["please authenticate", "unauthenticated", "token expired", "invalid token"]) => {
                Self::Unauthenticated
            }
            402 => Self::Quota,
            403 => Self::Forbidden,
            404 | 410 => Self::NotFound,
            _ if has_any(&["not found", "does not exist", "doesn't exist"]) => Self::NotFound,
            400 | 405 | 415 | 422 => Self::BadConfiguration,
            _ if has_any(&["please select", "invalid "]) => Self::BadConfiguration,
            _ => Self::Refused,
        }
    }

    /// Classifies a 5xx with VPSie's own envelope. VPSie also sends refusals in this form
    /// (docs/reference/vpsie-api.md#refusals). A refusal that counts as a lost reply leaves a machine
    /// waiting. The opposite error is worse: if an executed request counts as refused, its VM belongs to no
    /// machine. So a refusal needs evidence that a check failed before VPSie did anything: the message of a
    /// check, or the mark of a deliberate refusal (`type: false`, no `stack`) without words of an internal
    /// failure.
    pub(super) fn classify_server_error(status: u16, message: &str, deliberate: bool) -> Self {
        let by_words = Self::classify(status, message);
        let lower = message.to_lowercase();
        let has_any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if by_words != Self::Unclear || has_any(ACCIDENT) || !(deliberate || has_any(CHECK)) {
            return by_words;
        }
        match Self::classify(0, message) {
            Self::RateLimited => Self::Unclear,
            kind => kind,
        }
    }
}

/// VPSie's refusal of a second group for a size, in lower case (docs/reference/vpsie-api.md#refusals).
pub(super) const SAME_SIZE: &str = "same selected size";

/// Words of checks before any execution, in lower case.
const CHECK: &[&str] = &[
    SAME_SIZE,
    "please select",
    "please authenticate",
    "not allowed",
    "not permitted",
    "permission",
    "is required",
];

/// Words of internal failures, in lower case. VPSie may have executed a part of the request.
const ACCIDENT: &[&str] = &[
    "internal",
    "unexpected",
    "exception",
    "undefined",
    "something went wrong",
    "timeout",
    "timed out",
    "deadlock",
    "database",
    "connection",
    "econn",
    "gateway",
    "unavailable",
    "try again",
    "job",
    "queue",
];

const QUOTA: &[&str] = &[
    "exceeds the allowed limit",
    "exceeds the limit",
    "exceeded the limit",
    "exceeded the allowed limit",
    "maximum allowed",
    "reached the maximum",
    "reached the limit",
    "reached your limit",
    "quota",
    "plan does not allow",
    "maximum number of",
    "limit reached",
    "limit exceeded",
    "subscription does not allow",
    "insufficient balance",
    "insufficient fund",
    "insufficient credit",
    "not enough balance",
];

const SHORTAGE: &[&str] = &[
    "out of stock",
    "not in stock",
    "sold out",
    "no capacity",
    "enough capacity",
    "insufficient capacity",
    "out of capacity",
    "capacity available",
    "capacity is available",
    "at capacity",
    "enough resources",
    "insufficient resources",
    "available resources",
    "resources available",
];

impl ApiError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// Converts the error of a call that changes nothing. An unknown outcome is harmless.
    pub(super) fn into_read_error(self) -> BackendError {
        match self.kind {
            ErrorKind::Unclear => self.unavailable(FailureReason::ApiUnavailable),
            _ => self.into_write_error(),
        }
    }

    /// Converts the error of a call that changes something.
    pub(super) fn into_write_error(self) -> BackendError {
        match self.kind {
            ErrorKind::Unauthenticated | ErrorKind::Forbidden => {
                self.unavailable(FailureReason::Authentication)
            }
            ErrorKind::WrongServer => self.unavailable(FailureReason::InvalidConfiguration),
            ErrorKind::RateLimited | ErrorKind::NotSent | ErrorKind::NotAdmitted => {
                self.unavailable(FailureReason::ApiUnavailable)
            }
            ErrorKind::Quota => self.refused(FailureReason::QuotaExceeded),
            ErrorKind::Shortage => self.refused(FailureReason::Stockout),
            ErrorKind::NotFound | ErrorKind::BadConfiguration => {
                self.refused(FailureReason::InvalidConfiguration)
            }
            ErrorKind::PasswordRefused => BackendError::PasswordRefused { message: self.message },
            ErrorKind::Refused => self.refused(FailureReason::Refused),
            ErrorKind::Unclear => BackendError::Unclear { message: self.message },
        }
    }

    fn refused(self, reason: FailureReason) -> BackendError {
        BackendError::Refused { reason, message: self.message }
    }

    fn unavailable(self, reason: FailureReason) -> BackendError {
        BackendError::Unavailable { reason, message: self.message, retry_after: self.retry_after }
    }
}

/// Maximum length of a message, characters (docs/reference/cluster-autoscaler.md#creation-errors).
const LONGEST: usize = 200;

/// Number of characters of a secret that hide the whole message. A reply may repeat a part of a request, and
/// any part of a payload may be a credential.
const REPEATED: usize = 16;

/// Shown instead of a message that repeats a secret.
const HIDDEN: &str = "(hidden: the reply repeats a secret of the request)";

/// Returns true iff the message has a longer part of the secret, in any case and with any spaces.
fn repeats(message: &str, secret: &str) -> bool {
    let fold = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let secret = fold(secret);
    let message: Vec<char> = fold(message).chars().collect();
    message.windows(REPEATED).any(|part| secret.contains(&part.iter().collect::<String>()))
}

/// The message of a reply for logs: one short line without tags, secrets and UUIDs.
pub(super) fn clean_message(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "***");
    }
    let mut plain = String::new();
    let mut in_tag = false;
    for c in text.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                plain.push(' ');
            }
            _ if in_tag => {}
            c => plain.push(if c.is_control() { ' ' } else { c }),
        }
    }
    let known = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        if bare.len() == 36 && Uuid::try_parse(bare).is_ok() {
            word.replace(bare, "(id)")
        } else {
            word.to_owned()
        }
    };
    let words: Vec<String> = plain.split_whitespace().map(known).collect();
    // The end may be cut within a secret, so the check includes characters that are not shown.
    let message: String = words.join(" ").chars().take(2 * LONGEST).collect();
    if secrets.iter().any(|secret| repeats(&message, secret)) {
        return HIDDEN.to_owned();
    }
    message.chars().take(LONGEST).collect()
}

/// `HTTP 502 Bad Gateway`.
pub(super) fn status_line(status: StatusCode) -> String {
    format!("HTTP {status}").trim_end_matches(" <unknown status code>").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_words_tell_the_kind() {
        for (status, message, kind) in [
            (200, "Worker nodes count exceeds the allowed limit", ErrorKind::Quota),
            (500, "Quota Exceeded", ErrorKind::Quota),
            (403, "Your plan does not allow this", ErrorKind::Quota),
            (400, "maximum number of nodes", ErrorKind::Quota),
            (402, "Payment required", ErrorKind::Quota),
            (503, "No capacity available for this size", ErrorKind::Shortage),
            (409, "Selected plan is out of stock", ErrorKind::Shortage),
            (0, "Please authenticate", ErrorKind::Unauthenticated),
            (401, "whatever", ErrorKind::Unauthenticated),
            (403, "Forbidden", ErrorKind::Forbidden),
            (0, "kubernetes group not found", ErrorKind::NotFound),
            (404, "Not found", ErrorKind::NotFound),
            (0, "Please select the right package for this OS", ErrorKind::BadConfiguration),
            (422, "no such thing", ErrorKind::BadConfiguration),
            (0, "Group a has same selected Size, please select another size", ErrorKind::BadConfiguration),
            (429, "quota of requests", ErrorKind::RateLimited),
            (0, "Too many requests: limit reached", ErrorKind::RateLimited),
            (503, "Too many requests", ErrorKind::Unclear),
            (500, "not found", ErrorKind::Unclear),
            (500, "Please authenticate", ErrorKind::Unclear),
            (502, "", ErrorKind::Unclear),
            (408, "", ErrorKind::Unclear),
            (0, "The moon is full", ErrorKind::Refused),
            (409, "Cluster is locked", ErrorKind::Refused),
        ] {
            assert_eq!(ErrorKind::classify(status, message), kind, "{status} {message}");
        }
    }

    #[test]
    fn quota_words_may_hold_numbers() {
        for message in [
            "Worker nodes count exceeds the allowed limit of 5",
            "Worker nodes count 6 exceeds the allowed 5 limit",
            "Your account has reached the maximum (10) of servers",
            "Quota exceeded: 5/5",
        ] {
            assert_eq!(ErrorKind::classify(500, message), ErrorKind::Quota, "{message}");
        }
    }

    #[test]
    fn a_server_error_is_a_refusal_only_on_clear_evidence() {
        for (message, deliberate, kind) in [
            (
                "Group a has same selected Size, please select another size",
                false,
                ErrorKind::BadConfiguration,
            ),
            ("kubernetes group not found", false, ErrorKind::Unclear),
            ("kubernetes group not found", true, ErrorKind::NotFound),
            ("Please authenticate", false, ErrorKind::Unauthenticated),
            ("Cluster is locked", false, ErrorKind::Unclear),
            ("Cluster is locked", true, ErrorKind::Refused),
            ("The moon is full", false, ErrorKind::Unclear),
            ("The moon is full", true, ErrorKind::Refused),
            ("Worker nodes count exceeds the allowed limit of 5", false, ErrorKind::Quota),
            ("Internal Server Error", true, ErrorKind::Unclear),
            ("Cannot read properties of undefined (reading 'id'): not found", true, ErrorKind::Unclear),
            ("Too many requests", true, ErrorKind::Unclear),
            ("", false, ErrorKind::Unclear),
        ] {
            assert_eq!(
                ErrorKind::classify_server_error(500, message, deliberate),
                kind,
                "{message} {deliberate}"
            );
        }
    }

    #[test]
    fn words_are_fit_to_show() {
        let text =
            "<html><h1>502\r\n Bad</h1>\tGateway</html> for ab70b42f-9f22-11e3-8af5-005056aa8af7, s3cret!";
        assert_eq!(clean_message(text, &["s3cret", ""]), "502 Bad Gateway for (id), ***!");
        assert_eq!(clean_message(&"é".repeat(300), &[]).chars().count(), LONGEST);
    }

    #[test]
    fn a_secret_is_not_half_shown_at_the_cut() {
        let text = format!("{} TOPSECRET", "x".repeat(LONGEST - 6));
        assert!(!clean_message(&text, &["TOPSECRET"]).contains("TOP"));
    }

    #[test]
    fn a_message_that_repeats_a_part_of_a_payload_is_hidden() {
        let payload = "#!/bin/bash\nexport TOKEN='abcdef.0123456789abcdef'\nkubeadm join";
        for text in [
            "invalid script: export TOKEN=&#39;abcdef.0123456789abcdef&#39;",
            r##"bad {"scriptContent":"#!/bin/bash\nexport TOKEN='ABCDEF.0123456789A"##,
            "unexpected 0123456789abcdef",
        ] {
            assert_eq!(clean_message(text, &[payload]), HIDDEN, "{text}");
        }
        let harmless = "Please select the right package for this OS";
        assert_eq!(clean_message(harmless, &[payload]), harmless);
    }

    #[test]
    fn an_unclear_read_did_nothing() {
        let error = ApiError::new(ErrorKind::Unclear, "x");
        assert!(matches!(error.clone().into_read_error(), BackendError::Unavailable { .. }));
        assert!(matches!(error.into_write_error(), BackendError::Unclear { .. }));
    }
}
