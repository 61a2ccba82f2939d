//! CertificateSubjectRestriction: nobody requests a client certificate for `system:masters`.

use async_trait::async_trait;
use keelson_auth::Status;
use keelson_auth::user::MASTERS;

use crate::certificates;
use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "CertificateSubjectRestriction";
const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// The plugin.
#[derive(Debug, Default)]
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.is("certificates.k8s.io", "certificatesigningrequests")
            && request.operation == Operation::Create
    }

    async fn validate(
        &self,
        request: &mut Request,
        _environment: &Environment,
    ) -> Result<(), Status> {
        if request.text("/spec/signerName") != SIGNER {
            return Ok(());
        }
        let subject = certificates::subject(request.text("/spec/request"))
            .map_err(|why| request.forbidden(format!("failed to parse CSR: {why}")))?;
        if subject.organizations.iter().any(|o| o == MASTERS) {
            return Err(request.forbidden(format!(
                "use of {SIGNER} signer with system:masters group is not allowed"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;
    use crate::testing::{admit, create};

    fn request_for(organization: &str) -> Request {
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "jane");
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, organization);
        let pem = params
            .serialize_request(&rcgen::KeyPair::generate().unwrap())
            .unwrap()
            .pem()
            .unwrap();
        create(
            "certificates.k8s.io",
            "certificatesigningrequests",
            json!({"metadata": {"name": "c"}, "spec": {"signerName": SIGNER, "request": STANDARD.encode(pem)}}),
        )
    }

    #[tokio::test]
    async fn masters_cannot_be_asked_for() {
        assert!(
            admit(&CertificateSubjectRestriction, &mut request_for("dev"), &[])
                .await
                .is_ok()
        );
        let refused = admit(
            &CertificateSubjectRestriction,
            &mut request_for(MASTERS),
            &[],
        )
        .await
        .unwrap_err();
        assert!(
            refused
                .message
                .ends_with("signer with system:masters group is not allowed"),
            "{refused}"
        );
    }
}
