//! Sources of credentials. Messages about problems never have values.

use std::path::PathBuf;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, future};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt as _;
use kube::{Api, Client};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::MissedTickBehavior;

use super::CandidateCredentials;
use crate::kubernetes::watch_object;
use crate::vpsie::{BaseUrl, Credentials};

/// Interval of reads of a file.
const FILE_INTERVAL: Duration = Duration::from_secs(30);

/// The credentials of a Secret, each time that it may have changed. Keys: `token`, or `clientId` and
/// `clientSecret`; `url` for another address of the API.
pub fn credentials_in_secret(
    client: Client,
    namespace: &str,
    name: &str,
) -> BoxStream<'static, Result<CandidateCredentials, String>> {
    let place = format!("Secret {namespace}/{name}");
    let watched = watch_object(Api::<Secret>::namespaced(client, namespace), name).default_backoff();
    let read = watched.filter_map(move |seen| {
        future::ready(match seen {
            Ok(Some(secret)) => Some(parse_secret(&secret, &place)),
            Ok(None) => Some(Err(format!("{place} does not exist"))),
            Err(error) => {
                tracing::warn!(source = place, %error, "cannot read the Secret with VPSie's credentials; retrying");
                None
            }
        })
    });
    read.boxed()
}

/// The credentials of a file, read every 30 s. `of` makes credentials of its text.
pub fn credentials_in_file(
    file: PathBuf,
    of: impl Fn(SecretString) -> Credentials + Send + 'static,
) -> BoxStream<'static, Result<CandidateCredentials, String>> {
    let mut every = tokio::time::interval(FILE_INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let read = stream::unfold((file, of, every), |(file, of, mut every)| async move {
        every.tick().await;
        let read = match tokio::fs::read_to_string(&file).await {
            Ok(text) => match Credentials::parse_secret(&text) {
                Ok(secret) => Ok(CandidateCredentials { credentials: of(secret), url: None }),
                Err(problem) => Err(format!("{} {problem}", file.display())),
            },
            Err(error) => Err(format!("{} cannot be read: {error}", file.display())),
        };
        Some((read, (file, of, every)))
    });
    read.boxed()
}

fn parse_secret(secret: &Secret, place: &str) -> Result<CandidateCredentials, String> {
    let text = |key: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        let text = value.map(|value| std::str::from_utf8(&value.0)).transpose();
        text.map_err(|_| format!("{place}: {key} is not UTF-8 text"))
    };
    let clean = |key: &str| {
        let clean = text(key)?.map(Credentials::parse_secret).transpose();
        clean.map_err(|problem| format!("{place}: {key} {problem}"))
    };
    let credentials = match (clean("token")?, clean("clientId")?, clean("clientSecret")?) {
        (Some(token), None, None) => Ok(Credentials::token(token)),
        (None, Some(id), Some(secret)) => Ok(Credentials::client(id.expose_secret(), secret)),
        (Some(_), _, _) => Err("token contradicts clientId and clientSecret; set only one of them"),
        (None, Some(_), None) => Err("clientSecret is missing; clientId needs it"),
        (None, None, Some(_)) => Err("clientId is missing; clientSecret needs it"),
        (None, None, None) => Err("the credentials are missing; set token, or clientId and clientSecret"),
    };
    let credentials = credentials.map_err(|problem| format!("{place}: {problem}"))?;
    let url = text("url")?.map(BaseUrl::parse).transpose();
    let url = url.map_err(|error| format!("{place}: url {}", error.problem))?;
    Ok(CandidateCredentials { credentials, url })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn read(keys: &[(&str, &str)]) -> Result<CandidateCredentials, String> {
        let value = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = keys.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
        parse_secret(&Secret { data: Some(data), ..Secret::default() }, "Secret a/b")
    }

    #[test]
    fn a_secret_has_a_token_or_a_client_and_may_have_a_url() {
        let token = CandidateCredentials { credentials: Credentials::token("t0ken"), url: None };
        assert_eq!(read(&[("token", "t0ken\n"), ("other", "x")]), Ok(token.clone()));
        let client = CandidateCredentials { credentials: Credentials::client("me", "s3cret"), url: None };
        assert_eq!(read(&[("clientId", "me\n"), ("clientSecret", "s3cret\r\n")]), Ok(client));
        let url = BaseUrl::parse("https://vpsie.test").ok();
        assert_eq!(
            read(&[("token", "t0ken"), ("url", "https://vpsie.test/\n")]),
            Ok(CandidateCredentials { url, ..token })
        );
    }

    #[test]
    fn problems_name_the_key_and_no_value() {
        for (keys, want) in [
            (&[][..], "Secret a/b: the credentials are missing; set token, or clientId and clientSecret"),
            (&[("token", "\n")], "Secret a/b: token is empty"),
            (
                &[("token", "hunter 2")],
                "Secret a/b: token contains spaces, line breaks or other characters that secrets of VPSie do not have",
            ),
            (
                &[("token", "hunter"), ("clientId", "hunter")],
                "Secret a/b: token contradicts clientId and clientSecret; set only one of them",
            ),
            (&[("clientId", "hunter")], "Secret a/b: clientSecret is missing; clientId needs it"),
            (&[("clientSecret", "hunter")], "Secret a/b: clientId is missing; clientSecret needs it"),
            (
                &[("token", "t"), ("url", "http://hunter.test")],
                "Secret a/b: url must start with https:// (http:// only for localhost)",
            ),
        ] {
            assert_eq!(read(keys), Err(want.to_owned()));
        }
    }
}
