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

/// The variables that an expression may name.
#[derive(Clone, Default)]
pub struct Environment {
    variables: HashMap<Name, (Type, Arc<Decl>)>,
    objects: HashMap<Arc<str>, Arc<Decl>>,
    patches: bool,
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
