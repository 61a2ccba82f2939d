//! MutatingAdmissionPolicy: expressions that change the object, policy after policy, some in a second round.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::status::{Cause, Details};
use keelson_auth::{Lookup, Status};
use keelson_registry::access::Access;
use keelson_schema::{Schema, Type};
use serde_json::Value;

use crate::chain::{Environment, Plugin};
use crate::defaulting;
use crate::policies::mutating::{Failure, Policy};
use crate::policies::{self, Cache, Family, Hook, Matched, Subject, matching, params};
use crate::request::Request;

/// Upstream's name.
pub const NAME: &str = "MutatingAdmissionPolicy";

const FAMILY: Family = Family {
    policies: "mutatingadmissionpolicies.admissionregistration.k8s.io",
    bindings: "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
};
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// The plugin.
#[derive(Default)]
pub struct MutatingAdmissionPolicy {
    compiled: Cache<Policy>,
}

/// A policy that concerns the request, with a binding and one of its parameters.
struct Invocation<'h> {
    hook: &'h Hook,
    binding: &'h Value,
    matched: Matched,
    params: Option<Arc<Value>>,
}

/// A policy that could not do its work.
struct Problem {
    message: String,
    /// Whether the Status has it for its reason that the policy is wrong.
    invalid: bool,
}

/// The problems of policies that mind.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, policy: &Value, binding: Option<&Value>, why: &str, invalid: bool) {
        if policies::ignores_failure(policy) {
            return;
        }
        let name = policy.text("metadata.name");
        let message = match binding {
            Some(binding) => format!(
                "policy '{name}' with binding '{}' denied request: {why}",
                binding.text("metadata.name")
            ),
            None => format!("policy {name:?} denied request: {why}"),
        };
        self.0.push(Problem { message, invalid });
    }

    fn misconfigured(&mut self, policy: &Value, binding: Option<&Value>, why: &str) {
        let part = if binding.is_some() {
            "binding"
        } else {
            "policy"
        };
        let why = format!("failed to configure {part}: {why}");
        self.add(policy, binding, &why, false);
    }

    fn result(self, request: &Request) -> Result<(), Status> {
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        let mut status = request.forbidden("admission request denied by policy");
        status.message.clone_from(&first.message);
        if first.invalid {
            status.reason = "Invalid".into();
        }
        let details = status.details.get_or_insert_with(Details::default);
        details.causes.extend(self.0.iter().map(|problem| Cause {
            message: problem.message.clone(),
            ..Cause::default()
        }));
        Err(status)
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, request: &Request) -> bool {
        policies::concerns(request)
    }

    async fn admit(&self, request: &mut Request, environment: &Environment) -> Result<(), Status> {
        self.round(request, environment, false).await
    }

    async fn readmit(
        &self,
        request: &mut Request,
        environment: &Environment,
    ) -> Result<(), Status> {
        self.round(request, environment, true).await
    }
}

impl MutatingAdmissionPolicy {
    /// Lets the policies change the object; in the second round those that asked for it.
    async fn round(
        &self,
        request: &mut Request,
        environment: &Environment,
        again: bool,
    ) -> Result<(), Status> {
        let lookup = environment.lookup.as_ref();
        let mut hooks = policies::hooks(lookup, &FAMILY);
        if again {
            hooks.retain(|hook| hook.policy.text("spec.reinvocationPolicy") == "IfNeeded");
        }
        if hooks.is_empty() {
            return Ok(());
        }
        let mut problems = Problems::default();
        let invocations = invocations(&hooks, request, lookup, &mut problems).await;
        if !invocations.is_empty() {
            let namespace = policies::namespace(request, lookup).await?;
            for invocation in &invocations {
                self.invoke(invocation, request, &namespace, environment, &mut problems)?;
            }
        }
        problems.result(request)
    }

