//! ValidatingAdmissionPolicy: expressions that say whether a request may pass.

use std::collections::BTreeMap;

use async_trait::async_trait;
use keelson_api::status::{Cause, Details};
use keelson_auth::Status;
use keelson_registry::access::Access;
use serde_json::{Value, json};

use crate::chain::{Environment, Plugin};
use crate::policies::validating::{Annotation, Decision, Policy, Verdict};
use crate::policies::{self, Cache, Family, Hook, Matched, Subject, matching, params};
use crate::request::Request;

/// Upstream's name.
pub const NAME: &str = "ValidatingAdmissionPolicy";

const FAMILY: Family = Family {
    policies: "validatingadmissionpolicies.admissionregistration.k8s.io",
    bindings: "validatingadmissionpolicybindings.admissionregistration.k8s.io",
};
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";
/// The most bytes that an audit annotation's value may have.
const MAX_ANNOTATION: usize = 10 * 1024;

/// The plugin.
#[derive(Default)]
pub struct ValidatingAdmissionPolicy {
    compiled: Cache<Policy>,
}

/// Why a request may not pass.
struct Denial {
    message: String,
    reason: String,
}

impl Denial {
    fn new(policy: &Value, binding: Option<&Value>, why: &str, reason: &str) -> Denial {
        let policy = policy.text("metadata.name");
        let with = binding.map_or_else(String::new, |binding| {
            format!(" with binding '{}'", binding.text("metadata.name"))
        });
        Denial {
            message: format!("ValidatingAdmissionPolicy '{policy}'{with} denied request: {why}"),
            reason: reason.to_owned(),
        }
    }

    fn status(self, request: &Request) -> Status {
        let mut status = request.forbidden(&self.message);
        status.code = match self.reason.as_str() {
            "Forbidden" => 403,
            "Unauthorized" => 401,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        status.reason = self.reason;
        let details = status.details.get_or_insert_with(Details::default);
        details.causes.push(Cause {
            message: self.message,
            ..Cause::default()
        });
        status
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        policies::concerns(request)
    }

    async fn validate(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        let mut denials = Vec::new();
        for hook in policies::hooks(environment.lookup.as_ref(), &FAMILY) {
            self.ask(&hook, request, environment, &mut denials).await?;
        }
        match denials.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(first.status(request)),
        }
    }
}

impl ValidatingAdmissionPolicy {
    async fn ask(
        &self,
        hook: &Hook,
        request: &mut Request,
        environment: &Environment,
        denials: &mut Vec<Denial>,
    ) -> Result<(), Status> {
        let (policy, lookup) = (&*hook.policy, environment.lookup.as_ref());
        let matched =
            match matching::matches(policy.part("spec.matchConstraints"), request, lookup).await {
                Ok(Some(matched)) => matched,
                Ok(None) => return Ok(()),
                Err(why) => {
                    misconfigured(policy, None, &why, denials);
                    return Ok(());
                }
            };
        let kind = match params::kind(policy, lookup) {
            Ok(kind) => kind,
            Err(why) => {
                misconfigured(policy, None, &why, denials);
                return Ok(());
            }
        };
        let mut notes = Notes::default();
        for binding in &hook.bindings {
            let found =
                match matching::matches(binding.part("spec.matchResources"), request, lookup).await
                {
                    Ok(None) => continue,
                    Ok(Some(_)) => {
                        params::collect(kind.as_ref(), binding, &request.namespace, lookup)
                    }
                    Err(why) => Err(why),
                };
            let found = match found {
                Ok(found) => found,
                Err(why) => {
                    misconfigured(policy, Some(binding), &why, denials);
                    continue;
                }
            };
            if found.is_empty() {
                continue;
            }
            let namespace = policies::namespace(request, lookup).await?;
            let verdicts = self.verdicts(hook, request, &matched, &found, namespace, environment);
            for verdict in verdicts {
                act(policy, binding, verdict, request, &mut notes, denials);
            }
        }
        notes.publish(policy.text("metadata.name"), request);
        Ok(())
    }

