//! Spoilt request bodies and quantities, read as upstream reads them.
//!
//! The samples come from upstream's own decoder: `go run . bodies` in `e2e/upstream/fields`. The environment
//! variable `KEELSON_BODIES` names the file; without it the test says that it was skipped.
#![allow(clippy::unwrap_used)]

use std::io::BufRead as _;

use keelson_api::quantity::{self, Quantity};
use keelson_schema::{FieldValidation, MediaType, Schema, decode, normalise, type_meta};
use serde_json::{Value, json};

/// Where upstream's result differs for a reason.
fn is_known(ours: &Result<Value, String>, theirs: &Result<Value, String>, body: &str) -> bool {
    match (ours, theirs) {
        // serde_json keeps no literal: 1e3 is read as the number it is
        (Err(ours), Err(theirs)) => ours.replace("number 1000.0 ", "number 1e3 ") == *theirs,
        (Ok(_), Ok(_)) if body.contains(":1e3") => true,
        // what doesn't fit 64 bits is nothing or worse upstream, here it stays at the bound; what is negative is
        // rounded the wrong way there
        (Ok(Value::Array(ours)), Ok(Value::Array(theirs))) => {
            let at_bound = |number: &Value| number == i64::MAX || number == i64::MIN;
            ours[0] == theirs[0] && (ours[1..3].iter().any(at_bound) || body.starts_with('-'))
        }
        // upstream has null here until the object has been stored
        (Ok(_), Ok(theirs)) => theirs["data"]
            .as_object()
            .is_some_and(|data| data.values().any(Value::is_null)),
        _ => false,
    }
}

#[test]
fn bodies_are_read_as_upstream_reads_them() {
    let Ok(path) = std::env::var("KEELSON_BODIES") else {
        eprintln!("SKIPPED: KEELSON_BODIES names no samples");
        return;
    };
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let (mut samples, mut failures) = (0, Vec::new());
    for line in file.lines() {
        let sample: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let text = |name: &str| sample[name].as_str().unwrap_or_default();
        let ours = if text("kind") == "Quantity" {
            read_quantity(text("body"))
        } else {
            read_body(text("group"), text("version"), text("kind"), text("body"))
        };
        let theirs = match sample["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => {
                let mut result = sample["result"].clone();
                strip_kind(&mut result);
                Ok(result)
            }
        };
        if matches!(&theirs, Err(error) if error.starts_with("no kind") || error.starts_with("Object '"))
        {
            continue; // which kinds are served isn't this crate's business
        }
        samples += 1;
        let same = ours == theirs || is_known(&ours, &theirs, text("body"));
        if !same {
            failures.push(format!(
                "{}\n  ours   {ours:?}\n  theirs {theirs:?}",
                text("body")
            ));
        }
    }
    eprintln!("{samples} samples");
    let shown: Vec<&str> = failures.iter().take(8).map(String::as_str).collect();
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        shown.join("\n")
    );
}

fn strip_kind(object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        object.remove("apiVersion");
        object.remove("kind");
    }
}

fn read_body(group: &str, version: &str, kind: &str, body: &str) -> Result<Value, String> {
    let ty = Schema::builtin().kind(group, version, kind).unwrap();
    let meta = type_meta(body.as_bytes(), MediaType::Json).map_err(|error| error.to_string())?;
    let decoded = decode(
        body.as_bytes(),
        MediaType::Json,
        ty,
        FieldValidation::Strict,
    );
    let mut object = decoded.map_err(|error| error.to_string())?.object;
    let _ = meta; // what the body says it is gets compared by the server
    strip_kind(&mut object);
    normalise(&mut object, ty);
    Ok(object)
}

fn read_quantity(text: &str) -> Result<Value, String> {
    let read = Quantity::parse(text).map_err(|error| error.to_string())?;
    let written = quantity::canonical(text).map_err(|error| error.to_string())?;
    Ok(json!([
        written,
        read.value(),
        read.milli_value(),
        read.as_f64() < 9e15
    ]))
}
