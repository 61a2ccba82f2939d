//! `x-kubernetes-validations`: rules in CEL. `keelson-cel` compiles and evaluates one; here is the walk over schemas and
//! objects: which old value a rule sees, what all rules of an object may cost, and which failures are let pass because
//! nothing changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_api::field::{Error, ErrorList, ErrorType, Path};
use keelson_cel::rules::{self as cel, Compiled, Outcome};
use keelson_cel::{Decl, limits};
use serde_json::{Value, json};

use crate::check::fields::field_path;
use crate::correlate;
use crate::schema::Schema;

/// So many of the most expensive rules are named when all together cost too much.
const NAMED: usize = 4;

fn list<'a>(schema: &'a Value, key: &str) -> &'a [Value] {
    schema
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn is_embedded(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == Value::Bool(true)
}

/// The compiled rules of a version.
#[derive(Default)]
pub struct Rules {
    root: Option<Node>,
}

/// A node of a schema that has rules, or some below it.
struct Node {
    rules: Vec<Compiled>,
    decl: Option<Arc<Decl>>,
    /// The places, below the node, at which failures are told, by rule.
    places: Vec<String>,
    ty: String,
    all_of: Vec<Node>,
    items: Option<Box<Node>>,
    additional: Option<Box<Node>>,
    properties: BTreeMap<String, Node>,
    /// How items are found again.
    lists: Schema,
}

impl Rules {
    /// Compiles the rules of a schema.
    #[must_use]
    pub fn compile(schema: &Value) -> Rules {
        Rules {
            root: Node::compile(schema, true),
        }
    }

    /// Whether there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        self.root.is_some()
    }

    /// Which of them an object breaks; `old` is there on updates.
    #[must_use]
    pub fn check(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut walk = Walk {
            errors: ErrorList::new(),
            budget: limits::RUNTIME_BUDGET,
        };
        if let Some(root) = &self.root {
            walk.node(root, new, old, false, "");
        }
        walk.errors
    }
}

impl Node {
    fn compile(schema: &Value, root: bool) -> Option<Node> {
        if !schema.is_object() {
            return None;
        }
        let written = list(schema, "x-kubernetes-validations");
        let decl = (!written.is_empty())
            .then(|| Decl::from_schema(schema, root || is_embedded(schema)))
            .flatten();
        let mut properties = BTreeMap::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(node) = Node::compile(property, false) {
                properties.insert(name.clone(), node);
            }
        }
        let compiled_schema = Schema::compile(schema).unwrap_or_default();
        let node = Node {
            rules: decl
                .as_ref()
                .map(|decl| cel::compile(schema, decl))
                .unwrap_or_default(),
            places: written
                .iter()
                .map(|rule| place(rule, &compiled_schema))
                .collect(),
            decl,
            ty: schema["type"].as_str().unwrap_or_default().to_owned(),
            all_of: list(schema, "allOf")
                .iter()
                .filter_map(|s| Node::compile(s, false))
                .collect(),
            items: Node::compile(&schema["items"], false).map(Box::new),
            additional: Node::compile(&schema["additionalProperties"], false).map(Box::new),
            properties,
            lists: Schema {
                list_type: compiled_schema.list_type,
                map_keys: compiled_schema.map_keys,
                ..Schema::default()
            },
        };
        let empty = written.is_empty()
            && node.all_of.is_empty()
            && node.items.is_none()
            && node.additional.is_none()
            && node.properties.is_empty();
        (!empty).then_some(node)
    }
}

/// Where a rule's failures are told, below its node.
fn place(rule: &Value, schema: &Schema) -> String {
    let written = rule["fieldPath"].as_str().unwrap_or_default();
    if written.is_empty() {
        return String::new();
    }
    field_path(written, schema, true).map_or_else(|_| String::new(), |(steps, _)| steps.join("."))
}

struct Walk {
    errors: ErrorList,
    budget: i64,
}

impl Walk {
    /// Whether rules may go on being evaluated.
    fn node(
        &mut self,
        node: &Node,
        new: &Value,
        old: Option<&Value>,
        unchanged: bool,
        path: &str,
    ) -> bool {
        if new.is_null() {
            return true;
        }
        let old = old.filter(|o| !o.is_null());
        let unchanged = old.map_or(unchanged, |old| old == new);
        if !self.evaluate(node, new, old, unchanged, path) {
            return false;
        }
        for inner in &node.all_of {
            if !self.node(inner, new, old, unchanged, path) {
                return false;
            }
        }
        match new {
            Value::Array(items) => {
                let Some(inner) = &node.items else {
                    return true;
                };
                let finder = old.map(|old| correlate::Items::new(old, &node.lists));
                for (at, item) in items.iter().enumerate() {
                    let before = finder.as_ref().and_then(|f| f.of(item));
                    if !self.node(inner, item, before, unchanged, &format!("{path}[{at}]")) {
                        return false;
                    }
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    let before = old.and_then(|old| old.get(name));
                    let (inner, at) = match (node.properties.get(name), &node.additional) {
                        (Some(inner), _) if path.is_empty() => (inner, name.clone()),
                        (Some(inner), _) => (inner, format!("{path}.{name}")),
                        (None, Some(inner)) => (&**inner, format!("{path}[{name}]")),
                        (None, None) => continue,
                    };
                    if !self.node(inner, value, before, unchanged, &at) {
                        return false;
                    }
                }
            }
            _ => {}
        }
        true
    }