    fn invoke(
        &self,
        invocation: &Invocation<'_>,
        request: &mut Request,
        namespace: &Arc<Value>,
        environment: &Environment,
        problems: &mut Problems,
    ) -> Result<(), Status> {
        let (policy, binding) = (&invocation.hook.policy, invocation.binding);
        let compiled = self.compiled.get(policy, Policy::compile);
        let params = invocation.params.as_deref();
        let subject =
            |request: &Request| Subject::new(request, &invocation.matched, namespace.clone());
        match compiled.holds(&subject(request).inputs(request, params, environment)) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(why) => {
                problems.add(policy, Some(binding), &why, true);
                return Ok(());
            }
        }
        if request.object.is_none() {
            return Ok(());
        }
        let Some(ty) = type_of(&invocation.matched, environment.lookup.as_ref()) else {
            let kind = &invocation.matched.kind;
            return Err(Status::failure(
                503,
                "ServiceUnavailable",
                format!(
                    "Resource kind {}/{}, Kind={} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available.",
                    kind.group, kind.version, kind.kind
                ),
            ));
        };
        for index in 0..compiled.len() {
            let subject = subject(request);
            let inputs = subject.inputs(request, params, environment);
            match compiled.mutate(index, &inputs, &ty) {
                Ok(changed) => {
                    let mut changed = invocation.matched.back(changed, request);
                    defaulting::fill(request, &mut changed);
                    request.object = Some(changed);
                }
                Err(Failure::Policy(why)) => problems.add(policy, Some(binding), &why, true),
                Err(Failure::Object(why)) => return Err(Status::internal(why)),
            }
        }
        Ok(())
    }
}

/// The policies that concern the request, with their bindings and parameters.
async fn invocations<'h>(
    hooks: &'h [Hook],
    request: &Request,
    lookup: &dyn Lookup,
    problems: &mut Problems,
) -> Vec<Invocation<'h>> {
    let mut invocations = Vec::new();
    for hook in hooks {
        let policy = &*hook.policy;
        let constraints = policy.part("spec.matchConstraints");
        let matched = match matching::matches(constraints, request, lookup).await {
            Ok(Some(matched)) => matched,
            Ok(None) => continue,
            Err(why) => {
                problems.misconfigured(policy, None, &why);
                continue;
            }
        };
        let kind = match params::kind(policy, lookup) {
            Ok(kind) => kind,
            Err(why) => {
                problems.misconfigured(policy, None, &why);
                continue;
            }
        };
        for binding in &hook.bindings {
            let resources = binding.part("spec.matchResources");
            let found = match matching::matches(resources, request, lookup).await {
                Ok(None) => continue,
                Ok(Some(_)) => params::collect(kind.as_ref(), binding, &request.namespace, lookup),
                Err(why) => Err(why),
            };
            match found {
                Ok(found) => invocations.extend(found.into_iter().map(|params| Invocation {
                    hook,
                    binding,
                    matched: matched.clone(),
                    params,
                })),
                Err(why) => problems.misconfigured(policy, Some(binding), &why),
            }
        }
    }
    invocations
}

