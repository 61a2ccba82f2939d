//! ResourceSlice: devices of one driver that a node, or several, can use.

use std::borrow::Cow;

use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{bounded, device, naming};
use crate::access::{Access, items_mut, part_mut, remove, same, set, set_default};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::immutable;
use crate::pod::placement;
use crate::print;
use crate::strategy::{Context, Strategy, count_generation, path_field};

const DEVICES_MAX: usize = 128;
/// As many devices as a slice holds whose devices have taints, counters or lists.
const ADVANCED_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
/// Values of attributes whose feature is off by default: they are taken only where a slice has them already.
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];
/// See [`LISTS`].
const MAPPINGS: &str = "nodeAllocatableResourceMappings";

/// The rules of ResourceSlice.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, slice: &mut Value) {
        // Upstream takes the time of the request; a slice that is read has been through this before.
        let now = Timestamp::now().as_second();
        for device in items_mut(slice, "spec.devices") {
            for taint in items_mut(device, "taints") {
                if let Ok(now) = Timestamp::from_second(now) {
                    set_default(taint, "timeAdded", now.to_string());
                }
            }
        }
    }

    fn prepare_for_create(&self, slice: &mut Value, _context: &Context<'_>) {
        set(slice, "metadata.generation", 1);
        drop_disabled(slice, &Value::Null);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        count_generation(new, old);
        drop_disabled(new, old);
    }

    fn validate(&self, slice: &Value, _context: &Context<'_>) -> ErrorList {
        spec(slice.part("spec"), &Value::Null)
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        spec(new.part("spec"), old.part("spec"))
    }

    fn warnings(&self, slice: &Value, _old: Option<&Value>) -> Vec<String> {
        let driver = slice.text("spec.driver");
        if driver == driver.to_lowercase() {
            return Vec::new();
        }
        let quoted = keelson_api::field::quote(driver);
        vec![format!(
            "spec.driver: driver names should be lowercase; {quoted} contains uppercase characters"
        )]
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.nodeName", "spec.driver"]
    }

    fn field<'o>(&self, object: &'o Value, label: &str) -> Cow<'o, str> {
        path_field(object, label)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Node", "The node that has the devices."),
            text("Driver", "The driver of the devices."),
            text("Pool", "The pool that the devices belong to."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, slice: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(slice),
            slice.text("spec.nodeName").into(),
            slice.text("spec.driver").into(),
            slice.text("spec.pool.name").into(),
            print::age(slice, now),
        ]
    }
}

fn has_lists(slice: &Value) -> bool {
    slice.items("spec.devices").iter().any(|device| {
        device
            .entries("attributes")
            .any(|(_, a)| LISTS.iter().any(|list| a.has(list)))
    })
}

fn drop_disabled(new: &mut Value, old: &Value) {
    let keeps_lists = has_lists(old);
    let keeps_mappings = old
        .items("spec.devices")
        .iter()
        .any(|d| !d.is_blank(MAPPINGS));
    for device in items_mut(new, "spec.devices") {
        if !keeps_mappings {
            remove(device, MAPPINGS);
        }
        let attributes = part_mut(device, "attributes").and_then(Value::as_object_mut);
        for (_, attribute) in attributes.into_iter().flatten() {
            for list in LISTS.iter().filter(|_| !keeps_lists) {
                remove(attribute, list);
            }
        }
    }
}

/// Everything wrong with a spec; `old` is null for a new slice.
fn spec(spec: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    naming::driver_name(&mut errors, spec.text("driver"), &path.child("driver"));
    pool(&mut errors, spec.part("pool"), &path.child("pool"));
    if !old.is_null() {
        for key in ["pool.name", "driver", "nodeName"] {
            immutable(&mut errors, spec.part(key), old.part(key), &path.child(key));
        }
    }
    nodes(&mut errors, spec, &path);
    if spec.has("sharedCounters") && spec.has("devices") {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(Error::invalid(&path, "", detail));
    }
    let advanced = spec
        .items("devices")
        .iter()
        .any(|d| !d.is_blank("taints") || !d.is_blank("consumesCounters"));
    let max = if advanced {
        ADVANCED_DEVICES_MAX
    } else {
        DEVICES_MAX
    };
    let own_nodes = spec.flag("perDeviceNodeSelection");
    bounded::set(
        &mut errors,
        spec,
        "devices",
        max,
        &path,
        |errors, device, path| {
            let before = old
                .items("devices")
                .iter()
                .find(|d| same(d.part("name"), device.part("name")));
            device::validate(
                errors,
                device,
                before.unwrap_or(&Value::Null),
                own_nodes,
                path,
            );
        },
        |device| device.text("name").into(),
    );
    bounded::set(
        &mut errors,
        spec,
        "sharedCounters",
        COUNTER_SETS_MAX,
        &path,
        |errors, set, path| device::counters(errors, set, "name", set.text("name"), path),
        |set| set.text("name").into(),
    );
    errors
}

