//! Bootstrap tokens: Secrets by which a new VM authenticates until its kubelet has a certificate. They are never read:
//! the caller keeps their ids.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use rand::TryRng;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

/// Namespace of bootstrap tokens.
const NAMESPACE: &str = "kube-system";
/// Type of their Secrets.
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Prefix of the names of their Secrets.
const NAME_PREFIX: &str = "bootstrap-token-";
/// Label of all of them, by which the ValidatingAdmissionPolicy recognizes them.
pub const TOKEN_LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "vpsie-autoscaler");

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// A bootstrap token: `<id>.<secret>`. The id is no secret.
pub struct BootstrapToken {
    id: String,
    secret: SecretString,
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootstrapToken({})", self.id)
    }
}

impl BootstrapToken {
    /// A new token. `random` must be a generator of the operating system.
    pub fn generate<R: TryRng>(random: &mut R) -> Result<Self, R::Error> {
        let id = random_text(ID_LENGTH, random)?;
        Ok(Self { id, secret: random_text(SECRET_LENGTH, random)?.into() })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `<id>.<secret>`.
    pub fn credential(&self) -> SecretString {
        format!("{}.{}", self.id, self.secret.expose_secret()).into()
    }
}

fn random_text<R: TryRng>(length: usize, random: &mut R) -> Result<String, R::Error> {
    let alphabet = ALPHABET.len() as u8;
    let limit = u8::MAX - u8::MAX % alphabet;
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 32];
    while text.len() < length {
        random.try_fill_bytes(&mut bytes)?;
        // A byte above the limit would make some characters more probable.
        let fair = bytes.iter().filter(|byte| **byte < limit).take(length - text.len());
        text.extend(fair.map(|byte| char::from(ALPHABET[usize::from(byte % alphabet)])));
    }
    Ok(text)
}

/// The group of a token: the distribution gives it the right to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenGroup {
    /// kubeadm.
    Kubeadm,
    /// k3s.
    K3s,
    /// RKE2.
    Rke2,
}

impl TokenGroup {
    /// The group.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubeadm => "system:bootstrappers:kubeadm:default-node-token",
            Self::K3s => "system:bootstrappers:k3s:default-node-token",
            Self::Rke2 => "system:bootstrappers:rke2:default-node-token",
        }
    }

    /// Whether the token signs the ConfigMap `cluster-info`, by which kubeadm recognizes the cluster.
    fn signs_cluster_info(self) -> bool {
        match self {
            Self::Kubeadm => true,
            Self::K3s | Self::Rke2 => false,
        }
    }
}

/// The Secrets of bootstrap tokens.
#[derive(Clone)]
pub struct BootstrapTokens(Api<Secret>);

impl BootstrapTokens {
    /// Access with a fenced client.
    pub fn new(client: Client) -> Self {
        Self(Api::namespaced(client, NAMESPACE))
    }

    /// Creates the Secret of a token. Fails with 409 if its id is in use.
    pub async fn create(
        &self,
        token: &BootstrapToken,
        group: TokenGroup,
        expires_at: Timestamp,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), kube::Error> {
        let text = |text: &str| ByteString(text.as_bytes().to_vec());
        let mut data = BTreeMap::from([
            ("token-id", text(&token.id)),
            ("token-secret", text(token.secret.expose_secret())),
            ("expiration", text(&format_expiration(expires_at))),
            ("usage-bootstrap-authentication", text("true")),
            ("auth-extra-groups", text(group.name())),
        ]);
        if group.signs_cluster_info() {
            data.insert("usage-bootstrap-signing", text("true"));
        }
        let mut labels = labels.clone();
        labels.insert(TOKEN_LABEL.0.to_owned(), TOKEN_LABEL.1.to_owned());
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(secret_name(&token.id)),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            type_: Some(SECRET_TYPE.to_owned()),
            data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ..Secret::default()
        };
        self.0.create(&PostParams::default(), &secret).await.map(drop)
    }

    /// Moves the expiration of a token. Returns false if the token does not exist.
    pub async fn extend(&self, id: &str, expires_at: Timestamp) -> Result<bool, kube::Error> {
        let expiration = ByteString(format_expiration(expires_at).into_bytes());
        let patch = Patch::Merge(json!({"data": {"expiration": expiration}}));
        match self.0.patch_metadata(&secret_name(id), &PatchParams::default(), &patch).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a token. Succeeds if it does not exist.
    pub async fn delete(&self, id: &str) -> Result<(), kube::Error> {
        match self.0.delete(&secret_name(id), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            done => done.map(drop),
        }
    }
}

fn secret_name(id: &str) -> String {
    format!("{NAME_PREFIX}{id}")
}

