//! Every kind as upstream writes it, in JSON and protobuf, against what this crate writes.
//!
//! The samples come from upstream's own types: `go run . golden` in `e2e/upstream/fields`. The environment
//! variable `KEELSON_GOLDEN` names the file; without it the test says that it was skipped.
#![allow(clippy::unwrap_used)]

use std::io::BufRead as _;

use base64::Engine as _;
use keelson_schema::{FieldValidation, MediaType, Schema, decode, normalise, protobuf};
use serde_json::Value;

#[test]
fn every_kind_is_written_as_upstream_does() {
    let Ok(path) = std::env::var("KEELSON_GOLDEN") else {
        eprintln!("SKIPPED: KEELSON_GOLDEN names no samples");
        return;
    };
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let (mut samples, mut failures) = (0, Vec::new());
    for line in file.lines() {
        let sample: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let text = |name: &str| sample[name].as_str().unwrap_or_default();
        let name = format!("{}/{}/{}", text("group"), text("version"), text("kind"));
        let Some(ty) = Schema::builtin().kind(text("group"), text("version"), text("kind")) else {
            failures.push(format!("{name}: no such kind"));
            continue;
        };
        samples += 1;
        let expected = &sample["json"];
        match decode(
            expected.to_string().as_bytes(),
            MediaType::Json,
            ty,
            FieldValidation::Strict,
        ) {
            Err(error) => failures.push(format!("{name}: {error}")),
            Ok(decoded) => {
                let mut object = decoded.object;
                normalise(&mut object, ty);
                if let Some(difference) = difference(&object, expected, "") {
                    failures.push(format!("{name}: JSON {difference}"));
                }
            }
        }
        let Ok(bytes) = base64::prelude::BASE64_STANDARD.decode(text("protobuf")) else {
            continue;
        };
        if bytes.is_empty() {
            continue;
        }
        match protobuf::decode(&bytes, ty) {
            Err(error) => failures.push(format!("{name}: {error}")),
            Ok(mut object) => {
                normalise(&mut object, ty);
                if let Some(difference) = difference(&object, expected, "") {
                    failures.push(format!("{name}: protobuf {difference}"));
                }
            }
        }
        let encoded = protobuf::encode(expected, ty);
        if encoded != bytes {
            let at = encoded
                .iter()
                .zip(&bytes)
                .take_while(|(a, b)| a == b)
                .count();
            failures.push(format!(
                "{name}: protobuf differs at {at} of {} ({} bytes): {:?} is not {:?}",
                bytes.len(),
                encoded.len(),
                String::from_utf8_lossy(
                    &encoded[at.saturating_sub(20)..encoded.len().min(at + 30)]
                ),
                String::from_utf8_lossy(&bytes[at.saturating_sub(20)..bytes.len().min(at + 30)]),
            ));
        }
    }
    eprintln!("{samples} samples");
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// The first place where two values differ.
fn difference(ours: &Value, theirs: &Value, path: &str) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => a
            .keys()
            .chain(b.keys().filter(|key| !a.contains_key(*key)))
            .find_map(|key| {
                let at = format!("{path}.{key}");
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => difference(a, b, &at),
                    (a, b) => Some(format!("{at}: {a:?} is not {b:?}")),
                }
            }),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(at, (a, b))| difference(a, b, &format!("{path}[{at}]"))),
        (a, b) => (a != b).then(|| format!("{path}: {a} is not {b}")),
    }
}
