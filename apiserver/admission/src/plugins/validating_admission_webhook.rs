//! ValidatingAdmissionWebhook: webhooks that say yes or no, all asked at once.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use keelson_auth::Status;

use crate::chain::{Environment, Plugin};
use crate::request::Request;
use crate::webhooks::{self, Caller, HookError, https};

/// Upstream's name.
pub const NAME: &str = "ValidatingAdmissionWebhook";
const CONFIGURATIONS: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";

/// The plugin.
pub struct ValidatingAdmissionWebhook {
    caller: Arc<dyn Caller>,
}

impl Default for ValidatingAdmissionWebhook {
    fn default() -> Self {
        Self {
            caller: https::shared(),
        }
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        webhooks::concerns(request)
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let lookup = environment.lookup.as_ref();
        let mut wanted = Vec::new();
        for hook in webhooks::hooks(lookup, CONFIGURATIONS) {
            if hook.matches(request, environment).await? {
                wanted.push(hook);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let asked = &*request;
        let answers = join_all(
            wanted
                .iter()
                .map(|hook| hook.ask(asked, lookup, self.caller.as_ref(), false)),
        )
        .await;
        let mut refusal = None;
        for (hook, answer) in wanted.iter().zip(answers) {
            let verdict = match answer {
                Ok(answer) => {
                    request.warnings.extend(answer.warnings);
                    for (key, value) in answer.audit_annotations {
                        request
                            .audit_annotations
                            .insert(format!("{}/{key}", hook.name()), value);
                    }
                    if answer.allowed {
                        Ok(())
                    } else {
                        Err(webhooks::denial(hook.name(), &answer.status))
                    }
                }
                Err(HookError::Final(status)) => Err(status),
                Err(HookError::Calling(why)) if hook.ignores_failure() => {
                    tracing::warn!(webhook = hook.name(), %why, "failed calling webhook, failing open");
                    Ok(())
                }
                Err(HookError::Calling(why)) => Err(hook.failure(&why)),
            };
            // All are asked, and the first that says no is the answer.
            if refusal.is_none() {
                refusal = verdict.err();
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{create, environment, run};
    use crate::webhooks::tests::{Scripted, hook};

    fn plugin(caller: Scripted) -> (ValidatingAdmissionWebhook, Arc<Scripted>) {
        let caller = Arc::new(caller);
        (
            ValidatingAdmissionWebhook {
                caller: caller.clone(),
            },
            caller,
        )
    }

    fn configuration(hooks: Value) -> (&'static str, Value) {
        (
            CONFIGURATIONS,
            json!({"metadata": {"name": "c"}, "webhooks": hooks}),
        )
    }

    fn config_map() -> Request {
        create(
            "",
            "configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}),
        )
    }

    #[tokio::test]
    async fn one_no_is_enough() {
        let hooks = json!([hook("/yes", json!({})), hook("/no", json!({}))]);
        let (plugin, caller) = plugin(
            Scripted::default()
                .with("/yes", |_| json!({"allowed": true, "warnings": ["careful"], "auditAnnotations": {"k": "v"}}))
                .with("/no", |_| json!({"allowed": false, "status": {"message": "because", "code": 403}})),
        );
        let mut request = config_map();
        let refused = run(&plugin, &mut request, &environment(&[configuration(hooks)]))
            .await
            .unwrap_err();
        assert_eq!(
            refused.message,
            "admission webhook \"no.example.com\" denied the request: because"
        );
        assert_eq!(
            (request.warnings.as_slice(), caller.calls.lock().len()),
            (&["careful".to_owned()][..], 2)
        );
        assert_eq!(request.audit_annotations["yes.example.com/k"], "v");
    }

    #[tokio::test]
    async fn failures_follow_the_policy() {
        let (closed, _) = plugin(Scripted::default());
        let hooks = |policy: &str| json!([hook("/gone", json!({"failurePolicy": policy}))]);
        let failed = run(
            &closed,
            &mut config_map(),
            &environment(&[configuration(hooks("Fail"))]),
        )
        .await
        .unwrap_err();
        assert_eq!(failed.code, 500);
        assert_eq!(
            failed.message,
            "Internal error occurred: failed calling webhook \"gone.example.com\": failed to call webhook: Post \
             \"https://hooks.example.com:443/gone?timeout=1s\": connection refused"
        );
        assert!(
            run(
                &closed,
                &mut config_map(),
                &environment(&[configuration(hooks("Ignore"))])
            )
            .await
            .is_ok()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn slow_webhooks_are_given_up() {
        let (slow, _) = plugin(Scripted::default().with("/slow", |_| json!("hang")));
        let environment = environment(&[configuration(json!([hook("/slow", json!({}))]))]);
        let failed = run(&slow, &mut config_map(), &environment)
            .await
            .unwrap_err();
        assert!(
            failed.message.ends_with("context deadline exceeded"),
            "{failed}"
        );
    }

    #[tokio::test]
    async fn dry_runs_need_webhooks_without_side_effects() {
        let (plugin, caller) = plugin(Scripted::default().with("/x", |_| json!({"allowed": true})));
        let environment = environment(&[configuration(json!([hook(
            "/x",
            json!({"sideEffects": "Some"})
        )]))]);
        let mut request = config_map();
        request.dry_run = true;
        let refused = run(&plugin, &mut request, &environment).await.unwrap_err();
        assert_eq!((refused.code, caller.calls.lock().len()), (400, 0));
        assert_eq!(
            refused.message,
            "admission webhook \"x.example.com\" does not support dry run"
        );
    }

    #[tokio::test]
    async fn webhook_configurations_are_out_of_reach() {
        let (plugin, _) = plugin(Scripted::default());
        let all = json!([hook(
            "/gone",
            json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]})
        )]);
        let mut request = create(
            "admissionregistration.k8s.io",
            "validatingwebhookconfigurations",
            json!({"metadata": {"name": "c"}}),
        );
        assert!(
            run(&plugin, &mut request, &environment(&[configuration(all)]))
                .await
                .is_ok()
        );
    }
}
