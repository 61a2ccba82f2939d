//! IPAddress: the record that an address is taken, and by whom.

use std::net::IpAddr;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names::{self, NameRule};
use serde_json::Value;

use crate::access::Access;
use crate::columns::{Column, NAME, text};
use crate::meta::{faults, immutable};
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::checked;

/// The rules of IPAddress.
pub struct Rules;

impl Strategy for Rules {
    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn validate(&self, address: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (meta, name) = (Path::new("metadata"), address.text("metadata.name"));
        match name.parse::<IpAddr>() {
            Ok(parsed) if parsed.to_string() == name => {}
            Ok(parsed) => errors.push(Error::invalid(
                &meta.child("name"),
                name,
                format!("must be in canonical form (\"{parsed}\")"),
            )),
            Err(_) => errors.push(Error::invalid(
                &meta.child("name"),
                name,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            )),
        }
        parent(&mut errors, address.part("spec.parentRef"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        let spec = Path::new("spec");
        immutable(
            &mut errors,
            new.part("spec.parentRef"),
            old.part("spec.parentRef"),
            &spec.child("parentRef"),
        );
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, text("ParentRef", "What holds the address.")];
        COLUMNS
    }

    fn row(&self, address: &Value, _now: Timestamp) -> Vec<Value> {
        let parent = address.part("spec.parentRef");
        if parent.is_null() {
            return vec![print::name(address), "<none>".into()];
        }
        let mut text = parent.text("resource").to_lowercase();
        if !parent.text("group").is_empty() {
            text = format!("{text}.{}", parent.text("group").to_lowercase());
        }
        for part in ["namespace", "name"].map(|k| parent.text(k)) {
            if !part.is_empty() {
                text = format!("{text}/{part}");
            }
        }
        vec![print::name(address), text.into()]
    }
}

fn parent(errors: &mut ErrorList, parent: &Value) {
    let spec = Path::new("spec");
    let path = spec.child("parentRef");
    if parent.is_null() {
        errors.push(Error::required(&path, ""));
        return;
    }
    checked(errors, parent, "group", &path, names::dns1123_subdomain);
    for key in ["resource", "name"] {
        let value = parent.text(key);
        if value.is_empty() {
            errors.push(Error::required(&path.child(key), ""));
        } else {
            faults(errors, &path.child(key), value, names::path_segment(value));
        }
    }
    checked(errors, parent, "namespace", &path, names::path_segment);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_addresses() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "kubernetes"});
        let of = |name: &str| {
            Rules.validate(
                &json!({"metadata": {"name": name}, "spec": {"parentRef": parent}}),
                &context,
            )
        };
        assert!(of("10.0.0.1").is_empty());
        assert_eq!(
            of("FE80::1")[0].to_string(),
            "metadata.name: Invalid value: \"FE80::1\": must be in canonical form (\"fe80::1\")"
        );
        let row = Rules.row(
            &json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}}),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(row, ["10.0.0.1", "services/default/kubernetes"]);
    }
}
