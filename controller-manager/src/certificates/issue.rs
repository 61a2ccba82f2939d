//! Making a certificate from a request, as upstream's signer does: the subject and names as they were asked for, byte for byte, the usages
//! and the time from the request object.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SigningKey,
};
use x509_parser::prelude::FromDer;

use super::request::Asked;

/// How far back certificates begin, for clocks that are slow.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Certificates shorter than this do not lose the backdated time at their end.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
/// The shortest that can be asked for.
const SHORTEST: Duration = Duration::from_secs(600);

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("{path}: {source}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the signing certificate or key cannot be used: {0}")]
    Authority(String),
    #[error("unrecognized usage values: [{0}]")]
    Usages(String),
    #[error("the signer has expired: NotAfter={0}")]
    Expired(Timestamp),
    #[error("the request cannot be signed: {0}")]
    Request(#[from] rcgen::Error),
    #[error("the time is out of bounds: {0}")]
    Time(#[from] jiff::Error),
    #[error("the certificate that was made cannot be read back")]
    Der,
}

/// An authority read from its files.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: Timestamp,
}

impl Authority {
    /// Reads it, each time anew: files are replaced when an authority is rotated.
    pub async fn load(certificate: &Path, key: &Path) -> Result<Self, IssueError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            async move {
                tokio::fs::read_to_string(&path)
                    .await
                    .map_err(|source| IssueError::File {
                        path: path.display().to_string(),
                        source,
                    })
            }
        };
        Self::parse(&read(certificate).await?, &read(key).await?)
    }

    fn parse(certificate: &str, key: &str) -> Result<Self, IssueError> {
        let wrong = |error: String| IssueError::Authority(error);
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
            .map_err(|error| wrong(error.to_string()))?;
        let parsed = pem.parse_x509().map_err(|error| wrong(error.to_string()))?;
        let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp())?;
        let key = KeyPair::from_pem(key).map_err(|error| wrong(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&pem.contents.as_slice().into(), key)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self { issuer, not_after })
    }

    /// Signs what is asked for; the certificate as PEM.
    pub fn sign(
        &self,
        asked: &Asked,
        usages: &[String],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<String, IssueError> {
        let mut request = CertificateSigningRequestParams::from_der(&asked.der.as_slice().into())?;
        let params = &mut request.params;
        let (key_usages, purposes) = read_usages(usages)?;
        params.key_usages = key_usages;
        params.extended_key_usages = purposes;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        if now >= self.not_after {
            return Err(IssueError::Expired(self.not_after));
        }
        let ttl = SignedDuration::try_from(lifetime)?;
        let length = if ttl < SHORT { ttl } else { ttl - BACKDATE };
        let end = now.checked_add(length)?.min(self.not_after);
        let since = |at: Timestamp| {
            let seconds = u64::try_from(at.as_second()).unwrap_or_default();
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        };
        params.not_before = since(now.checked_sub(BACKDATE)?);
        params.not_after = since(end);
        let made = request.signed_by(&self.issuer)?;
        // rcgen keeps one value of an attribute; a subject may have many organizations, which are its groups.
        let der = with_subject(made.der(), &asked.subject, self.issuer.key())?;
        Ok(to_pem(&der))
    }
}

/// How long a certificate is to last.
pub fn lifetime(asked: Option<i32>, most: Duration) -> Duration {
    match asked {
        None => most,
        Some(seconds) => {
            let wanted = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            if wanted > most {
                most
            } else {
                wanted.max(SHORTEST)
            }
        }
    }
}

