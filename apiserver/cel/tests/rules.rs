//! Rules of CRDs: their estimates, and what they say.

use keelson_cel::rules::{Outcome, compile, exceeds_crd, exceeds_expression};
use keelson_cel::{Decl, limits};
use serde_json::{Value as Json, json};

fn schema(properties: Json, rules: Json) -> Json {
    json!({"type": "object", "properties": properties, "x-kubernetes-validations": rules})
}

#[test]
fn rules_say_what_is_wrong() {
    let node = schema(
        json!({"n": {"type": "integer"}, "min": {"type": "integer"}, "s": {"type": "string", "maxLength": 10}}),
        json!([
            {"rule": "self.n >= self.min", "message": "n must be at least min"},
            {"rule": "self.n < 100", "messageExpression": "'n is ' + string(self.n)"},
            {"rule": "self.n >= oldSelf.n"},
            {"rule": "self.s.size() < 3"},
            {"rule": "self.nope == 1"},
            {"rule": "self.n"},
            {"rule": "  "},
            {"rule": "!oldSelf.hasValue() || oldSelf.value().n == self.n", "optionalOldSelf": true},
        ]),
    );
    let decl = Decl::from_schema(&node, false).unwrap();
    let compiled = compile(&node, &decl);
    let check = |at: usize, new: Json, old: Option<Json>| {
        let mut remaining = limits::RUNTIME_BUDGET;
        compiled[at]
            .rule
            .as_ref()
            .unwrap()
            .check(&new, old.as_ref(), &decl, &mut remaining)
    };
    let fail = |message: &str| Outcome::Fail {
        message: message.into(),
    };
    assert_eq!(check(0, json!({"n": 1, "min": 1}), None), Outcome::Pass);
    assert_eq!(
        check(0, json!({"n": 0, "min": 1}), None),
        fail("n must be at least min")
    );
    assert_eq!(check(1, json!({"n": 100}), None), fail("n is 100"));
    assert_eq!(check(2, json!({"n": 1}), None), Outcome::Skipped);
    assert_eq!(
        check(2, json!({"n": 1}), Some(json!({"n": 2}))),
        fail("failed rule: self.n >= oldSelf.n")
    );
    assert_eq!(
        check(3, json!({"n": 1}), None),
        Outcome::Invalid("no such key: s evaluating rule: self.s.size() < 3".into())
    );
    assert!(
        compiled[4]
            .error
            .as_ref()
            .unwrap()
            .starts_with("compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n")
    );
    assert_eq!(
        compiled[5].error.as_deref(),
        Some("cel expression must evaluate to a bool")
    );
    assert!(compiled[6].rule.is_none() && compiled[6].error.is_none());
    assert_eq!(check(7, json!({"n": 1}), None), Outcome::Pass);
    assert!(compiled[2].uses_old_self && !compiled[0].uses_old_self);
}

#[test]
fn lists_are_compared_by_their_kind() {
    let node = schema(
        json!({"set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}, "maxItems": 5}}),
        json!([{"rule": "self.set == oldSelf.set"}]),
    );
    let decl = Decl::from_schema(&node, false).unwrap();
    let rule = compile(&node, &decl).remove(0).rule.unwrap();
    let mut remaining = limits::RUNTIME_BUDGET;
    let (a, b) = (json!({"set": ["a", "b"]}), json!({"set": ["b", "a"]}));
    assert_eq!(
        rule.check(&a, Some(&b), &decl, &mut remaining),
        Outcome::Pass
    );
}

#[test]
fn estimates_are_upstreams() {
    let cost = |properties: Json, rule: &str| {
        let node = schema(properties, json!([{"rule": rule}]));
        let decl = Decl::from_schema(&node, false).unwrap();
        compile(&node, &decl)[0].max_cost
    };
    // worked out by hand from cel-go's rules
    assert_eq!(cost(json!({}), "true"), 0);
    assert_eq!(cost(json!({"a": {"type": "integer"}}), "self.a == 1"), 2);
    let list = json!({"l": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}}});
    // range 2; ten times condition 2, step 1 + 1 + startsWith's 1; result 1
    assert_eq!(
        cost(list.clone(), "self.l.all(x, x.startsWith('a'))"),
        2 + 10 * (2 + 1 + 1 + 1) + 1
    );
    assert_eq!(cost(list, "self.l.size() < 3"), 2 + 1 + 1);
    let unbounded = json!({"l": {"type": "array", "items": {"type": "string"}}});
    let deep = cost(unbounded, "self.l.all(x, self.l.all(y, x == y))");
    assert!(exceeds_expression(deep, "rule").unwrap().starts_with(
        "estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule"
    ));
    assert_eq!(exceeds_expression(10_000_000, "rule"), None);
    assert!(
        exceeds_crd(200_000_000)
            .unwrap()
            .contains("exceeds budget by factor of 2.0x")
    );
}
