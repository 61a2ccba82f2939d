//! `secretbox`: 24 bytes nonce, then NaCl's box (XSalsa20 and Poly1305, the tag in front). Nothing binds a value to its key.

use async_trait::async_trait;
use aws_lc_rs::rand;
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{KeyInit, Nonce, XSalsa20Poly1305};

use super::too_short;
use crate::transform::{Opened, Result, TransformError, Transformer};

const NONCE: usize = 24;
const OVERHEAD: usize = 16;

pub(crate) struct SecretBox {
    cipher: XSalsa20Poly1305,
}

impl SecretBox {
    pub(crate) fn new(key: &[u8]) -> Result<Self> {
        let cipher = XSalsa20Poly1305::new_from_slice(key).map_err(|_| {
            TransformError::new(format!(
                "expected key size 32 for secretbox provider, got {}",
                key.len()
            ))
        })?;
        Ok(SecretBox { cipher })
    }
}

#[async_trait]
impl Transformer for SecretBox {
    async fn open(&self, data: &[u8], _: &str) -> Result<Opened> {
        if data.len() < NONCE + OVERHEAD {
            return Err(too_short());
        }
        let (nonce, rest) = data.split_first_chunk::<NONCE>().ok_or_else(too_short)?;
        let plain = self
            .cipher
            .decrypt(&Nonce::from(*nonce), rest)
            // Upstream's words, odd as they are.
            .map_err(|_| TransformError::new("output array was not large enough for encryption"))?;
        Ok(Opened {
            data: plain,
            stale: false,
        })
    }

    async fn seal(&self, data: &[u8], _: &str) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce)
            .map_err(|_| TransformError::new("unable to read sufficient random bytes"))?;
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), data)
            .map_err(|_| TransformError::new("secretbox refused to encrypt"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }
}
