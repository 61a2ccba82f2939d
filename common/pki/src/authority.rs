//! Certificate authorities and the certificates they issue (ECDSA P-256, as small and fast as TLS gets).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

use crate::{PkiError, file};

/// Days that an authority lives, as kubeadm's.
const AUTHORITY_DAYS: i64 = 3650;
/// Days that a certificate lives, as kubeadm's.
const CERTIFICATE_DAYS: i64 = 365;
/// Days before its end at which a certificate is made anew.
const RENEW_DAYS: i64 = 30;

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// A server's.
    Server,
    /// A client's.
    Client,
    /// Both: etcd's peers and server.
    Both,
}

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Common name: the user's name to Kubernetes.
    pub common_name: String,
    /// Organizations: the user's groups to Kubernetes.
    pub organizations: Vec<String>,
    /// DNS names of a server.
    pub dns_names: Vec<String>,
    /// Addresses of a server.
    pub addresses: Vec<IpAddr>,
    /// What for.
    pub usage: Usage,
}

impl Identity {
    /// A client.
    pub fn client(common_name: &str, organizations: &[&str]) -> Self {
        Self {
            common_name: common_name.into(),
            organizations: organizations.iter().map(|&o| o.into()).collect(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
        }
    }

    /// A server.
    pub fn server(common_name: &str, dns_names: &[&str], addresses: &[IpAddr]) -> Self {
        Self {
            common_name: common_name.into(),
            organizations: Vec::new(),
            dns_names: dns_names.iter().map(|&n| n.into()).collect(),
            addresses: addresses.to_vec(),
            usage: Usage::Server,
        }
    }
}

/// A certificate and its key on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// PEM certificate (0644).
    pub certificate: PathBuf,
    /// PEM PKCS#8 key (0600).
    pub key: PathBuf,
    /// Whether this call made it.
    pub renewed: bool,
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    certificate_path: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

fn malformed(path: &Path, message: impl ToString) -> PkiError {
    PkiError::Malformed {
        path: path.into(),
        message: message.to_string(),
    }
}

impl Authority {
    /// Loads the authority `<name>.crt` and `<name>.key` in `directory`, making it first where there is none.
    pub fn ensure(directory: &Path, name: &str, common_name: &str) -> Result<Self, PkiError> {
        let certificate_path = directory.join(format!("{name}.crt"));
        let key_path = directory.join(format!("{name}.key"));
        if !certificate_path.exists() || !key_path.exists() {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                .map_err(|e| malformed(&key_path, e))?;
            let mut parameters = validity(AUTHORITY_DAYS);
            parameters.distinguished_name = subject(common_name, &[]);
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            let certificate = parameters
                .self_signed(&key)
                .map_err(|e| malformed(&certificate_path, e))?;
            // The key first: a certificate without its key would look whole to the next run.
            file::write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
            file::write(&certificate_path, certificate.pem().as_bytes(), 0o644)?;
        }
        Self::load(&certificate_path, &key_path)
    }

    /// Loads an authority.
    pub fn load(certificate_path: &Path, key_path: &Path) -> Result<Self, PkiError> {
        let certificate = file::read(certificate_path)?;
        let key = KeyPair::from_pem(&file::read(key_path)?).map_err(|e| malformed(key_path, e))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(|e| malformed(certificate_path, e))?;
        Ok(Self {
            certificate_path: certificate_path.into(),
            certificate,
            issuer,
        })
    }

    /// PEM of the authority's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// Where the authority's certificate is.
    pub fn certificate_path(&self) -> &Path {
        &self.certificate_path
    }

    /// Makes `<name>.crt` and `<name>.key` in `directory`, unless they are there, from this authority, for this identity and
    /// good for another thirty days.
    pub fn ensure_issued(
        &self,
        directory: &Path,
        name: &str,
        identity: &Identity,
    ) -> Result<Issued, PkiError> {
        let certificate = directory.join(format!("{name}.crt"));
        let key = directory.join(format!("{name}.key"));
        if key.exists()
            && certificate.exists()
            && self.is_current(&file::read(&certificate)?, identity)
        {
            return Ok(Issued {
                certificate,
                key,
                renewed: false,
            });
        }
        let (certificate_pem, key_pem) = self.issue(identity)?;
        file::write(&key, key_pem.as_bytes(), 0o600)?;
        file::write(&certificate, certificate_pem.as_bytes(), 0o644)?;
        Ok(Issued {
            certificate,
            key,
            renewed: true,
        })
    }

