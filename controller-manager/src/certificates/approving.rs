//! Approving kubelets' requests for client certificates, if authorization lets their users have them.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::Api;
use kube::api::PostParams;

use super::request::{self, Asked, KUBELET_CLIENT};
use super::{is, is_issued};
use crate::context::{Context, StartError};
use crate::controllers::Task;

/// Why a request is tried again later.
#[derive(Debug, thiserror::Error)]
enum ApproveError {
    #[error("unable to parse csr {name:?}: {source}")]
    Parse {
        name: String,
        #[source]
        source: request::ParseError,
    },
    #[error("recognized csr {name:?} as [{tried}] but subject access review was not approved")]
    NotAllowed { name: String, tried: String },
    #[error(transparent)]
    Api(#[from] kube::Error),
}

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new("certificate_approving");
    let controller = Arc::new(Controller {
        requests: context.informers.get(),
        context,
    });
    let wake = queue.clone();
    controller.requests.handle(move |event| {
        if let Event::Added(csr) | Event::Updated { new: csr, .. } = event
            && is_open(csr)
        {
            wake.add(Key::of(&**csr));
        }
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 5, reconcile).boxed())
}

fn is_open(csr: &CertificateSigningRequest) -> bool {
    csr.spec.signer_name == KUBELET_CLIENT
        && !is_issued(csr)
        && !is(csr, "Approved")
        && !is(csr, "Denied")
}

/// What a request may be approved as: the right that its user needs, and what is said then.
fn recognized(csr: &CertificateSigningRequest, asked: &Asked) -> Vec<(&'static str, &'static str)> {
    if csr.spec.signer_name != KUBELET_CLIENT || request::kubelet_client(csr, asked).is_err() {
        return vec![];
    }
    let node = (
        "nodeclient",
        "Auto approving kubelet client certificate after SubjectAccessReview.",
    );
    if csr.spec.username.as_deref() == Some(&asked.common_name) {
        let own = (
            "selfnodeclient",
            "Auto approving self kubelet client certificate after SubjectAccessReview.",
        );
        return vec![own, node];
    }
    vec![node]
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApproveError> {
        let Some(csr) = self.requests.get(key).filter(|csr| is_open(csr)) else {
            return Ok(Outcome::Done);
        };
        let asked = request::parse(&csr).map_err(|source| ApproveError::Parse {
            name: key.name.clone(),
            source,
        })?;
        let mut tried = Vec::new();
        for (right, message) in recognized(&csr, &asked) {
            tried.push(right);
            if !self.is_allowed(&csr, right).await? {
                continue;
            }
            let mut next = (*csr).clone();
            next.status
                .get_or_insert_default()
                .conditions
                .get_or_insert_default()
                .push(CertificateSigningRequestCondition {
                    type_: "Approved".into(),
                    status: "True".into(),
                    reason: Some("AutoApproved".into()),
                    message: Some(message.into()),
                    ..CertificateSigningRequestCondition::default()
                });
            let api = Api::<CertificateSigningRequest>::all(self.context.client.clone());
            let written: Result<CertificateSigningRequest, kube::Error> = api
                .replace_subresource("approval", &key.name, &PostParams::default(), &next)
                .await;
            write::optional(written)?;
            return Ok(Outcome::Done);
        }
        if tried.is_empty() {
            return Ok(Outcome::Done);
        }
        Err(ApproveError::NotAllowed {
            name: key.name.clone(),
            tried: tried.join(" "),
        })
    }

    async fn is_allowed(
        &self,
        csr: &CertificateSigningRequest,
        right: &str,
    ) -> Result<bool, kube::Error> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: csr.spec.username.clone(),
                uid: csr.spec.uid.clone(),
                groups: csr.spec.groups.clone(),
                extra: csr.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".into()),
                    resource: Some("certificatesigningrequests".into()),
                    subresource: Some(right.into()),
                    verb: Some("create".into()),
                    version: Some("*".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.context.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_own_request_needs_the_lesser_right_first() {
        let usages = ["digital signature", "client auth"];
        let csr = request::tests::csr(
            KUBELET_CLIENT,
            "system:node:a",
            &["system:nodes"],
            &[],
            &usages,
        );
        let asked = request::parse(&csr).unwrap();
        let rights = |csr: &CertificateSigningRequest| -> Vec<&str> {
            recognized(csr, &asked)
                .iter()
                .map(|(right, _)| *right)
                .collect()
        };
        assert_eq!(rights(&csr), ["selfnodeclient", "nodeclient"]);
        let mut other = csr.clone();
        other.spec.username = Some("system:bootstrap:x".into());
        assert_eq!(rights(&other), ["nodeclient"]);
        other.spec.signer_name = "example.com/x".into();
        assert!(rights(&other).is_empty() && !is_open(&other));
    }
}
