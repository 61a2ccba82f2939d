//! The expressions of admission policies at work: the variables that a policy composes, evaluation with a budget that all
//! expressions of a policy share, and what the results of mutations are.
//!
//! What they may name is the business of [`crate::policies`], what a result or an error leads to that of the plugins.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value as Json;

use crate::conditions;
use crate::error::EvalError;
use crate::limits::PER_CALL_LIMIT;
use crate::policies::{Compiler, Purpose};
use crate::program::{Activation, Budget, Program};
use crate::value::{Evaluated, Key, Lazy, List, Map, Value};

/// The most bytes that the result of a message expression may have.
pub const MAX_MESSAGE: usize = 5 * 1024;

/// An expression, and what came of compiling it.
#[derive(Debug, Clone)]
pub struct Expression {
    /// The text.
    pub text: String,
    /// The program, or why there is none.
    pub program: Result<Program, String>,
}

struct Variable {
    name: String,
    program: Result<Program, String>,
}

/// A policy's variables, each compiled with those before it.
pub struct Composition {
    compiler: Compiler,
    variables: Vec<Variable>,
}

impl Composition {
    /// Without variables; `params` says whether the policy takes parameters.
    pub fn new(params: bool) -> Composition {
        Composition {
            compiler: Compiler::new(params).composing(),
            variables: Vec::new(),
        }
    }

    /// Compiles a variable, which expressions that are compiled later may name. One that is wrong fails where it is named.
    pub fn define(&mut self, name: &str, text: &str) {
        let program = self.compiler.variable(name, text);
        self.variables.retain(|known| known.name != name);
        self.variables.push(Variable {
            name: name.to_owned(),
            program,
        });
    }

    /// Compiles an expression.
    pub fn compile(&self, purpose: Purpose, text: &str) -> Expression {
        Expression {
            text: text.to_owned(),
            program: self.compiler.compile(purpose, text),
        }
    }
}

/// What expressions look at; null where there is none.
#[derive(Clone)]
pub struct Inputs<'a> {
    /// The new object.
    pub object: &'a Json,
    /// The object before.
    pub old_object: &'a Json,
    /// The request, as an AdmissionReview has it.
    pub request: &'a Json,
    /// The namespace.
    pub namespace: &'a Json,
    /// The parameters.
    pub params: &'a Json,
    /// The authorizer, and the check of the request's own resource.
    pub authorizer: Option<(Value<'a>, Value<'a>)>,
}

/// The budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "validation failed due to running out of cost budget, no further validation rules will be run"
)]
pub struct OutOfBudget;

/// Evaluates expressions on the same inputs. A variable is evaluated once, when it is first named.
pub struct Scope<'a> {
    activation: Activation<'a>,
    variables: Arc<Variables<'a>>,
}

impl<'a> Scope<'a> {
    /// On these inputs.
    pub fn new(composition: &Arc<Composition>, inputs: &Inputs<'a>) -> Scope<'a> {
        let mut base = Activation::new()
            .bind("object", Value::dynamic(inputs.object))
            .bind("oldObject", Value::dynamic(inputs.old_object))
            .bind(
                "request",
                Value::json(inputs.request, &conditions::request()),
            )
            .bind("namespaceObject", Value::dynamic(inputs.namespace))
            .bind("params", Value::dynamic(inputs.params));
        if let Some((authorizer, resource)) = &inputs.authorizer {
            base = base
                .bind("authorizer", authorizer.clone())
                .bind("authorizer.requestResource", resource.clone());
        }
        let variables = Arc::new_cyclic(|me| Variables {
            me: me.clone(),
            composition: composition.clone(),
            base: base.clone(),
            known: Mutex::default(),
            spent: AtomicU64::new(0),
        });
        Scope {
            activation: base.bind("variables", Value::Lazy(variables.clone())),
            variables,
        }
    }

    /// Evaluates an expression; errors have upstream's words.
    pub fn evaluate(
        &self,
        expression: &Expression,
        remaining: &mut i64,
    ) -> Result<Result<Value<'a>, String>, OutOfBudget> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let mut budget = Budget::new(PER_CALL_LIMIT);
        let result = program.evaluate(&self.activation, &mut budget);
        let composed = self.variables.spent.swap(0, Ordering::Relaxed);
        let spent = budget.spent().saturating_add(composed);
        match i64::try_from(spent) {
            Ok(spent) if spent <= *remaining => *remaining -= spent,
            _ => return Err(OutOfBudget),
        }
        Ok(result.map_err(|error| {
            format!(
                "expression '{}' resulted in error: {error}",
                expression.text
            )
        }))
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        // A variable may be `variables` itself.
        self.variables.known().clear();
    }
}