    /// What the policy says with each of the parameters.
    fn verdicts(
        &self,
        hook: &Hook,
        request: &Request,
        matched: &Matched,
        params: &[Option<std::sync::Arc<Value>>],
        namespace: std::sync::Arc<Value>,
        environment: &Environment,
    ) -> Vec<Verdict> {
        let compiled = self.compiled.get(&hook.policy, Policy::compile);
        let subject = Subject::new(request, matched, namespace);
        params
            .iter()
            .map(|params| {
                compiled.evaluate(&subject.inputs(request, params.as_deref(), environment))
            })
            .collect()
    }
}

/// Notes that a policy can't be evaluated, unless it does not mind.
fn misconfigured(policy: &Value, binding: Option<&Value>, why: &str, denials: &mut Vec<Denial>) {
    if policies::ignores_failure(policy) {
        return;
    }
    let part = if binding.is_some() {
        "binding"
    } else {
        "policy"
    };
    let why = format!("failed to configure {part}: {why}");
    denials.push(Denial::new(policy, binding, &why, "Invalid"));
}

/// Does what the binding asks for where the policy says no.
fn act(
    policy: &Value,
    binding: &Value,
    verdict: Verdict,
    request: &mut Request,
    notes: &mut Notes,
    denials: &mut Vec<Denial>,
) {
    let (policy_name, binding_name) = (policy.text("metadata.name"), binding.text("metadata.name"));
    for (index, decision) in verdict.decisions.into_iter().enumerate() {
        let Decision::Deny { message, reason } = decision else {
            continue;
        };
        for action in binding.items("spec.validationActions") {
            match action.as_str().unwrap_or_default() {
                "Deny" => denials.push(Denial::new(policy, Some(binding), &message, &reason)),
                "Warn" => request.warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy_name}' with binding '{binding_name}': {message}"
                )),
                "Audit" => {
                    let failure = json!([{"message": message, "policy": binding.text("spec.policyName"),
                        "binding": binding_name, "expressionIndex": index,
                        "validationActions": binding.part("spec.validationActions")}]);
                    request
                        .audit_annotations
                        .entry(FAILURE.to_owned())
                        .or_insert_with(|| failure.to_string());
                }
                other => tracing::warn!(action = other, "unknown validation action"),
            }
        }
    }
    for annotation in verdict.annotations {
        match annotation {
            Annotation::Publish(key, value) => notes.add(key, value),
            Annotation::Exclude => {}
            Annotation::Error(why) => {
                denials.push(Denial::new(policy, Some(binding), &why, "Invalid"));
            }
        }
    }
}

/// The audit annotations of a policy: several values of a key, from several bindings, are told together.
#[derive(Default)]
struct Notes(BTreeMap<String, Vec<String>>);