fn pool(errors: &mut ErrorList, pool: &Value, path: &Path<'_>) {
    naming::pool_name(errors, pool.text("name"), &path.child("name"));
    let (count, generation) = (pool.number("resourceSliceCount"), pool.number("generation"));
    if count <= 0 {
        let at = path.child("resourceSliceCount");
        errors.push(Error::invalid(&at, count, "must be greater than zero"));
    }
    if generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.push(Error::invalid(
            &path.child("generation"),
            generation,
            detail,
        ));
    }
}

/// Which nodes can use the devices: said in exactly one way.
fn nodes(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut fields = Vec::new();
    if spec.has("nodeName") {
        let (name, at) = (spec.text("nodeName"), path.child("nodeName"));
        if name.is_empty() {
            let detail = "must be either unset or set to a non-empty string";
            errors.push(Error::invalid(&at, name, detail));
        } else {
            fields.push("`nodeName`");
            naming::node_name(errors, name, &at);
        }
    }
    if spec.has("nodeSelector") {
        fields.push("`nodeSelector`");
        let (selector, at) = (spec.part("nodeSelector"), path.child("nodeSelector"));
        placement::node_selector(errors, selector, &at);
        if selector.items("nodeSelectorTerms").len() != 1 {
            errors.push(Error::invalid(
                &at.child("nodeSelectorTerms"),
                selector.items("nodeSelectorTerms"),
                "must have exactly one node selector term",
            ));
        }
    }
    for (key, shown) in [
        ("allNodes", "`allNodes`"),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        if spec.flag(key) {
            fields.push(shown);
        } else if spec.has(key) {
            let detail = "must be either unset or set to true";
            errors.push(Error::invalid(&path.child(key), false, detail));
        }
    }
    match fields.len() {
        0 => errors.push(Error::required(path, ONE)),
        1 => {}
        _ => errors.push(Error::invalid(
            path,
            format!("{{{}}}", fields.join(", ")),
            format!("{ONE}, but multiple fields are set"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(extra: Value) -> Value {
        let mut spec = json!({"driver": "d.io", "nodeName": "n",
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    fn found(extra: Value) -> Vec<String> {
        Rules
            .validate(&slice(extra), &Context::at(Timestamp::UNIX_EPOCH))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn slices_are_checked() {
        for (extra, want) in [
            (json!({}), None),
            (
                json!({"devices": [{"name": "a", "attributes": {"x": {"version": "1.2.3"}}}]}),
                None,
            ),
            (
                json!({"allNodes": true}),
                Some(
                    "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
                ),
            ),
            (
                json!({"devices": [{"name": "a"}, {"name": "a"}]}),
                Some("spec.devices[1]: Duplicate value: \"a\""),
            ),
            (
                json!({"devices": [{"name": "a", "attributes": {"x": {"version": "1.2"}}}]}),
                Some(
                    "spec.devices[0].attributes[x].version: Invalid value: \"1.2\": must be a string compatible with semver.org spec 2.0.0",
                ),
            ),
            (
                json!({"devices": [{"name": "a", "allNodes": true}]}),
                Some(
                    "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
                ),
            ),
            (
                json!({"sharedCounters": [{"name": "c"}]}),
                Some("spec.sharedCounters[0].counters: Required value"),
            ),
        ] {
            assert_eq!(found(extra), want.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_off_by_default_is_dropped() {
        let given = json!({"devices": [{"name": "a", "attributes": {"x": {"ints": [1]}},
            "nodeAllocatableResourceMappings": {"cpu": {}}}]});
        let mut new = slice(given.clone());
        Rules.prepare_for_create(&mut new, &Context::at(Timestamp::UNIX_EPOCH));
        assert_eq!(
            new.items("spec.devices"),
            [json!({"name": "a", "attributes": {"x": {}}})]
        );
        let mut kept = slice(given.clone());
        drop_disabled(&mut kept, &slice(given));
        assert!(kept.items("spec.devices")[0].has("attributes.x.ints"));
    }
}
