//! CertificateSigning: who issues a certificate needs the verb `sign` on its signer.

use async_trait::async_trait;
use keelson_auth::Status;
use keelson_registry::access::Access;

use crate::certificates::may_use_signer;
use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "CertificateSigning";

/// The plugin.
#[derive(Debug, Default)]
pub struct CertificateSigning;

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.concerns("certificates.k8s.io", "certificatesigningrequests")
            && request.subresource == "status"
            && request.operation == Operation::Update
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let (Some(new), Some(old)) = (request.object.as_ref(), request.old_object.as_deref())
        else {
            return Ok(());
        };
        let unchanged = |path: &str| keelson_registry::access::same(old.part(path), new.part(path));
        if unchanged("status.certificate") && unchanged("status.conditions") {
            return Ok(());
        }
        let signer = request.old_text("/spec/signerName");
        if may_use_signer(
            environment.authorizer.as_ref(),
            &request.user,
            "sign",
            signer,
        ) {
            return Ok(());
        }
        Err(request.forbidden(format!(
            "user not permitted to sign requests with signerName {signer:?}"
        )))
    }
}
