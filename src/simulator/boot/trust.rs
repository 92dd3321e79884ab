//! The check of a CA that came over an unverified connection. Pure.

use x509_parser::pem::Pem;

use super::plan::CaHash;

/// A CA that does not have a required hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// It is no certificate.
    #[error("the CA that the API server shows is not a PEM certificate")]
    NotACertificate,
    /// It has another hash.
    #[error("the CA that the API server shows does not have the hash in the payload")]
    OtherHash,
}

/// Checks that the CA, in PEM, has one of the hashes.
pub fn check_ca(ca: &str, hashes: &[CaHash]) -> Result<(), TrustError> {
    let mut public_keys = Vec::new();
    for pem in Pem::iter_from_buffer(ca.as_bytes()) {
        let pem = pem.map_err(|_| TrustError::NotACertificate)?;
        let certificate = pem.parse_x509().map_err(|_| TrustError::NotACertificate)?;
        public_keys.push(sha256(certificate.tbs_certificate.subject_pki.raw));
    }
    if public_keys.is_empty() {
        return Err(TrustError::NotACertificate);
    }
    let bundle = sha256(ca.as_bytes());
    let has = |hash: &CaHash| match hash {
        CaHash::PublicKey(hash) => public_keys.contains(hash),
        CaHash::Bundle(hash) => bundle == *hash,
    };
    if hashes.iter().any(has) { Ok(()) } else { Err(TrustError::OtherHash) }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}
