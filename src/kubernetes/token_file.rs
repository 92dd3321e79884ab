//! A bearer token in a file that changes, such as the token of a service account.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

/// Time after which the file is read again. The kubelet writes a new token long before the old one expires.
const REREAD_INTERVAL: Duration = Duration::from_mins(1);

/// A token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("token file {path}: cannot be read")]
    Unreadable {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        problem: std::io::Error,
    },
    /// It contains no token.
    #[error(
        "token file {path} contains no valid token: it is empty, or has line breaks or invalid characters"
    )]
    NoToken {
        /// The file.
        path: String,
    },
}

/// The file and the token last read from it.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(Instant, HeaderValue)>>,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::default() }
    }

    /// The value of `Authorization`. If the file can no longer be read, the last token stays in use, and the
    /// file is read again at the same interval.
    pub(super) async fn authorization(&self) -> Result<HeaderValue, TokenFileError> {
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, value)) = &known
            && at.elapsed() < REREAD_INTERVAL
        {
            return Ok(value.clone());
        }
        let value = match (self.read_again().await, known) {
            (Ok(value), _) => value,
            (Err(error), Some((_, value))) => {
                tracing::warn!(%error, "cannot read the Kubernetes token; the last token stays in use");
                value
            }
            (Err(error), None) => return Err(error),
        };
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), value.clone()));
        Ok(value)
    }

    async fn read_again(&self) -> Result<HeaderValue, TokenFileError> {
        let path = || self.path.display().to_string();
        let text = tokio::fs::read_to_string(&self.path)
            .await
            .map_err(|problem| TokenFileError::Unreadable { path: path(), problem })?;
        // `kubectl create token NAME > file` ends the file with a line break.
        let token = text.trim();
        let is_token = !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic());
        let value = is_token.then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok()).flatten();
        let mut value = value.ok_or_else(|| TokenFileError::NoToken { path: path() })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trailing_line_breaks_of_a_token_are_removed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = TokenFile::new(file.path().to_owned());
        for text in ["", "\n", "a b", "a\nb\n"] {
            std::fs::write(file.path(), text).unwrap();
            assert!(token.authorization().await.is_err(), "{text:?}");
        }
        std::fs::write(file.path(), "abc.def\r\n").unwrap();
        assert_eq!(token.authorization().await.unwrap(), "Bearer abc.def");
        std::fs::write(file.path(), "new\n").unwrap();
        assert_eq!(token.authorization().await.unwrap(), "Bearer abc.def");
        tokio::time::sleep(REREAD_INTERVAL).await;
        assert_eq!(token.authorization().await.unwrap(), "Bearer new");
        std::fs::remove_file(file.path()).unwrap();
        tokio::time::sleep(REREAD_INTERVAL).await;
        assert_eq!(token.authorization().await.unwrap(), "Bearer new");
        // A failed read is repeated, and reported, at the same interval.
        std::fs::write(file.path(), "late\n").unwrap();
        assert_eq!(token.authorization().await.unwrap(), "Bearer new");
        tokio::time::sleep(REREAD_INTERVAL).await;
        assert_eq!(token.authorization().await.unwrap(), "Bearer late");
    }
}
