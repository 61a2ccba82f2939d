//! Deleting requests that are done with: each is looked at when its time has come, none is looked for.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use keelson_runtime::{Event, Informer, Key, Outcome, Queue, write};
use kube::{Api, Error};

use super::{conditions, is_issued};
use crate::context::{Context, StartError, now};
use crate::controllers::Task;

const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

struct Controller {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
}

/// Starts the controller.
pub fn start(context: Context) -> Result<Task, StartError> {
    let queue: Arc<Queue<Key>> = Queue::new("certificate_cleaner");
    let controller = Arc::new(Controller {
        requests: context.informers.get(),
        context,
    });
    let wake = queue.clone();
    controller.requests.handle(move |event| {
        if let Event::Added(csr) | Event::Updated { new: csr, .. } = event {
            wake.add(Key::of(&**csr));
        }
    });
    let context = controller.context.clone();
    let reconcile = move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    };
    Ok(context.run(queue, 1, reconcile).boxed())
}

/// When a request is to go.
fn end(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let created = csr.metadata.creation_timestamp.as_ref().map(|time| time.0);
    if conditions(csr).next().is_none() {
        return created?.checked_add(PENDING).ok();
    }
    let issued = is_issued(csr);
    let mut ends: Vec<Timestamp> = conditions(csr)
        .filter_map(|condition| {
            let keep = match condition.type_.as_str() {
                "Denied" | "Failed" => DECIDED,
                "Approved" if issued => DECIDED,
                "Approved" => PENDING,
                _ => return None,
            };
            condition
                .last_update_time
                .as_ref()?
                .0
                .checked_add(keep)
                .ok()
        })
        .collect();
    ends.extend(expiry(csr));
    ends.into_iter().min()
}

/// When an issued certificate ends.
fn expiry(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let pem = csr.status.as_ref()?.certificate.as_ref()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem.0).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(csr) = self.requests.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(end) = end(&csr) else {
            return Ok(Outcome::Done);
        };
        let left = end.as_second() - now().as_second();
        if let Ok(left @ 1..) = u64::try_from(left) {
            return Ok(Outcome::After(Duration::from_secs(left)));
        }
        let api = Api::<CertificateSigningRequest>::all(self.context.client.clone());
        let params = write::delete_params(csr.metadata.uid.as_deref(), None);
        write::optional(api.delete(&key.name, &params).await)?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_go_an_hour_after_the_answer_or_a_day_without() {
        let csr = |status| -> CertificateSigningRequest {
            serde_json::from_value(
                json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "x"}, "status": status}),
            )
            .unwrap()
        };
        let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T10:00:00Z"}]});
        for (status, want) in [
            (json!({}), "2026-01-02T00:00:00Z"),
            (condition("Denied"), "2026-01-01T11:00:00Z"),
            (condition("Failed"), "2026-01-01T11:00:00Z"),
            (condition("Approved"), "2026-01-02T10:00:00Z"),
        ] {
            assert_eq!(end(&csr(status)).unwrap().to_string(), want);
        }
        let mut issued = condition("Approved");
        issued["certificate"] = json!("eA==");
        assert_eq!(
            end(&csr(issued)).unwrap().to_string(),
            "2026-01-01T11:00:00Z"
        );
    }
}
