//! Checks a policy's expressions against the types of the kinds it is about.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keelson_cel::Decl;
use keelson_cel::policies::Compiler;
use keelson_schema::Schema;
use serde_json::{Value, json};

use super::kinds::Kind;

/// The warnings about a policy's validations and their messages, each with the kinds that it is about.
pub fn warnings(
    policy: &ValidatingAdmissionPolicy,
    kinds: &BTreeSet<Kind>,
    definitions: &[Arc<CustomResourceDefinition>],
) -> Vec<Value> {
    let Some(spec) = &policy.spec else {
        return Vec::new();
    };
    let params = spec.param_kind.as_ref().and_then(|param| {
        let api_version = param.api_version.as_deref().unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = param.kind.as_deref().unwrap_or_default();
        let is_kind = !version.contains('/') && !(api_version.is_empty() && kind.is_empty());
        is_kind.then(|| declared(&(group.into(), version.into(), kind.into()), definitions))
    });
    let compilers: Vec<(&Kind, Compiler)> = kinds
        .iter()
        .filter_map(|kind| {
            let mut compiler = Compiler::typed(declared(kind, definitions)?, params.clone());
            for variable in spec.variables.iter().flatten() {
                compiler.check_variable(&variable.name, &variable.expression);
            }
            Some((kind, compiler))
        })
        .collect();
    let mut warnings = Vec::new();
    let mut check = |field: String, expression: &str| {
        let found: Vec<String> = compilers
            .iter()
            .filter_map(|((group, version, kind), compiler)| {
                let error = compiler.check(expression).err()?;
                Some(format!("{group}/{version}, Kind={kind}: {error}\n"))
            })
            .collect();
        if !found.is_empty() {
            warnings.push(json!({"fieldRef": field, "warning": found.join("\n")}));
        }
    };
    for (i, validation) in spec.validations.iter().flatten().enumerate() {
        check(
            format!("spec.validations[{i}].expression"),
            &validation.expression,
        );
        let message = validation.message_expression.as_deref();
        if let Some(message) = message.filter(|message| !message.is_empty()) {
            check(format!("spec.validations[{i}].messageExpression"), message);
        }
    }
    warnings
}

/// The declared type of a kind, where its schema is known.
fn declared(
    kind @ (group, version, name): &Kind,
    definitions: &[Arc<CustomResourceDefinition>],
) -> Option<Arc<Decl>> {
    match Schema::builtin().kind(group, version, name) {
        Some(ty) => Some(Decl::from_type(ty)),
        None => custom(kind, definitions),
    }
}

fn custom(
    (group, version, kind): &Kind,
    definitions: &[Arc<CustomResourceDefinition>],
) -> Option<Arc<Decl>> {
    let spec = definitions
        .iter()
        .map(|definition| &definition.spec)
        .find(|spec| spec.group == *group && spec.names.kind == *kind)?;
    let served = spec
        .versions
        .iter()
        .find(|served| served.name == *version && served.served)?;
    let schema = served.schema.as_ref()?.open_api_v3_schema.as_ref()?;
    let schema = serde_json::to_value(schema).ok()?;
    // Every kind has the same metadata.
    let config_map = Schema::builtin().kind("", "v1", "ConfigMap")?.as_struct()?;
    let metadata = config_map
        .fields()
        .iter()
        .find(|f| &*f.name == "metadata")?;
    Some(Decl::of_custom_resource(
        &schema,
        Decl::from_type(&metadata.ty),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(spec: Value, kinds: &[(&str, &str, &str)]) -> Vec<Value> {
        let definition = serde_json::from_value(json!({"metadata": {"name": "crontabs.example.com"}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"kind": "CronTab", "plural": "crontabs"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}}]}}))
        .unwrap();
        let policy =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let kinds = kinds
            .iter()
            .map(|(group, version, kind)| ((*group).into(), (*version).into(), (*kind).into()))
            .collect();
        warnings(&policy, &kinds, &[Arc::new(definition)])
    }

    const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");
    const CRON_TAB: (&str, &str, &str) = ("example.com", "v1", "CronTab");

    #[test]
    fn good_expressions_have_no_warnings() {
        let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "variables": [{"name": "most", "expression": "int(params.data.most)"}],
            "validations": [{"expression": "object.spec.replicas < variables.most && object.metadata.labels['a'] == 'b' && authorizer.group('').resource('pods').check('get').allowed()"}]});
        assert_eq!(found(spec, &[DEPLOYMENT, CRON_TAB]), [Value::Null; 0]);
    }

    #[test]
    fn confusion_is_told_for_each_kind() {
        let spec = json!({"validations": [
            {"expression": "object.spec.replicas > '1'", "messageExpression": "'wants more, got ' + object.spec.replicas"},
            {"expression": "object.spec.maxRetries < 10"}]});
        let place = "\n | object.spec.replicas > '1'\n | .....................^\n";
        assert_eq!(
            found(
                spec,
                &[DEPLOYMENT, CRON_TAB, ("other.example.com", "v1", "Unknown")]
            ),
            [
                json!({"fieldRef": "spec.validations[0].expression", "warning": format!(
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'{place}\nexample.com/v1, Kind=CronTab: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'{place}")}),
                json!({"fieldRef": "spec.validations[0].messageExpression", "warning":
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:20: found no matching overload for '_+_' applied to '(string, int)'\n | 'wants more, got ' + object.spec.replicas\n | ...................^\n\nexample.com/v1, Kind=CronTab: ERROR: <input>:1:20: found no matching overload for '_+_' applied to '(string, int)'\n | 'wants more, got ' + object.spec.replicas\n | ...................^\n"}),
                json!({"fieldRef": "spec.validations[1].expression", "warning":
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'maxRetries'\n | object.spec.maxRetries < 10\n | ...........^\n\nexample.com/v1, Kind=CronTab: ERROR: <input>:1:12: undefined field 'maxRetries'\n | object.spec.maxRetries < 10\n | ...........^\n"}),
            ]
        );
    }
}
