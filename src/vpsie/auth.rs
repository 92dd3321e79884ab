//! Authentication at VPSie: a fixed token, or a login with tokens that are renewed
//! (docs/reference/vpsie-api.md#authentication).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::base_url::BaseUrl;
use super::call::{Body, Call};
use super::connection::Connection;
use super::error::{ApiError, ErrorKind};
use super::limiter::Purpose;
use super::wire::Row;

/// Credentials for VPSie. Debug output does not show them.
#[derive(Clone, Debug, PartialEq)]
pub struct Credentials(CredentialForm);

#[derive(Clone, Debug)]
enum CredentialForm {
    Token(SecretString),
    Client { id: String, secret: SecretString },
    Missing(String),
}

impl PartialEq for CredentialForm {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Token(one), Self::Token(other)) => one.expose_secret() == other.expose_secret(),
            (Self::Client { id, secret }, Self::Client { id: other_id, secret: other }) => {
                id == other_id && secret.expose_secret() == other.expose_secret()
            }
            (Self::Missing(one), Self::Missing(other)) => one == other,
            _ => false,
        }
    }
}

impl Credentials {
    /// A token made in VPSie's control panel.
    pub fn token(token: impl Into<SecretString>) -> Self {
        Self(CredentialForm::Token(token.into()))
    }

    /// Client id and secret, which a login exchanges for tokens of limited lifetime.
    pub fn client(id: impl Into<String>, secret: impl Into<SecretString>) -> Self {
        Self(CredentialForm::Client { id: id.into(), secret: secret.into() })
    }

    /// No credentials yet. Until they are replaced, every call fails with this reason and sends no request.
    pub fn missing(reason: impl Into<String>) -> Self {
        Self(CredentialForm::Missing(reason.into()))
    }

    /// Reads a token or client secret from the text of a file or Secret, without line breaks at its end. The
    /// error does not show the text.
    pub fn parse_secret(text: &str) -> Result<SecretString, &'static str> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err("is empty");
        }
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err("contains spaces, line breaks or other characters that secrets of VPSie do not have");
        }
        Ok(text.into())
    }
}

/// A token, the URL that it may be sent to, and its generation.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) secret: SecretString,
    pub(super) base: Arc<BaseUrl>,
    pub(super) generation: u64,
}

pub(super) struct Auth {
    state: Mutex<State>,
    /// Allows one login at a time. Waiting calls use its result.
    logins: Semaphore,
}

struct State {
    credentials: Arc<Credentials>,
    /// The only URL that the credentials are sent to.
    base: Arc<BaseUrl>,
    token: Option<IssuedToken>,
    /// Counts tokens and credentials, to recognize a 401 that concerns an older token.
    generation: u64,
    /// Time of the next login after a refusal, and the refusal. Repeated logins could lock the account.
    refused: Option<(Instant, ApiError)>,
    format: LoginFormat,
}

#[derive(Clone)]
struct IssuedToken {
    secret: SecretString,
    renew_at: Instant,
}

/// Format of a login's body. VPSie's clients disagree (docs/reference/vpsie-api.md#login), so the format that
/// worked is tried first.
#[derive(Clone, Copy, PartialEq)]
enum LoginFormat {
    Json,
    Form,
}

/// Time before expiry at which a token is renewed. Tokens with a short lifetime are renewed at half of it.
const RENEW_BEFORE: Duration = Duration::from_mins(5);
/// Minimum time between renewals, because the clocks of VPSie and this machine may differ.
const SHORTEST_LIFE: Duration = Duration::from_mins(1);
const LONGEST_LIFE: Duration = Duration::from_hours(24);
/// Lifetime of a token without an expiry date.
const DEFAULT_LIFE: Duration = Duration::from_hours(1);
const REFUSED_FOR: Duration = Duration::from_secs(30);

impl Auth {
    pub(super) fn new(credentials: Credentials, base: BaseUrl) -> Self {
        let state = State {
            credentials: Arc::new(credentials),
            base: Arc::new(base),
            token: None,
            generation: 0,
            refused: None,
            format: LoginFormat::Json,
        };
        Self { state: Mutex::new(state), logins: Semaphore::new(1) }
    }

    pub(super) fn replace(&self, credentials: Credentials, base: BaseUrl) {
        let mut state = self.lock();
        state.credentials = Arc::new(credentials);
        state.base = Arc::new(base);
        state.token = None;
        state.refused = None;
        state.generation += 1;
    }

    /// Whether the credentials are sent to this URL.
    pub(super) fn is_at(&self, base: &BaseUrl) -> bool {
        *self.lock().base == *base
    }

