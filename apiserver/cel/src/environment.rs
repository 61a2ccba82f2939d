//! What an expression may name: variables and objects with their fields. All functions of v1.36 are in every environment.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::Name;
use crate::check::{check, declared_field, type_constant};
use crate::decl::Decl;
use crate::parser::parse;
use crate::program::Program;
use crate::source::CompileError;
use crate::types::Type;

/// The name of the type of `variables`.
const COMPOSED: &str = "kubernetes.variables";

/// What is known of a composed variable's type: upstream forgets objects and what only functions know.
fn composable(ty: &Type) -> Type {
    match ty {
        Type::List(element) => Type::list(composable(element)),
        Type::Map(pair) => Type::map(composable(&pair.0), composable(&pair.1)),
        Type::Null
        | Type::Bool
        | Type::Int
        | Type::Uint
        | Type::Double
        | Type::String
        | Type::Bytes
        | Type::Timestamp
        | Type::Duration => ty.clone(),
        _ => Type::Dyn,
    }
}

/// The variables that an expression may name.
#[derive(Clone, Default)]
pub struct Environment {
    variables: HashMap<Name, (Type, Arc<Decl>)>,
    objects: HashMap<Arc<str>, Arc<Decl>>,
    patches: bool,
    composed: Option<HashMap<Name, Type>>,
    root: Option<Arc<Decl>>,
}

impl Environment {
    /// No variables.
    pub fn base() -> Environment {
        Environment::default()
    }

    /// With a variable of a declared type.
    #[must_use]
    pub fn variable(mut self, name: &str, decl: Arc<Decl>) -> Environment {
        decl.assign_names(&format!("{name}Type"), &mut self.objects);
        if self.root.is_none() && decl.is_sized() {
            self.root = Some(decl.clone());
        }
        self.variables.insert(name.into(), (decl.cel_type(), decl));
        self
    }

    /// With a variable that may be absent: an optional value.
    #[must_use]
    pub fn optional(mut self, name: &str, decl: Arc<Decl>) -> Environment {
        decl.assign_names(&format!("{name}Type"), &mut self.objects);
        if self.root.is_none() && decl.is_sized() {
            self.root = Some(decl.clone());
        }
        self.variables
            .insert(name.into(), (Type::optional(decl.cel_type()), decl));
        self
    }

    /// With a variable of a type that is not declared, such as `authorizer`'s.
    #[must_use]
    pub fn typed(mut self, name: &str, ty: Type) -> Environment {
        self.variables.insert(name.into(), (ty, Decl::dynamic()));
        self
    }

    /// With the objects of patches: `Object{…}` and its fields', and `JSONPatch{…}`.
    #[must_use]
    pub fn patches(mut self) -> Environment {
        self.patches = true;
        self
    }

    /// With `variables`, an object that is composed of other expressions' results.
    #[must_use]
    pub fn composing(mut self) -> Environment {
        self.composed.get_or_insert_default();
        self.typed("variables", Type::object(COMPOSED))
    }

    /// Adds a field to `variables`: the result of an expression, or anything where that did not compile.
    pub fn compose(&mut self, name: &str, result: Option<&Type>) {
        let ty = result.map_or(Type::Dyn, composable);
        self.composed
            .get_or_insert_default()
            .insert(name.into(), ty);
    }

    pub(crate) fn variable_type(&self, name: &str) -> Option<Type> {
        if let Some((ty, _)) = self.variables.get(name) {
            return Some(ty.clone());
        }
        if self.has_object(name) {
            return Some(Type::type_of(Type::object(name)));
        }
        type_constant(name).map(Type::type_of)
    }

    pub(crate) fn variable_decl(&self, name: &str) -> Option<&Arc<Decl>> {
        self.variables.get(name).map(|(_, decl)| decl)
    }

    /// The declared type that sizes come from.
    pub(crate) fn root(&self) -> Option<&Arc<Decl>> {
        self.root.as_ref()
    }

    pub(crate) fn has_object(&self, name: &str) -> bool {
        self.objects.contains_key(name)
            || self.composed.is_some() && name == COMPOSED
            || self.patches
                && (name == "Object" || name.starts_with("Object.") || name == "JSONPatch")
    }

    /// A field's type: `None` where the object is unknown, `Some(None)` where the field is.
    pub(crate) fn field(&self, object: &str, field: &str) -> Option<Option<Type>> {
        if let Some(decl) = self.objects.get(object) {
            return Some(declared_field(decl, field));
        }
        if !self.has_object(object) {
            return None;
        }
        if let Some(composed) = self.composed.as_ref().filter(|_| object == COMPOSED) {
            return Some(composed.get(field).cloned());
        }
        Some(match (object, field) {
            ("JSONPatch", "op" | "path" | "from") => Some(Type::String),
            ("JSONPatch", "value") => Some(Type::Dyn),
            ("JSONPatch", _) => None,
            // what a field of an object holds is known when the patch is applied
            _ => Some(Type::Dyn),
        })
    }

    /// Parses and checks an expression.
    pub fn compile(&self, source: &str) -> Result<Program, CompileError> {
        let mut parsed = parse(source)?;
        let checked =
            check(self, &mut parsed).map_err(|faults| CompileError::new(source, faults))?;
        crate::program::literals(&parsed, &checked)
            .map_err(|faults| CompileError::new(source, faults))?;
        Ok(Program::new(self, parsed, checked))
    }
}
