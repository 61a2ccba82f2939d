//! MutatingAdmissionWebhook: webhooks that may change the object, asked one after the other, some a second time.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_auth::Status;
use keelson_registry::access::Access;

use crate::chain::{Environment, Plugin};
use crate::defaulting;
use crate::request::Request;
use crate::webhooks::{self, Caller, Hook, HookError, https};

/// Upstream's name.
pub const NAME: &str = "MutatingAdmissionWebhook";
const CONFIGURATIONS: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";

/// The plugin.
pub struct MutatingAdmissionWebhook {
    caller: Arc<dyn Caller>,
}

impl Default for MutatingAdmissionWebhook {
    fn default() -> Self {
        Self {
            caller: https::shared(),
        }
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        webhooks::concerns(request)
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        let hooks = webhooks::hooks(environment.lookup.as_ref(), CONFIGURATIONS);
        // Those that asked to be asked again if somebody changes the object after them.
        let mut again: Vec<&Hook> = Vec::new();
        let mut due: BTreeSet<(String, usize)> = BTreeSet::new();
        for hook in &hooks {
            let Some(changed) = self.ask(hook, request, environment).await? else {
                continue;
            };
            if changed {
                due.extend(again.iter().map(|h| h.id()));
            }
            if hook.value().text("reinvocationPolicy") == "IfNeeded" {
                again.push(hook);
            }
        }
        for hook in again {
            if due.contains(&hook.id()) {
                self.ask(hook, request, environment).await?;
            }
        }
        Ok(())
    }
}

impl MutatingAdmissionWebhook {
    /// Whether the webhook changed the object; `None` if it does not want to see the request.
    async fn ask(
        &self,
        hook: &Hook,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<Option<bool>, Status> {
        let lookup = environment.lookup.as_ref();
        if !hook.matches(request, environment).await? {
            return Ok(None);
        }
        let answer = match hook.ask(request, lookup, self.caller.as_ref(), true).await {
            Ok(answer) => answer,
            Err(HookError::Final(status)) => return Err(status),
            Err(HookError::Calling(why)) if hook.ignores_failure() => {
                tracing::warn!(webhook = hook.name(), %why, "failed calling webhook, failing open");
                return Ok(Some(false));
            }
            Err(HookError::Calling(why)) => return Err(hook.failure(&why)),
        };
        request.warnings.extend(answer.warnings);
        for (key, value) in answer.audit_annotations {
            request
                .audit_annotations
                .insert(format!("{}/{key}", hook.name()), value);
        }
        if !answer.allowed {
            return Err(webhooks::denial(hook.name(), &answer.status));
        }
        let Some(patch) = answer.patch else {
            return Ok(Some(false));
        };
        match apply(hook, request, &patch) {
            Err(HookError::Final(status)) => Err(status),
            Err(HookError::Calling(why)) if hook.ignores_failure() => {
                tracing::warn!(webhook = hook.name(), %why, "a webhook's patch is no patch, failing open");
                Ok(Some(false))
            }
            Err(HookError::Calling(why)) => Err(hook.failure(&why)),
            Ok(changed) => Ok(Some(changed)),
        }
    }
}

/// Applies a JSON patch and fills in the defaults of what it brought.
fn apply(hook: &Hook, request: &mut Request, patch: &[u8]) -> Result<bool, HookError> {
    let operations: Vec<json_patch::PatchOperation> =
        serde_json::from_slice(patch).map_err(|e| {
            HookError::Calling(format!(
                "received undecodable patch in webhook response: {e}"
            ))
        })?;
    if operations.is_empty() {
        return Ok(false);
    }
    let Some(before) = request.object.as_ref() else {
        return Err(HookError::Final(Status::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name()
        ))));
    };
    let mut after = before.clone();
    json_patch::patch(&mut after, &operations)
        .map_err(|e| HookError::Final(Status::internal(e)))?;
    if !after.is_object() {
        return Err(HookError::Final(Status::internal(
            "the patch leaves no object",
        )));
    }
    let same_kind = |path: &str| before.text(path) == after.text(path);
    if !same_kind("apiVersion") || !same_kind("kind") {
        return Err(HookError::Final(Status::internal(
            "the patch changes the object's kind",
        )));
    }
    defaulting::fill(request, &mut after);
    let changed = *before != after;
    request.object = Some(after);
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{create, environment, run};
    use crate::webhooks::tests::{Scripted, hook};

    fn patch(operations: &Value) -> Value {
        json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
    }

    /// Appends its letter to `data.seen`.
    fn writes(letter: &'static str) -> impl Fn(&Value) -> Value + Send + Sync {
        move |request| {
            let seen = request["object"]["data"]["seen"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            patch(&json!([{"op": "add", "path": "/data/seen", "value": seen + letter}]))
        }
    }

    async fn through(
        caller: Scripted,
        hooks: Value,
    ) -> (Result<(), Status>, Request, Arc<Scripted>) {
        let caller = Arc::new(caller);
        let plugin = MutatingAdmissionWebhook {
            caller: caller.clone(),
        };
        let mut request = create(
            "",
            "configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {}}),
        );
        let environment = environment(&[(
            CONFIGURATIONS,
            json!({"metadata": {"name": "c"}, "webhooks": hooks}),
        )]);
        let result = run(&plugin, &mut request, &environment).await;
        (result, request, caller)
    }

    #[tokio::test]
    async fn each_sees_what_the_one_before_did() {
        let hooks = json!([hook("/a", json!({})), hook("/b", json!({}))]);
        let (result, request, _) = through(
            Scripted::default()
                .with("/a", writes("a"))
                .with("/b", writes("b")),
            hooks,
        )
        .await;
        result.unwrap();
        assert_eq!(request.object.unwrap()["data"]["seen"], "ab");
    }

    #[tokio::test]
    async fn who_asked_for_it_is_asked_again_after_a_change() {
        let again = json!({"reinvocationPolicy": "IfNeeded"});
        let hooks = json!([
            hook("/a", again.clone()),
            hook("/b", json!({})),
            hook("/c", again)
        ]);
        let caller = Scripted::default()
            .with("/a", writes("a"))
            .with("/b", writes("b"))
            .with("/c", |_| json!({"allowed": true}));
        let (result, request, caller) = through(caller, hooks).await;
        result.unwrap();
        assert_eq!(request.object.unwrap()["data"]["seen"], "aba");
        assert_eq!(*caller.calls.lock(), ["/a", "/b", "/c", "/a"]);
    }

    #[tokio::test]
    async fn bad_patches_do_not_pass() {
        for answer in [
            json!([{"op": "remove", "path": "/none"}]),
            json!([{"op": "replace", "path": "/kind", "value": "Secret"}]),
            json!([{"op": "replace", "path": "", "value": 1}]),
        ] {
            let shown = answer.to_string();
            let caller = Scripted::default().with("/a", move |_| patch(&answer));
            let (result, _, _) = through(caller, json!([hook("/a", json!({}))])).await;
            assert_eq!(result.unwrap_err().code, 500, "{shown}");
        }
    }
}
