//! Lists and maps that may only grow so long: one that is too long is refused without looking at what is in it.

use std::collections::HashSet;

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::access::Access;

/// A list of at most `max` items, each of which is checked.
pub(super) fn list(
    errors: &mut ErrorList,
    object: &Value,
    key: &str,
    max: usize,
    path: &Path<'_>,
    check: impl Fn(&mut ErrorList, &Value, &Path<'_>),
) {
    let (items, at) = (object.items(key), path.child(key));
    if items.len() > max {
        errors.push(Error::too_many(&at, items.len(), max));
        return;
    }
    for (i, item) in items.iter().enumerate() {
        check(errors, item, &at.index(i));
    }
}

/// A list of at most `max` items, each of which is checked and has a key of its own.
pub(super) fn set(
    errors: &mut ErrorList,
    object: &Value,
    key: &str,
    max: usize,
    path: &Path<'_>,
    check: impl Fn(&mut ErrorList, &Value, &Path<'_>),
    identity: impl Fn(&Value) -> Value,
) {
    list(errors, object, key, max, path, check);
    let (items, at) = (object.items(key), path.child(key));
    if items.len() > max {
        return;
    }
    let mut seen = HashSet::new();
    for (i, item) in items.iter().enumerate() {
        let id = identity(item);
        if !seen.insert(id.to_string()) {
            errors.push(Error::duplicate(&at.index(i), id));
        }
    }
}

/// A map of at most `max` entries, whose keys and values are checked.
pub(super) fn map(
    errors: &mut ErrorList,
    object: &Value,
    key: &str,
    max: usize,
    path: &Path<'_>,
    check_key: impl Fn(&mut ErrorList, &str, &Path<'_>),
    check: impl Fn(&mut ErrorList, &Value, &Path<'_>),
) {
    let at = path.child(key);
    let entries = object.part(key).as_object();
    let length = entries.map_or(0, serde_json::Map::len);
    if length > max {
        errors.push(Error::too_many(&at, length, max));
        return;
    }
    for (key, value) in entries.into_iter().flatten() {
        check_key(errors, key, &at);
        check(errors, value, &at.key(&shortened(key)));
    }
}

/// The text that stands in a path for a key, the middle of a very long one left out.
fn shortened(key: &str) -> String {
    const MAX: usize = 96;
    if key.len() <= MAX {
        return key.to_owned();
    }
    let rest = MAX - 3;
    let mut head = rest.div_ceil(2);
    let mut tail = key.len() - rest / 2;
    while !key.is_char_boundary(head) {
        head -= 1;
    }
    while !key.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}...{}", &key[..head], &key[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_too_long_is_not_looked_into() {
        let object = json!({"names": ["a", "a", "b"]});
        let path = Path::new("spec");
        let bad = |errors: &mut ErrorList, _: &Value, path: &Path<'_>| {
            errors.push(Error::required(path, ""));
        };
        let mut errors = ErrorList::new();
        set(&mut errors, &object, "names", 2, &path, bad, Value::clone);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["spec.names: Too many: 3: must have at most 2 items"]
        );
        let mut errors = ErrorList::new();
        set(
            &mut errors,
            &object,
            "names",
            3,
            &path,
            |_, _, _| {},
            Value::clone,
        );
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["spec.names[1]: Duplicate value: \"a\""]
        );
    }

    #[test]
    fn long_keys_are_shown_in_part() {
        let long = "ä".repeat(200);
        let shown = shortened(&long);
        assert!(shown.len() <= 96 && shown.contains("..."));
    }
}
