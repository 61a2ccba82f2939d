//! Signing approved requests of the four built-in signers.

use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::Api;
use kube::api::PostParams;

use super::issue::{Authority, IssueError, lifetime};
use super::request::{self, API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};
use super::{is, is_issued};
use crate::context::{Context, StartError, now};
use crate::controllers::Task;
use crate::options::Options;

/// Why a request is tried again later.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("unable to parse csr {name:?}: {source}")]
    Parse {
        name: String,
        #[source]
        source: request::ParseError,
    },
    #[error("error auto signing csr: {0}")]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let signers = [KUBELET_SERVING, KUBELET_CLIENT, API_CLIENT, LEGACY];
    if !signers
        .iter()
        .any(|signer| files(&context.options, signer).is_some())
    {
        return Err(StartError::Options(
            "--cluster-signing-cert-file and --cluster-signing-key-file are not given".into(),
        ));
    }
    let queue: Arc<Queue<Key>> = Queue::new("certificate_signing");
    let controller = Arc::new(Controller {
        requests: context.informers.get(),
        context,
    });
    let wake = queue.clone();
    controller.requests.handle(move |event| {
        if let Event::Added(csr) | Event::Updated { new: csr, .. } = event
            && is_due(csr)
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

/// The certificate and key files of a signer: its own, or those of all.
fn files<'o>(options: &'o Options, signer: &str) -> Option<(&'o PathBuf, &'o PathBuf)> {
    let signing = &options.signing;
    let own = match signer {
        KUBELET_SERVING => (
            &signing.kubelet_serving_cert_file,
            &signing.kubelet_serving_key_file,
        ),
        KUBELET_CLIENT => (
            &signing.kubelet_client_cert_file,
            &signing.kubelet_client_key_file,
        ),
        API_CLIENT => (
            &signing.kube_apiserver_client_cert_file,
            &signing.kube_apiserver_client_key_file,
        ),
        LEGACY => (
            &signing.legacy_unknown_cert_file,
            &signing.legacy_unknown_key_file,
        ),
        _ => return None,
    };
    let all = (
        &options.cluster_signing_cert_file,
        &options.cluster_signing_key_file,
    );
    [own, all]
        .into_iter()
        .find_map(|(certificate, key)| Some((certificate.as_ref()?, key.as_ref()?)))
}

fn is_due(csr: &CertificateSigningRequest) -> bool {
    is(csr, "Approved") && !is(csr, "Denied") && !is(csr, "Failed") && !is_issued(csr)
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, SignError> {
        let Some(csr) = self.requests.get(key).filter(|csr| is_due(csr)) else {
            return Ok(Outcome::Done);
        };
        let options = &self.context.options;
        let Some((certificate, private)) = files(options, &csr.spec.signer_name) else {
            return Ok(Outcome::Done);
        };
        let asked = request::parse(&csr).map_err(|source| SignError::Parse {
            name: key.name.clone(),
            source,
        })?;
        let mut next = (*csr).clone();
        let status = next.status.get_or_insert_default();
        match request::accepted(&csr, &asked) {
            None => return Ok(Outcome::Done),
            Some(Err(why)) => {
                status
                    .conditions
                    .get_or_insert_default()
                    .push(CertificateSigningRequestCondition {
                        type_: "Failed".into(),
                        status: "True".into(),
                        reason: Some("SignerValidationFailure".into()),
                        message: Some(why),
                        last_update_time: Some(Time(now())),
                        ..CertificateSigningRequestCondition::default()
                    })
            }
            Some(Ok(())) => {
                let authority = Authority::load(certificate, private).await?;
                let lifetime = lifetime(
                    csr.spec.expiration_seconds,
                    options.cluster_signing_duration,
                );
                let usages = csr.spec.usages.clone().unwrap_or_default();
                let pem = authority.sign(&asked, &usages, lifetime, now())?;
                status.certificate = Some(ByteString(pem.into_bytes()));
            }
        }
        let api = Api::<CertificateSigningRequest>::all(self.context.client.clone());
        let written = api
            .replace_status(&key.name, &PostParams::default(), &next)
            .await;
        write::optional(written)?;
        Ok(Outcome::Done)
    }
}