    /// Returns a token, after a login if necessary. `stale` is the generation of a token that VPSie did not
    /// accept.
    pub(super) async fn token(
        &self,
        connection: &Connection,
        stale: Option<u64>,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Token, ApiError> {
        if let Some(known) = self.lock().known(stale) {
            return known;
        }
        let Ok(Ok(_turn)) = tokio::time::timeout_at(deadline, self.logins.acquire()).await else {
            return Err(ApiError::new(ErrorKind::NotAdmitted, "the login to VPSie takes too long"));
        };
        let (credentials, base, generation, format) = {
            let state = self.lock();
            if let Some(known) = state.known(stale) {
                return known;
            }
            (Arc::clone(&state.credentials), Arc::clone(&state.base), state.generation, state.format)
        };
        let CredentialForm::Client { id, secret } = &credentials.0 else {
            return Err(ApiError::new(ErrorKind::NotAdmitted, "the credentials have just been replaced"));
        };
        let result = log_in(connection, id, secret, &base, format, purpose, deadline).await;
        let mut state = self.lock();
        if state.generation != generation {
            drop(state);
            return Err(ApiError::new(ErrorKind::NotSent, "the credentials have just been replaced"));
        }
        match result {
            Ok((fresh, format)) => {
                let token = Token { secret: fresh.secret.clone(), base, generation: generation + 1 };
                state.generation = token.generation;
                state.token = Some(fresh);
                state.refused = None;
                state.format = format;
                Ok(token)
            }
            Err(error) => {
                if error.kind == ErrorKind::Unauthenticated {
                    state.refused = Some((Instant::now() + REFUSED_FOR, error.clone()));
                }
                match &mut state.token {
                    // The token is still valid: use it, and renew it later.
                    Some(old) if stale != Some(generation) => {
                        old.renew_at = Instant::now() + SHORTEST_LIFE;
                        Ok(Token { secret: old.secret.clone(), base, generation })
                    }
                    _ => Err(error),
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The token or the refusal that needs no request. `stale` is the generation of a token that VPSie did
    /// not accept.
    fn known(&self, stale: Option<u64>) -> Option<Result<Token, ApiError>> {
        let is_stale = stale == Some(self.generation);
        let token = |secret: &SecretString| {
            let base = Arc::clone(&self.base);
            let generation = self.generation;
            Some(Ok(Token { secret: secret.clone(), base, generation }))
        };
        match &self.credentials.0 {
            CredentialForm::Missing(reason) => Some(Err(ApiError::new(ErrorKind::Unauthenticated, reason))),
            CredentialForm::Token(_) if is_stale => {
                let message = "VPSie refused the API token; it may have expired";
                Some(Err(ApiError::new(ErrorKind::Unauthenticated, message)))
            }
            CredentialForm::Token(secret) => token(secret),
            CredentialForm::Client { .. } => {
                let now = Instant::now();
                match (&self.token, &self.refused) {
                    (Some(known), _) if !is_stale && now < known.renew_at => token(&known.secret),
                    (_, Some((until, error))) if now < *until => Some(Err(error.clone())),
                    _ => None,
                }
            }
        }
    }
}

async fn log_in(
    connection: &Connection,
    id: &str,
    secret: &SecretString,
    base: &BaseUrl,
    format: LoginFormat,
    purpose: Purpose,
    deadline: Instant,
) -> Result<(IssuedToken, LoginFormat), ApiError> {
    let other = if format == LoginFormat::Json { LoginFormat::Form } else { LoginFormat::Json };
    let mut refusal = None;
    for format in [format, other] {
        let call = login(id, secret.expose_secret(), format, purpose);
        match connection.exchange(&call, base, None, &[secret.expose_secret()], deadline).await {
            Ok(reply) => match find_token(reply.root(), connection.now()) {
                Some(fresh) => return Ok((fresh, format)),
                None => {
                    refusal.get_or_insert_with(|| {
                        ApiError::new(
                            ErrorKind::Unauthenticated,
                            "VPSie replied to the login without a token",
                        )
                    });
                }
            },
            Err(error) => match error.kind {
                // VPSie may have received the login, but the call itself was not sent.
                ErrorKind::Unclear => return Err(ApiError { kind: ErrorKind::NotSent, ..error }),
                ErrorKind::RateLimited
                | ErrorKind::NotSent
                | ErrorKind::NotAdmitted
                | ErrorKind::WrongServer => {
                    return Err(error);
                }
                _ => {
                    refusal.get_or_insert(error);
                }
            },
        }
    }
    let words = refusal.map(|error| error.message).unwrap_or_default();
    Err(ApiError::new(ErrorKind::Unauthenticated, format!("VPSie refused the login: {words}")))
}

fn login(id: &str, secret: &str, format: LoginFormat, purpose: Purpose) -> Call {
    let body = match format {
        LoginFormat::Json => Body::Json(json!({"clientId": id, "clientSecret": secret})),
        LoginFormat::Form => {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("clientId", id).append_pair("clientSecret", secret);
            Body::Form(form.finish())
        }
    };
    Call::post("login", "auth/from/api", body).with_purpose(purpose)
}

/// The token in the reply to a login: at the root or under `data`, in each form of
/// docs/reference/vpsie-api.md#login.
fn find_token(root: &Value, now: Timestamp) -> Option<IssuedToken> {
    let root = root.as_object()?;
    read_token(root, now).or_else(|| read_token(root.get("data")?.as_object()?, now))
}

fn read_token(object: &Map<String, Value>, now: Timestamp) -> Option<IssuedToken> {
    let inner = |name: &str| object.get(name).and_then(Value::as_object);
    let holders =
        [inner("accessToken"), inner("token").and_then(|t| t.get("access")?.as_object()), Some(object)];
    holders.into_iter().flatten().map(Row).find_map(|row| {
        let token = row.text(&["token", "accessToken", "access_token"])?;
        let expires = row.time(&["expires", "expiresAt", "expires_at"]);
        let life = expires.map_or(DEFAULT_LIFE, |time| {
            Duration::try_from(time.at.duration_since(now)).unwrap_or_default().min(LONGEST_LIFE)
        });
        let renew_in = life.saturating_sub(RENEW_BEFORE.min(life / 2)).max(SHORTEST_LIFE);
        Some(IssuedToken { secret: token.into(), renew_at: Instant::now() + renew_in })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_token_is_found_in_every_shape() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let expires = "2026-01-01T02:00:00Z";
        for (reply, minutes) in [
            (json!({"accessToken": {"token": "t", "expires": expires}, "refreshToken": {"token": "r"}}), 115),
            (
                json!({"token": {"access": {"token": "t", "expires": expires}, "refresh": {"token": "r"}}}),
                115,
            ),
            (json!({"data": {"token": {"access": {"token": "t", "expires": expires}}}}), 115),
            (json!({"data": {"accessToken": {"token": "t", "expires": 1_767_232_800}}}), 115),
            (json!({"token": "t", "expires": "2026-01-01 02:00:00"}), 115),
            (json!({"token": "t", "expires": "in a while"}), 55),
            (json!({"accessToken": "t"}), 55),
            (json!({"token": "t", "expires": "2026-01-01T00:06:00Z"}), 3),
            (json!({"token": "t", "expires": "2025-01-01T00:00:00Z"}), 1),
            (json!({"token": "t", "expires": "9998-01-01T00:00:00Z"}), 24 * 60 - 5),
            (json!({"token": "t", "expires": 0}), 55),
        ] {
            let token = find_token(&reply, now).unwrap();
            assert_eq!(token.secret.expose_secret(), "t", "{reply}");
            assert_eq!(token.renew_at, Instant::now() + Duration::from_mins(minutes), "{reply}");
        }
        for reply in [json!({"error": false}), json!({"token": ""}), json!({"token": {}}), json!([])] {
            assert!(find_token(&reply, now).is_none(), "{reply}");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let all = [Credentials::token("hunter2"), Credentials::client("me", "hunter2")];
        assert!(!format!("{all:?}").contains("hunter2"));
    }

    #[test]
    fn credentials_are_the_same_or_not() {
        let all = || {
            let client = |id: &str, secret: &str| Credentials::client(id, secret);
            let token = |token: &str| Credentials::token(token);
            [
                token("a"),
                token("b"),
                client("a", "b"),
                client("a", "c"),
                client("b", "b"),
                Credentials::missing("a"),
            ]
        };
        for (m, one) in all().iter().enumerate() {
            for (n, other) in all().iter().enumerate() {
                assert_eq!(one == other, m == n, "{m} {n}");
            }
        }
    }

    #[test]
    fn line_breaks_at_the_end_are_no_part_of_a_secret() {
        assert_eq!(Credentials::parse_secret("t0ken\r\n\n").unwrap().expose_secret(), "t0ken");
        for text in ["", "\n", " t0ken", "t0\nken", "tökén"] {
            assert!(Credentials::parse_secret(text).is_err(), "{text:?}");
        }
    }
}