impl Notes {
    fn add(&mut self, key: String, mut value: String) {
        if value.len() > MAX_ANNOTATION {
            value.truncate(value.floor_char_boundary(MAX_ANNOTATION));
        }
        let values = self.0.entry(key).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    fn publish(self, policy: &str, request: &mut Request) {
        for (key, values) in self.0 {
            request
                .audit_annotations
                .entry(format!("{policy}/{key}"))
                .or_insert_with(|| values.join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{create, environment, run};

    fn deployment(replicas: i64) -> Request {
        create(
            "apps",
            "deployments",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "ns", "annotations": {"big": "x".repeat(9_000)}}, "spec": {"replicas": replicas}}),
        )
    }

    fn rules() -> Value {
        json!({"matchPolicy": "Equivalent", "resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"],
            "apiVersions": ["v1"], "resources": ["deployments"]}]})
    }

    fn objects(mut spec: Value, binding: Value) -> Vec<(&'static str, Value)> {
        spec["matchConstraints"] = rules();
        let mut bound = json!({"policyName": "p", "validationActions": ["Deny"]});
        for (key, value) in binding.as_object().unwrap() {
            bound[key] = value.clone();
        }
        vec![
            (
                FAMILY.policies,
                json!({"metadata": {"name": "p"}, "spec": spec}),
            ),
            (
                FAMILY.bindings,
                json!({"metadata": {"name": "b"}, "spec": bound}),
            ),
            (
                "namespaces",
                json!({"metadata": {"name": "ns", "labels": {"tier": "gold"}}}),
            ),
            (
                "configmaps",
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "max", "namespace": "ns"}, "data": {"max": "2"}}),
            ),
        ]
    }

    async fn outcome(spec: Value, binding: Value, replicas: i64) -> (Result<(), Status>, Request) {
        let mut request = deployment(replicas);
        let plugin = ValidatingAdmissionPolicy::default();
        let result = run(&plugin, &mut request, &environment(&objects(spec, binding))).await;
        (result, request)
    }

    async fn message(spec: Value, binding: Value, replicas: i64) -> String {
        outcome(spec, binding, replicas)
            .await
            .0
            .unwrap_err()
            .message
            .clone()
    }

    #[tokio::test]
    async fn a_validation_that_fails_denies_with_its_message_and_reason() {
        let spec = |validation: Value| json!({"validations": [validation]});
        let plain = spec(json!({"expression": " object.spec.replicas > 1 "}));
        assert!(outcome(plain.clone(), json!({}), 2).await.0.is_ok());
        let status = outcome(plain, json!({}), 1).await.0.unwrap_err();
        assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
        assert_eq!(
            status.message,
            "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: object.spec.replicas > 1"
        );
        assert_eq!(
            status.details.as_ref().unwrap().causes[0].message,
            "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: object.spec.replicas > 1"
        );
        let told = spec(
            json!({"expression": "object.spec.replicas > 1", "message": "more!", "reason": "Forbidden"}),
        );
        let status = outcome(told, json!({}), 1).await.0.unwrap_err();
        assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
        assert!(status.message.ends_with("denied request: more!"));
        let composed = spec(
            json!({"expression": "object.spec.replicas > 1", "message": "more!",
            "messageExpression": "'wants > 1, got ' + string(object.spec.replicas) + ' in ' + namespaceObject.metadata.labels.tier"}),
        );
        assert!(
            message(composed, json!({}), 1)
                .await
                .ends_with("denied request: wants > 1, got 1 in gold")
        );
        let broken = spec(
            json!({"expression": "object.spec.replicas > 1", "message": "more!", "messageExpression": "object.nope"}),
        );
        assert!(
            message(broken, json!({}), 1)
                .await
                .ends_with("denied request: more!")
        );
    }

    #[tokio::test]
    async fn bindings_may_warn_and_audit_instead() {
        let spec = json!({"validations": [{"expression": "true"}, {"expression": "object.spec.replicas > 1", "message": "few"}],
            "auditAnnotations": [{"key": "replicas", "valueExpression": "string(object.spec.replicas)"}, {"key": "none", "valueExpression": "null"}]});
        let (result, request) =
            outcome(spec, json!({"validationActions": ["Warn", "Audit"]}), 1).await;
        assert!(result.is_ok());
        assert_eq!(
            request.warnings,
            ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': few"]
        );
        let failure: Value = serde_json::from_str(&request.audit_annotations[FAILURE]).unwrap();
        assert_eq!(
            failure,
            json!([{"message": "few", "policy": "p", "binding": "b", "expressionIndex": 1, "validationActions": ["Warn", "Audit"]}])
        );
        assert_eq!(request.audit_annotations["p/replicas"], "1");
        assert!(!request.audit_annotations.contains_key("p/none"));
    }

    #[tokio::test]
    async fn parameters_and_variables_are_seen() {
        let spec = |action: &str| {
            (
                json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                    "variables": [{"name": "max", "expression": "int(params.data.max)"}, {"name": "fits", "expression": "object.spec.replicas <= variables.max"}],
                    "validations": [{"expression": "variables.fits", "messageExpression": "'at most ' + params.data.max"}]}),
                json!({"paramRef": {"name": if action.is_empty() { "max" } else { "gone" }, "parameterNotFoundAction": action}}),
            )
        };
        let (policy, binding) = spec("");
        assert!(outcome(policy.clone(), binding.clone(), 2).await.0.is_ok());
        assert!(
            message(policy, binding, 3)
                .await
                .ends_with("denied request: at most 2")
        );
        let (policy, binding) = spec("Allow");
        assert!(outcome(policy, binding, 3).await.0.is_ok());
        let (policy, binding) = spec("Deny");
        assert!(message(policy.clone(), binding.clone(), 1).await.ends_with(
            "'b' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        ));
        let mut lenient = policy;
        lenient["failurePolicy"] = json!("Ignore");
        assert!(outcome(lenient, binding, 1).await.0.is_ok());
        let unknown = json!({"paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"}, "validations": [{"expression": "true"}]});
        assert!(message(unknown, json!({}), 1).await.ends_with(
            "ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Limit'"
        ));
    }

    #[tokio::test]
    async fn conditions_decide_whether_a_policy_is_asked() {
        let spec = |condition: &str| json!({"matchConditions": [{"name": "c", "expression": condition}], "validations": [{"expression": "false"}]});
        assert!(
            outcome(spec("request.userInfo.username != 'jane'"), json!({}), 1)
                .await
                .0
                .is_ok()
        );
        assert!(
            outcome(spec("request.userInfo.username == 'jane'"), json!({}), 1)
                .await
                .0
                .is_err()
        );
        assert!(
            message(spec("object.nope"), json!({}), 1)
                .await
                .contains("compilation error: must evaluate to bool but got dyn")
        );
        assert!(message(spec("object.nope == 1"), json!({}), 1).await.ends_with(
            "denied request: expression 'object.nope == 1' resulted in error: no such key: nope"
        ));
        let elsewhere =
            json!({"matchResources": {"namespaceSelector": {"matchLabels": {"tier": "iron"}}}});
        assert!(outcome(spec("true"), elsewhere, 1).await.0.is_ok());
    }

    #[tokio::test]
    async fn errors_follow_the_failure_policy() {
        let spec = |policy: &str, expression: &str| json!({"failurePolicy": policy, "validations": [{"expression": expression}]});
        assert!(message(spec("Fail", "object.nope == 1"), json!({}), 1).await.ends_with(
            "denied request: expression 'object.nope == 1' resulted in error: no such key: nope"
        ));
        assert!(
            outcome(spec("Ignore", "object.nope == 1"), json!({}), 1)
                .await
                .0
                .is_ok()
        );
        assert!(
            outcome(spec("Ignore", "object.spec.replicas == 2"), json!({}), 1)
                .await
                .0
                .is_err()
        );
        // Long texts are cheap to look through, but what that is charged for is not.
        let costly = "object.metadata.annotations.big.contains(object.metadata.annotations.big)";
        let many: Vec<Value> = (0..30).map(|_| json!({"expression": costly})).collect();
        let message = message(json!({"validations": many}), json!({}), 1).await;
        assert!(
            message.ends_with(
                "validation failed due to running out of cost budget, no further validation rules will be run"
            ),
            "{message}"
        );
    }

    #[tokio::test]
    async fn policies_do_not_judge_policies() {
        let all = json!({"resourceRules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]});
        let objects = [
            (
                FAMILY.policies,
                json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": all, "validations": [{"expression": "false"}]}}),
            ),
            (
                FAMILY.bindings,
                json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}}),
            ),
        ];
        let environment = environment(&objects);
        let plugin = ValidatingAdmissionPolicy::default();
        for (resource, passes) in [
            ("mutatingadmissionpolicybindings", true),
            ("validatingwebhookconfigurations", false),
        ] {
            let mut request = create(
                "admissionregistration.k8s.io",
                resource,
                json!({"metadata": {"name": "x"}}),
            );
            request.namespace = String::new();
            assert_eq!(
                run(&plugin, &mut request, &environment).await.is_ok(),
                passes,
                "{resource}"
            );
        }
    }
}
