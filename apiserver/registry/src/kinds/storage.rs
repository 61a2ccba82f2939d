//! The kinds of storage.k8s.io.

pub mod csi_driver;
pub mod csi_node;
pub mod csi_storage_capacity;
pub mod storage_class;
pub mod volume_attachment;
pub mod volume_attributes_class;

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use crate::meta::faults;

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_SIZE: usize = 256 * 1024;

/// A provisioner's name: qualified, its case aside.
fn provisioner(errors: &mut ErrorList, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    } else {
        let lower = name.to_lowercase();
        faults(errors, path, &lower, names::qualified_name(&lower));
    }
}

/// A class's parameters: not too many, not too big.
fn parameters(errors: &mut ErrorList, map: &Value, may_be_empty: bool, path: &Path<'_>) {
    let empty = serde_json::Map::new();
    let map = map.as_object().unwrap_or(&empty);
    if map.len() > PARAMETERS_MAX {
        errors.push(Error::too_long(path, PARAMETERS_MAX));
        return;
    }
    let mut size = 0;
    for (key, value) in map {
        if key.is_empty() {
            errors.push(Error::invalid(path, key, "field can not be empty."));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > PARAMETERS_SIZE {
        errors.push(Error::too_long(path, PARAMETERS_SIZE));
    }
    if !may_be_empty && map.is_empty() {
        errors.push(Error::required(
            path,
            "must contain at least one key/value pair",
        ));
    }
}