/// The object `variables`.
struct Variables<'a> {
    me: Weak<Variables<'a>>,
    composition: Arc<Composition>,
    base: Activation<'a>,
    known: Mutex<HashMap<String, Evaluated<'a>>>,
    spent: AtomicU64,
}

impl<'a> Variables<'a> {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Evaluated<'a>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evaluate(&self, variable: &Variable) -> Evaluated<'a> {
        let name = &variable.name;
        let program = variable.program.as_ref().map_err(|why| {
            EvalError::failed(format!(
                "composited variable {name:?} fails to compile: {why}"
            ))
        })?;
        let me = self
            .me
            .upgrade()
            .ok_or_else(|| EvalError::failed("the variables are gone"))?;
        let activation = self.base.clone().bind("variables", Value::Lazy(me));
        let mut budget = Budget::new(PER_CALL_LIMIT);
        let result = program.evaluate(&activation, &mut budget);
        self.spent.fetch_add(budget.spent(), Ordering::Relaxed);
        result.map_err(|error| {
            EvalError::failed(format!(
                "composited variable {name:?} fails to evaluate: {error}"
            ))
        })
    }
}

impl<'a> Lazy<'a> for Variables<'a> {
    fn field(&self, name: &str) -> Option<Evaluated<'a>> {
        let variable = self.composition.variables.iter().find(|v| v.name == name)?;
        if let Some(known) = self.known().get(name) {
            return Some(known.clone());
        }
        let value = self.evaluate(variable);
        self.known().insert(name.to_owned(), value.clone());
        Some(value)
    }
}

/// Whether the objects in a patch have the names of the fields that they are in, as in `Object{spec: Object.spec{}}`.
pub fn check_patch_names(value: &Value<'_>) -> Result<(), String> {
    let mut errors = Vec::new();
    if let Value::Map(Map::Owned(_, Some(name))) = value {
        check_names(value, name, &mut errors);
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.join("\n"))
    }
}

fn check_names(value: &Value<'_>, path: &str, errors: &mut Vec<String>) {
    match value {
        Value::Map(Map::Owned(fields, Some(name))) => {
            if **name != *path {
                errors.push(format!(
                    "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    &**name
                ));
            }
            for (key, inner) in fields.iter() {
                if let Key::Text(field) = key {
                    check_names(inner, &format!("{path}.{field}"), errors);
                }
            }
        }
        Value::Map(Map::Owned(entries, None)) => {
            for inner in entries.values() {
                check_names(inner, path, errors);
            }
        }
        Value::List(List::Owned(items)) => {
            for inner in items.iter() {
                check_names(inner, path, errors);
            }
        }
        _ => {}
    }
}

/// The operations of a list of `JSONPatch` objects.
pub fn json_patch(value: &Value<'_>) -> Result<Json, String> {
    let Value::List(items) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let mut operations = Vec::with_capacity(items.len());
    for item in items.iter() {
        let Value::Map(Map::Owned(fields, Some(name))) = &item else {
            return Err(not_a_patch(&item));
        };
        if &**name != "JSONPatch" {
            return Err(not_a_patch(&item));
        }
        let field = |name: &str| fields.get(&Key::Text(name.into()));
        let text = |name: &str| field(name).and_then(Value::as_str).unwrap_or_default();
        let mut operation = serde_json::Map::new();
        operation.insert("op".into(), text("op").into());
        operation.insert("path".into(), text("path").into());
        if !text("from").is_empty() {
            operation.insert("from".into(), text("from").into());
        }
        if let Some(value) = field("value") {
            check_patch_names(value).map_err(|why| format!("type mismatch: {why}"))?;
            let value = value.to_json().map_err(|why| {
                format!(
                    "JSONPath valueExpression evaluated to a type that could not marshal to JSON: {why}"
                )
            })?;
            operation.insert("value".into(), value);
        }
        operations.push(Json::Object(operation));
    }
    Ok(Json::Array(operations))
}

