//! Match conditions of webhooks and policies: the variables that they may name, and their verdict.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde_json::Value as Json;

use crate::decl::Decl;
use crate::environment::Environment;
use crate::error::EvalError;
use crate::limits::{MATCH_CONDITIONS_BUDGET, PER_CALL_LIMIT};
use crate::program::{Activation, Budget, Program};
use crate::types::Type;
use crate::value::Value;

/// How many compiled conditions are kept.
const KEPT: usize = 1024;

/// The declared type of `request`.
pub fn request() -> Arc<Decl> {
    static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
        let text = Decl::string;
        let kind = Decl::object(
            "kubernetes.GroupVersionKind",
            &[("group", text()), ("version", text()), ("kind", text())],
        );
        let resource = Decl::object(
            "kubernetes.GroupVersionResource",
            &[("group", text()), ("version", text()), ("resource", text())],
        );
        let user = Decl::object(
            "kubernetes.UserInfo",
            &[
                ("username", text()),
                ("uid", text()),
                ("groups", Decl::list(text())),
                ("extra", Decl::map(Decl::list(text()))),
            ],
        );
        Decl::object(
            "kubernetes.AdmissionRequest",
            &[
                ("kind", kind.clone()),
                ("resource", resource.clone()),
                ("subResource", text()),
                ("requestKind", kind),
                ("requestResource", resource),
                ("requestSubResource", text()),
                ("name", text()),
                ("namespace", text()),
                ("operation", text()),
                ("userInfo", user),
                ("dryRun", Decl::boolean()),
                ("options", Decl::dynamic()),
            ],
        )
    });
    REQUEST.clone()
}

fn environment() -> &'static Environment {
    static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
        Environment::base()
            .variable("object", Decl::dynamic())
            .variable("oldObject", Decl::dynamic())
            .variable("request", request())
            .typed(
                "authorizer",
                Type::object("kubernetes.authorization.Authorizer"),
            )
            .typed(
                "authorizer.requestResource",
                Type::object("kubernetes.authorization.ResourceCheck"),
            )
    });
    &ENVIRONMENT
}

/// Compiles a condition, or says in upstream's words why it can't be one.
pub fn compile(expression: &str) -> Result<Program, String> {
    let program = environment()
        .compile(expression)
        .map_err(|error| format!("compilation failed: {error}"))?;
    match program.output() {
        Type::Bool => Ok(program),
        other => Err(format!("must evaluate to bool but got {other}")),
    }
}

/// A condition, compiled once for as long as it is in use.
fn compiled(expression: &str) -> Result<Program, String> {
    static CACHE: LazyLock<Mutex<HashMap<String, Result<Program, String>>>> =
        LazyLock::new(Mutex::default);
    let lock = || CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lock().get(expression) {
        return known.clone();
    }
    let program = compile(expression);
    let mut cache = lock();
    if cache.len() >= KEPT {
        cache.clear();
    }
    cache.insert(expression.to_owned(), program.clone());
    program
}

/// What conditions look at.
pub struct Input<'a> {
    /// The new object.
    pub object: &'a Json,
    /// The object before.
    pub old_object: &'a Json,
    /// The request, as an AdmissionReview has it.
    pub request: &'a Json,
    /// The authorizer, as a value.
    pub authorizer: Value<'a>,
    /// The check of the request's own resource.
    pub request_resource: Value<'a>,
}

/// Whether all conditions hold. One that is false decides; otherwise errors are told, and the failure policy is the caller's.
pub fn hold(expressions: &[&str], input: &Input<'_>) -> Result<bool, String> {
    let activation = Activation::new()
        .bind("object", Value::dynamic(input.object))
        .bind("oldObject", Value::dynamic(input.old_object))
        .bind("request", Value::json(input.request, &request()))
        .bind("authorizer", input.authorizer.clone())
        .bind("authorizer.requestResource", input.request_resource.clone());
    let mut remaining = MATCH_CONDITIONS_BUDGET;
    let mut errors = Vec::new();
    for expression in expressions {
        let program = match compiled(expression.trim()) {
            Ok(program) => program,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let mut budget = Budget::new(PER_CALL_LIMIT);
        let result = program.evaluate(&activation, &mut budget);
        remaining -= i64::try_from(budget.spent()).unwrap_or(i64::MAX);
        if remaining < 0 || matches!(result, Err(EvalError::CostExceeded)) {
            return Err("validation failed due to running out of cost budget, no further validation rules will be run".into());
        }
        match result {
            Ok(Value::Bool(true)) => {}
            Ok(Value::Bool(false)) => return Ok(false),
            Ok(_) => errors.push(format!(
                "expression '{expression}' resulted in error: not a bool"
            )),
            Err(error) => errors.push(format!(
                "expression '{expression}' resulted in error: {error}"
            )),
        }
    }
    match errors.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict(expressions: &[&str]) -> Result<bool, String> {
        let (object, old, request) = (
            json!({"metadata": {"name": "a"}}),
            Json::Null,
            json!({"operation": "CREATE", "userInfo": {"username": "u"}}),
        );
        let input = Input {
            object: &object,
            old_object: &old,
            request: &request,
            authorizer: Value::Null,
            request_resource: Value::Null,
        };
        hold(expressions, &input)
    }

    #[test]
    fn one_that_is_false_decides() {
        assert_eq!(
            verdict(&[
                "object.metadata.name == 'a'",
                "request.operation == 'CREATE' && oldObject == null"
            ]),
            Ok(true)
        );
        assert_eq!(
            verdict(&["object.nope == 1", "request.userInfo.username != 'u'"]),
            Ok(false)
        );
        assert_eq!(
            verdict(&["object.nope == 1"]),
            Err("expression 'object.nope == 1' resulted in error: no such key: nope".into())
        );
        assert!(
            compile("... [] bad expression")
                .unwrap_err()
                .starts_with("compilation failed: ERROR: <input>:1:")
        );
        assert_eq!(
            compile("'a'").unwrap_err(),
            "must evaluate to bool but got string"
        );
        assert!(compile("authorizer.group('').resource('pods').check('get').allowed() && authorizer.requestResource.check('get').allowed()").is_ok());
        assert!(
            compile("request.nope == ''")
                .unwrap_err()
                .contains("undefined field 'nope'")
        );
        assert!(compile("params.x == 1").is_err());
    }
}
