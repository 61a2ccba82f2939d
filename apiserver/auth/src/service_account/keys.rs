//! The keys of service-account tokens: one that signs, several that verify, RSA or elliptic-curve, from PEM files.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is no PEM.
    #[error("service-account key file: {0}")]
    Pem(String),
    /// No block of the file is a key.
    #[error("service-account key file holds no RSA or P-256/P-384 key")]
    NoKey,
    /// A key is of a kind, or broken in a way, that rules it out.
    #[error("service-account key cannot be used: {0}")]
    Unusable(String),
}

/// A key that verifies.
#[derive(Clone)]
pub struct VerifyingKey {
    /// Upstream's key id: the hash of the public key.
    pub id: String,
    /// The only algorithm that the key is used with.
    pub algorithm: Algorithm,
    pub(crate) decoding: DecodingKey,
    jwk: Value,
}

impl VerifyingKey {
    /// The key as a JSON Web Key.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }
}

/// The key that signs.
pub struct SigningKey {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) encoding: EncodingKey,
}

/// All keys of the server.
#[derive(Default)]
pub struct Keys {
    verifying: Vec<VerifyingKey>,
    signing: Option<SigningKey>,
}

impl Keys {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds every key of a file for verification (`--service-account-key-file`): public keys, certificates, or private keys, of
    /// which only the public half is kept.
    pub fn add_verifying(&mut self, pem: &[u8]) -> Result<(), KeyError> {
        for (kind, der) in blocks(pem)? {
            let spki = match kind {
                SectionKind::PublicKey => der,
                SectionKind::Certificate => {
                    let (_, certificate) = X509Certificate::from_der(&der)
                        .map_err(|e| KeyError::Unusable(e.to_string()))?;
                    certificate.public_key().raw.to_vec()
                }
                _ => private(kind, &der, pem)?.1,
            };
            self.push(verifying(&spki)?);
        }
        if self.verifying.is_empty() {
            Err(KeyError::NoKey)
        } else {
            Ok(())
        }
    }

    /// Sets the key that signs (`--service-account-signing-key-file`); its tokens can be verified too.
    pub fn set_signing(&mut self, pem: &[u8]) -> Result<(), KeyError> {
        let (kind, der) = blocks(pem)?.into_iter().next().ok_or(KeyError::NoKey)?;
        let (encoding, spki) = private(kind, &der, pem)?;
        let public = verifying(&spki)?;
        self.signing = Some(SigningKey {
            id: public.id.clone(),
            algorithm: public.algorithm,
            encoding,
        });
        self.push(public);
        Ok(())
    }

    /// The keys that verify.
    pub fn verifying(&self) -> &[VerifyingKey] {
        &self.verifying
    }

    /// The key that signs.
    pub fn signing(&self) -> Option<&SigningKey> {
        self.signing.as_ref()
    }

    fn push(&mut self, key: VerifyingKey) {
        if !self.verifying.iter().any(|k| k.id == key.id) {
            self.verifying.push(key);
        }
    }
}

/// The blocks of a PEM file that are keys or certificates; parameters and the like are left out.
fn blocks(pem: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, KeyError> {
    let mut keys = Vec::new();
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = block.map_err(|e| KeyError::Pem(format!("{e:?}")))?;
        let usable = [
            SectionKind::PublicKey,
            SectionKind::Certificate,
            SectionKind::PrivateKey,
            SectionKind::RsaPrivateKey,
            SectionKind::EcPrivateKey,
        ];
        if usable.contains(&kind) {
            keys.push((kind, der));
        }
    }
    if keys.is_empty() {
        Err(KeyError::NoKey)
    } else {
        Ok(keys)
    }
}

/// A private key for signing, and its public half as SubjectPublicKeyInfo.
fn private(kind: SectionKind, der: &[u8], pem: &[u8]) -> Result<(EncodingKey, Vec<u8>), KeyError> {
    let unusable = |e: &dyn std::fmt::Display| KeyError::Unusable(e.to_string());
    let rsa = match kind {
        SectionKind::RsaPrivateKey => {
            Some(aws_lc_rs::rsa::KeyPair::from_der(der).map_err(|e| unusable(&e))?)
        }
        SectionKind::PrivateKey => aws_lc_rs::rsa::KeyPair::from_pkcs8(der).ok(),
        _ => None,
    };
    if let Some(pair) = rsa {
        let spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key())
            .map_err(|e| unusable(&e))?
            .as_ref()
            .to_vec();
        let encoding = EncodingKey::from_rsa_pem(pem).map_err(|e| unusable(&e))?;
        return Ok((encoding, spki));
    }
    for algorithm in [
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        &ECDSA_P384_SHA384_FIXED_SIGNING,
    ] {
        let pair = if kind == SectionKind::EcPrivateKey {
            EcdsaKeyPair::from_private_key_der(algorithm, der)
        } else {
            EcdsaKeyPair::from_pkcs8(algorithm, der)
        };
        let Ok(pair) = pair else { continue };
        let pkcs8 = pair.to_pkcs8v1().map_err(|e| unusable(&e))?;
        let spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key())
            .map_err(|e| unusable(&e))?
            .as_ref()
            .to_vec();
        return Ok((EncodingKey::from_ec_der(pkcs8.as_ref()), spki));
    }
    Err(KeyError::NoKey)
}

