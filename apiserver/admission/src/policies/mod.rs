//! Admission policies: which of them, with which binding and parameters, a request concerns, and what their expressions see.
//!
//! The two plugins differ in what they compile of a policy and in what they do with its results.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use keelson_auth::{Lookup, Qualified, Status};
use keelson_cel::composition::{Composition, Expression, Inputs, Scope};
use keelson_cel::limits::MATCH_CONDITIONS_BUDGET;
use keelson_cel::policies::Purpose;
use keelson_registry::access::Access;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::chain::Environment;
use crate::request::{Kind, Request};
use crate::webhooks::{conditions, review};

pub(crate) mod matching;
pub(crate) mod mutating;
pub(crate) mod params;
pub(crate) mod validating;
mod versions;

pub(crate) use matching::Matched;

/// How many compiled policies are kept.
const KEPT: usize = 1024;

/// The two resources of a kind of policy.
pub(crate) struct Family {
    /// The policies.
    pub policies: &'static str,
    /// Their bindings.
    pub bindings: &'static str,
}

/// A policy with its bindings.
pub(crate) struct Hook {
    /// The policy.
    pub policy: Arc<Value>,
    /// The bindings that name it.
    pub bindings: Vec<Arc<Value>>,
}

/// Every policy that has a binding, by name. Where there are no bindings this is one look into the cache.
pub(crate) fn hooks(lookup: &dyn Lookup, family: &Family) -> Vec<Hook> {
    let bindings = lookup.list(family.bindings, "");
    if bindings.is_empty() {
        return Vec::new();
    }
    let mut of: BTreeMap<String, Vec<Arc<Value>>> = BTreeMap::new();
    for binding in bindings {
        let policy = binding.text("spec.policyName").to_owned();
        of.entry(policy).or_default().push(binding);
    }
    of.into_iter()
        .filter_map(|(name, bindings)| {
            let policy = lookup.get(family.policies, "", &name)?;
            Some(Hook { policy, bindings })
        })
        .collect()
}

/// Whether requests for a resource are ever shown to policies: not those for policies, so that a broken one can be mended, and
/// not the reviews without which nobody could do anything.
pub(crate) fn concerns(request: &Request) -> bool {
    let resource = request.resource.resource.as_str();
    !match request.resource.group.as_str() {
        "admissionregistration.k8s.io" => matches!(
            resource,
            "validatingadmissionpolicies"
                | "validatingadmissionpolicybindings"
                | "mutatingadmissionpolicies"
                | "mutatingadmissionpolicybindings"
        ),
        "authentication.k8s.io" => matches!(resource, "selfsubjectreviews" | "tokenreviews"),
        "authorization.k8s.io" => matches!(
            resource,
            "localsubjectaccessreviews"
                | "selfsubjectaccessreviews"
                | "selfsubjectrulesreviews"
                | "subjectaccessreviews"
        ),
        _ => false,
    }
}

/// Whether errors of the policy let requests pass.
pub(crate) fn ignores_failure(policy: &Value) -> bool {
    policy.text("spec.failurePolicy") == "Ignore"
}

/// Compiled policies, each for as long as its spec stays as it is.
pub(crate) struct Cache<T>(Mutex<HashMap<String, (Arc<Value>, Arc<T>)>>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Cache(Mutex::default())
    }
}

impl<T> Cache<T> {
    /// The compiled form of a policy.
    pub(crate) fn get(&self, policy: &Arc<Value>, compile: impl FnOnce(&Value) -> T) -> Arc<T> {
        let name = policy.text("metadata.name");
        let spec = |policy: &Value| policy.part("spec").clone();
        if let Some((known, compiled)) = self.0.lock().get(name)
            && known.part("spec") == policy.part("spec")
        {
            return compiled.clone();
        }
        let compiled = Arc::new(compile(policy));
        let mut cache = self.0.lock();
        if cache.len() >= KEPT {
            cache.clear();
        }
        let kept = Arc::new(json!({"spec": spec(policy)}));
        cache.insert(name.to_owned(), (kept, compiled.clone()));
        compiled
    }
}

/// The variables and match conditions of a policy.
pub(crate) struct Common {
    /// The variables.
    pub composition: Arc<Composition>,
    /// The match conditions.
    pub conditions: Vec<Expression>,
}

