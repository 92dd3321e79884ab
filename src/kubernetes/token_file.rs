//! A bearer token in a file that is written anew from time to time, such as that of a service account.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

/// How long a token that was read is used. The kubelet writes a new one long before the old one expires.
const READ_AGAIN: Duration = Duration::from_mins(1);

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("token file {path}: cannot be read")]
    Unreadable {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        problem: std::io::Error,
    },
    /// Its text is no token.
    #[error(
        "token file {path}: holds no token: it is empty, or has line breaks or characters that no token has"
    )]
    NoToken {
        /// The file.
        path: String,
    },
}

/// The file, and the token that was read last.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(Instant, HeaderValue)>>,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::default() }
    }

    /// The value of `Authorization`. A file that cannot be read any more leaves the token in use.
    pub(super) async fn authorization(&self) -> Result<HeaderValue, TokenFileError> {
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, value)) = &known
            && at.elapsed() < READ_AGAIN
        {
            return Ok(value.clone());
        }
        match (self.read_again().await, known) {
            (Ok(value), _) => {
                let read = Some((Instant::now(), value.clone()));
                *self.read.lock().unwrap_or_else(PoisonError::into_inner) = read;
                Ok(value)
            }
            (Err(error), Some((_, value))) => {
                tracing::warn!(%error, "the last Kubernetes token that could be read stays in use");
                Ok(value)
            }
            (Err(error), None) => Err(error),
        }
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
    async fn a_line_break_at_the_end_is_no_part_of_the_token() {
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
        tokio::time::sleep(READ_AGAIN).await;
        assert_eq!(token.authorization().await.unwrap(), "Bearer new");
        std::fs::remove_file(file.path()).unwrap();
        tokio::time::sleep(READ_AGAIN).await;
        assert_eq!(token.authorization().await.unwrap(), "Bearer new");
    }
}
