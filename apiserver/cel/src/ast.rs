//! The syntax tree, as the parser makes it out of an expression after macros are expanded.

use std::sync::Arc;

/// An interned name.
pub(crate) type Name = Arc<str>;

/// A node. Ids are dense, so that what the checker finds out is kept in vectors.
#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub id: usize,
    pub kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Literal(Literal),
    Ident(Name),
    Select(Box<Select>),
    Call(Box<Call>),
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct(Name, Vec<Field>),
    Fold(Box<Fold>),
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// `operand.field`, or `has(operand.field)`.
#[derive(Debug, Clone)]
pub(crate) struct Select {
    pub operand: Expr,
    pub field: Name,
    pub test: bool,
}

/// A call of a function, an operator or a method.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub function: Name,
    pub target: Option<Expr>,
    pub args: Vec<Expr>,
}

/// An element of a list; optional ones are left out where they are none.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    pub value: Expr,
    pub optional: bool,
}

/// An entry of a map.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

/// A field of a message.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub id: usize,
    pub name: Name,
    pub value: Expr,
    pub optional: bool,
}

/// A comprehension: what macros such as `all` and `map` become.
#[derive(Debug, Clone)]
pub(crate) struct Fold {
    pub range: Expr,
    pub var: Name,
    pub var2: Option<Name>,
    pub accu: Name,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
    /// The step uses the accumulator once, so that its value may be taken and grown in place.
    pub linear: bool,
}

impl Expr {
    /// The dotted name that a chain of selections spells.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select(select) if !select.test => {
                let mut name = select.operand.qualified_name()?;
                name.push('.');
                name.push_str(&select.field);
                Some(name)
            }
            _ => None,
        }
    }

    /// The string that it is.
    pub fn as_string(&self) -> Option<&Arc<str>> {
        match &self.kind {
            Kind::Literal(Literal::String(text)) => Some(text),
            _ => None,
        }
    }

    /// `cel.bind(…)`, which is a comprehension over nothing.
    pub fn as_bind(&self) -> Option<&Fold> {
        match &self.kind {
            Kind::Fold(fold)
                if matches!(&fold.range.kind, Kind::List(list) if list.is_empty())
                    && matches!(fold.condition.kind, Kind::Literal(Literal::Bool(false)))
                    && &*fold.accu != ACCUMULATOR =>
            {
                Some(fold)
            }
            _ => None,
        }
    }
}

/// The name of the accumulator of the macros, which no expression can spell.
pub(crate) const ACCUMULATOR: &str = "@result";
