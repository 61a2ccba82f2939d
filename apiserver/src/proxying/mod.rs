//! Passing requests on to kubelets, pods and Services, byte by byte where the protocol is switched.
//!
//! Where a request goes is decided in [`target`]; how it gets there stands in [`forward`]; connections and their TLS in [`dial`];
//! [`links`] turns the links of what comes back.

pub mod dial;
pub mod forward;
pub mod links;
pub mod target;

use std::sync::Arc;

use keelson_daemon::tls::TlsError;
use rustls::ClientConfig;

use crate::options::Options;

/// How backends are spoken to.
pub struct Backends {
    /// TLS towards kubelets.
    pub kubelet: Arc<ClientConfig>,
    /// TLS towards pods and Services.
    pub unchecked: Arc<ClientConfig>,
}

impl Backends {
    /// Reads the certificates.
    pub fn new(options: &Options) -> Result<Self, TlsError> {
        let client = options
            .kubelet_client
            .as_ref()
            .map(|(cert, key)| (cert.as_path(), key.as_path()));
        Ok(Backends {
            kubelet: dial::kubelet_tls(options.kubelet_ca.as_deref(), client)?,
            unchecked: dial::unchecked_tls()?,
        })
    }
}
