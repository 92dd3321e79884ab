//! The signature of a request: HMAC-SHA256 of its body with a shared key.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;
use http::{HeaderMap, HeaderValue};
use ring::hmac;
use secrecy::{ExposeSecret as _, SecretSlice};

/// Header with the signature: `sha256=` and 64 hexadecimal digits.
pub(super) const SIGNATURE: &str = "x-signature-256";
/// Minimum length of the key, bytes.
const MIN_KEY: usize = 32;

/// The key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The key is too short.
    #[error("{}: the key has {length} bytes; it must have at least {MIN_KEY}", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Length of the key, bytes.
        length: usize,
    },
}

/// The key of the signatures.
pub(super) type Key = SecretSlice<u8>;

/// Reads the key of a file, without line breaks at its end.
pub(super) async fn read_key(path: &Path) -> Result<Key, KeyError> {
    let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
    let mut key = tokio::fs::read(path).await.map_err(unreadable)?;
    while key.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        key.pop();
    }
    let length = key.len();
    let key = Key::from(key);
    if length < MIN_KEY { Err(KeyError::Short { path: path.to_owned(), length }) } else { Ok(key) }
}

/// Returns true iff the headers have the signature of the body. The comparison takes constant time.
pub(super) fn is_signed(headers: &HeaderMap<HeaderValue>, body: &[u8], key: &Key) -> bool {
    let signature = || {
        let text = headers.get(SIGNATURE)?.to_str().ok()?.strip_prefix("sha256=")?;
        HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret());
    signature().is_some_and(|signature| hmac::verify(&key, body, &signature).is_ok())
}