    fn evaluate(
        &mut self,
        node: &Node,
        new: &Value,
        old: Option<&Value>,
        unchanged: bool,
        path: &str,
    ) -> bool {
        let Some(decl) = &node.decl else {
            return true;
        };
        for (compiled, place) in node.rules.iter().zip(&node.places) {
            if let Some(why) = &compiled.error {
                self.invalid(node, path, format!("rule compile error: {why}"));
                continue;
            }
            let Some(rule) = &compiled.rule else { continue };
            if self.budget <= 0 {
                let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                self.invalid(node, path, why.to_owned());
                return false;
            }
            match rule.check(new, old, decl, &mut self.budget) {
                Outcome::Pass | Outcome::Skipped => {}
                // What was broken before and did not change stays so.
                Outcome::Fail { .. } if unchanged && !rule.uses_old_self() => {}
                Outcome::Fail { message } => {
                    let at = match (path.is_empty(), place.is_empty()) {
                        (_, true) => path.to_owned(),
                        (true, false) => place.clone(),
                        (false, false) => format!("{path}.{place}"),
                    };
                    self.failed(node, &at, new, message, rule.reason());
                }
                Outcome::Invalid(why) => self.invalid(node, path, why),
                Outcome::OutOfBudget(why) => {
                    self.invalid(node, path, why);
                    return false;
                }
            }
        }
        true
    }

    fn invalid(&mut self, node: &Node, path: &str, why: String) {
        self.errors
            .push(Error::invalid(&Path::new(shown(path)), &node.ty, why));
    }

    fn failed(&mut self, node: &Node, path: &str, value: &Value, message: String, reason: &str) {
        let place = Path::new(shown(path));
        let mut error = match reason {
            "FieldValueForbidden" => Error::forbidden(&place, message),
            "FieldValueRequired" => Error::required(&place, message),
            "FieldValueDuplicate" => Error::duplicate(&place, value),
            _ => Error::invalid(&place, value, message),
        };
        let shows = matches!(error.kind, ErrorType::Invalid | ErrorType::Duplicate);
        if shows && matches!(node.ty.as_str(), "object" | "array") {
            error.bad_value = None;
        }
        self.errors.push(error);
    }
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

/// What is wrong with the rules of a schema that is otherwise in order.
pub(crate) fn check(errors: &mut ErrorList, schema: &Value, path: &Path<'_>, unchanged: bool) {
    let mut checker = Checker {
        errors,
        unchanged,
        costs: Vec::new(),
    };
    checker.node(schema, path, true, Some(1), None);
    let costs = checker.costs;
    let total = costs
        .iter()
        .fold(0_u64, |sum, (_, cost)| sum.saturating_add(*cost));
    let Some(why) = cel::exceeds_crd(total) else {
        return;
    };
    let mut costs = costs;
    costs.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
    for (place, _) in costs.into_iter().take(NAMED) {
        let what = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        errors.push(Error::forbidden(&Path::new(&place), what));
    }
    errors.push(Error::forbidden(path, why));
}

struct Checker<'e> {
    errors: &'e mut ErrorList,
    unchanged: bool,
    costs: Vec<(String, u64)>,
}