/// The type that mutations are merged by: the built-in kind's, or the one that a definition declares.
fn type_of(matched: &Matched, lookup: &dyn Lookup) -> Option<Type> {
    let kind = &matched.kind;
    if let Some(ty) = Schema::builtin().kind(&kind.group, &kind.version, &kind.kind) {
        return Some(ty.clone());
    }
    let name = format!("{}.{}", matched.resource.resource, matched.resource.group);
    let definition = lookup.get(DEFINITIONS, "", &name)?;
    let version = definition
        .items("spec.versions")
        .iter()
        .find(|v| v.text("name") == kind.version)?;
    let schema = version.part("schema.openAPIV3Schema");
    let keeps = definition.flag("spec.preserveUnknownFields");
    let schema = keelson_extensions::Schema::compile(schema).ok()?;
    Some(keelson_extensions::types::of_object(Some(&schema), keeps))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chain::Chain;
    use crate::testing::{create, environment, run};

    fn deployment() -> Request {
        create(
            "apps",
            "deployments",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "ns", "managedFields": [{"manager": "m"}]},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        )
    }

    fn apply(expression: &str) -> Value {
        json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
    }

    fn patch(expression: &str) -> Value {
        json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
    }

    fn policy(name: &str, mutations: Value, more: Value) -> Vec<(&'static str, Value)> {
        let mut spec = json!({"reinvocationPolicy": "Never", "mutations": mutations,
            "matchConstraints": {"matchPolicy": "Equivalent", "resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"],
            "apiVersions": ["v1"], "resources": ["deployments"]}]}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        vec![
            (
                FAMILY.policies,
                json!({"metadata": {"name": name}, "spec": spec}),
            ),
            (
                FAMILY.bindings,
                json!({"metadata": {"name": format!("{name}-b")}, "spec": {"policyName": name}}),
            ),
            (
                "namespaces",
                json!({"metadata": {"name": "ns", "labels": {"tier": "gold"}}}),
            ),
        ]
    }

    async fn through(mutations: Value, more: Value) -> (Result<(), Status>, Value) {
        let mut request = deployment();
        let environment = environment(&policy("p", mutations, more));
        let result = run(
            &MutatingAdmissionPolicy::default(),
            &mut request,
            &environment,
        )
        .await;
        (result, request.object.unwrap())
    }

    #[tokio::test]
    async fn apply_configurations_are_merged_by_the_kinds_schema() {
        let (result, object) = through(
            json!([
                apply("Object{metadata: Object.metadata{annotations: {'mutated-by': 'admission-policy'}}}"),
                apply("Object{spec: Object.spec{replicas: object.metadata.annotations['mutated-by'] == 'admission-policy' ? 1337 : 0}}"),
                apply("Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'side', image: namespaceObject.metadata.labels.tier}]}}}}"),
            ]),
            json!({}),
        )
        .await;
        result.unwrap();
        assert_eq!(
            object["metadata"]["annotations"]["mutated-by"],
            "admission-policy"
        );
        assert_eq!(
            object["metadata"]["managedFields"],
            json!([{"manager": "m"}])
        );
        assert_eq!(object["spec"]["replicas"], 1337);
        let containers = object["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap();
        assert_eq!(
            (&containers[0]["name"], &containers[1]["image"]),
            (&json!("c"), &json!("gold"))
        );
        assert_eq!(containers[1]["imagePullPolicy"], "Always");
    }

    #[tokio::test]
    async fn json_patches_are_applied() {
        let (result, object) = through(
            json!([
                patch("[JSONPatch{op: 'add', path: '/metadata/labels', value: {}}, JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('x/y'), value: variables.v}]"),
                patch("[JSONPatch{op: 'test', path: '/spec/replicas', value: 5}, JSONPatch{op: 'replace', path: '/spec/replicas', value: 6}]"),
            ]),
            json!({"variables": [{"name": "v", "expression": "request.userInfo.username"}]}),
        )
        .await;
        result.unwrap();
        assert_eq!(
            (&object["metadata"]["labels"], &object["spec"]["replicas"]),
            (&json!({"x/y": "jane"}), &json!(1))
        );
    }

    #[tokio::test]
    async fn what_goes_wrong_follows_the_failure_policy() {
        for (mutation, sentence) in [
            (
                apply(
                    "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'c'}}}}",
                ),
                "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
            ),
            (
                apply("Object{spec: Object.wrong{replicas: 1}}"),
                "type mismatch: unexpected type name \"Object.wrong\", expected \"Object.spec\", which matches field name path from root Object type",
            ),
            (
                apply("Object{spec: Object.spec{replicas: object.nope}}"),
                "resulted in error: no such key: nope",
            ),
            (
                patch("[JSONPatch{op: 'remove', path: '/none'}]"),
                "JSON Patch: ",
            ),
            (
                patch("'x'"),
                "must evaluate to list(JSONPatch) but got string",
            ),
        ] {
            let (result, _) = through(json!([mutation]), json!({})).await;
            let status = result.unwrap_err();
            assert!(
                status
                    .message
                    .starts_with("policy 'p' with binding 'p-b' denied request: ")
                    && status.message.contains(sentence),
                "{status}"
            );
            assert_eq!((status.code, status.reason.as_str()), (403, "Invalid"));
            let (result, object) =
                through(json!([mutation]), json!({"failurePolicy": "Ignore"})).await;
            assert!(result.is_ok() && object["spec"]["replicas"] == 1);
        }
        let (result, _) = through(
            json!([patch(
                "[JSONPatch{op: 'add', path: '/spec/nope', value: 1}]"
            )]),
            json!({}),
        )
        .await;
        assert_eq!(result.unwrap_err().code, 500);
    }

    #[tokio::test]
    async fn conditions_that_do_not_hold_change_nothing() {
        let (result, object) = through(
            json!([apply("Object{spec: Object.spec{replicas: 9}}")]),
            json!({"matchConditions": [{"name": "c", "expression": "object.spec.replicas > 1"}]}),
        )
        .await;
        result.unwrap();
        assert_eq!(object["spec"]["replicas"], 1);
    }

    #[tokio::test]
    async fn who_asked_for_it_sees_what_later_policies_did() {
        for (again, expected) in [("IfNeeded", "2"), ("Never", "1")] {
            let mut objects = policy(
                "a",
                json!([apply(
                    "Object{metadata: Object.metadata{annotations: {'seen': string(object.spec.replicas)}}}"
                )]),
                json!({"reinvocationPolicy": again}),
            );
            objects.extend(policy(
                "b",
                json!([apply("Object{spec: Object.spec{replicas: 2}}")]),
                json!({}),
            ));
            let mut request = deployment();
            let chain = Chain::new(&[], &[]).unwrap();
            chain
                .admit(&mut request, &environment(&objects))
                .await
                .unwrap();
            assert_eq!(
                request.text("/metadata/annotations/seen"),
                expected,
                "{again}"
            );
        }
    }
}
