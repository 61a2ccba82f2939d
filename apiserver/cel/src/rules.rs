//! `x-kubernetes-validations` of one schema node: compiled, and checked against a value. The walk over schema and object,
//! ratcheting and the totals over a CRD are the caller's.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::decl::Decl;
use crate::environment::Environment;
use crate::error::EvalError;
use crate::limits::{PER_CALL_LIMIT, STATIC_CRD_LIMIT, STATIC_EXPRESSION_LIMIT};
use crate::program::{Activation, Budget, Program};
use crate::types::Type;
use crate::value::Value;

/// The longest message that a rule's expression may make.
const MAX_MESSAGE: usize = 5120;

/// What became of a rule.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    /// The rule; `None` without an error where it is blank.
    pub rule: Option<Rule>,
    /// Why it was refused.
    pub error: Option<String>,
    /// Whether it looks at the value before.
    pub uses_old_self: bool,
    /// What it may cost at most.
    pub max_cost: u64,
    /// How often it may be evaluated for an object at most.
    pub max_cardinality: u64,
    /// Why its message's expression was refused.
    pub message_error: Option<String>,
    /// What its message's expression may cost at most.
    pub message_max_cost: u64,
}

/// A compiled rule.
#[derive(Debug, Clone)]
pub struct Rule {
    program: Program,
    message_program: Option<Program>,
    text: String,
    message: String,
    reason: String,
    field_path: String,
    optional_old_self: bool,
    uses_old_self: bool,
}

/// What a rule says about a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not.
    Fail {
        /// Upstream's message.
        message: String,
    },
    /// It is about changes, and this is none.
    Skipped,
    /// It could not be evaluated.
    Invalid(String),
    /// All rules together cost too much; no more are evaluated.
    OutOfBudget(String),
}

fn text<'j>(rule: &'j Json, key: &str) -> &'j str {
    rule.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// Compiles the rules of a schema node.
pub fn compile(node: &Json, decl: &Arc<Decl>) -> Vec<Compiled> {
    let rules = node
        .get("x-kubernetes-validations")
        .and_then(Json::as_array);
    let plain = Environment::base()
        .variable("self", decl.clone())
        .variable("oldSelf", decl.clone());
    rules
        .into_iter()
        .flatten()
        .map(|rule| {
            let optional = rule.get("optionalOldSelf").and_then(Json::as_bool) == Some(true);
            let environment = if optional {
                plain.clone().optional("oldSelf", decl.clone())
            } else {
                plain.clone()
            };
            one(rule, optional, &environment, decl)
        })
        .collect()
}

fn one(rule: &Json, optional_old_self: bool, environment: &Environment, decl: &Decl) -> Compiled {
    let mut compiled = Compiled::default();
    let source = text(rule, "rule");
    if source.trim().is_empty() {
        return compiled;
    }
    let program = match environment.compile(source) {
        Ok(program) if *program.output() == Type::Bool => program,
        Ok(_) => {
            compiled.error = Some("cel expression must evaluate to a bool".into());
            return compiled;
        }
        Err(error) => {
            compiled.error = Some(format!("compilation failed: {error}"));
            return compiled;
        }
    };
    compiled.uses_old_self = program.references("oldSelf");
    compiled.max_cost = program.estimate().max;
    compiled.max_cardinality = decl.max_cardinality();
    let mut message_program = None;
    let source_of_message = text(rule, "messageExpression");
    if !source_of_message.is_empty() {
        match environment.compile(source_of_message) {
            Ok(program) if *program.output() == Type::String => {
                compiled.message_max_cost = program.estimate().max;
                message_program = Some(program);
            }
            Ok(_) => {
                compiled.message_error = Some("messageExpression must evaluate to a string".into())
            }
            Err(error) => {
                compiled.message_error =
                    Some(format!("messageExpression compilation failed: {error}"));
            }
        }
    }
    compiled.rule = Some(Rule {
        program,
        message_program,
        text: source.trim().to_owned(),
        message: text(rule, "message").to_owned(),
        reason: text(rule, "reason").to_owned(),
        field_path: text(rule, "fieldPath").to_owned(),
        optional_old_self,
        uses_old_self: compiled.uses_old_self,
    });
    compiled
}

