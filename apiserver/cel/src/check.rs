//! The type checker: gives every node its type, and every call its overloads.

use std::sync::Arc;

use crate::ast::{Call, Expr, Fold, Kind, Literal, Name};
use crate::decl::DeclKind;
use crate::environment::Environment;
use crate::functions::{ALL, Function};
use crate::parser::Parsed;
use crate::source::Fault;
use crate::types::{Substitution, Type, most_general};

/// What the checker found out, by node.
pub(crate) struct Checked {
    pub types: Vec<Type>,
    pub calls: Vec<Option<Resolved>>,
    /// The variables that the expression names.
    pub variables: Vec<Name>,
}

/// A call's function, and the overloads that it may be.
#[derive(Clone)]
pub(crate) struct Resolved {
    pub function: &'static [Function],
    pub overloads: Vec<&'static str>,
}

/// Checks an expression, and rewrites dotted names of variables and functions into simple ones.
pub(crate) fn check(environment: &Environment, parsed: &mut Parsed) -> Result<Checked, Vec<Fault>> {
    let count = parsed.offsets.len();
    let mut expr = std::mem::replace(
        &mut parsed.expr,
        Expr {
            id: 0,
            kind: Kind::Literal(Literal::Null),
        },
    );
    let mut checker = Checker {
        environment,
        parsed,
        types: vec![Type::Error; count],
        calls: vec![None; count],
        known: Substitution::default(),
        fresh: 0,
        scopes: Vec::new(),
        variables: Vec::new(),
        faults: Vec::new(),
    };
    checker.expr(&mut expr);
    let Checker {
        mut types,
        calls,
        known,
        variables,
        faults,
        ..
    } = checker;
    parsed.expr = expr;
    if !faults.is_empty() {
        return Err(faults);
    }
    for ty in &mut types {
        *ty = known.apply(ty, true);
    }
    Ok(Checked {
        types,
        calls,
        variables,
    })
}

struct Checker<'e> {
    environment: &'e Environment,
    parsed: &'e Parsed,
    types: Vec<Type>,
    calls: Vec<Option<Resolved>>,
    known: Substitution,
    fresh: usize,
    scopes: Vec<(Name, Type)>,
    variables: Vec<Name>,
    faults: Vec<Fault>,
}

