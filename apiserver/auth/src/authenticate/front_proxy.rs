//! Identities that a trusted front proxy asserts in request headers (`--requestheader-*`).

use std::collections::BTreeMap;

use http::HeaderMap;

use super::x509::{Authority, X509Error};
use crate::user::User;

/// Which proxies are believed, and in which headers they write.
#[derive(Debug, Clone)]
pub struct Config {
    /// CAs of the proxies' client certificates, PEM (`--requestheader-client-ca-file`).
    pub client_ca_pem: Vec<u8>,
    /// Common names that are believed; empty means any certificate of the CA.
    pub allowed_names: Vec<String>,
    /// Headers with the user name.
    pub username_headers: Vec<String>,
    /// Headers with the uid.
    pub uid_headers: Vec<String>,
    /// Headers with groups.
    pub group_headers: Vec<String>,
    /// Prefixes of headers with extra values.
    pub extra_header_prefixes: Vec<String>,
}

impl Config {
    /// Upstream's header names, for a CA and the names it is believed for.
    pub fn with_default_headers(client_ca_pem: Vec<u8>, allowed_names: Vec<String>) -> Self {
        Self {
            client_ca_pem,
            allowed_names,
            username_headers: vec!["X-Remote-User".into()],
            uid_headers: vec!["X-Remote-Uid".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_header_prefixes: vec!["X-Remote-Extra-".into()],
        }
    }
}

/// Reads identities from headers.
pub struct FrontProxy {
    authority: Authority,
    config: Config,
}

impl FrontProxy {
    /// Fails where the CA does not parse.
    pub fn new(config: Config) -> Result<Self, X509Error> {
        Ok(Self {
            authority: Authority::from_pem(&config.client_ca_pem)?,
            config,
        })
    }

    /// The CA of the proxies.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The identity in the headers, if the proxy with this common name is believed and wrote one.
    pub fn user(&self, common_name: &str, headers: &HeaderMap) -> Option<User> {
        let names = &self.config.allowed_names;
        if !names.is_empty() && !names.iter().any(|n| n == common_name) {
            return None;
        }
        let name = first(headers, &self.config.username_headers)?;
        let groups = self
            .config
            .group_headers
            .iter()
            .flat_map(|h| headers.get_all(h.as_str()))
            .filter_map(|v| v.to_str().ok())
            .map(str::to_owned)
            .collect();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            for prefix in &self.config.extra_header_prefixes {
                if let (Some(key), Ok(value)) = (
                    header
                        .as_str()
                        .strip_prefix(prefix.to_ascii_lowercase().as_str()),
                    value.to_str(),
                ) {
                    extra
                        .entry(percent_decode(key))
                        .or_default()
                        .push(value.to_owned());
                }
            }
        }
        Some(User {
            name,
            uid: first(headers, &self.config.uid_headers).unwrap_or_default(),
            groups,
            extra,
        })
    }

    /// Removes the identity headers.
    pub fn strip(&self, headers: &mut HeaderMap) {
        let config = &self.config;
        for name in config
            .username_headers
            .iter()
            .chain(&config.uid_headers)
            .chain(&config.group_headers)
        {
            headers.remove(name.as_str());
        }
        let extra: Vec<_> = headers
            .keys()
            .filter(|k| {
                config
                    .extra_header_prefixes
                    .iter()
                    .any(|p| k.as_str().starts_with(p.to_ascii_lowercase().as_str()))
            })
            .cloned()
            .collect();
        for name in extra {
            headers.remove(name);
        }
    }
}

fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    names
        .iter()
        .filter_map(|n| headers.get(n.as_str()))
        .filter_map(|v| v.to_str().ok())
        .find(|v| !v.is_empty())
        .map(str::to_owned)
}

/// Decodes `%xx`; header names cannot hold every byte that an extra key can. Broken escapes stay as they are.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escape {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_escapes_decode_once() {
        assert_eq!(percent_decode("scopes%2fa"), "scopes/a");
        assert_eq!(percent_decode("a%2"), "a%2");
        assert_eq!(percent_decode("a%zz"), "a%zz");
    }
}
