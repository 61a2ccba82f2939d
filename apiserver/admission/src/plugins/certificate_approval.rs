//! CertificateApproval: who approves a certificate signing request needs the verb `approve` on its signer.

use async_trait::async_trait;
use keelson_auth::Status;

use crate::certificates::may_use_signer;
use crate::chain::{Environment, Plugin};
use crate::request::{Operation, Request};

/// Upstream's name.
pub const NAME: &str = "CertificateApproval";

/// The plugin.
#[derive(Debug, Default)]
pub struct CertificateApproval;

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        request.concerns("certificates.k8s.io", "certificatesigningrequests")
            && request.subresource == "approval"
            && request.operation == Operation::Update
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let signer = request.old_text("/spec/signerName");
        if may_use_signer(
            environment.authorizer.as_ref(),
            &request.user,
            "approve",
            signer,
        ) {
            return Ok(());
        }
        Err(request.forbidden(format!(
            "user not permitted to approve requests with signerName {signer:?}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keelson_auth::rbac::Index;
    use serde_json::json;

    use super::*;
    use crate::testing::{environment_with, run, update};

    #[tokio::test]
    async fn approving_needs_the_right_on_the_signer_or_its_domain() {
        for (resource_name, allowed) in [
            ("kubernetes.io/kubelet-serving", true),
            ("kubernetes.io/*", true),
            ("other.io/*", false),
        ] {
            let index = Arc::new(Index::new());
            let rules = json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [resource_name], "verbs": ["approve"]}]);
            index.upsert(
                "clusterroles",
                &json!({"metadata": {"name": "r"}, "rules": rules}),
            );
            index.upsert(
                "clusterrolebindings",
                &json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
                "subjects": [{"kind": "User", "name": "jane"}]}),
            );
            let csr = json!({"metadata": {"name": "c"}, "spec": {"signerName": "kubernetes.io/kubelet-serving"}});
            let mut request = update(
                "certificates.k8s.io",
                "certificatesigningrequests",
                csr.clone(),
                csr,
            );
            request.subresource = "approval".into();
            let verdict = run(
                &CertificateApproval,
                &mut request,
                &environment_with(&[], index),
            )
            .await;
            assert_eq!(verdict.is_ok(), allowed, "{resource_name}");
        }
    }
}