    /// Issues a certificate for a fresh key; returns both as PEM.
    pub fn issue(&self, identity: &Identity) -> Result<(String, String), PkiError> {
        let what = PathBuf::from(&identity.common_name);
        let key =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| malformed(&what, e))?;
        let mut parameters = validity(CERTIFICATE_DAYS);
        let organizations: Vec<&str> = identity.organizations.iter().map(String::as_str).collect();
        parameters.distinguished_name = subject(&identity.common_name, &organizations);
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = match identity.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        };
        for name in &identity.dns_names {
            let name = name
                .as_str()
                .try_into()
                .map_err(|e: rcgen::Error| malformed(&what, e))?;
            parameters.subject_alt_names.push(SanType::DnsName(name));
        }
        parameters
            .subject_alt_names
            .extend(identity.addresses.iter().copied().map(SanType::IpAddress));
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .map_err(|e| malformed(&what, e))?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Whether a certificate was issued by this authority for this identity and is good for a while.
    fn is_current(&self, pem: &str, identity: &Identity) -> bool {
        let (Some(certificate), Some(authority)) = (parse(pem), parse(&self.certificate)) else {
            return false;
        };
        let names = |contents: &[u8]| -> Option<(String, Vec<String>, Vec<String>, i64)> {
            use x509_parser::prelude::*;
            let (_, parsed) = X509Certificate::from_der(contents).ok()?;
            let common_name = parsed
                .subject()
                .iter_common_name()
                .next()?
                .as_str()
                .ok()?
                .to_owned();
            let organizations = parsed
                .subject()
                .iter_organization()
                .filter_map(|o| o.as_str().ok())
                .map(str::to_owned)
                .collect();
            let mut alternatives = Vec::new();
            if let Ok(Some(extension)) = parsed.subject_alternative_name() {
                for name in &extension.value.general_names {
                    match name {
                        GeneralName::DNSName(name) => alternatives.push((*name).to_owned()),
                        GeneralName::IPAddress(bytes) => {
                            alternatives.push(address(bytes)?.to_string())
                        }
                        _ => {}
                    }
                }
            }
            Some((
                common_name,
                organizations,
                alternatives,
                parsed.validity().not_after.timestamp(),
            ))
        };
        let signed = || {
            use x509_parser::prelude::*;
            let (_, child) = X509Certificate::from_der(&certificate).ok()?;
            let (_, parent) = X509Certificate::from_der(&authority).ok()?;
            // A subject and key identifier that match tell a chain apart well enough to decide on renewal.
            (child.issuer() == parent.subject() && authority_key(&child)? == subject_key(&parent)?)
                .then_some(())
        };
        let Some((common_name, organizations, alternatives, not_after)) = names(&certificate)
        else {
            return false;
        };
        let mut wanted: Vec<String> = identity
            .dns_names
            .iter()
            .cloned()
            .chain(identity.addresses.iter().map(ToString::to_string))
            .collect();
        let mut found = alternatives;
        wanted.sort();
        wanted.dedup();
        found.sort();
        found.dedup();
        let left = not_after - jiff::Timestamp::now().as_second();
        common_name == identity.common_name
            && organizations == identity.organizations
            && wanted == found
            && left > RENEW_DAYS * 86_400
            && signed().is_some()
    }
}

fn authority_key<'a>(
    certificate: &'a x509_parser::prelude::X509Certificate<'_>,
) -> Option<&'a [u8]> {
    certificate
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|k| k.0)
            }
            _ => None,
        })
}

fn subject_key<'a>(certificate: &'a x509_parser::prelude::X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        })
}

fn parse(pem: &str) -> Option<Vec<u8>> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .ok()
        .map(|(_, pem)| pem.contents)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn subject(common_name: &str, organizations: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for organization in organizations {
        name.push(DnType::OrganizationName, *organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// Parameters valid from an hour ago (clocks differ) for `days`.
fn validity(days: i64) -> CertificateParams {
    let now = jiff::Timestamp::now().as_second();
    let mut parameters = CertificateParams::default();
    let at = |seconds: i64| {
        let date = jiff::Timestamp::from_second(seconds)
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .to_zoned(jiff::tz::TimeZone::UTC);
        let month = u8::try_from(date.month()).unwrap_or(1);
        let day = u8::try_from(date.day()).unwrap_or(1);
        (
            i32::from(date.year()),
            month,
            day,
            date.hour(),
            date.minute(),
            date.second(),
        )
    };
    for (field, seconds) in [(0, now - 3600), (1, now + days * 86_400)] {
        let (year, month, day, hour, minute, second) = at(seconds);
        let midnight = rcgen::date_time_ymd(year, month, day);
        let moment = midnight
            + std::time::Duration::from_secs(
                u64::from(hour.unsigned_abs()) * 3600
                    + u64::from(minute.unsigned_abs()) * 60
                    + u64::from(second.unsigned_abs()),
            );
        if field == 0 {
            parameters.not_before = moment;
        } else {
            parameters.not_after = moment;
        }
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_good_and_renews_what_is_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let authority = Authority::ensure(dir.path(), "ca", "kubernetes").expect("ca");
        let identity = Identity::server(
            "kube-apiserver",
            &["kubernetes", "localhost"],
            &[IpAddr::from([127, 0, 0, 1])],
        );
        let first = authority
            .ensure_issued(dir.path(), "apiserver", &identity)
            .expect("issue");
        assert!(first.renewed);
        let again = Authority::ensure(dir.path(), "ca", "kubernetes").expect("same ca");
        assert_eq!(again.certificate_pem(), authority.certificate_pem());
        assert!(
            !again
                .ensure_issued(dir.path(), "apiserver", &identity)
                .expect("keep")
                .renewed
        );
        let wider = Identity {
            addresses: vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 96, 0, 1])],
            ..identity.clone()
        };
        assert!(
            again
                .ensure_issued(dir.path(), "apiserver", &wider)
                .expect("renew")
                .renewed
        );
        std::fs::remove_file(dir.path().join("ca.crt")).expect("lose the ca");
        let other = Authority::ensure(dir.path(), "ca", "kubernetes").expect("new ca");
        assert!(
            other
                .ensure_issued(dir.path(), "apiserver", &wider)
                .expect("renew")
                .renewed,
            "issued by another authority"
        );
    }

    #[test]
    fn groups_are_organizations() {
        let dir = tempfile::tempdir().expect("tempdir");
        let authority = Authority::ensure(dir.path(), "ca", "kubernetes").expect("ca");
        let identity = Identity::client("system:node:n1", &["system:nodes"]);
        let (pem, _) = authority.issue(&identity).expect("issue");
        assert!(authority.is_current(&pem, &identity));
        assert!(!authority.is_current(
            &pem,
            &Identity::client("system:node:n1", &["system:masters"])
        ));
        assert!(
            !authority.is_current(&pem, &Identity::client("system:node:n2", &["system:nodes"]))
        );
    }
}
