//! A compiled expression, and what it needs to be evaluated.

use std::sync::Arc;

use crate::ast::{Expr, Kind};
use crate::check::Checked;
use crate::cost::{self, Cost};
use crate::environment::Environment;
use crate::error::EvalError;
use crate::eval::Machine;
use crate::functions::{regexes, time};
use crate::parser::Parsed;
use crate::source::Fault;
use crate::types::Type;
use crate::value::Value;

/// A compiled expression. Copies are cheap.
#[derive(Clone)]
pub struct Program {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub expr: Expr,
    pub checked: Checked,
    estimate: Cost,
}

impl Program {
    pub(crate) fn new(environment: &Environment, parsed: Parsed, checked: Checked) -> Program {
        let estimate = cost::estimate(environment, &parsed.expr, &checked);
        Program {
            inner: Arc::new(Inner {
                expr: parsed.expr,
                checked,
                estimate,
            }),
        }
    }

    /// The type of the result.
    pub fn output(&self) -> &Type {
        &self.inner.checked.types[self.inner.expr.id]
    }

    /// Whether the expression names this variable.
    pub fn references(&self, variable: &str) -> bool {
        self.inner
            .checked
            .variables
            .iter()
            .any(|name| **name == *variable)
    }

    /// What an evaluation costs, as far as it is known beforehand.
    pub fn estimate(&self) -> Cost {
        self.inner.estimate
    }

    /// Evaluates the expression.
    pub fn evaluate<'a>(
        &self,
        activation: &Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        let mut machine = Machine::new(
            &self.inner,
            activation,
            budget.limit.saturating_sub(budget.spent),
        );
        let result = machine.eval(&self.inner.expr);
        budget.spent = budget.spent.saturating_add(machine.cost());
        result
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({})", self.output())
    }
}

/// The values of variables.
#[derive(Clone, Default)]
pub struct Activation<'a> {
    variables: Vec<(Arc<str>, Value<'a>)>,
}

impl<'a> Activation<'a> {
    /// No variables.
    pub fn new() -> Activation<'a> {
        Activation::default()
    }

    /// With a variable's value.
    #[must_use]
    pub fn bind(mut self, name: &str, value: Value<'a>) -> Activation<'a> {
        self.variables.push((name.into(), value));
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value<'a>> {
        let found = self
            .variables
            .iter()
            .rev()
            .find(|(known, _)| **known == *name);
        found.map(|(_, value)| value)
    }
}

/// What evaluations may cost, and what they did.
#[derive(Debug, Clone)]
pub struct Budget {
    limit: u64,
    spent: u64,
}

impl Budget {
    /// With a limit.
    pub fn new(limit: u64) -> Budget {
        Budget { limit, spent: 0 }
    }

    /// What was spent.
    pub fn spent(&self) -> u64 {
        self.spent
    }
}

/// Looks at the constants that functions are called with, so that wrong ones are told at once.
pub(crate) fn literals(parsed: &Parsed, checked: &Checked) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    walk(&parsed.expr, &mut |expr| {
        let Kind::Call(call) = &expr.kind else {
            return;
        };
        let Some(literal) = call.args.last() else {
            return;
        };
        let (Some(text), Some(_)) = (literal.as_string(), &checked.calls[expr.id]) else {
            return;
        };
        let good = match &*call.function {
            "duration" => time::parse_duration(text).is_some(),
            "timestamp" => time::parse_timestamp(text).is_some(),
            "matches" => regexes::compile(text).is_ok(),
            _ => return,
        };
        if !good {
            faults.push(Fault {
                location: parsed.lines.at(parsed.offsets[literal.id]),
                message: format!("invalid {} argument", call.function),
            });
        }
    });
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

fn walk(expr: &Expr, look: &mut impl FnMut(&Expr)) {
    stacker::maybe_grow(64 * 1024, 1024 * 1024, || {
        look(expr);
        match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select(select) => walk(&select.operand, look),
            Kind::Call(call) => call
                .target
                .iter()
                .chain(&call.args)
                .for_each(|arg| walk(arg, look)),
            Kind::List(elements) => elements
                .iter()
                .for_each(|element| walk(&element.value, look)),
            Kind::Map(entries) => entries.iter().for_each(|entry| {
                walk(&entry.key, look);
                walk(&entry.value, look);
            }),
            Kind::Struct(_, fields) => fields.iter().for_each(|field| walk(&field.value, look)),
            Kind::Fold(fold) => {
                for part in [
                    &fold.range,
                    &fold.init,
                    &fold.condition,
                    &fold.step,
                    &fold.result,
                ] {
                    walk(part, look);
                }
            }
        }
    });
}
