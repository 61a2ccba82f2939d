//! The three kinds of patch. They work on decoded values; the result must be decoded against its type again
//! (`decode_value`), since a patch may bring in what doesn't belong there.

mod strategic;

pub use strategic::strategic;

use json_patch::PatchOperation;
use serde_json::Value;

/// Upstream's bound on the operations of a JSON patch.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// How much the copies of a JSON patch may add together: as much as a body.
const MAX_COPIED: usize = 3 * 1024 * 1024;
/// How deep a patched object may be nested: as deep as a body.
const MAX_DEPTH: usize = 127;

/// Why a patch can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch makes no sense by itself: 400.
    #[error("{0}")]
    Invalid(String),
    /// Too many operations: 413.
    #[error(
        "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {0}"
    )]
    TooManyOperations(usize),
    /// It can't be applied to this object: 422.
    #[error("{0}")]
    NotApplicable(String),
    /// One of its tests failed: 422.
    #[error("{0}")]
    TestFailed(String),
    /// What upstream answers with 500, as a list element without its merge key.
    #[error("{0}")]
    Internal(String),
}

impl PatchError {
    /// The HTTP status upstream answers.
    pub fn code(&self) -> u16 {
        match self {
            PatchError::Invalid(_) => 400,
            PatchError::TooManyOperations(_) => 413,
            PatchError::NotApplicable(_) | PatchError::TestFailed(_) => 422,
            PatchError::Internal(_) => 500,
        }
    }
}

/// Applies an RFC 6902 patch.
pub fn json(original: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations: Vec<Value> = serde_json::from_slice(patch).map_err(|error| {
        PatchError::Invalid(match serde_json::from_slice::<Value>(patch) {
            Ok(value) => format!(
                "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                kind(&value)
            ),
            Err(_) => format!("error decoding patch: {error}"),
        })
    })?;
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let patch: json_patch::Patch = serde_json::from_value(Value::Array(operations))
        .map_err(|error| PatchError::NotApplicable(error.to_string()))?;
    let mut patched = original.clone();
    let mut copied = 0;
    for operation in &patch.0 {
        check_growth(&patched, operation, &mut copied)?;
        json_patch::patch(&mut patched, std::slice::from_ref(operation)).map_err(|error| {
            match error.kind {
                json_patch::PatchErrorKind::TestFailed => PatchError::TestFailed(error.to_string()),
                _ => PatchError::NotApplicable(error.to_string()),
            }
        })?;
    }
    Ok(patched)
}

/// Refuses an operation that would nest the object too deep or copy too much: a few short operations can make
/// an object that fills the memory, or the stack of whoever walks over it.
fn check_growth(
    object: &Value,
    operation: &PatchOperation,
    copied: &mut usize,
) -> Result<(), PatchError> {
    let (path, value) = match operation {
        PatchOperation::Add(add) => (add.path.as_str(), Some(&add.value)),
        PatchOperation::Replace(replace) => (replace.path.as_str(), Some(&replace.value)),
        PatchOperation::Move(moved) => (moved.path.as_str(), object.pointer(moved.from.as_str())),
        PatchOperation::Copy(copy) => {
            let value = object.pointer(copy.from.as_str());
            *copied += value.map_or(0, |value| value.to_string().len());
            if *copied > MAX_COPIED {
                return Err(PatchError::NotApplicable(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                )));
            }
            (copy.path.as_str(), value)
        }
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    let below = value.map_or(0, depth);
    if path.matches('/').count() + below > MAX_DEPTH {
        return Err(PatchError::NotApplicable("exceeded max depth".to_owned()));
    }
    Ok(())
}

/// How deep a value is nested.
fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(object) => object.values().map(depth).max(),
        _ => return 0,
    };
    inner.unwrap_or(0) + 1
}

/// Applies an RFC 7386 patch.
pub fn merge(original: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *original = patch.clone();
        return;
    };
    if !original.is_object() {
        *original = Value::Object(serde_json::Map::new());
    }
    let Value::Object(object) = original else {
        return;
    };
    for (key, change) in changes {
        if change.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// A value's kind in Go's words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn json_patches_apply_or_say_why_not() {
        let object = json!({"a": {"b": [1, 2]}});
        let patched = json(
            &object,
            br#"[{"op":"add","path":"/a/b/-","value":3},{"op":"remove","path":"/a/b/0"}]"#,
        );
        assert_eq!(patched.unwrap(), json!({"a": {"b": [2, 3]}}));
        let missing = json(&object, br#"[{"op":"replace","path":"/x","value":1}]"#);
        assert_eq!(missing.unwrap_err().code(), 422);
        let test = json(&object, br#"[{"op":"test","path":"/a/b/0","value":9}]"#);
        assert_eq!(test.unwrap_err().code(), 422);
        assert_eq!(
            json(&object, b"{}").unwrap_err().to_string(),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
        assert_eq!(json(&object, b"[").unwrap_err().code(), 400);
        let many = format!(
            "[{}]",
            vec![r#"{"op":"test","path":"","value":1}"#; 10_001].join(",")
        );
        assert_eq!(
            json(&object, many.as_bytes()).unwrap_err().to_string(),
            "The allowed maximum operations in a JSON patch is 10000, got 10001"
        );
    }

    #[test]
    fn copies_grow_an_object_neither_deep_nor_large() {
        let copy = r#"{"op":"copy","from":"/a","path":"/a/a"}"#;
        let patch = format!("[{}]", vec![copy; 200].join(","));
        let error = json(&json!({"a": {"b": 1}}), patch.as_bytes()).unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (422, "exceeded max depth")
        );
        let copy = r#"{"op":"copy","from":"/a/0","path":"/a/-"}"#;
        let patch = format!("[{}]", vec![copy; 5000].join(","));
        let error = json(&json!({"a": ["x".repeat(1000)]}), patch.as_bytes()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("accumulated size increase of copy")
        );
    }

    #[test]
    fn merge_patches_remove_by_null() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(
            &mut object,
            &json!({"a": {"b": null, "e": {"f": null, "g": 1}}, "d": [2]}),
        );
        assert_eq!(object, json!({"a": {"c": 2, "e": {"g": 1}}, "d": [2]}));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(mut object in any_json(), patch in any_json()) {
            merge(&mut object, &patch);
            let once = object.clone();
            merge(&mut object, &patch);
            prop_assert_eq!(object, once);
        }
    }
}
