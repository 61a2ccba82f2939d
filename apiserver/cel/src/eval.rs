//! The interpreter: walks the checked tree, and counts what it costs as it goes.

use std::cell::RefCell;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::ast::{Call, Expr, Fold, Kind, Literal, Name, Select};
use crate::check::type_constant;
use crate::compare::{Meter, equal};
use crate::cost;
use crate::error::EvalError;
use crate::functions::operators::{absent, look_up};
use crate::functions::{Context, regexes};
use crate::program::{Activation, Inner};
use crate::types::Type;
use crate::value::{Evaluated, Key, List, Map, Text, Value};

/// One evaluation.
pub(crate) struct Machine<'p, 'a> {
    program: &'p Inner,
    activation: &'p Activation<'a>,
    scopes: Vec<Local<'a>>,
    cost: u64,
    limit: u64,
    meter: Meter,
    regexes: RefCell<regexes::Cache>,
}

/// A variable of a comprehension. One that may be taken is used once a step.
struct Local<'a> {
    name: Name,
    value: Evaluated<'a>,
    taken: bool,
}

impl<'p, 'a> Machine<'p, 'a> {
    pub fn new(program: &'p Inner, activation: &'p Activation<'a>, limit: u64) -> Self {
        Machine {
            program,
            activation,
            scopes: Vec::new(),
            cost: 0,
            limit,
            meter: Meter::default(),
            regexes: RefCell::default(),
        }
    }

