//! URL of the API.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// Host and prefix of the API, such as `https://api.vpsie.com/apps/v2`
/// (docs/reference/vpsie-api.md#base-url).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(String);

/// A text that is not a [`BaseUrl`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the VPSie API URL {text:?} {problem}")]
pub struct BaseUrlError {
    /// The text. Replaced by `…` if it contains a password.
    pub text: String,
    /// The problem, and the allowed values.
    pub problem: &'static str,
}

const DEFAULT_HOST: &str = "https://api.vpsie.com";
const DEFAULT_PREFIX: &str = "/apps/v2";

impl BaseUrl {
    /// Parses a URL. Its path is the prefix of every call; the default is `/apps/v2`. `http://` is allowed
    /// for loopback only, because requests carry credentials.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        let error = |problem| BaseUrlError { text: text.to_owned(), problem };
        let url = Url::parse(text.trim())
            .map_err(|_| error("is not a URL, must be a URL such as https://api.vpsie.com/apps/v2"))?;
        if !url.username().is_empty() || url.password().is_some() {
            let problem = "contains a user name or password; use the flags or Secret for credentials";
            return Err(BaseUrlError { text: "…".to_owned(), problem });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(error("has a query or fragment, must be only host and prefix"));
        }
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => return Err(error("has no host")),
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            return Err(error("must start with https:// (http:// only for localhost)"));
        }
        let prefix = match url.path().trim_end_matches('/') {
            "" => DEFAULT_PREFIX,
            path => path,
        };
        Ok(Self(format!("{}{prefix}", url.origin().ascii_serialization())))
    }

    /// The URL of a call. `path` has no leading slash.
    pub(super) fn join(&self, path: &str) -> String {
        format!("{}/{path}", self.0)
    }
}

impl Default for BaseUrl {
    fn default() -> Self {
        Self(format!("{DEFAULT_HOST}{DEFAULT_PREFIX}"))
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        Self::parse(text)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_prefix_are_free() {
        for (text, base) in [
            ("https://api.vpsie.com", "https://api.vpsie.com/apps/v2"),
            (" https://api2.vpsie.com/ ", "https://api2.vpsie.com/apps/v2"),
            ("https://api.vpsie.com/v2/", "https://api.vpsie.com/v2"),
            ("https://api.vpsie.com/api/v2", "https://api.vpsie.com/api/v2"),
            ("https://proxy.example:8443/vpsie/v2", "https://proxy.example:8443/vpsie/v2"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/apps/v2"),
            ("http://localhost:8080", "http://localhost:8080/apps/v2"),
            ("http://[::1]:8080", "http://[::1]:8080/apps/v2"),
        ] {
            assert_eq!(BaseUrl::parse(text).unwrap().to_string(), base);
        }
        assert_eq!(BaseUrl::parse(DEFAULT_HOST).unwrap(), BaseUrl::default());
    }

    #[test]
    fn credentials_never_go_in_the_clear() {
        for text in [
            "http://api.vpsie.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "ftp://localhost",
            "api.vpsie.com",
            "https://api.vpsie.com?x=1",
            "",
        ] {
            assert!(BaseUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_shown() {
        let error = BaseUrl::parse("https://me:hunter2@api.vpsie.com").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
