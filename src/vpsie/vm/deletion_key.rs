//! The key of the passwords of VMs.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;
use secrecy::SecretString;

use crate::fleet::Hostname;

/// A key from which the password of each VM is derived, so that the password is known without being stored
/// (docs/reference/vpsie-api.md#vm-passwords). Deletions name the password.
#[derive(Clone)]
pub struct DeletionKey(hmac::Key);

/// Bytes of the authentication code in a password.
const BYTES: usize = 15;

impl DeletionKey {
    /// Uses these bytes as the key. At least 32 random bytes are recommended.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The password of the VM with the hostname: upper and lower case, a digit, a symbol, and 120 bits of the
    /// HMAC-SHA256 of the hostname.
    pub(super) fn password(&self, hostname: &Hostname) -> SecretString {
        let code = hmac::sign(&self.0, hostname.without_duplicate().as_str().as_bytes());
        let code = code.as_ref();
        format!("Vp1-{}", BASE64URL_NOPAD.encode(&code[..BYTES.min(code.len())])).into()
    }
}

impl fmt::Debug for DeletionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeletionKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn the_password_follows_from_key_and_hostname() {
        let hostname = Hostname::new("workers-0a1b2c3d-1");
        let password = |key: &str, hostname: &Hostname| {
            DeletionKey::new(key.as_bytes()).password(hostname).expose_secret().to_owned()
        };
        let own = password("key", &hostname);
        // printf workers-0a1b2c3d-1 | openssl dgst -sha256 -hmac key -binary | head -c 15 | basenc --base64url
        assert_eq!(own, "Vp1-oEh56s3ExbcnYp5D5kcT");
        assert_eq!(own, password("key", &hostname.duplicate(&"u-2".into())));
        assert_ne!(own, password("other", &hostname));
        assert_ne!(own, password("key", &Hostname::new("workers-0a1b2c3d-2")));
    }
}
