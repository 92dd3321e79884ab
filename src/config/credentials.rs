//! VPSie's credentials: those at the start, and the source of later ones.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::args::{KubernetesArgs, VpsieArgs};
use crate::validation::{Problem, dns_subdomain};
use crate::vpsie::Credentials;

/// Source of VPSie's credentials while the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// Flags and environment variables. They do not change.
    Fixed,
    /// A file with a token. It is read again at intervals.
    TokenFile(PathBuf),
    /// A file with the secret of a client id. It is read again at intervals.
    ClientSecretFile {
        /// The client id.
        id: String,
        /// The file.
        file: PathBuf,
    },
    /// A Secret. It is watched. Before it is read there are no credentials.
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// The Secret of `--vpsie-secret-name`, if the flag is given.
pub(super) fn secret_source(
    args: &VpsieArgs,
    kubernetes: &KubernetesArgs,
    problems: &mut Vec<Problem>,
) -> Option<CredentialSource> {
    let name = args.vpsie_secret_name.clone()?;
    let mut wrong = |flag: &str, message: String| problems.push(Problem::new(flag, "", message));
    let given: Vec<&str> = [
        ("--vpsie-api-token", args.vpsie_api_token.is_some()),
        ("--vpsie-api-token-file", args.vpsie_api_token_file.is_some()),
        ("--vpsie-client-id", args.vpsie_client_id.is_some()),
        ("--vpsie-client-secret", args.vpsie_client_secret.is_some()),
        ("--vpsie-client-secret-file", args.vpsie_client_secret_file.is_some()),
    ]
    .into_iter()
    .filter_map(|(flag, given)| given.then_some(flag))
    .collect();
    if !given.is_empty() {
        wrong(
            "--vpsie-secret-name",
            format!("cannot be combined with {}: give only one of them", given.join(" and ")),
        );
    }
    if let Err(message) = dns_subdomain(&name) {
        wrong("--vpsie-secret-name", message);
    }
    Some(CredentialSource::Secret { namespace: kubernetes.namespace.clone(), name })
}

/// The credentials to start with, and the source of later ones.
pub(super) fn read_credentials(
    args: &VpsieArgs,
    secret_source: Option<CredentialSource>,
    problems: &mut Vec<Problem>,
) -> Option<(Credentials, CredentialSource)> {
    if let Some(source) = secret_source {
        let missing = match &source {
            CredentialSource::Secret { namespace, name } => {
                format!("Secret {namespace}/{name} has not been read yet")
            }
            _ => String::new(),
        };
        return Some((Credentials::missing(missing), source));
    }
    let before = problems.len();
    let token = read_secret(
        "--vpsie-api-token",
        args.vpsie_api_token.as_ref(),
        args.vpsie_api_token_file.as_deref(),
        problems,
    );
    let secret = read_secret(
        "--vpsie-client-secret",
        args.vpsie_client_secret.as_ref(),
        args.vpsie_client_secret_file.as_deref(),
        problems,
    );
    let id = parse_secret_flag("--vpsie-client-id", args.vpsie_client_id.as_deref(), problems);
    if problems.len() > before {
        return None;
    }
    let (flag, message) = match (token, id.as_ref().map(ExposeSecret::expose_secret), secret) {
        (Some(token), None, None) => {
            let source = args.vpsie_api_token_file.clone().map(CredentialSource::TokenFile);
            return Some((Credentials::token(token), source.unwrap_or(CredentialSource::Fixed)));
        }
        (None, Some(id), Some(secret)) => {
            let file = args.vpsie_client_secret_file.clone();
            let source = file.map(|file| CredentialSource::ClientSecretFile { id: id.to_owned(), file });
            return Some((Credentials::client(id, secret), source.unwrap_or(CredentialSource::Fixed)));
        }
        (Some(_), _, _) => (
            "--vpsie-api-token",
            "cannot be combined with --vpsie-client-id and --vpsie-client-secret: give only one of them",
        ),
        (None, Some(_), None) => ("--vpsie-client-secret", "is missing: --vpsie-client-id needs its secret"),
        (None, None, Some(_)) => {
            ("--vpsie-client-id", "is missing: --vpsie-client-secret belongs to a client id")
        }
        (None, None, None) => {
            let message = "is missing: give a token, --vpsie-client-id with its secret, --vpsie-secret-name, or \
                           --simulate";
            ("--vpsie-api-token", message)
        }
    };
    problems.push(Problem::new(flag, "", message));
    None
}

/// A credential that a flag holds itself.
fn parse_secret_flag(flag: &str, given: Option<&str>, problems: &mut Vec<Problem>) -> Option<SecretString> {
    let wrong = |problem: &str| problems.push(Problem::new(flag, "", problem));
    Credentials::parse_secret(given?).map_err(wrong).ok()
}

/// A secret of a flag, or of the file that another flag names.
fn read_secret(
    flag: &str,
    given: Option<&SecretString>,
    file: Option<&Path>,
    problems: &mut Vec<Problem>,
) -> Option<SecretString> {
    let mut wrong = |flag: &str, message: String| {
        problems.push(Problem::new(flag, "", message));
        None
    };
    let file_flag = format!("{flag}-file");
    let (flag, clean) = match (given, file) {
        (None, None) => return None,
        (Some(_), Some(_)) => {
            return wrong(flag, format!("cannot be combined with {file_flag}: give only one of them"));
        }
        (Some(given), None) => (flag, Credentials::parse_secret(given.expose_secret())),
        (None, Some(file)) => match std::fs::read_to_string(file) {
            Ok(text) => (file_flag.as_str(), Credentials::parse_secret(&text)),
            Err(error) => return wrong(&file_flag, format!("{} cannot be read: {error}", file.display())),
        },
    };
    clean.map_or_else(|problem| wrong(flag, problem.to_owned()), Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_line_breaks_of_a_client_id() {
        let mut problems = Vec::new();
        let mut read = |text| parse_secret_flag("--vpsie-client-id", Some(text), &mut problems);
        assert_eq!(read("me\n").unwrap().expose_secret(), "me");
        assert!(read("\n").is_none() && read("m e").is_none());
        assert_eq!(problems[0], Problem::new("--vpsie-client-id", "", "is empty"));
    }
}
