//! Who we are to VPSie (API §2).

use secrecy::SecretString;

/// What VPSie knows us by. Never shown.
#[derive(Clone, Debug)]
pub struct Credentials(pub(super) Kind);

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Token(SecretString),
    Client { id: String, secret: SecretString },
}

impl Credentials {
    /// A token made in VPSie's control panel.
    pub fn token(token: impl Into<SecretString>) -> Self {
        Self(Kind::Token(token.into()))
    }

    /// Client id and secret, which are exchanged for short-lived tokens.
    pub fn client(id: impl Into<String>, secret: impl Into<SecretString>) -> Self {
        Self(Kind::Client { id: id.into(), secret: secret.into() })
    }
}
