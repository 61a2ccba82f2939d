//! The key pair that signs service-account tokens (ECDSA P-256: ES256).

use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};

use crate::{PkiError, file};

/// Where the pair is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountKey {
    /// PEM PKCS#8 private key (0600): `--service-account-signing-key-file`.
    pub private: PathBuf,
    /// PEM public key: `--service-account-key-file`.
    pub public: PathBuf,
}

/// Makes `sa.key` and `sa.pub` in `directory` unless they are there.
pub fn ensure(directory: &Path) -> Result<ServiceAccountKey, PkiError> {
    let pair = ServiceAccountKey {
        private: directory.join("sa.key"),
        public: directory.join("sa.pub"),
    };
    let malformed = |e: rcgen::Error| PkiError::Malformed {
        path: pair.private.clone(),
        message: e.to_string(),
    };
    let key = if pair.private.exists() {
        KeyPair::from_pem(&file::read(&pair.private)?).map_err(malformed)?
    } else {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(malformed)?;
        file::write(&pair.private, key.serialize_pem().as_bytes(), 0o600)?;
        key
    };
    let public = pem(&key.subject_public_key_info());
    if file::read(&pair.public).ok().as_deref() != Some(public.as_str()) {
        file::write(&pair.public, public.as_bytes(), 0o644)?;
    }
    Ok(pair)
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    for chunk in text.as_bytes().chunks(64) {
        pem.extend(chunk.iter().map(|&b| char::from(b)));
        pem.push('\n');
    }
    pem.push_str("-----END PUBLIC KEY-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_half_follows_the_private() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pair = ensure(dir.path()).expect("make");
        let private = file::read(&pair.private).expect("read");
        std::fs::write(&pair.public, "damaged").expect("damage");
        ensure(dir.path()).expect("keep");
        assert_eq!(file::read(&pair.private).expect("read"), private);
        assert!(
            file::read(&pair.public)
                .expect("read")
                .starts_with("-----BEGIN PUBLIC KEY-----\n")
        );
    }
}
