//! RuntimeClass: a way of running containers, by the name of its handler.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::Access;
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::{faults, immutable, labels};
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::{resource_quantity, tolerations};

/// The rules of RuntimeClass.
pub struct Rules;

impl Strategy for Rules {
    fn validate(&self, class: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, handler) = (Path::new("handler"), class.text("handler"));
        if handler.is_empty() {
            errors.push(Error::required(&path, ""));
        } else {
            faults(&mut errors, &path, handler, names::dns1123_label(handler));
        }
        let overhead = Path::new("overhead");
        let limits = overhead.child("limits");
        for (name, amount) in class.entries("overhead.podFixed") {
            resource_quantity(&mut errors, name, amount, &limits.key(name));
        }
        let scheduling = Path::new("scheduling");
        labels(
            &mut errors,
            class.part("scheduling.nodeSelector"),
            &scheduling.child("nodeSelector"),
        );
        let list = class.items("scheduling.tolerations");
        let at = scheduling.child("tolerations");
        tolerations(&mut errors, list, &at);
        let key = |t: &Value| ["key", "operator", "value", "effect"].map(|f| t.text(f).to_string());
        for (i, toleration) in list.iter().enumerate() {
            if list[..i].iter().any(|other| key(other) == key(toleration)) {
                errors.push(Error::duplicate(&at.index(i), toleration));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        immutable(
            &mut errors,
            new.part("handler"),
            old.part("handler"),
            &Path::new("handler"),
        );
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Handler", "What the node's runtime calls it."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(class),
            class.text("handler").into(),
            print::age(class, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_handler_is_needed_and_stays() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        assert_eq!(
            Rules.validate(&json!({}), &context)[0].to_string(),
            "handler: Required value"
        );
        let errors =
            Rules.validate_update(&json!({"handler": "b"}), &json!({"handler": "a"}), &context);
        assert_eq!(
            errors[0].to_string(),
            "handler: Invalid value: \"b\": field is immutable"
        );
    }
}
