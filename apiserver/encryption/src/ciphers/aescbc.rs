//! `aescbc`: 16 bytes IV, then AES-CBC with PKCS#7 padding. Nothing binds a value to its key.

use async_trait::async_trait;
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;

use super::{bad_key, too_short};
use crate::transform::{Opened, Result, TransformError, Transformer};

const BLOCK: usize = 16;

pub(crate) struct AesCbc {
    encrypting: PaddedBlockEncryptingKey,
    decrypting: DecryptingKey,
}

impl AesCbc {
    pub(crate) fn new(key: &[u8]) -> Result<Self> {
        let algorithm: &'static Algorithm = match key.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            other => return Err(bad_key(other)),
        };
        let unbound = || UnboundCipherKey::new(algorithm, key).map_err(|_| bad_key(key.len()));
        Ok(AesCbc {
            encrypting: PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?)
                .map_err(|_| bad_key(key.len()))?,
            decrypting: DecryptingKey::cbc(unbound()?).map_err(|_| bad_key(key.len()))?,
        })
    }
}

#[async_trait]
impl Transformer for AesCbc {
    async fn open(&self, data: &[u8], _: &str) -> Result<Opened> {
        let (iv, rest) = data.split_first_chunk::<BLOCK>().ok_or_else(too_short)?;
        if rest.len() % BLOCK != 0 {
            return Err(TransformError::new(
                "the stored data is not a multiple of the block size",
            ));
        }
        let empty = || TransformError::new("invalid PKCS7 data (empty or not padded)");
        if rest.is_empty() {
            return Err(empty());
        }
        let mut plain = rest.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(*iv));
        self.decrypting
            .decrypt(&mut plain, context)
            .map_err(|_| TransformError::new("cipher: message authentication failed"))?;
        let last = plain.last().copied().unwrap_or_default();
        let padding = usize::from(last);
        if padding == 0 || padding > plain.len() {
            return Err(empty());
        }
        let size = plain.len() - padding;
        if plain[size..].iter().any(|byte| *byte != last) {
            return Err(TransformError::new("invalid padding on input"));
        }
        plain.truncate(size);
        Ok(Opened {
            data: plain,
            stale: false,
        })
    }

    async fn seal(&self, data: &[u8], _: &str) -> Result<Vec<u8>> {
        let failed = |_| TransformError::new("unable to read sufficient random bytes");
        let mut sealed = data.to_vec();
        let context = self.encrypting.encrypt(&mut sealed).map_err(failed)?;
        let iv: &[u8] = (&context).try_into().map_err(failed)?;
        Ok([iv, &sealed].concat())
    }
}