/// RFC 3339 in UTC, in full seconds.
fn format_expiration(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod policy;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use data_encoding::BASE64;
    use fake_kube::FakeKube;
    use rand::rngs::SysRng;
    use serde_json::Value;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn labels() -> BTreeMap<String, String> {
        BTreeMap::from([("autoscaler.vpsie.com/machine".to_owned(), "web-1".to_owned())])
    }

    fn decoded(secret: &Value) -> BTreeMap<String, String> {
        let data = secret["data"].as_object().unwrap();
        let decode =
            |value: &Value| String::from_utf8(BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap());
        data.iter().map(|(key, value)| (key.clone(), decode(value).unwrap())).collect()
    }

    /// Returns ascending bytes.
    struct Ascending(u8);

    impl TryRng for Ascending {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!()
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!()
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            for byte in bytes {
                *byte = self.0;
                self.0 = self.0.wrapping_add(1);
            }
            Ok(())
        }
    }

    #[test]
    fn tokens_are_random_and_not_shown() {
        let token = BootstrapToken::generate(&mut SysRng).unwrap();
        let other = BootstrapToken::generate(&mut SysRng).unwrap();
        assert_ne!(token.credential().expose_secret(), other.credential().expose_secret());
        let credential = token.credential();
        let (id, secret) = credential.expose_secret().split_once('.').unwrap();
        assert_eq!((id.len(), secret.len()), (6, 16));
        assert!(credential.expose_secret().bytes().all(|byte| byte == b'.' || ALPHABET.contains(&byte)));
        assert!(!format!("{token:?}").contains(secret));
    }

    #[test]
    fn each_character_has_the_same_probability() {
        let text = random_text(252, &mut Ascending(0)).unwrap();
        let count = |c: &u8| text.bytes().filter(|byte| byte == c).count();
        assert!(ALPHABET.iter().all(|c| count(c) == 7), "{text}");
    }

    #[tokio::test]
    async fn a_token_is_created_extended_and_deleted() {
        let kube = FakeKube::new(|| Timestamp::UNIX_EPOCH);
        let tokens = BootstrapTokens::new(kube.client("a", "ns"));
        let token = BootstrapToken::generate(&mut SysRng).unwrap();
        let expires_at = at("2026-01-02T03:04:05.678Z");
        tokens.create(&token, TokenGroup::Kubeadm, expires_at, &labels()).await.unwrap();
        let name = format!("bootstrap-token-{}", token.id());
        let secret = kube.get("secrets", "kube-system", &name).unwrap();
        assert_eq!(secret["type"], "bootstrap.kubernetes.io/token");
        assert_eq!(
            secret["metadata"]["labels"],
            json!({"app.kubernetes.io/managed-by": "vpsie-autoscaler", "autoscaler.vpsie.com/machine": "web-1"})
        );
        let credential = token.credential();
        let (_, token_secret) = credential.expose_secret().split_once('.').unwrap();
        let want = [
            ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
            ("expiration", "2026-01-02T03:04:05Z"),
            ("token-id", token.id()),
            ("token-secret", token_secret),
            ("usage-bootstrap-authentication", "true"),
            ("usage-bootstrap-signing", "true"),
        ];
        assert_eq!(decoded(&secret), want.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let error = tokens.create(&token, TokenGroup::K3s, expires_at, &labels()).await.unwrap_err();
        assert!(matches!(error, kube::Error::Api(status) if status.code == 409));

        assert!(tokens.extend(token.id(), at("2026-01-02T04:00:00Z")).await.unwrap());
        let extended = decoded(&kube.get("secrets", "kube-system", &name).unwrap());
        assert_eq!(extended["expiration"], "2026-01-02T04:00:00Z");
        assert_eq!(extended["token-secret"], token_secret);

        tokens.delete(token.id()).await.unwrap();
        assert_eq!(kube.get("secrets", "kube-system", &name), None);
        tokens.delete(token.id()).await.unwrap();
        assert!(!tokens.extend(token.id(), expires_at).await.unwrap());
    }

    #[tokio::test]
    async fn tokens_of_k3s_and_rke2_sign_nothing() {
        let kube = FakeKube::new(|| Timestamp::UNIX_EPOCH);
        let tokens = BootstrapTokens::new(kube.client("a", "ns"));
        for group in [TokenGroup::K3s, TokenGroup::Rke2] {
            let token = BootstrapToken::generate(&mut SysRng).unwrap();
            tokens.create(&token, group, Timestamp::UNIX_EPOCH, &labels()).await.unwrap();
            let name = format!("bootstrap-token-{}", token.id());
            let data = decoded(&kube.get("secrets", "kube-system", &name).unwrap());
            assert_eq!(data["auth-extra-groups"], group.name());
            assert!(!data.contains_key("usage-bootstrap-signing"));
        }
    }
}