impl Common {
    /// Compiles them.
    pub(crate) fn compile(policy: &Value) -> Common {
        let mut composition = Composition::new(policy.has("spec.paramKind"));
        for variable in policy.items("spec.variables") {
            composition.define(variable.text("name"), variable.text("expression"));
        }
        let conditions = policy
            .items("spec.matchConditions")
            .iter()
            .map(|c| composition.compile(Purpose::MatchCondition, c.text("expression")))
            .collect();
        Common {
            composition: Arc::new(composition),
            conditions,
        }
    }

    /// Whether all conditions hold. One that is false decides; otherwise an error does.
    pub(crate) fn hold(&self, inputs: &Inputs<'_>, ignores_failure: bool) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        // Upstream shows conditions no namespace.
        let inputs = Inputs {
            namespace: &Value::Null,
            ..inputs.clone()
        };
        let scope = Scope::new(&self.composition, &inputs);
        let mut remaining = MATCH_CONDITIONS_BUDGET;
        let mut results = Vec::with_capacity(self.conditions.len());
        for condition in &self.conditions {
            match scope.evaluate(condition, &mut remaining) {
                Ok(result) => results.push(result.map(|value| value.as_bool() == Some(true))),
                Err(_) if ignores_failure => return Ok(false),
                Err(out) => return Err(out.to_string()),
            }
        }
        if results.contains(&Ok(false)) {
            return Ok(false);
        }
        let mut errors: Vec<String> = Vec::new();
        for error in results.into_iter().filter_map(Result::err) {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            _ if ignores_failure => Ok(false),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// What the expressions of policies see of a request, apart from the parameters.
pub(crate) struct Subject {
    object: Option<Value>,
    old_object: Option<Arc<Value>>,
    request: Value,
    namespace: Arc<Value>,
}

impl Subject {
    /// The request as the policy matched it: converted, if it matched another version.
    pub(crate) fn new(request: &Request, matched: &Matched, namespace: Arc<Value>) -> Subject {
        let mut described = review::description(request);
        let (mut object, mut old_object) = (None, request.old_object.clone());
        if matched.kind == request.kind {
            object.clone_from(&request.object);
        } else {
            let (kind, resource) = (&matched.kind, &matched.resource);
            described["kind"] =
                json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
            described["resource"] = json!({"group": resource.group, "version": resource.version,
                "resource": resource.resource});
            let convert = |object: &Value| versions::convert(object, &request.kind, kind);
            object = request.object.as_ref().map(convert);
            old_object = old_object.map(|old| Arc::new(convert(&old)));
        }
        Subject {
            object,
            old_object,
            request: described,
            namespace,
        }
    }

    /// What expressions are evaluated on.
    pub(crate) fn inputs<'a>(
        &'a self,
        request: &Request,
        params: Option<&'a Value>,
        environment: &Environment,
    ) -> Inputs<'a> {
        Inputs {
            object: self.object.as_ref().unwrap_or(&Value::Null),
            old_object: self.old_object.as_deref().unwrap_or(&Value::Null),
            request: &self.request,
            namespace: &self.namespace,
            params: params.unwrap_or(&Value::Null),
            authorizer: Some(conditions::authorizer_of(request, &environment.authorizer)),
        }
    }
}

/// The request's namespace as expressions see it; null for what is in none, and for namespaces themselves.
pub(crate) async fn namespace(
    request: &Request,
    lookup: &dyn Lookup,
) -> Result<Arc<Value>, Status> {
    let own = Kind {
        group: String::new(),
        version: "v1".into(),
        kind: "Namespace".into(),
    };
    let name = request.namespace.as_str();
    if name.is_empty() || request.kind == own {
        return Ok(Arc::new(Value::Null));
    }
    let found = match lookup.get("namespaces", "", name) {
        Some(namespace) => Some(namespace),
        None => lookup.live("namespaces", "", name).await?,
    };
    let found = found.ok_or_else(|| Status::not_found(Qualified::new("", "namespaces"), name))?;
    let mut shown = json!({"metadata": found.part("metadata"), "spec": found.part("spec"), "status": found.part("status")});
    if let Some(metadata) = shown["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("ownerReferences");
        metadata.remove("selfLink");
    }
    Ok(Arc::new(shown))
}
