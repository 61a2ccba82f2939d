//! The types of expressions, how they are written, and how they unify.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::ast::Name;

/// The type of an expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    /// Anything; checked when it is evaluated.
    Dyn,
    /// What a fault has.
    Error,
    /// Null.
    Null,
    /// Booleans.
    Bool,
    /// Signed integers.
    Int,
    /// Unsigned integers.
    Uint,
    /// Floats.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// Points in time.
    Timestamp,
    /// Spans of time.
    Duration,
    /// Lists of a type.
    List(Arc<Type>),
    /// Maps from a type to another.
    Map(Arc<(Type, Type)>),
    /// Objects with declared fields.
    Object(Arc<str>),
    /// Types of which only functions know the inside.
    Opaque(Arc<str>, Arc<[Type]>),
    /// The type of a type, where that is known.
    Type(Option<Arc<Type>>),
    /// A type that is still to be found out.
    Param(Arc<str>),
}

/// The name of optional values' type.
const OPTIONAL: &str = "optional_type";

impl Type {
    /// Lists of a type.
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    /// Maps from a type to another.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// A value of a type, or none.
    pub fn optional(of: Type) -> Type {
        Type::Opaque(OPTIONAL.into(), [of].into())
    }

    /// Objects of this name.
    pub fn object(name: &str) -> Type {
        Type::Object(name.into())
    }

    pub(crate) fn type_of(ty: Type) -> Type {
        Type::Type(Some(Arc::new(ty)))
    }

    /// What an optional type is of.
    pub(crate) fn unwrap_optional(&self) -> Option<&Type> {
        match self {
            Type::Opaque(name, params) if &**name == OPTIONAL => params.first(),
            _ => None,
        }
    }

    /// Whether nothing is known before evaluation.
    pub(crate) fn is_dyn(&self) -> bool {
        *self == Type::Dyn
    }

    fn is_wild(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    fn is_nullable(&self) -> bool {
        matches!(
            self,
            Type::Null | Type::Opaque(..) | Type::Object(_) | Type::Duration | Type::Timestamp
        )
    }

    /// The name that `type()` shows.
    pub(crate) fn runtime_name(&self) -> String {
        match self {
            Type::Null => "null_type".into(),
            Type::Timestamp => "google.protobuf.Timestamp".into(),
            Type::Duration => "google.protobuf.Duration".into(),
            Type::List(_) => "list".into(),
            Type::Map(_) => "map".into(),
            Type::Type(_) => "type".into(),
            Type::Object(name) | Type::Opaque(name, _) => name.to_string(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Dyn => "dyn",
            Type::Error => "!error!",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "timestamp",
            Type::Duration => "duration",
            Type::Type(None) => "type",
            Type::Object(name) | Type::Param(name) => name,
            Type::List(element) => return write!(f, "list({element})"),
            Type::Map(pair) => return write!(f, "map({}, {})", pair.0, pair.1),
            Type::Type(Some(of)) => return write!(f, "type({of})"),
            Type::Opaque(name, params) => {
                f.write_str(name)?;
                if params.is_empty() {
                    return Ok(());
                }
                let params: Vec<String> = params.iter().map(ToString::to_string).collect();
                return write!(f, "({})", params.join(", "));
            }
        })
    }
}

/// What type parameters stand for, as far as it is known.
#[derive(Debug, Default, Clone)]
pub(crate) struct Substitution {
    known: HashMap<Name, Type>,
    /// What was changed since the last mark, so that an attempt can be undone.
    log: Vec<(Name, Option<Type>)>,
}

impl Substitution {
    fn set(&mut self, name: &Name, ty: Type) {
        let before = self.known.insert(name.clone(), ty);
        self.log.push((name.clone(), before));
    }

    fn undo(&mut self, mark: usize) {
        while self.log.len() > mark {
            if let Some((name, before)) = self.log.pop() {
                match before {
                    Some(ty) => self.known.insert(name, ty),
                    None => self.known.remove(&name),
                };
            }
        }
    }

    /// Makes the types agree, if they can.
    pub fn assign(&mut self, from: &[Type], to: &[Type]) -> bool {
        let mark = self.log.len();
        let agreed =
            from.len() == to.len() && from.iter().zip(to).all(|(a, b)| self.assignable(a, b));
        if !agreed {
            self.undo(mark);
        }
        agreed
    }

    fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Param(name) = b {
            let (valid, known) = self.substitutable(a, b, name);
            if valid {
                return true;
            }
            if known {
                return false;
            }
        }
        if let Type::Param(name) = a {
            return self.substitutable(b, a, name).0;
        }
        if a.is_wild() || b.is_wild() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => other.is_nullable(),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => self.assignable(a, b),
            (Type::Map(a), Type::Map(b)) => {
                self.assignable(&a.0, &b.0) && self.assignable(&a.1, &b.1)
            }
            (Type::Opaque(a, p), Type::Opaque(b, q)) => {
                a == b
                    && p.len() == q.len()
                    && p.iter().zip(q.iter()).all(|(a, b)| self.assignable(a, b))
            }
            (a, b) => a == b,
        }
    }

    /// Whether `ty` can stand for the parameter, and whether the parameter stood for something already.
    fn substitutable(&mut self, ty: &Type, param: &Type, name: &Name) -> (bool, bool) {
        if ty == param {
            return (true, true);
        }
        if let Some(known) = self.known.get(name).cloned() {
            if *ty == known {
                return (true, true);
            }
            if self.assignable(ty, &known) {
                let wider = most_general(ty, &known).clone();
                if self.free_of(param, &wider) {
                    self.set(name, wider);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.free_of(param, ty) {
            self.set(name, ty.clone());
            return (true, false);
        }
        (false, false)
    }

    fn free_of(&self, param: &Type, within: &Type) -> bool {
        if param == within {
            return false;
        }
        match within {
            Type::Param(name) => match self.known.get(name) {
                Some(known) => self.free_of(param, known),
                None => true,
            },
            Type::List(element) => self.free_of(param, element),
            Type::Map(pair) => self.free_of(param, &pair.0) && self.free_of(param, &pair.1),
            Type::Opaque(_, params) => params.iter().all(|p| self.free_of(param, p)),
            Type::Type(Some(of)) => self.free_of(param, of),
            _ => true,
        }
    }

    /// The type with its parameters replaced by what is known; by `dyn` where nothing is and `finish` says so.
    pub fn apply(&self, ty: &Type, finish: bool) -> Type {
        match ty {
            Type::Param(name) => match self.known.get(name) {
                Some(known) => self.apply(known, finish),
                None if finish => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(element) => Type::list(self.apply(element, finish)),
            Type::Map(pair) => Type::map(self.apply(&pair.0, finish), self.apply(&pair.1, finish)),
            Type::Opaque(name, params) => Type::Opaque(
                name.clone(),
                params.iter().map(|p| self.apply(p, finish)).collect(),
            ),
            Type::Type(Some(of)) => Type::type_of(self.apply(of, finish)),
            other => other.clone(),
        }
    }
}

/// The more general of two types that unify.
pub(crate) fn most_general<'t>(a: &'t Type, b: &'t Type) -> &'t Type {
    if at_most_as_specific(a, b) { a } else { b }
}

fn at_most_as_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) => at_most_as_specific(a, b),
        (Type::Map(a), Type::Map(b)) => {
            at_most_as_specific(&a.0, &b.0) && at_most_as_specific(&a.1, &b.1)
        }
        (Type::Opaque(a, p), Type::Opaque(b, q)) => {
            a == b
                && p.len() == q.len()
                && p.iter()
                    .zip(q.iter())
                    .all(|(a, b)| at_most_as_specific(a, b))
        }
        (Type::Type(_), Type::Type(_)) => true,
        (a, b) => a == b,
    }
}

/// Reads a type as the tables of functions write it: `list(A)`, `map(K, V)`, `optional(A)`, `type(A)`, `net.IP`.
pub(crate) fn parse_type(text: &str) -> Type {
    let text = text.trim();
    let inside = |prefix: &str| {
        text.strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(')'))
    };
    if let Some(of) = inside("list(") {
        return Type::list(parse_type(of));
    }
    if let Some(of) = inside("optional(") {
        return Type::optional(parse_type(of));
    }
    if let Some(of) = inside("type(") {
        return Type::type_of(parse_type(of));
    }
    if let Some((key, value)) = inside("map(").and_then(|pair| pair.split_once(',')) {
        return Type::map(parse_type(key), parse_type(value));
    }
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "net.IP" | "net.CIDR" => Type::Opaque(text.into(), [].into()),
        name if name.len() == 1 => Type::Param(name.into()),
        name => Type::object(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_what_they_are_assigned() {
        let mut known = Substitution::default();
        let list = parse_type("list(A)");
        assert!(known.assign(
            &[Type::list(Type::Int), Type::Int],
            &[list.clone(), parse_type("A")]
        ));
        assert_eq!(known.apply(&list, true), Type::list(Type::Int));
        assert!(!known.assign(&[Type::String], &[parse_type("A")]));
        assert!(known.assign(&[Type::Dyn], &[parse_type("A")]));
        assert_eq!(known.apply(&parse_type("B"), true), Type::Dyn);
        let mut own = Substitution::default();
        assert!(
            !own.assign(&[list], &[parse_type("A")]),
            "a type can't be in itself"
        );
    }

    #[test]
    fn types_are_written_as_upstream_writes_them() {
        for text in [
            "list(int)",
            "map(string, dyn)",
            "type(string)",
            "net.IP",
            "kubernetes.URL",
        ] {
            assert_eq!(parse_type(text).to_string(), text);
        }
        assert_eq!(
            parse_type("optional(int)").to_string(),
            "optional_type(int)"
        );
    }
}