fn verifying(spki: &[u8]) -> Result<VerifyingKey, KeyError> {
    let unusable = |e: &dyn std::fmt::Display| KeyError::Unusable(e.to_string());
    let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, spki));
    let (_, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|e| unusable(&e))?;
    match info.parsed().map_err(|e| unusable(&e))? {
        PublicKey::RSA(key) => {
            let modulus = unpadded(key.modulus);
            let exponent = unpadded(key.exponent);
            if modulus.len() < 256 {
                return Err(KeyError::Unusable(
                    "RSA keys need at least 2048 bits".into(),
                ));
            }
            Ok(VerifyingKey {
                decoding: DecodingKey::from_rsa_raw_components(modulus, exponent),
                jwk: json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256",
                    "n": URL_SAFE_NO_PAD.encode(modulus), "e": URL_SAFE_NO_PAD.encode(exponent)}),
                algorithm: Algorithm::RS256,
                id,
            })
        }
        PublicKey::EC(point) => {
            let (algorithm, name, curve) = match point.key_size() {
                256 => (Algorithm::ES256, "ES256", "P-256"),
                384 => (Algorithm::ES384, "ES384", "P-384"),
                other => return Err(KeyError::Unusable(format!("a curve of {other} bits"))),
            };
            let coordinates = point.data().get(1..).unwrap_or_default();
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
            Ok(VerifyingKey {
                decoding: DecodingKey::from_ec_components(&x, &y).map_err(|e| unusable(&e))?,
                jwk: json!({"use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": name, "x": x, "y": y}),
                algorithm,
                id,
            })
        }
        _ => Err(KeyError::NoKey),
    }
}

/// DER integers carry a zero byte where the number would look negative; JSON Web Keys do not.
fn unpadded(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    &number[zeros.min(number.len().saturating_sub(1))..]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aws_lc_rs::encoding::Pkcs8V1Der;
    use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::service_account::claims::{Claims, Issuer};

    fn pem(label: &str, der: &[u8]) -> String {
        let body = STANDARD.encode(der);
        let lines: Vec<&str> = (0..body.len())
            .step_by(64)
            .map(|i| &body[i..(i + 64).min(body.len())])
            .collect();
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            lines.join("\n")
        )
    }

    fn issuer(keys: Keys) -> Issuer {
        Issuer {
            issuers: vec!["me".into()],
            keys: Arc::new(keys),
        }
    }

    #[test]
    fn rsa_tokens_are_verified_by_the_public_half() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let public =
            AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        let mut signing = Keys::new();
        signing
            .set_signing(pem("PRIVATE KEY", private.as_ref()).as_bytes())
            .unwrap();
        let mut verifying = Keys::new();
        verifying
            .add_verifying(pem("PUBLIC KEY", public.as_ref()).as_bytes())
            .unwrap();
        assert_eq!(signing.verifying()[0].id, verifying.verifying()[0].id);
        assert_eq!(verifying.verifying()[0].jwk()["e"], "AQAB");
        let claims = Claims {
            iss: "me".into(),
            sub: "s".into(),
            ..Claims::default()
        };
        let token = issuer(signing).sign(&claims).unwrap();
        assert_eq!(
            issuer(verifying)
                .read(&token, "legacy")
                .unwrap()
                .unwrap()
                .sub,
            "s"
        );
        assert!(issuer(Keys::new()).sign(&claims).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let mut keys = Keys::new();
        assert!(matches!(
            keys.add_verifying(b"nonsense"),
            Err(KeyError::NoKey)
        ));
        assert!(
            keys.set_signing(pem("PRIVATE KEY", b"nonsense").as_bytes())
                .is_err()
        );
    }
}
