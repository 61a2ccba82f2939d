//! VolumeAttachment: that a volume is, or is to be, attached to a node.

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use crate::access::{Access, copy, set};
use crate::columns::{AGE, Column, NAME, boolean, text};
use crate::meta::{faults, immutable};
use crate::pod::volumes::driver_name;
use crate::print;
use crate::strategy::{Context, Keep, StatusUpdate, Strategy};

const TEXT_MAX: usize = 1024;

/// The rules of VolumeAttachment.
pub struct Rules;

static STATUS: StatusUpdate = StatusUpdate {
    kind: &Rules,
    keep: Keep::Metadata,
    check: status_check,
};

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        (name == "status").then_some(&STATUS)
    }

    fn prepare_for_create(&self, attachment: &mut Value, _context: &Context<'_>) {
        set(attachment, "status", json!({"attached": false}));
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "status");
    }

    fn validate(&self, attachment: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (attachment.part("spec"), Path::new("spec"));
        driver_name(&mut errors, spec.text("attacher"), &path.child("attacher"));
        let at = path.child("source");
        let (volume, inline) = (
            spec.has("source.persistentVolumeName"),
            spec.has("source.inlineVolumeSpec"),
        );
        let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (volume, inline) {
            (false, false) => errors.push(Error::required(&at, detail)),
            (true, true) => errors.push(Error::forbidden(&at, detail)),
            (true, false) => {
                let name = spec.text("source.persistentVolumeName");
                if name.is_empty() {
                    errors.push(Error::required(
                        &at.child("persistentVolumeName"),
                        "must specify non empty persistentVolumeName",
                    ));
                } else {
                    faults(
                        &mut errors,
                        &at.child("persistentVolumeName"),
                        name,
                        names::dns1123_subdomain(name),
                    );
                }
            }
            (false, true) => {
                if !spec.has("source.inlineVolumeSpec.csi") {
                    let here = at.child("inlineVolumeSpec.csi");
                    errors.push(Error::required(
                        &here,
                        "has to be specified in the context of inline volumes",
                    ));
                }
            }
        }
        faults(
            &mut errors,
            &path.child("nodeName"),
            spec.text("nodeName"),
            names::dns1123_subdomain(spec.text("nodeName")),
        );
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = self.validate(new, context);
        immutable(
            &mut errors,
            new.part("spec"),
            old.part("spec"),
            &Path::new("spec"),
        );
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column {
                format: "name",
                ..text("Attacher", "The driver.")
            },
            text("PV", "The volume."),
            text("Node", "The node."),
            boolean("Attached", "Whether it is attached."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, attachment: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(attachment),
            attachment.text("spec.attacher").into(),
            attachment.text("spec.source.persistentVolumeName").into(),
            attachment.text("spec.nodeName").into(),
            attachment.flag("status.attached").into(),
            print::age(attachment, now),
        ]
    }
}

fn status_check(new: &Value, _old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, path) = (new.part("status"), Path::new("status"));
    let size: usize = status
        .entries("attachmentMetadata")
        .map(|(k, v)| k.len() + v.as_str().map_or(0, str::len))
        .sum();
    if size > 256 * 1024 {
        errors.push(Error::too_long(
            &path.child("attachmentMetadata"),
            256 * 1024,
        ));
    }
    for field in ["attachError", "detachError"] {
        let (error, at) = (status.part(field), path.child(field));
        if error.text("message").len() > TEXT_MAX {
            errors.push(Error::too_long(&at.child("message"), 256 * 1024));
        }
        if let Some(code) = error.int("errorCode").filter(|c| *c < 0) {
            errors.push(Error::invalid(
                &at.child("errorCode"),
                code,
                names::inclusive_range_error(0, i64::from(i32::MAX)),
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_needed_and_the_spec_stays() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let old = json!({"spec": {"attacher": "a.io", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
        assert!(Rules.validate(&old, &context).is_empty());
        let mut new = old.clone();
        new["spec"]["source"] = json!({});
        let found: Vec<String> = Rules
            .validate_update(&new, &old, &context)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found[0],
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        );
        assert!(found[1].ends_with("field is immutable"));
    }
}
