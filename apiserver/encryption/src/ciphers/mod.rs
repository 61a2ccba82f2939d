//! The providers whose keys stand in the configuration: one file a cipher.

mod aescbc;
mod aesgcm;
mod secretbox;

pub(crate) use aescbc::AesCbc;
pub(crate) use aesgcm::AesGcm;
pub(crate) use secretbox::SecretBox;

use crate::transform::TransformError;

fn too_short() -> TransformError {
    TransformError::new("the stored data was shorter than the required size")
}

/// A key that can't be one.
pub(crate) fn bad_key(length: usize) -> TransformError {
    TransformError::new(format!("crypto/aes: invalid key size {length}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::Transformer;

    async fn check(transformer: &dyn Transformer, bound_to_key: bool) {
        for length in [0, 1, 15, 16, 17, 4096] {
            let plain = vec![7u8; length];
            let sealed = transformer
                .seal(&plain, "/registry/secrets/a/b")
                .await
                .unwrap();
            assert_ne!(
                sealed,
                transformer
                    .seal(&plain, "/registry/secrets/a/b")
                    .await
                    .unwrap()
            );
            let opened = transformer
                .open(&sealed, "/registry/secrets/a/b")
                .await
                .unwrap();
            assert_eq!((opened.data, opened.stale), (plain, false));
            let moved = transformer.open(&sealed, "/registry/secrets/a/c").await;
            assert_eq!(moved.is_err(), bound_to_key);
            for short in 0..sealed.len().min(64) {
                let _ = transformer
                    .open(&sealed[..short], "/registry/secrets/a/b")
                    .await;
            }
        }
    }

    #[tokio::test]
    async fn what_is_sealed_opens_and_no_torn_value_panics() {
        for length in [16, 24, 32] {
            check(&AesCbc::new(&vec![1; length]).unwrap(), false).await;
            check(&AesGcm::new(&vec![1; length]).unwrap(), true).await;
        }
        check(&SecretBox::new(&[1; 32]).unwrap(), false).await;
        assert!(AesCbc::new(&[0; 20]).is_err() && AesGcm::new(&[0; 20]).is_err());
    }

    /// A value of Go's `crypto/aes`, `cipher.NewCBCEncrypter` with PKCS#7 by hand (NIST SP 800-38A F.2.5, first block).
    #[tokio::test]
    async fn cbc_is_that_of_the_standard() {
        let key: Vec<u8> = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let iv = hex("000102030405060708090a0b0c0d0e0f");
        let first = hex("f58c4c04d6e5f1ba779eabfb5f7bfbd6");
        let cbc = AesCbc::new(&key).unwrap();
        // The first block of the standard's text is no padding, so that reading it back alone is refused …
        let value = [iv.clone(), first].concat();
        let error = cbc.open(&value, "k").await.unwrap_err().0;
        assert_eq!(error, "invalid PKCS7 data (empty or not padded)");
        let error = cbc.open(&value[..20], "k").await.unwrap_err().0;
        assert_eq!(error, "the stored data is not a multiple of the block size");
    }

    /// The secretbox example of NaCl's own documentation (`tests/secretbox.c`), zeros stripped.
    #[tokio::test]
    async fn secretbox_is_nacls() {
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let sealed = hex(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5",
        );
        let opened = SecretBox::new(&key)
            .unwrap()
            .open(&[nonce, sealed].concat(), "k")
            .await
            .unwrap();
        assert!(
            opened
                .data
                .starts_with(&hex("be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd4"))
        );
        assert_eq!(opened.data.len(), 131);
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    }
}
