//! `x-kubernetes-validations`: rules in CEL.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

/// The rules of a version.
#[derive(Clone, Debug, Default)]
pub struct Rules {}

impl Rules {
    /// Whether there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        false
    }

    /// Which of them an object breaks; `old` is there on updates.
    #[must_use]
    pub fn check(&self, _new: &Value, _old: Option<&Value>) -> ErrorList {
        ErrorList::new()
    }
}

/// What is wrong with the rules of a schema that is otherwise in order.
pub(crate) fn check(errors: &mut ErrorList, schema: &Value, path: &Path<'_>, _unchanged: bool) {
    if crate::check::openapi::any(schema, &|s| {
        s["x-kubernetes-validations"]
            .as_array()
            .is_some_and(|r| !r.is_empty())
    }) {
        let why = "this server cannot evaluate validation rules yet";
        errors.push(Error::forbidden(
            &path.child("x-kubernetes-validations"),
            why,
        ));
    }
}
