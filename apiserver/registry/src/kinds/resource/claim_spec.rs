//! The spec of a claim, which templates hold too: requests for devices, constraints among them, configuration.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{bounded, naming, selectors};
use crate::access::{Access, items_mut, set_default_number, set_default_text};
use crate::validation::one_of;

/// Requests in one claim.
pub(super) const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
/// Configurations in one claim or class.
pub(super) const CONFIG_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const NO_SUCH_REQUEST: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Fills in the spec at `path`.
pub(super) fn default(object: &mut Value, path: &str) {
    for request in items_mut(object, &format!("{path}.devices.requests")) {
        if let Some(exactly) = crate::access::part_mut(request, "exactly") {
            default_request(exactly);
        }
        for alternative in items_mut(request, "firstAvailable") {
            default_request(alternative);
        }
    }
}

fn default_request(request: &mut Value) {
    set_default_text(request, "allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        set_default_number(request, "count", 1);
    }
    for toleration in items_mut(request, "tolerations") {
        set_default_text(toleration, "operator", "Equal");
    }
}

/// Everything wrong with a claim's spec.
pub(super) fn validate(errors: &mut ErrorList, spec: &Value, path: &Path<'_>) {
    let (devices, at) = (spec.part("devices"), path.child("devices"));
    bounded::set(
        errors,
        devices,
        "requests",
        REQUESTS_MAX,
        &at,
        request,
        |request| request.text("name").into(),
    );
    bounded::list(
        errors,
        devices,
        "constraints",
        CONSTRAINTS_MAX,
        &at,
        |errors, constraint, path| {
            references(errors, constraint, devices, path);
            if constraint.has("matchAttribute") {
                let name = constraint.text("matchAttribute");
                naming::fully_qualified(errors, name, &path.child("matchAttribute"));
            } else if constraint.has("distinctAttribute") {
                let name = constraint.text("distinctAttribute");
                naming::fully_qualified(errors, name, &path.child("distinctAttribute"));
            } else {
                let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                errors.push(Error::required(path, detail));
            }
        },
    );
    bounded::list(
        errors,
        devices,
        "config",
        CONFIG_MAX,
        &at,
        |errors, config, path| {
            references(errors, config, devices, path);
            selectors::configuration(errors, config, false, path);
        },
    );
}

fn request(errors: &mut ErrorList, request: &Value, path: &Path<'_>) {
    naming::label_name(errors, request.text("name"), &path.child("name"));
    match (
        request.has("exactly"),
        !request.items("firstAvailable").is_empty(),
    ) {
        (false, false) => errors.push(Error::required(
            path,
            "exactly one of `exactly` or `firstAvailable` is required",
        )),
        (true, true) => errors.push(Error::invalid(
            path,
            Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        )),
        (true, false) => exact(errors, request.part("exactly"), &path.child("exactly")),
        (false, true) => bounded::set(
            errors,
            request,
            "firstAvailable",
            ALTERNATIVES_MAX,
            path,
            |errors, alternative, path| {
                naming::label_name(errors, alternative.text("name"), &path.child("name"));
                exact(errors, alternative, path);
            },
            |alternative| alternative.text("name").into(),
        ),
    }
}

fn exact(errors: &mut ErrorList, request: &Value, path: &Path<'_>) {
    let (class, at) = (
        request.text("deviceClassName"),
        path.child("deviceClassName"),
    );
    if class.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        naming::node_name(errors, class, &at);
    }
    selectors::selectors(errors, request, path);
    let (mode, count) = (request.text("allocationMode"), request.number("count"));
    match mode {
        "All" if count != 0 => errors.push(Error::invalid(
            &path.child("count"),
            count,
            "must not be specified when allocationMode is 'All'",
        )),
        "All" => {}
        "ExactCount" if count <= 0 => {
            let detail = "must be greater than zero";
            errors.push(Error::invalid(&path.child("count"), count, detail));
        }
        "ExactCount" => {}
        _ => one_of(
            errors,
            mode,
            &["All", "ExactCount"],
            &path.child("allocationMode"),
        ),
    }
    selectors::tolerations(errors, request, path);
}

/// The list `requests`: names of requests of the claim whose `devices` these are.
pub(super) fn references(errors: &mut ErrorList, object: &Value, devices: &Value, path: &Path<'_>) {
    bounded::set(
        errors,
        object,
        "requests",
        REQUESTS_MAX,
        path,
        |errors, name, path| reference(errors, name.as_str().unwrap_or_default(), devices, path),
        Value::clone,
    );
}

/// The name of a request, or of one and one of its alternatives.
pub(super) fn reference(errors: &mut ErrorList, name: &str, devices: &Value, path: &Path<'_>) {
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        errors.push(Error::invalid(path, name, NO_SUCH_REQUEST));
        return;
    }
    for part in &parts {
        naming::label_name(errors, part, path);
    }
    let named = |items: &[Value], name: &str| items.iter().any(|i| i.text("name") == name);
    let requests = devices.items("requests");
    let known = match parts[..] {
        [request, alternative] => requests
            .iter()
            .any(|r| r.text("name") == request && named(r.items("firstAvailable"), alternative)),
        _ => named(requests, name),
    };
    if !known {
        errors.push(Error::invalid(path, name, NO_SUCH_REQUEST));
    }
}
