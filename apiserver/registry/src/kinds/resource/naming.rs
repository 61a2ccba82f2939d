//! Names in device allocation: pools, requests, attributes, shares.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::access::Access;
use crate::meta::faults;

/// The longest name of a pool.
const POOL_MAX: usize = 253;
/// The longest identifier of an attribute or capacity.
const ID_MAX: usize = 32;

pub(super) use crate::pod::volumes::driver_name;

/// A pool's name: subdomains separated by slashes.
pub(super) fn pool_name(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if name.len() > POOL_MAX {
        errors.push(Error::too_long(path, POOL_MAX));
    }
    for part in name.split('/') {
        faults(errors, path, part, names::dns1123_subdomain(part));
    }
}

/// A name that is one DNS label: of a device, a request, a counter.
pub(super) fn label_name(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    faults(errors, path, name, names::dns1123_label(name));
}

/// The identity of a device, or of a share of one, as upstream's keys spell it.
pub(super) fn device_id(result: &Value) -> Value {
    let mut id = serde_json::json!({
        "Driver": result.text("driver"), "Pool": result.text("pool"), "Device": result.text("device"),
    });
    if result.has("shareID") {
        id["ShareID"] = result.part("shareID").clone();
    }
    id
}

/// The UID of a share, in lower case and with its dashes.
pub(super) fn share_id(errors: &mut ErrorList, object: &Value, path: &Path<'_>) {
    if !object.has("shareID") {
        return;
    }
    let (uid, at) = (object.text("shareID"), path.child("shareID"));
    match uuid::Uuid::try_parse(uid) {
        Err(_) => errors.push(Error::invalid(
            &at,
            uid,
            format!("error validating uid: invalid UUID length: {}", uid.len()),
        )),
        Ok(parsed) if parsed.hyphenated().to_string() != uid => {
            let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
            errors.push(Error::invalid(&at, uid, detail));
        }
        Ok(_) => {}
    }
}

/// The name of an attribute or a capacity: an identifier, maybe in a domain.
pub(super) fn qualified(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [id] => identifier(errors, id, path),
        [domain, id] => {
            if domain.is_empty() {
                errors.push(Error::invalid(path, "", "the domain must not be empty"));
            } else {
                driver_name(errors, domain, path);
            }
            if id.is_empty() {
                errors.push(Error::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(errors, id, path);
            }
        }
        _ => {}
    }
}

/// The name of an attribute with its domain.
pub(super) fn fully_qualified(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    qualified(errors, name, path);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(Error::invalid(path, name, detail));
    }
}

fn identifier(errors: &mut ErrorList, id: &str, path: &Path<'_>) {
    if id.len() > ID_MAX {
        errors.push(Error::too_long(path, ID_MAX));
    }
    faults(errors, path, id, names::c_identifier(id));
}

/// The name of a node.
pub(super) fn node_name(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    faults(errors, path, name, names::dns1123_subdomain(name));
}

/// The key of a label, a taint or a condition.
pub(super) fn key(errors: &mut ErrorList, key: &str, path: &Path<'_>) {
    faults(errors, path, key, names::qualified_name(key));
}

/// The value of a taint or toleration.
pub(super) fn value(errors: &mut ErrorList, value: &str, path: &Path<'_>) {
    faults(errors, path, value, names::label_value(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(check: fn(&mut ErrorList, &str, &Path<'_>), name: &str) -> usize {
        let mut errors = ErrorList::new();
        check(&mut errors, name, &Path::new("x"));
        errors.len()
    }

    #[test]
    fn names_are_checked() {
        for (check, good, bad) in [
            (
                pool_name as fn(&mut ErrorList, &str, &Path<'_>),
                "a.b/c",
                "a//b",
            ),
            (qualified, "dra.example.com/model_1", "1model"),
            (qualified, "model", "/model"),
            (fully_qualified, "a.b/model", "model"),
            (label_name, "gpu-0", "gpu.0"),
        ] {
            assert_eq!(found(check, good), 0, "{good}");
            assert_ne!(found(check, bad), 0, "{bad}");
        }
    }
}
