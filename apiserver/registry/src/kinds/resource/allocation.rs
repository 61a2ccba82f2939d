//! The status of a claim: which devices it got, who may use them, and what their drivers say of them.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::{bounded, claim_spec, naming, selectors};
use crate::access::{Access, items_mut, part_mut, remove, same};
use crate::pod::placement;
use crate::validation::{conditions, required, required_one_of};

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const DEVICE_CONDITIONS_MAX: usize = 8;
const DATA_MAX: usize = 10 * 1024;
const IPS_MAX: usize = 16;
const INTERFACE_MAX: usize = 256;
const HARDWARE_MAX: usize = 128;

/// Fills in a status.
pub(super) fn default(claim: &mut Value) {
    for result in items_mut(claim, "status.allocation.devices.results") {
        for toleration in items_mut(result, "tolerations") {
            crate::access::set_default_text(toleration, "operator", "Equal");
        }
    }
}

/// Forgets what drivers said of devices that the claim no longer has.
pub(super) fn drop_deallocated(new: &mut Value, old: &Value) {
    let ids = |claim: &Value| -> Vec<Value> {
        let results = claim.items("status.allocation.devices.results");
        results.iter().map(naming::device_id).collect()
    };
    let kept = ids(new);
    let gone: Vec<Value> = ids(old)
        .into_iter()
        .filter(|id| !kept.contains(id))
        .collect();
    if let Some(devices) = part_mut(new, "status.devices").and_then(Value::as_array_mut) {
        devices.retain(|device| !gone.contains(&naming::device_id(device)));
        if devices.is_empty() {
            remove(new, "status.devices");
        }
    }
}

/// Everything wrong with a changed status.
pub(super) fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, before, path) = (new.part("status"), old.part("status"), Path::new("status"));
    bounded::set(
        &mut errors,
        status,
        "reservedFor",
        RESERVED_MAX,
        &path,
        |errors, user, path| {
            for key in ["resource", "name", "uid"] {
                required(errors, user, key, path);
            }
        },
        |user| user.part("uid").clone(),
    );
    let allocated: Vec<Value> = status
        .items("allocation.devices.results")
        .iter()
        .map(naming::device_id)
        .collect();
    bounded::set(
        &mut errors,
        status,
        "devices",
        usize::MAX,
        &path,
        |errors, device, path| self::device(errors, device, &allocated, path),
        naming::device_id,
    );
    reserved(&mut errors, new, old, &path.child("reservedFor"));
    let at = path.child("allocation");
    let result = status.part("allocation");
    if before.has("allocation") && !result.is_null() {
        crate::meta::immutable(&mut errors, result, before.part("allocation"), &at);
    } else if !result.is_null() {
        allocation(&mut errors, result, new.part("spec.devices"), &at);
    }
    errors
}

/// Only what is allocated can be reserved, and nobody new once the claim is to go.
fn reserved(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path<'_>) {
    let users = new.items("status.reservedFor");
    if users.is_empty() {
        return;
    }
    if !new.has("status.allocation") {
        let detail = "may not be specified when `allocated` is not set";
        errors.push(Error::forbidden(path, detail));
    } else if new.has("metadata.deletionTimestamp") {
        let had = old.items("status.reservedFor");
        if users.iter().any(|user| !had.iter().any(|h| same(h, user))) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(Error::forbidden(path, detail));
        }
    }
}

fn allocation(errors: &mut ErrorList, result: &Value, claimed: &Value, path: &Path<'_>) {
    let (devices, at) = (result.part("devices"), path.child("devices"));
    bounded::list(
        errors,
        devices,
        "results",
        RESULTS_MAX,
        &at,
        |errors, result, path| {
            let request = result.text("request");
            claim_spec::reference(errors, request, claimed, &path.child("request"));
            named_device(errors, result, path);
            selectors::binding_conditions(errors, result, path);
            naming::share_id(errors, result, path);
        },
    );
    bounded::list(
        errors,
        devices,
        "config",
        2 * claim_spec::CONFIG_MAX,
        &at,
        |errors, config, path| {
            let sources = ["FromClaim", "FromClass"];
            required_one_of(
                errors,
                config.text("source"),
                &sources,
                &path.child("source"),
            );
            claim_spec::references(errors, config, claimed, path);
            selectors::configuration(errors, config, false, path);
        },
    );
    if result.has("nodeSelector") {
        let selector = result.part("nodeSelector");
        placement::node_selector(errors, selector, &path.child("nodeSelector"));
    }
}

fn named_device(errors: &mut ErrorList, device: &Value, path: &Path<'_>) {
    naming::driver_name(errors, device.text("driver"), &path.child("driver"));
    naming::pool_name(errors, device.text("pool"), &path.child("pool"));
    naming::label_name(errors, device.text("device"), &path.child("device"));
}

fn device(errors: &mut ErrorList, device: &Value, allocated: &[Value], path: &Path<'_>) {
    named_device(errors, device, path);
    naming::share_id(errors, device, path);
    let id = naming::device_id(device);
    if !allocated.contains(&id) {
        let detail = "must be an allocated device in the claim";
        errors.push(Error::invalid(path, id, detail));
    }
    let (list, at) = (device.items("conditions"), path.child("conditions"));
    if list.len() > DEVICE_CONDITIONS_MAX {
        errors.push(Error::too_many(&at, list.len(), DEVICE_CONDITIONS_MAX));
    }
    conditions(errors, list, &at);
    if device.has("data") {
        selectors::raw(errors, device, "data", DATA_MAX, path);
    }
    let (network, at) = (device.part("networkData"), path.child("networkData"));
    for (key, max) in [
        ("interfaceName", INTERFACE_MAX),
        ("hardwareAddress", HARDWARE_MAX),
    ] {
        if network.text(key).len() > max {
            errors.push(Error::too_long(&at.child(key), max));
        }
    }
    bounded::set(
        errors,
        network,
        "ips",
        IPS_MAX,
        &at,
        |errors, address, path| {
            interface_address(errors, address.as_str().unwrap_or_default(), path);
        },
        Value::clone,
    );
}

/// An address with the length of its network, spelled as it always is.
fn interface_address(errors: &mut ErrorList, address: &str, path: &Path<'_>) {
    match address.parse::<ipnet::IpNet>() {
        Ok(parsed) if parsed.to_string() == address => {}
        Ok(parsed) => errors.push(Error::invalid(
            path,
            address,
            format!("must be in canonical form (\"{parsed}\")"),
        )),
        Err(_) => errors.push(Error::invalid(
            path,
            address,
            "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
        )),
    }
}
