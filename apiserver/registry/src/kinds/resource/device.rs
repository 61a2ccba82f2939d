//! One device of a slice: its attributes, capacities, taints, counters and where it can be used.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{bounded, capacity, naming, selectors};
use crate::access::{Access, same};
use crate::pod::placement;
use crate::validation::required_one_of;

const ATTRIBUTES_MAX: usize = 32;
const VALUES_MAX: usize = 48;
const VALUE_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const CONSUMPTIONS_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
/// The kinds of values that an attribute has, one at a time.
const VALUES: [&str; 8] = [
    "bool", "int", "string", "version", "bools", "ints", "strings", "versions",
];

/// What is wrong with a device; `old` is the device as it was, `own_nodes` says that each device has its own nodes.
pub(super) fn validate(
    errors: &mut ErrorList,
    device: &Value,
    old: &Value,
    own_nodes: bool,
    path: &Path<'_>,
) {
    naming::label_name(errors, device.text("name"), &path.child("name"));
    let count = |key: &str| device.entries(key).count();
    let entries = count("attributes") + count("capacity");
    if entries > ATTRIBUTES_MAX {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}"
        );
        errors.push(Error::invalid(path, entries, detail));
    }
    let values = values(device);
    if values > VALUES_MAX {
        let detail = format!("the total number of attribute values must not exceed {VALUES_MAX}");
        errors.push(Error::invalid(path, values, detail));
    }
    bounded::map(
        errors,
        device,
        "attributes",
        usize::MAX,
        path,
        naming::qualified,
        attribute,
    );
    let shared = device.flag("allowMultipleAllocations");
    bounded::map(
        errors,
        device,
        "capacity",
        usize::MAX,
        path,
        naming::qualified,
        |errors, value, path| capacity::validate(errors, value, shared, path),
    );
    if old.is_null() || !same(old.part("taints"), device.part("taints")) {
        bounded::list(errors, device, "taints", TAINTS_MAX, path, taint);
    }
    bounded::set(
        errors,
        device,
        "consumesCounters",
        CONSUMPTIONS_MAX,
        path,
        |errors, consumption, path| {
            let set = consumption.text("counterSet");
            counters(errors, consumption, "counterSet", set, path);
        },
        |consumption| consumption.text("counterSet").into(),
    );
    nodes(errors, device, own_nodes, path);
    selectors::binding_conditions(errors, device, path);
}

/// The values of all attributes, each item of a list counted.
fn values(device: &Value) -> usize {
    device
        .entries("attributes")
        .map(|(_, attribute)| {
            let items: usize = VALUES[4..]
                .iter()
                .map(|list| attribute.items(list).len())
                .sum();
            items.max(1)
        })
        .sum()
}

fn attribute(errors: &mut ErrorList, attribute: &Value, path: &Path<'_>) {
    let text = |errors: &mut ErrorList, value: &str, path: &Path<'_>| {
        if value.len() > VALUE_MAX {
            errors.push(Error::too_long(path, VALUE_MAX));
        }
    };
    if attribute.has("string") {
        text(errors, attribute.text("string"), &path.child("string"));
    }
    if attribute.has("version") {
        let (value, at) = (attribute.text("version"), path.child("version"));
        if semver::Version::parse(value).is_err() {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(Error::invalid(&at, value, detail));
        }
        text(errors, value, &at);
    }
    match VALUES.iter().filter(|key| attribute.has(key)).count() {
        0 => errors.push(Error::invalid(
            path,
            "",
            "exactly one value must be specified",
        )),
        1 => {}
        _ => errors.push(Error::invalid(
            path,
            attribute,
            "exactly one value must be specified",
        )),
    }
}

fn taint(errors: &mut ErrorList, taint: &Value, path: &Path<'_>) {
    naming::key(errors, taint.text("key"), &path.child("key"));
    naming::value(errors, taint.text("value"), &path.child("value"));
    required_one_of(
        errors,
        taint.text("effect"),
        selectors::EFFECTS,
        &path.child("effect"),
    );
}

/// The name of a set of counters, under `key`, and the counters.
pub(super) fn counters(
    errors: &mut ErrorList,
    object: &Value,
    key: &str,
    name: &str,
    path: &Path<'_>,
) {
    if name.is_empty() {
        errors.push(Error::required(&path.child(key), ""));
    } else {
        naming::label_name(errors, name, &path.child(key));
    }
    if object.entries("counters").next().is_none() {
        errors.push(Error::required(&path.child("counters"), ""));
    } else {
        // Any quantity is a good counter.
        bounded::map(
            errors,
            object,
            "counters",
            COUNTERS_MAX,
            path,
            naming::label_name,
            |_, _, _| {},
        );
    }
}

/// Where a device can be used, if that is said device by device.
fn nodes(errors: &mut ErrorList, device: &Value, own_nodes: bool, path: &Path<'_>) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    let given = ["nodeName", "nodeSelector", "allNodes"].map(|key| device.has(key));
    if !own_nodes {
        if given.contains(&true) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.push(Error::invalid(path, Value::Null, detail));
        }
        return;
    }
    let mut fields = Vec::new();
    if given[0] {
        let (name, at) = (device.text("nodeName"), path.child("nodeName"));
        if name.is_empty() {
            errors.push(Error::invalid(&at, name, "must not be empty"));
        } else {
            fields.push("`nodeName`");
            naming::node_name(errors, name, &at);
        }
    }
    if given[1] {
        fields.push("`nodeSelector`");
        let selector = device.part("nodeSelector");
        placement::node_selector(errors, selector, &path.child("nodeSelector"));
    }
    if given[2] {
        if device.flag("allNodes") {
            fields.push("`allNodes`");
        } else {
            let detail = "must be either unset or set to true";
            errors.push(Error::invalid(&path.child("allNodes"), false, detail));
        }
    }
    match fields.len() {
        0 => errors.push(Error::required(path, ONE)),
        1 => {}
        _ => errors.push(Error::invalid(
            path,
            format!("{{{}}}", fields.join(", ")),
            ONE,
        )),
    }
}
