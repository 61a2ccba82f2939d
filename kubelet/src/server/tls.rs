//! The serving certificate: the configured one, or one of our own making in `--cert-dir`.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use keelson_daemon::tls::ReloadingKey;
use keelson_pki::{Authority, Identity};

use super::ServerError;
use crate::config::KubeletConfiguration;

/// The key to serve with.
pub fn serving_key(
    config: &KubeletConfiguration,
    cert_dir: &Path,
    node: &str,
    addresses: &[IpAddr],
) -> Result<Arc<ReloadingKey>, ServerError> {
    if !config.tls_cert_file.is_empty() {
        return Ok(ReloadingKey::load(
            config.tls_cert_file.as_ref(),
            config.tls_private_key_file.as_ref(),
        )?);
    }
    let authority = Authority::ensure(cert_dir, "kubelet-ca", &format!("{node}-ca"))?;
    let identity = Identity::server(&format!("system:node:{node}"), &[node], addresses);
    let issued = authority.ensure_issued(cert_dir, "kubelet", &identity)?;
    Ok(ReloadingKey::load(&issued.certificate, &issued.key)?)
}