impl Checker<'_> {
    fn fault(&mut self, id: usize, message: String) {
        let location = self.parsed.lines.at(self.parsed.offsets[id]);
        self.faults.push(Fault { location, message });
    }

    fn undeclared(&mut self, id: usize, name: &str) -> Type {
        self.fault(
            id,
            format!("undeclared reference to '{name}' (in container '')"),
        );
        Type::Error
    }

    fn mismatch(&mut self, id: usize, expected: &Type, found: &Type) {
        let (expected, found) = (
            self.known.apply(expected, false),
            self.known.apply(found, false),
        );
        self.fault(
            id,
            format!("expected type '{expected}' but found '{found}'"),
        );
    }

    fn fresh(&mut self) -> Type {
        self.fresh += 1;
        Type::Param(format!("_var{}", self.fresh - 1).into())
    }

    fn assign(&mut self, from: &Type, to: &Type) -> bool {
        self.known
            .assign(std::slice::from_ref(from), std::slice::from_ref(to))
    }

    fn look_up(&mut self, name: &str) -> Option<Type> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(known, _)| **known == *name) {
            return Some(ty.clone());
        }
        let ty = self.environment.variable_type(name)?;
        if !self.variables.iter().any(|known| **known == *name) {
            self.variables.push(name.into());
        }
        Some(ty)
    }

    fn expr(&mut self, expr: &mut Expr) -> Type {
        let ty = stacker::maybe_grow(128 * 1024, 1024 * 1024, || self.typed(expr));
        self.types[expr.id] = ty.clone();
        ty
    }

    fn typed(&mut self, expr: &mut Expr) -> Type {
        let id = expr.id;
        match &mut expr.kind {
            Kind::Literal(literal) => match literal {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            Kind::Ident(name) => match self.look_up(name) {
                Some(ty) => ty,
                None => {
                    let name = name.clone();
                    self.undeclared(id, &name)
                }
            },
            Kind::Select(_) => self.select(expr),
            Kind::Call(_) => self.call(expr),
            Kind::List(elements) => {
                let mut joined = None;
                for element in elements {
                    let mut ty = self.expr(&mut element.value);
                    if element.optional {
                        ty = self.unwrapped(element.value.id, ty);
                    }
                    joined = Some(self.join(element.value.id, joined, ty));
                }
                let element = joined.unwrap_or_else(|| self.fresh());
                Type::list(element)
            }
            Kind::Map(entries) => {
                let (mut keys, mut values) = (None, None);
                for entry in entries {
                    let key = self.expr(&mut entry.key);
                    keys = Some(self.join(entry.key.id, keys, key));
                    let mut value = self.expr(&mut entry.value);
                    if entry.optional {
                        value = self.unwrapped(entry.value.id, value);
                    }
                    values = Some(self.join(entry.value.id, values, value));
                }
                let key = keys.unwrap_or_else(|| self.fresh());
                let value = values.unwrap_or_else(|| self.fresh());
                Type::map(key, value)
            }
            Kind::Struct(..) => self.message(expr),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn unwrapped(&mut self, id: usize, ty: Type) -> Type {
        match ty.unwrap_optional() {
            Some(inner) => inner.clone(),
            None => {
                if !ty.is_dyn() {
                    let expected = Type::optional(ty.clone());
                    self.mismatch(id, &expected, &ty);
                }
                ty
            }
        }
    }

    fn join(&mut self, id: usize, before: Option<Type>, ty: Type) -> Type {
        let Some(before) = before else {
            return ty;
        };
        if self.assign(&before, &ty) {
            return most_general(&before, &ty).clone();
        }
        self.mismatch(id, &before, &ty);
        Type::Error
    }

    fn select(&mut self, expr: &mut Expr) -> Type {
        let qualified = expr.qualified_name();
        if let Some(name) = qualified
            && let Some(ty) = self.look_up(&name)
        {
            expr.kind = Kind::Ident(name.into());
            return ty;
        }
        let id = expr.id;
        let Kind::Select(select) = &mut expr.kind else {
            return Type::Error;
        };
        let operand = self.expr(&mut select.operand);
        let ty = self.field(id, &operand, &select.field, false);
        if select.test { Type::Bool } else { ty }
    }

    fn field(&mut self, id: usize, operand: &Type, field: &str, optional: bool) -> Type {
        let operand = self.known.apply(operand, false);
        let (target, is_optional) = match operand.unwrap_optional() {
            Some(inner) => (inner.clone(), true),
            None => (operand, optional),
        };
        let ty = match &target {
            Type::Map(pair) => pair.1.clone(),
            Type::Object(name) => match self.environment.field(name, field) {
                Some(Some(ty)) => ty,
                Some(None) => {
                    self.fault(id, format!("undefined field '{field}'"));
                    Type::Error
                }
                None => {
                    self.fault(id, format!("unexpected failed resolution of '{name}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.assign(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.fault(
                    id,
                    format!("type '{other}' does not support field selection"),
                );
                Type::Dyn
            }
        };
        let ty = self.known.apply(&ty, false);
        if is_optional || optional {
            Type::optional(ty)
        } else {
            ty
        }
    }

    fn call(&mut self, expr: &mut Expr) -> Type {
        let id = expr.id;
        let Kind::Call(call) = &mut expr.kind else {
            return Type::Error;
        };
        if &*call.function == "_?._" {
            let operand = self.expr(&mut call.args[0]);
            self.types[call.args[1].id] = Type::String;
            let name = call.args[1]
                .as_string()
                .cloned()
                .unwrap_or_else(|| "".into());
            self.resolve(id, "_?._", vec!["select_optional_field"]);
            return self.field(id, &operand, &name, true);
        }
        let mut args: Vec<Type> = Vec::with_capacity(call.args.len() + 1);
        for arg in &mut call.args {
            args.push(self.expr(arg));
        }
        if let Some(target) = &mut call.target {
            let qualified = target
                .qualified_name()
                .map(|prefix| format!("{prefix}.{}", call.function));
            if let Some(name) = qualified.filter(|name| ALL.contains_key(name.as_str())) {
                call.target = None;
                call.function = name.into();
            } else {
                let ty = self.expr(target);
                args.insert(0, ty);
            }
        }
        self.overload(id, call, args)
    }

    fn resolve(&mut self, id: usize, function: &str, overloads: Vec<&'static str>) {
        if let Some(function) = ALL.get(function) {
            self.calls[id] = Some(Resolved {
                function,
                overloads,
            });
        }
    }

    fn overload(&mut self, id: usize, call: &Call, mut args: Vec<Type>) -> Type {
        let name = call.function.strip_prefix('.').unwrap_or(&call.function);
        let Some(functions) = ALL.get(name) else {
            return self.undeclared(id, name);
        };
        if matches!(name, "_&&_" | "_||_") {
            let mut good = true;
            for (arg, ty) in call.args.iter().zip(&args) {
                if !self.assign(ty, &Type::Bool) {
                    self.mismatch(arg.id, &Type::Bool, ty);
                    good = false;
                }
            }
            let overload = if name == "_&&_" {
                "logical_and"
            } else {
                "logical_or"
            };
            self.resolve(id, name, vec![overload]);
            return if good { Type::Bool } else { Type::Error };
        }
        let (mut result, mut found): (Option<Type>, Vec<&'static str>) = (None, Vec::new());
        for overload in functions.iter().flat_map(|f| &f.overloads) {
            if overload.member != call.target.is_some() || overload.args.len() != args.len() {
                continue;
            }
            let (wanted, ty) = if overload.generic {
                self.instantiate(&overload.args, &overload.result)
            } else {
                (overload.args.clone(), overload.result.clone())
            };
            if !self.known.assign(&args, &wanted) {
                continue;
            }
            found.push(overload.id);
            let ty = self.known.apply(&ty, false);
            result = Some(match result {
                None => ty,
                Some(before) if before.is_dyn() || before == ty => before,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            for arg in &mut args {
                *arg = self.known.apply(arg, true);
            }
            let target = call.target.as_ref().map(|_| args.remove(0));
            let shown: Vec<String> = args.iter().map(ToString::to_string).collect();
            let target = target.map(|ty| format!("{ty}.")).unwrap_or_default();
            self.fault(
                id,
                format!(
                    "found no matching overload for '{name}' applied to '{target}({})'",
                    shown.join(", ")
                ),
            );
            return Type::Error;
        };
        self.resolve(id, name, found);
        result
    }

    /// An overload's types with parameters of their own.
    fn instantiate(&mut self, args: &[Type], result: &Type) -> (Vec<Type>, Type) {
        let mut own = Substitution::default();
        for name in ["A", "B", "K", "V", "T"] {
            let fresh = self.fresh();
            own.assign(&[fresh], &[Type::Param(name.into())]);
        }
        (
            args.iter().map(|ty| own.apply(ty, false)).collect(),
            own.apply(result, false),
        )
    }

    fn message(&mut self, expr: &mut Expr) -> Type {
        let id = expr.id;
        let Kind::Struct(name, fields) = &mut expr.kind else {
            return Type::Error;
        };
        if !self.environment.has_object(name) {
            let name = name.clone();
            return self.undeclared(id, &name);
        }
        let ty = Type::Object(name.clone());
        let type_name = name.clone();
        for field in fields {
            let mut value = self.expr(&mut field.value);
            let wanted = match self.environment.field(&type_name, &field.name) {
                Some(Some(ty)) => ty,
                _ => {
                    self.fault(field.id, format!("undefined field '{}'", field.name));
                    Type::Error
                }
            };
            if field.optional {
                value = self.unwrapped(field.value.id, value);
            }
            if !self.assign(&wanted, &value) {
                let value = self.known.apply(&value, false);
                self.fault(
                    field.id,
                    format!(
                        "expected type of field '{}' is '{wanted}' but provided type is '{value}'",
                        field.name
                    ),
                );
            }
        }
        ty
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        let range = self.expr(&mut fold.range);
        let accu = self.expr(&mut fold.init);
        let range = self.known.apply(&range, false);
        let two = fold.var2.is_some();
        let (first, second) = match &range {
            Type::List(element) if two => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Dyn),
            Type::Map(pair) => (pair.0.clone(), pair.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.fault(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let depth = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        let condition = self.expr(&mut fold.condition);
        if !self.assign(&Type::Bool, &condition) {
            self.mismatch(fold.condition.id, &Type::Bool, &condition);
        }
        let step = self.expr(&mut fold.step);
        if !self.assign(&accu, &step) {
            self.mismatch(fold.step.id, &accu, &step);
        }
        self.scopes.truncate(depth + 1);
        let result = self.expr(&mut fold.result);
        self.scopes.truncate(depth);
        self.known.apply(&result, false)
    }
}

/// The types that are values in expressions.
pub(crate) fn type_constant(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "int" => Type::Int,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "string" => Type::String,
        "type" => Type::Type(None),
        "uint" => Type::Uint,
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "net.IP" | "net.CIDR" | "kubernetes.URL" | "kubernetes.Quantity" | "kubernetes.Semver" => {
            crate::types::parse_type(name)
        }
        _ => return None,
    })
}

/// A field's type in a declared object: `None` where the object is unknown, `Some(None)` where the field is.
pub(crate) fn declared_field(decl: &Arc<crate::decl::Decl>, field: &str) -> Option<Type> {
    match &decl.kind {
        DeclKind::Object(object) => object.field(field).map(|field| field.decl.cel_type()),
        _ => None,
    }
}
