//! PodTemplate: a template of pods, kept for itself.

use jiff::Timestamp;
use keelson_api::field::{ErrorList, Path};
use serde_json::Value;

use crate::access::{Access, part_mut, same, set};
use crate::columns::{Column, NAME, text};
use crate::pod::template;
use crate::print;
use crate::strategy::{Context, Strategy};

/// The rules of PodTemplate.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, object: &mut Value) {
        if let Some(found) = part_mut(object, "template") {
            template::default(found);
        }
    }

    fn prepare_for_create(&self, object: &mut Value, _context: &Context<'_>) {
        set(object, "metadata.generation", 1);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        if !same(new.part("template"), old.part("template")) {
            set(
                new,
                "metadata.generation",
                old.number("metadata.generation") + 1,
            );
        }
    }

    fn validate(&self, object: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        template::validate(&mut errors, object.part("template"), &Path::new("template"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Containers", "Names of the containers."),
            text("Images", "Images of the containers."),
            text("Pod Labels", "Labels of the pods."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let [names, images] = print::containers(object, "template.spec.containers");
        vec![
            print::name(object),
            names,
            images,
            print::labels(object, "template.metadata.labels").into(),
        ]
    }
}
