//! Signing tokens without an end, as they stand in secrets.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Why tokens can't be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("the key that signs tokens cannot be read: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the key that signs tokens is of no kind that can: {0}")]
    Kind(String),
    #[error("cannot sign a token: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
}

/// The key that signs.
pub struct Signer {
    key: EncodingKey,
    header: Header,
}

impl Signer {
    /// From a private key in PEM.
    pub fn new(pem: &str) -> Result<Self, SignError> {
        let pair = KeyPair::from_pem(pem)?;
        let algorithm = pair.algorithm();
        let (algorithm, key) = if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            (
                Algorithm::ES256,
                EncodingKey::from_ec_der(pair.serialized_der()),
            )
        } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            (
                Algorithm::ES384,
                EncodingKey::from_ec_der(pair.serialized_der()),
            )
        } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
            (Algorithm::RS256, EncodingKey::from_rsa_pem(pem.as_bytes())?)
        } else {
            return Err(SignError::Kind(format!("{algorithm:?}")));
        };
        // What upstream names keys by: the digest of the public key.
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.subject_public_key_info()));
        let mut header = Header::new(algorithm);
        header.typ = None;
        header.kid = Some(id);
        Ok(Self { key, header })
    }

    /// The token of an account that stands in a secret.
    pub fn sign(&self, account: &ServiceAccount, secret: &Secret) -> Result<String, SignError> {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let namespace = text(&account.metadata.namespace);
        let name = text(&account.metadata.name);
        let claims = json!({
            "iss": "kubernetes/serviceaccount",
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": text(&secret.metadata.name),
            "kubernetes.io/serviceaccount/service-account.name": name,
            "kubernetes.io/serviceaccount/service-account.uid": text(&account.metadata.uid),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        });
        Ok(jsonwebtoken::encode(&self.header, &claims, &self.key)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_account_and_secret() {
        let pem = KeyPair::generate().unwrap().serialize_pem();
        let account: ServiceAccount = serde_json::from_value(
            json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}}),
        )
        .unwrap();
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns"}})).unwrap();
        let token = Signer::new(&pem).unwrap().sign(&account, &secret).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let claims: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:ns:a");
        assert_eq!(claims["kubernetes.io/serviceaccount/secret.name"], "s");
        assert_eq!(
            jsonwebtoken::decode_header(&token).unwrap().alg,
            Algorithm::ES256
        );
    }
}
