//! Putting `metadata.resourceVersion` into an encoded object without decoding it.
//!
//! Values in etcd don't carry their revision, and a deleted object is announced with the revision of its deletion.
//! A scan of the first levels finds the place; everything else is copied as it is.

use std::ops::Range;

use bytes::Bytes;

use crate::store::Revision;

const NAME: &[u8] = b"\"resourceVersion\"";

/// The object with this resourceVersion, and where the digits stand in it. `None` if the bytes aren't a JSON object
/// with an object `metadata`.
pub fn with_resource_version(json: &[u8], revision: Revision) -> Option<(Bytes, Range<usize>)> {
    let spot = find(json)?;
    Some(write(json, spot.replace, spot.member, spot.comma, revision))
}

/// The object with another resourceVersion in the place that [`with_resource_version`] answered.
pub(crate) fn replace_resource_version(
    json: &[u8],
    digits: Range<usize>,
    revision: Revision,
) -> (Bytes, Range<usize>) {
    write(json, digits, false, false, revision)
}

fn write(
    json: &[u8],
    replace: Range<usize>,
    member: bool,
    comma: bool,
    revision: Revision,
) -> (Bytes, Range<usize>) {
    let number = revision.to_string();
    let mut out = Vec::with_capacity(json.len() + NAME.len() + number.len() + 4);
    out.extend_from_slice(&json[..replace.start]);
    if member {
        out.extend_from_slice(NAME);
        out.extend_from_slice(b":\"");
    }
    let start = out.len();
    out.extend_from_slice(number.as_bytes());
    let end = out.len();
    if member {
        out.push(b'"');
    }
    if comma {
        out.push(b',');
    }
    out.extend_from_slice(&json[replace.end..]);
    (Bytes::from(out), start..end)
}

struct Spot {
    /// What to replace; empty where something is only put in.
    replace: Range<usize>,
    /// Whether the member's name and quotes are to be written too.
    member: bool,
    /// Whether other members follow the new one.
    comma: bool,
}

fn find(json: &[u8]) -> Option<Spot> {
    let mut at = skip_space(json, 0);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at += 1;
    let metadata = loop {
        let (key, value) = member(json, at)?;
        if &json[key] == b"metadata" {
            break value;
        }
        at = next_member(json, skip_value(json, value)?)?;
    };
    if json.get(metadata) != Some(&b'{') {
        return None;
    }
    let inside = metadata + 1;
    let first = skip_space(json, inside);
    if json.get(first) == Some(&b'}') {
        return Some(Spot {
            replace: inside..inside,
            member: true,
            comma: false,
        });
    }
    at = inside;
    loop {
        let (key, value) = member(json, at)?;
        let end = skip_value(json, value)?;
        if &json[key.clone()] == b"resourceVersion" {
            // The value may be a string or a null: write the whole member again unless it is a string.
            return Some(if json[value] == b'"' {
                Spot {
                    replace: value + 1..end - 1,
                    member: false,
                    comma: false,
                }
            } else {
                Spot {
                    replace: key.start - 1..end,
                    member: true,
                    comma: false,
                }
            });
        }
        at = skip_space(json, end);
        match json.get(at)? {
            b',' => at += 1,
            b'}' => {
                return Some(Spot {
                    replace: inside..inside,
                    member: true,
                    comma: true,
                });
            }
            _ => return None,
        }
    }
}

/// The key (without quotes) and the start of the value of the member that begins at or after `at`.
fn member(json: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let at = skip_space(json, at);
    if json.get(at) != Some(&b'"') {
        return None;
    }
    let end = skip_string(json, at)?;
    let colon = skip_space(json, end);
    if json.get(colon) != Some(&b':') {
        return None;
    }
    let value = skip_space(json, colon + 1);
    json.get(value)?;
    Some((at + 1..end - 1, value))
}

fn next_member(json: &[u8], at: usize) -> Option<usize> {
    let at = skip_space(json, at);
    (json.get(at) == Some(&b',')).then_some(at + 1)
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The position behind the string that starts at `at`.
fn skip_string(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The position behind the value that starts at `at`. Brackets are only counted: the bytes were valid JSON once.
fn skip_value(json: &[u8], mut at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => skip_string(json, at),
        b'{' | b'[' => {
            let mut depth = 0usize;
            loop {
                match json.get(at)? {
                    b'"' => {
                        at = skip_string(json, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
        }
        _ => {
            while !matches!(json.get(at), None | Some(b',' | b'}' | b']')) {
                at += 1;
            }
            Some(at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, want: &str) {
        let (got, digits) = with_resource_version(json.as_bytes(), 42).expect("a place");
        assert_eq!(std::str::from_utf8(&got).unwrap(), want);
        assert_eq!(&got[digits.clone()], b"42");
        let (again, digits) = replace_resource_version(&got, digits, 1234);
        assert_eq!(&again[digits], b"1234");
        let value: serde_json::Value = serde_json::from_slice(&again).unwrap();
        assert_eq!(value["metadata"]["resourceVersion"], "1234");
    }

    #[test]
    fn puts_in_and_replaces() {
        check(
            r#"{"kind":"Pod","metadata":{"name":"a"},"spec":{}}"#,
            r#"{"kind":"Pod","metadata":{"resourceVersion":"42","name":"a"},"spec":{}}"#,
        );
        check(
            r#"{"metadata":{}}"#,
            r#"{"metadata":{"resourceVersion":"42"}}"#,
        );
        check(
            r#"{"metadata":{"name":"a","resourceVersion":"7","uid":"u"}}"#,
            r#"{"metadata":{"name":"a","resourceVersion":"42","uid":"u"}}"#,
        );
        check(
            r#"{"metadata":{"resourceVersion":""}}"#,
            r#"{"metadata":{"resourceVersion":"42"}}"#,
        );
        check(
            r#"{"metadata":{"resourceVersion":null,"name":"a"}}"#,
            r#"{"metadata":{"resourceVersion":"42","name":"a"}}"#,
        );
    }

    #[test]
    fn is_not_misled_by_what_stands_elsewhere() {
        check(
            r#" { "data" : {"metadata":{"resourceVersion":"1"},"q":"\"}{\\"} , "metadata" : { "annotations" : {"resourceVersion":"2"} } }"#,
            r#" { "data" : {"metadata":{"resourceVersion":"1"},"q":"\"}{\\"} , "metadata" : {"resourceVersion":"42", "annotations" : {"resourceVersion":"2"} } }"#,
        );
    }

    #[test]
    fn refuses_what_is_no_object_with_metadata() {
        for json in [
            "",
            "[]",
            "{",
            "{}",
            r#"{"kind":"Pod"}"#,
            r#"{"metadata":[]}"#,
            r#"{"metadata"#,
            r#"{"metadata":{"a":"#,
            r#"{"metadata":{"a":1 "#,
            r#"{"a":"\"#,
            r#"{"a":]}"#,
            "\u{1}\u{2}",
        ] {
            assert!(
                with_resource_version(json.as_bytes(), 1).is_none(),
                "{json}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::sample::select(b"{}[]\",:\\ metadata1".to_vec()), 0..60)) {
            let _ = with_resource_version(&bytes, 1);
        }
    }
}
