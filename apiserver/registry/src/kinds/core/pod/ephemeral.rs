//! `pods/ephemeralcontainers`: adding a container to a pod that runs, to look at it.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{MIRROR, keep_all_but, metadata_and_spec, update};
use crate::access::Access;
use crate::columns::Column;
use crate::strategy::{Context, Strategy, count_generation};

/// The rules of `pods/ephemeralcontainers`.
pub(super) struct Rules;

impl Strategy for Rules {
    fn default(&self, pod: &mut Value) {
        super::Rules.default(pod);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        keep_all_but(new, old, &["ephemeralContainers"]);
        count_generation(new, old);
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        if old.part("metadata.annotations").get(MIRROR).is_some() {
            return vec![Error::forbidden(
                &Path::new(""),
                "static pods do not support ephemeral containers",
            )];
        }
        let mut errors = metadata_and_spec(new);
        update::ephemeral_changes(&mut errors, new, old);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        super::row::COLUMNS
    }

    fn row(&self, pod: &Value, now: Timestamp) -> Vec<Value> {
        super::row::cells(pod, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_added_and_stay() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let mut old = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "a"}]}});
        Rules.default(&mut old);
        let mut new = old.clone();
        new["spec"]["ephemeralContainers"] =
            json!([{"name": "d", "image": "b", "targetContainerName": "c"}]);
        new["spec"]["hostname"] = "ignored".into();
        Rules.default(&mut new);
        Rules.prepare_for_update(&mut new, &old, &context);
        assert!(new["spec"].get("hostname").is_none());
        assert_eq!(Rules.validate_update(&new, &old, &context), vec![]);
        let errors = Rules.validate_update(&old, &new, &context);
        assert!(
            errors[0]
                .detail
                .starts_with("existing ephemeral containers \"d\" may not be removed")
        );
    }
}