fn read_usages(
    usages: &[String],
) -> Result<(Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>), IssueError> {
    let (mut keys, mut purposes, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for usage in usages {
        let key = match usage.as_str() {
            "signing" | "digital signature" => Some(KeyUsagePurpose::DigitalSignature),
            "content commitment" => Some(KeyUsagePurpose::ContentCommitment),
            "key encipherment" => Some(KeyUsagePurpose::KeyEncipherment),
            "key agreement" => Some(KeyUsagePurpose::KeyAgreement),
            "data encipherment" => Some(KeyUsagePurpose::DataEncipherment),
            "cert sign" => Some(KeyUsagePurpose::KeyCertSign),
            "crl sign" => Some(KeyUsagePurpose::CrlSign),
            "encipher only" => Some(KeyUsagePurpose::EncipherOnly),
            "decipher only" => Some(KeyUsagePurpose::DecipherOnly),
            _ => None,
        };
        if let Some(key) = key {
            if !keys.contains(&key) {
                keys.push(key);
            }
            continue;
        }
        let other = |oid: &[u64]| Some(ExtendedKeyUsagePurpose::Other(oid.to_vec()));
        let purpose = match usage.as_str() {
            "any" => Some(ExtendedKeyUsagePurpose::Any),
            "server auth" => Some(ExtendedKeyUsagePurpose::ServerAuth),
            "client auth" => Some(ExtendedKeyUsagePurpose::ClientAuth),
            "code signing" => Some(ExtendedKeyUsagePurpose::CodeSigning),
            "email protection" | "s/mime" => Some(ExtendedKeyUsagePurpose::EmailProtection),
            "ipsec end system" => other(&[1, 3, 6, 1, 5, 5, 7, 3, 5]),
            "ipsec tunnel" => other(&[1, 3, 6, 1, 5, 5, 7, 3, 6]),
            "ipsec user" => other(&[1, 3, 6, 1, 5, 5, 7, 3, 7]),
            "timestamping" => Some(ExtendedKeyUsagePurpose::TimeStamping),
            "ocsp signing" => Some(ExtendedKeyUsagePurpose::OcspSigning),
            "microsoft sgc" => other(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
            "netscape sgc" => other(&[2, 16, 840, 1, 113_730, 4, 1]),
            _ => None,
        };
        match purpose {
            Some(purpose) if !purposes.contains(&purpose) => purposes.push(purpose),
            Some(_) => {}
            None => unknown.push(format!("{usage:?}")),
        }
    }
    if unknown.is_empty() {
        Ok((keys, purposes))
    } else {
        Err(IssueError::Usages(unknown.join(" ")))
    }
}

/// The certificate with another subject, signed again.
fn with_subject(der: &[u8], subject: &[u8], key: &KeyPair) -> Result<Vec<u8>, IssueError> {
    let (_, parsed) =
        x509_parser::certificate::X509Certificate::from_der(der).map_err(|_| IssueError::Der)?;
    let outer = children(content(der)?)?;
    let [tbs, algorithm, _] = outer.as_slice() else {
        return Err(IssueError::Der);
    };
    if parsed.subject().as_raw() == subject {
        return Ok(der.to_vec());
    }
    // version, serial number, algorithm, issuer, validity, subject, key, extensions
    let mut parts = children(content(tbs)?)?;
    *parts.get_mut(5).ok_or(IssueError::Der)? = subject;
    let tbs = sequence(&parts.concat());
    let mut signature = vec![0];
    signature.extend(key.sign(&tbs)?);
    let bits = element(0x03, &signature);
    Ok(sequence(&[tbs.as_slice(), algorithm, &bits].concat()))
}

/// Where an element's content begins and ends.
fn bounds(der: &[u8]) -> Result<(usize, usize), IssueError> {
    let first = usize::from(*der.get(1).ok_or(IssueError::Der)?);
    let (start, length) = if first < 0x80 {
        (2, first)
    } else {
        let bytes = der.get(2..2 + (first & 0x7f)).ok_or(IssueError::Der)?;
        if bytes.len() > 4 {
            return Err(IssueError::Der);
        }
        let length = bytes
            .iter()
            .fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
        (2 + bytes.len(), length)
    };
    let end = start + length;
    if end > der.len() {
        return Err(IssueError::Der);
    }
    Ok((start, end))
}

fn content(der: &[u8]) -> Result<&[u8], IssueError> {
    let (start, end) = bounds(der)?;
    Ok(&der[start..end])
}

fn children(mut der: &[u8]) -> Result<Vec<&[u8]>, IssueError> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (_, end) = bounds(der)?;
        let (one, rest) = der.split_at(end);
        all.push(one);
        der = rest;
    }
    Ok(all)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    if content.len() < 0x80 {
        der.push(u8::try_from(content.len()).unwrap_or_default());
    } else {
        let length = content.len().to_be_bytes();
        let bytes: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
        der.push(0x80 | u8::try_from(bytes.len()).unwrap_or_default());
        der.extend(bytes);
    }
    der.extend_from_slice(content);
    der
}

fn sequence(content: &[u8]) -> Vec<u8> {
    element(0x30, content)
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::super::request::{self, API_CLIENT};
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams};

    fn authority() -> (Authority, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        (
            Authority::parse(&certificate, &key.serialize_pem()).unwrap(),
            certificate,
        )
    }

    #[test]
    fn a_certificate_has_the_subject_usages_and_time_asked_for() {
        let (authority, ca) = authority();
        let csr = request::tests::csr(API_CLIENT, "joe", &["dev"], &[], &[]);
        let mut asked = request::parse(&csr).unwrap();
        // Two organizations, which rcgen cannot write: taken from a subject made by hand.
        let organization = |name: &str| {
            let oid = element(0x06, &[0x55, 0x04, 0x0a]);
            let value = element(0x0c, name.as_bytes());
            element(0x31, &sequence(&[oid, value].concat()))
        };
        asked.subject = sequence(&[organization("a"), organization("b")].concat());
        let usages = ["client auth".to_owned(), "digital signature".to_owned()];
        let now = Timestamp::now();
        let pem = authority
            .sign(&asked, &usages, Duration::from_secs(3600), now)
            .unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let made = pem.parse_x509().unwrap();
        let groups: Vec<_> = made
            .subject()
            .iter_organization()
            .map(|name| name.as_str().unwrap())
            .collect();
        assert_eq!(groups, ["a", "b"]);
        assert!(
            made.extended_key_usage()
                .unwrap()
                .unwrap()
                .value
                .client_auth
        );
        assert_eq!(
            made.validity().not_after.timestamp(),
            now.as_second() + 3600
        );
        let (_, ca) = x509_parser::pem::parse_x509_pem(ca.as_bytes()).unwrap();
        let ca = ca.parse_x509().unwrap();
        made.verify_signature(Some(ca.public_key())).unwrap();
    }

    #[test]
    fn lifetimes_are_kept_between_ten_minutes_and_the_most() {
        let most = Duration::from_secs(86_400);
        for (asked, want) in [
            (None, 86_400),
            (Some(3600), 3600),
            (Some(1), 600),
            (Some(1_000_000), 86_400),
        ] {
            assert_eq!(lifetime(asked, most).as_secs(), want, "{asked:?}");
        }
        assert!(read_usages(&["nonsense".into()]).is_err());
    }
}