    pub fn cost(&self) -> u64 {
        self.cost
    }

    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit || self.meter.exhausted() {
            return Err(EvalError::CostExceeded);
        }
        Ok(())
    }

    pub fn eval(&mut self, expr: &Expr) -> Evaluated<'a> {
        stacker::maybe_grow(128 * 1024, 1024 * 1024, || self.node(expr))
    }

    fn node(&mut self, expr: &Expr) -> Evaluated<'a> {
        match &expr.kind {
            Kind::Literal(literal) => Ok(constant(literal)),
            Kind::Ident(name) => {
                self.charge(1)?;
                self.variable(name)
            }
            Kind::Select(select) => self.select(select),
            Kind::Call(call) => self.call(expr.id, call),
            Kind::List(elements) => {
                let mut list = Vec::with_capacity(elements.len());
                for element in elements {
                    match (self.eval(&element.value)?, element.optional) {
                        (Value::Optional(value), true) => list.extend(value.map(|v| *v)),
                        (value, false) => list.push(value),
                        (_, true) => {
                            return Err(EvalError::failed(
                                "cannot initialize optional list element from non-optional value",
                            ));
                        }
                    }
                }
                if !elements
                    .iter()
                    .all(|element| matches!(element.value.kind, Kind::Literal(_)))
                {
                    self.charge(10)?;
                }
                Ok(Value::owned(list))
            }
            Kind::Map(entries) => {
                let mut map = IndexMap::with_capacity(entries.len());
                for entry in entries {
                    let key = self.eval(&entry.key)?;
                    let key = Key::of(&key)
                        .filter(|_| !matches!(key, Value::Double(_)))
                        .ok_or_else(|| EvalError::failed("unsupported key type"))?;
                    let value = match (self.eval(&entry.value)?, entry.optional) {
                        (Value::Optional(Some(value)), true) => *value,
                        (Value::Optional(None), true) => continue,
                        (value, _) => value,
                    };
                    if map.insert(key.clone(), value).is_some() {
                        return Err(EvalError::failed(format!(
                            "Failed with repeated key: {:?}",
                            key.value()
                        )));
                    }
                }
                let constant = |expr: &Expr| matches!(expr.kind, Kind::Literal(_));
                if !entries
                    .iter()
                    .all(|entry| constant(&entry.key) && constant(&entry.value))
                {
                    self.charge(30)?;
                }
                Ok(Value::Map(Map::Owned(Arc::new(map), None)))
            }
            Kind::Struct(name, fields) => {
                let mut map = IndexMap::with_capacity(fields.len());
                for field in fields {
                    let value = match (self.eval(&field.value)?, field.optional) {
                        (Value::Optional(Some(value)), true) => *value,
                        (Value::Optional(None), true) => continue,
                        (value, _) => value,
                    };
                    map.insert(Key::Text(field.name.clone()), value);
                }
                self.charge(40)?;
                Ok(Value::Map(Map::Owned(Arc::new(map), Some(name.clone()))))
            }
            Kind::Fold(fold) => match expr.as_bind() {
                Some(bind) => self.bind(bind),
                None => self.fold(fold),
            },
        }
    }

    fn variable(&mut self, name: &Name) -> Evaluated<'a> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(local) = self
            .scopes
            .iter_mut()
            .rev()
            .find(|local| *local.name == *name)
        {
            if local.taken {
                return std::mem::replace(&mut local.value, Ok(Value::Null));
            }
            return local.value.clone();
        }
        if let Some(value) = self.activation.get(name) {
            return Ok(value.clone());
        }
        if let Some(ty) = type_constant(name) {
            return Ok(Value::Type(ty));
        }
        if name.starts_with("Object") || name == "JSONPatch" {
            return Ok(Value::Type(Type::object(name)));
        }
        Err(EvalError::failed(format!("no such attribute(s): {name}")))
    }

    fn select(&mut self, select: &Select) -> Evaluated<'a> {
        let operand = self.eval(&select.operand)?;
        if select.test {
            return Ok(Value::Bool(field(&operand, &select.field)?.is_some()));
        }
        self.charge(1)?;
        if let Value::Optional(inner) = &operand {
            let found = match inner {
                Some(inner) => field(inner, &select.field)?,
                None => None,
            };
            return Ok(found.map_or_else(Value::none, Value::some));
        }
        field(&operand, &select.field)?
            .ok_or_else(|| EvalError::failed(format!("no such key: {}", select.field)))
    }

    fn call(&mut self, id: usize, call: &Call) -> Evaluated<'a> {
        let function = &*call.function;
        match function {
            "_&&_" => return self.logical(call, false),
            "_||_" => return self.logical(call, true),
            "_?_:_" => {
                let Value::Bool(condition) = self.eval(&call.args[0])? else {
                    return Err(EvalError::no_overload());
                };
                return self.eval(&call.args[if condition { 1 } else { 2 }]);
            }
            "@not_strictly_false" => {
                let value = self.eval(&call.args[0]);
                self.charge(1)?;
                return match value {
                    Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                    Err(error) if error.is_final() => Err(error),
                    _ => Ok(Value::Bool(true)),
                };
            }
            "or" | "orValue" if call.target.is_some() => {
                if let Some(target) = &call.target {
                    let value = self.eval(target)?;
                    return match (value, function) {
                        (Value::Optional(None), _) => self.eval(&call.args[0]),
                        (Value::Optional(Some(value)), "orValue") => Ok(*value),
                        (value @ Value::Optional(_), _) => Ok(value),
                        _ => Err(EvalError::no_overload()),
                    };
                }
            }
            _ => {}
        }
        let mut args = Vec::with_capacity(call.args.len() + 1);
        for arg in call.target.iter().chain(&call.args) {
            args.push(self.eval(arg)?);
        }
        let Some(resolved) = &self.program.checked.calls[id] else {
            return Err(EvalError::no_overload());
        };
        let overload = match resolved.overloads.as_slice() {
            [only] => only,
            _ => "",
        };
        if function != "join" {
            self.charge(cost::call(function, overload, &args, None))?;
        }
        match (function, args.as_slice()) {
            ("_==_", [a, b]) => return self.compared(equal(a, b, &self.meter)),
            ("_!=_", [a, b]) => return self.compared(!equal(a, b, &self.meter)),
            ("_?._", [container, Value::String(name)]) => {
                let found = match container {
                    Value::Optional(None) => None,
                    Value::Optional(Some(inner)) => field(inner, name)?,
                    other => field(other, name)?,
                };
                return Ok(found.map_or_else(Value::none, Value::some));
            }
            (
                "_[_]",
                [
                    container @ (Value::List(_) | Value::Map(_) | Value::Lazy(_)),
                    index,
                ],
            ) => {
                return look_up(container, index)?.ok_or_else(|| absent(container, index));
            }
            _ => {}
        }
        let context = Context {
            meter: &self.meter,
            regexes: &self.regexes,
        };
        let mut result = Err(EvalError::no_overload());
        for function in resolved.function {
            result = (function.run)(&context, &mut args);
            if !matches!(&result, Err(EvalError::Failed(why)) if why == "no such overload") {
                break;
            }
        }
        if function == "join"
            && let Ok(joined) = &result
        {
            let charged = cost::call(function, overload, &args, Some(joined));
            self.charge(charged)?;
        }
        if self.meter.exhausted() {
            return Err(EvalError::CostExceeded);
        }
        result
    }

    fn compared(&self, answer: bool) -> Evaluated<'a> {
        if self.meter.exhausted() {
            return Err(EvalError::CostExceeded);
        }
        Ok(Value::Bool(answer))
    }

    /// `&&` and `||`: the value that decides does so even if the other side fails.
    fn logical(&mut self, call: &Call, decisive: bool) -> Evaluated<'a> {
        let mut failure = None;
        for arg in &call.args {
            match self.eval(arg) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failure = failure.or_else(|| Some(EvalError::no_overload())),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn push(&mut self, name: &Name, value: Evaluated<'a>, taken: bool) {
        self.scopes.push(Local {
            name: name.clone(),
            value,
            taken,
        });
    }

    fn bind(&mut self, fold: &Fold) -> Evaluated<'a> {
        // an initial value that fails is a failure where it is used
        let value = self.eval(&fold.init);
        if let Err(error) = &value
            && error.is_final()
        {
            return Err(error.clone());
        }
        self.push(&fold.accu, value, false);
        let result = self.eval(&fold.result);
        self.scopes.pop();
        result
    }

    fn fold(&mut self, fold: &Fold) -> Evaluated<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        let depth = self.scopes.len();
        self.push(&fold.accu, init, fold.linear);
        let looped = match &range {
            Value::List(list) => self.over_list(fold, depth, list),
            Value::Map(map) => self.over_map(fold, depth, map),
            _ => Err(EvalError::no_overload()),
        };
        self.scopes.truncate(depth + 1);
        let result = match looped {
            Ok(()) => self.eval(&fold.result),
            Err(error) => Err(error),
        };
        self.scopes.truncate(depth);
        result
    }

    fn over_list(&mut self, fold: &Fold, depth: usize, list: &List<'a>) -> Result<(), EvalError> {
        for at in 0..list.len() {
            let value = list.get(at).unwrap_or_default();
            let (first, second) = match &fold.var2 {
                Some(_) => (
                    Value::Int(i64::try_from(at).unwrap_or(i64::MAX)),
                    Some(value),
                ),
                None => (value, None),
            };
            if !self.step(fold, depth, first, second)? {
                break;
            }
        }
        Ok(())
    }

    fn over_map(&mut self, fold: &Fold, depth: usize, map: &Map<'a>) -> Result<(), EvalError> {
        if !self.meter.work(map.len()) {
            return Err(EvalError::CostExceeded);
        }
        if fold.var2.is_some() {
            for (key, value) in map.entries() {
                if !self.step(fold, depth, key, Some(value))? {
                    break;
                }
            }
        } else {
            for key in map.keys() {
                if !self.step(fold, depth, key, None)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// One element; false where the comprehension is decided.
    fn step(
        &mut self,
        fold: &Fold,
        depth: usize,
        first: Value<'a>,
        second: Option<Value<'a>>,
    ) -> Result<bool, EvalError> {
        if !self.meter.work(1) {
            return Err(EvalError::CostExceeded);
        }
        match self.eval(&fold.condition)? {
            Value::Bool(true) => {}
            _ => return Ok(false),
        }
        self.push(&fold.var, Ok(first), false);
        if let (Some(name), Some(value)) = (&fold.var2, second) {
            self.push(name, Ok(value), false);
        }
        let stepped = self.eval(&fold.step);
        self.scopes.truncate(depth + 1);
        if let Err(error) = &stepped
            && (error.is_final() || fold.linear)
        {
            return Err(error.clone());
        }
        self.scopes[depth].value = stepped;
        Ok(true)
    }
}

fn constant<'a>(literal: &Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(n) => Value::Int(*n),
        Literal::Uint(n) => Value::Uint(*n),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(text) => Value::String(Text::Shared(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

/// A field of an object, or the entry of a map.
fn field<'a>(operand: &Value<'a>, name: &str) -> Result<Option<Value<'a>>, EvalError> {
    match operand {
        Value::Map(map) => Ok(map.get_text(name)),
        Value::Lazy(object) => object.field(name).transpose(),
        _ => Ok(None),
    }
}