fn not_a_patch(item: &Value<'_>) -> String {
    format!(
        "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {}",
        item.type_of()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn composition(variables: &[(&str, &str)]) -> Arc<Composition> {
        let mut composition = Composition::new(true);
        for (name, text) in variables {
            composition.define(name, text);
        }
        Arc::new(composition)
    }

    fn with<T>(composition: &Arc<Composition>, look: impl FnOnce(&Scope<'_>) -> T) -> T {
        let (object, request) = (
            json!({"spec": {"replicas": 3}, "metadata": {"name": "a"}}),
            json!({"operation": "CREATE"}),
        );
        let (namespace, params) = (json!({"metadata": {"name": "ns"}}), json!({"max": 2}));
        look(&Scope::new(
            composition,
            &Inputs {
                object: &object,
                old_object: &Json::Null,
                request: &request,
                namespace: &namespace,
                params: &params,
                authorizer: None,
            },
        ))
    }

    fn result(composition: &Arc<Composition>, text: &str) -> Result<Json, String> {
        let expression = composition.compile(Purpose::Variable, text);
        with(composition, |scope| {
            let value = scope.evaluate(&expression, &mut 1_000_000).unwrap()?;
            value.to_json().map_err(|e| e.to_string())
        })
    }

    #[test]
    fn variables_build_on_each_other() {
        let composed = composition(&[
            ("replicas", "object.spec.replicas"),
            ("odd", "variables.replicas % 2 == 1"),
            ("bad", "object.nope"),
            ("broken", "1 +"),
            ("all", "variables"),
        ]);
        assert_eq!(
            result(
                &composed,
                "variables.odd && variables.replicas > params.max"
            ),
            Ok(json!(true))
        );
        assert_eq!(
            result(&composed, "namespaceObject.metadata.name"),
            Ok(json!("ns"))
        );
        assert_eq!(
            result(&composed, "variables.bad == 1").unwrap_err(),
            "expression 'variables.bad == 1' resulted in error: composited variable \"bad\" fails to evaluate: no such key: nope"
        );
        assert!(
            result(&composed, "variables.broken == 1")
                .unwrap_err()
                .contains(
                    "composited variable \"broken\" fails to compile: compilation failed: ERROR"
                )
        );
        assert!(
            result(&composed, "variables.none")
                .unwrap_err()
                .contains("undefined field 'none'")
        );
    }

    #[test]
    fn the_budget_is_shared_and_variables_count_once() {
        let composed = composition(&[("sum", "[1, 2, 3].map(x, x * 2)")]);
        let expression = composed.compile(Purpose::Validation, "variables.sum.size() == 3");
        with(&composed, |scope| {
            let mut remaining = 1_000;
            scope
                .evaluate(&expression, &mut remaining)
                .unwrap()
                .unwrap();
            let first = 1_000 - remaining;
            scope
                .evaluate(&expression, &mut remaining)
                .unwrap()
                .unwrap();
            let second = 1_000 - first - remaining;
            assert!(second > 0 && first > second, "{first} {second}");
            assert!(scope.evaluate(&expression, &mut 1).is_err());
        });
    }

    #[test]
    fn patches_are_objects_of_the_fields_names() {
        let composed = composition(&[]);
        let patch = |text: &str| {
            let expression = composed.compile(Purpose::ApplyConfiguration, text);
            with(&composed, |scope| {
                let value = scope.evaluate(&expression, &mut 1_000_000).unwrap()?;
                check_patch_names(&value)?;
                value.to_json().map_err(|e| e.to_string())
            })
        };
        assert_eq!(
            patch("Object{metadata: Object.metadata{labels: {'a': 'b'}}}"),
            Ok(json!({"metadata": {"labels": {"a": "b"}}}))
        );
        assert_eq!(
            patch("Object{spec: Object.wrong{replicas: 1}}").unwrap_err(),
            "unexpected type name \"Object.wrong\", expected \"Object.spec\", which matches field name path from root Object type"
        );
        let list = composed.compile(
            Purpose::JsonPatch,
            "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: Object.metadata{x: 1}}]",
        );
        with(&composed, |scope| {
            let value = scope.evaluate(&list, &mut 1_000_000).unwrap().unwrap();
            assert_eq!(
                json_patch(&value),
                Ok(json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": {"x": 1}}]))
            );
        });
    }
}