impl Checker<'_> {
    /// `often` is how often the node can be there at most, if that is bounded; `lost` is the node above from which on old
    /// values can't be found.
    fn node(
        &mut self,
        schema: &Value,
        path: &Path<'_>,
        root: bool,
        often: Option<u64>,
        lost: Option<&str>,
    ) {
        if !schema.is_object() {
            return;
        }
        let times = |key: &str| {
            often
                .zip(schema[key].as_u64())
                .map(|(a, b)| a.saturating_mul(b))
        };
        let additional = path.child("additionalProperties");
        self.node(
            &schema["additionalProperties"],
            &additional,
            false,
            times("maxProperties"),
            lost,
        );
        let properties = path.child("properties");
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            self.node(property, &properties.key(name), false, often, lost);
        }
        let here = path.to_string();
        let is_map = schema["x-kubernetes-list-type"] == "map";
        let lost_in_items = lost.or((!is_map).then_some(here.as_str()));
        self.node(
            &schema["items"],
            &path.child("items"),
            false,
            times("maxItems"),
            lost_in_items,
        );
        let written = list(schema, "x-kubernetes-validations");
        if written.is_empty() {
            return;
        }
        let rules_path = path.child("x-kubernetes-validations");
        let Some(decl) = Decl::from_schema(schema, root || is_embedded(schema)) else {
            let why =
                "internal error: failed to retrieve type information for x-kubernetes-validations";
            self.errors.push(Error::internal(&rules_path, why));
            return;
        };
        for (at, (rule, compiled)) in written.iter().zip(cel::compile(schema, &decl)).enumerate() {
            self.rule(rule, &compiled, &rules_path.index(at), often, lost);
        }
    }

    fn rule(
        &mut self,
        rule: &Value,
        compiled: &Compiled,
        path: &Path<'_>,
        often: Option<u64>,
        lost: Option<&str>,
    ) {
        let place = path.child("rule");
        let cost = compiled
            .max_cost
            .saturating_mul(often.unwrap_or(compiled.max_cardinality));
        if !self.unchanged
            && let Some(why) = cel::exceeds_expression(cost, "rule")
        {
            self.errors.push(Error::forbidden(&place, why));
        }
        self.costs.push((place.to_string(), cost));
        let text = |key: &str| rule[key].as_str().unwrap_or_default();
        let as_upstream = || {
            json!({"Rule": text("rule"), "Message": text("message"), "MessageExpression": text("messageExpression"),
                "Reason": rule["reason"], "FieldPath": text("fieldPath"), "OptionalOldSelf": rule["optionalOldSelf"]})
        };
        if let Some(why) = &compiled.error {
            self.errors.push(Error::invalid(&place, as_upstream(), why));
        }
        let message = path.child("messageExpression");
        if let Some(why) = &compiled.message_error {
            self.errors
                .push(Error::invalid(&message, as_upstream(), why));
        } else if !text("messageExpression").is_empty() {
            if !self.unchanged
                && let Some(why) =
                    cel::exceeds_expression(compiled.message_max_cost, "messageExpression")
            {
                self.errors.push(Error::forbidden(&message, why));
            }
            self.costs
                .push((message.to_string(), compiled.message_max_cost));
        }
        if compiled.uses_old_self {
            if let Some(lost) = lost {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}"
                );
                self.errors.push(Error::invalid(&place, text("rule"), why));
            }
        } else if let Some(optional) = rule["optionalOldSelf"].as_bool() {
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.push(Error::invalid(
                &path.child("optionalOldSelf"),
                optional,
                why,
            ));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(errors: &[Error]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_hold_or_say_why_not() {
        let rules = Rules::compile(
            &json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "message": "min must not exceed max", "fieldPath": ".min"},
                {"rule": "self.name == oldSelf.name", "message": "name is immutable"},
                {"rule": "self.max < 100", "messageExpression": "'max is ' + string(self.max)"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"}}}}}),
        );
        assert!(rules.any());
        let good = json!({"spec": {"min": 1, "max": 2, "name": "a"}});
        assert!(rules.check(&good, None).is_empty());
        let bad = json!({"spec": {"min": 3, "max": 2, "name": "b"}});
        assert_eq!(
            told(&rules.check(&bad, Some(&good))),
            [
                "spec.min: Invalid value: min must not exceed max",
                "spec: Invalid value: name is immutable",
            ]
        );
        assert_eq!(
            told(&rules.check(&json!({"spec": {"min": 1, "max": 200, "name": "a"}}), None)),
            ["spec: Invalid value: max is 200"]
        );
        // What was wrong before and did not change is let pass.
        let wrong = json!({"x": 1, "spec": {"min": 3, "max": 2, "name": "a"}});
        let still = json!({"x": 2, "spec": {"min": 3, "max": 2, "name": "a"}});
        assert!(rules.check(&still, Some(&wrong)).is_empty());
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let mut errors = ErrorList::new();
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "x-kubernetes-validations": [{"rule": "self.size() < "}, {"rule": "self"}]},
            "l": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}},
            "e": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}}});
        check(&mut errors, &schema, &Path::new("schema"), false);
        let told = told(&errors);
        assert!(
            told.iter().any(|t| t.starts_with(
                "schema.properties[a].x-kubernetes-validations[0].rule: Invalid value: "
            ) && t.contains("compilation failed: ERROR: <input>")),
            "{told:#?}"
        );
        assert!(
            told.iter()
                .any(|t| t.contains("cel expression must evaluate to a bool")),
            "{told:#?}"
        );
        assert!(told.iter().any(|t| t.contains("oldSelf cannot be used on the uncorrelatable portion of the schema within schema.properties[l]")), "{told:#?}");
        assert!(told.iter().any(|t| t.starts_with("schema.properties[e].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget")), "{told:#?}");
    }
}