impl Rule {
    /// The reason that failures have, `FieldValueInvalid` and its like, or empty.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The path, relative to the value, that failures are told at, as the rule writes it.
    pub fn field_path(&self) -> &str {
        &self.field_path
    }

    /// Whether it looks at the value before.
    pub fn uses_old_self(&self) -> bool {
        self.uses_old_self
    }

    /// Checks a value; `remaining` is what all rules of the object may still cost.
    pub fn check(
        &self,
        new: &Json,
        old: Option<&Json>,
        decl: &Arc<Decl>,
        remaining: &mut i64,
    ) -> Outcome {
        if self.uses_old_self && old.is_none() && !self.optional_old_self {
            return Outcome::Skipped;
        }
        let mut activation = Activation::new().bind("self", Value::json(new, decl));
        let before = old.map(|old| Value::json(old, decl));
        if self.optional_old_self {
            activation = activation.bind("oldSelf", before.map_or_else(Value::none, Value::some));
        } else if let Some(before) = before {
            activation = activation.bind("oldSelf", before);
        }
        let mut budget = Budget::new(PER_CALL_LIMIT);
        let result = self.program.evaluate(&activation, &mut budget);
        if !spend(&budget, remaining) {
            return Outcome::OutOfBudget("validation failed due to running out of cost budget, no further validation rules will be run".into());
        }
        match result {
            Ok(Value::Bool(true)) => Outcome::Pass,
            Ok(Value::Bool(false)) => self.failure(&activation, remaining),
            Ok(_) => Outcome::Invalid(format!(
                "internal error: rule result is not a bool: {}",
                self.text
            )),
            Err(error @ EvalError::CostExceeded) => Outcome::OutOfBudget(format!(
                "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                self.shown()
            )),
            Err(EvalError::Failed(why)) if why == "no such overload" => Outcome::Invalid(format!(
                "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                self.shown()
            )),
            Err(error) => Outcome::Invalid(format!("{error} evaluating rule: {}", self.shown())),
        }
    }

    fn shown(&self) -> &str {
        if self.message.is_empty() {
            &self.text
        } else {
            self.message.trim()
        }
    }

    fn failure(&self, activation: &Activation<'_>, remaining: &mut i64) -> Outcome {
        let fallback = if self.message.is_empty() {
            format!("failed rule: {}", self.text)
        } else {
            self.message.trim().to_owned()
        };
        let Some(program) = &self.message_program else {
            return Outcome::Fail { message: fallback };
        };
        let limit = PER_CALL_LIMIT.min(u64::try_from(*remaining).unwrap_or(0));
        let mut budget = Budget::new(limit);
        let result = program.evaluate(activation, &mut budget);
        if !spend(&budget, remaining) {
            return Outcome::OutOfBudget("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".into());
        }
        let made = result.ok().and_then(|value| {
            let text = value.as_str()?.trim().to_owned();
            let good = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
            good.then_some(text)
        });
        Outcome::Fail {
            message: made.unwrap_or(fallback),
        }
    }
}

fn spend(budget: &Budget, remaining: &mut i64) -> bool {
    *remaining = remaining.saturating_sub(i64::try_from(budget.spent()).unwrap_or(i64::MAX));
    *remaining >= 0
}

/// What is said of a rule that may cost too much, where it may.
pub fn exceeds_expression(cost: u64, what: &str) -> Option<String> {
    let factor = over(cost, STATIC_EXPRESSION_LIMIT)?;
    Some(format!(
        "estimated {what} cost exceeds budget by {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    ))
}

/// What is said of a rule of a CRD whose rules together may cost too much.
pub fn exceeds_crd(total: u64) -> Option<String> {
    let factor = over(total, STATIC_CRD_LIMIT)?;
    Some(format!(
        "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    ))
}

/// By how much a cost is over its limit, in upstream's words.
fn over(cost: u64, limit: u64) -> Option<String> {
    if cost <= limit {
        return None;
    }
    let factor = cost as f64 / limit as f64;
    Some(if factor > 100.0 {
        "factor of more than 100x".into()
    } else if factor < 1.5 {
        format!("factor of {factor:.6}x")
    } else {
        format!("factor of {factor:.1}x")
    })
}
