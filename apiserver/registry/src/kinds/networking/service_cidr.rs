//! ServiceCIDR: a range that Services take their addresses from.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::access::{Access, copy, remove};
use crate::columns::{AGE, Column, NAME, text};
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy, no_check};
use crate::validation::{IMMUTABLE, cidr};

/// The rules of ServiceCIDR.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Metadata,
    check: no_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn prepare_for_create(&self, range: &mut Value, _context: &Context<'_>) {
        remove(range, "status");
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
    }

    fn validate(&self, range: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = Path::new("spec");
        let path = spec.child("cidrs");
        let list = range.items("spec.cidrs");
        if list.is_empty() {
            errors.push(Error::required(&path, "at least one CIDR required"));
            return errors;
        }
        if list.len() > 2 {
            errors.push(Error::invalid(
                &path,
                range.part("spec"),
                "may only hold up to 2 values",
            ));
            return errors;
        }
        let mut families = Vec::new();
        for (i, text) in list.iter().filter_map(Value::as_str).enumerate() {
            let at = path.index(i);
            let Some(parsed) = cidr(&mut errors, text, &at) else {
                continue;
            };
            families.push(parsed.addr().is_ipv4());
            if parsed.trunc() != parsed || parsed.to_string() != text {
                let detail = format!("must be in canonical form (\"{}\")", parsed.trunc());
                errors.push(Error::invalid(&at, text, detail));
            }
        }
        if families.len() == 2 && families[0] == families[1] {
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.push(Error::invalid(&path, list, detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = Path::new("spec");
        let path = spec.child("cidrs");
        let (now, before) = (new.items("spec.cidrs"), old.items("spec.cidrs"));
        // A second family may be added; nothing else may change.
        if now.len() == before.len() || (before.len() == 1 && now.len() == 2) {
            for (i, _) in before.iter().enumerate().filter(|(i, b)| now[*i] != **b) {
                errors.push(Error::invalid(&path.index(i), &now[i], IMMUTABLE));
            }
            if now.len() != before.len() {
                errors.extend(self.validate(new, context));
            }
        } else {
            errors.push(Error::invalid(&path, now, IMMUTABLE));
        }
        errors
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, text("CIDRs", "The ranges, one a family."), AGE];
        COLUMNS
    }

    fn row(&self, range: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(range),
            print::join(range.items("spec.cidrs"), ",").into(),
            print::age(range, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges_are_checked_and_stay() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let of = |cidrs: Value| Rules.validate(&json!({"spec": {"cidrs": cidrs}}), &context);
        assert!(of(json!(["10.96.0.0/12", "fd00::/108"])).is_empty());
        assert_eq!(
            of(json!([]))[0].to_string(),
            "spec.cidrs: Required value: at least one CIDR required"
        );
        assert_eq!(of(json!(["10.96.0.1/12"])).len(), 1);
        assert_eq!(of(json!(["10.96.0.0/12", "10.0.0.0/24"])).len(), 1);
        let old = json!({"spec": {"cidrs": ["10.96.0.0/12"]}});
        let error = Rules
            .validate_update(&json!({"spec": {"cidrs": ["10.0.0.0/24"]}}), &old, &context)
            .remove(0);
        assert_eq!(
            error.to_string(),
            "spec.cidrs[0]: Invalid value: \"10.0.0.0/24\": field is immutable"
        );
    }
}
