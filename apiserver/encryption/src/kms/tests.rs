//! KMS v2 against a plugin of our own on a unix socket.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::kms::plugin::Plugin;
use crate::providers::{GroupResource, Providers};

const KEY: &str = "/registry/secrets/a/b";

async fn kms(socket: &Path) -> Arc<Kms> {
    let stop = CancellationToken::new();
    Kms::start("test", socket, Duration::from_secs(1), stop).await
}

#[tokio::test]
async fn values_outlive_the_process_and_go_stale_with_the_plugins_key() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    let plugin = Plugin::start(&socket);
    let first = kms(&socket).await;
    assert_eq!(first.check().await, Ok(()));
    let sealed = first.seal(b"secret", KEY).await.unwrap();
    assert!(!sealed.windows(6).any(|w| w == b"secret"));
    let object = EncryptedObject::decode(sealed.as_slice()).unwrap();
    assert_eq!(object.key_id, "key-1");
    assert_eq!(object.encrypted_dek_source_type, HKDF_SEED);
    // Info, nonce, text and tag.
    assert_eq!(object.encrypted_data.len(), 32 + 12 + 6 + 16);
    assert_eq!(plugin.state.lock().decrypted, 0);

    let second = kms(&socket).await;
    for _ in 0..3 {
        let opened = second.open(&sealed, KEY).await.unwrap();
        assert_eq!(
            (opened.data.as_slice(), opened.stale),
            (&b"secret"[..], false)
        );
    }
    assert_eq!(plugin.state.lock().decrypted, 1);
    let moved = second.open(&sealed, "/registry/secrets/a/c").await;
    assert!(moved.is_err());

    plugin.rotate("key-2");
    second.ask().await.unwrap();
    assert!(second.open(&sealed, KEY).await.unwrap().stale);
    let sealed = second.seal(b"secret", KEY).await.unwrap();
    let object = EncryptedObject::decode(sealed.as_slice()).unwrap();
    assert_eq!(object.key_id, "key-2");
}

#[tokio::test]
async fn a_plugin_that_is_away_or_ill_shows_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    let kms = kms(&socket).await;
    let error = kms.ask().await.unwrap_err();
    assert!(
        error.starts_with("failed to perform status section"),
        "{error}"
    );
    assert!(kms.seal(b"x", KEY).await.is_err());

    let plugin = Plugin::start(&socket);
    let mut tries = 0;
    while kms.ask().await.is_err() {
        tries += 1;
        assert!(tries < 50);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    plugin.state.lock().ill = true;
    assert_eq!(
        kms.ask().await.unwrap_err(),
        "kmsv2 Provider test is not healthy, error: got unexpected healthz status: ill"
    );
    // It still names the same key: writes go on.
    assert!(kms.seal(b"x", KEY).await.is_ok());
}

#[tokio::test]
async fn lying_values_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    let _plugin = Plugin::start(&socket);
    let kms = kms(&socket).await;
    let sealed = kms.seal(b"secret", KEY).await.unwrap();
    for cut in 0..sealed.len() {
        assert!(kms.open(&sealed[..cut], KEY).await.is_err());
    }
    let mut object = EncryptedObject::decode(sealed.as_slice()).unwrap();
    object.encrypted_dek_source_type = 7;
    let error = kms.open(&object.encode_to_vec(), KEY).await.unwrap_err();
    assert_eq!(error.0, "unknown encryptedDEKSourceType: 7");
}

#[tokio::test]
async fn a_configuration_may_name_a_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    let _plugin = Plugin::start(&socket);
    let file = folder.path().join("encryption.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - kms: {{apiVersion: v2, name: ours, endpoint: 'unix://{}'}}\n  - identity: {{}}\n",
        socket.display()
    );
    std::fs::write(&file, text).unwrap();
    let providers = Providers::load(&file).await.unwrap();
    assert!(providers.has_kms());
    assert_eq!(providers.check().await, Ok(()));
    let secrets = providers.of(&GroupResource::parse("secrets"));
    let sealed = secrets.seal(b"plain", KEY).await.unwrap();
    assert!(sealed.starts_with(b"k8s:enc:kms:v2:ours:"));
    assert_eq!(secrets.open(&sealed, KEY).await.unwrap().data, b"plain");
    assert!(secrets.open(b"plain", KEY).await.unwrap().stale);
}
