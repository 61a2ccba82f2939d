//! Random lives of objects under upstream's field manager and strategic merge, played again by this crate.
//!
//! The scenarios come from upstream's own code: `go run . writes` in `e2e/upstream/fields`. The environment
//! variable `KEELSON_WRITES` names the file; without it the test says that it was skipped.
#![allow(clippy::unwrap_used)]

use std::io::BufRead as _;

use jiff::Timestamp;
use keelson_schema::managed_fields::{self, Set, Write};
use keelson_schema::{
    FieldValidation, MediaType, Schema, Type, decode, decode_value, normalise, patch,
};
use serde_json::{Value, json};

#[test]
fn writes_end_as_upstreams() {
    let Ok(path) = std::env::var("KEELSON_WRITES") else {
        eprintln!("SKIPPED: KEELSON_WRITES names no scenarios");
        return;
    };
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let (mut steps, mut failures) = (0, Vec::new());
    for (number, line) in file.lines().enumerate() {
        let scenario: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let text = |name: &str| scenario[name].as_str().unwrap_or_default();
        let ty = Schema::builtin()
            .kind(text("group"), text("version"), text("kind"))
            .unwrap();
        let api_version = match text("group") {
            "" => text("version").to_owned(),
            group => format!("{group}/{}", text("version")),
        };
        let mut live = None;
        for (at, step) in scenario["steps"].as_array().unwrap().iter().enumerate() {
            steps += 1;
            let outcome = play(step, &mut live, ty, &api_version);
            let expected = match step["error"].as_str() {
                Some(error) => Err(error.to_owned()),
                None => Ok(timeless(step["result"].clone())),
            };
            if outcome != expected {
                failures.push(format!(
                    "{number}.{at} {} {}:\n  ours   {}\n  theirs {}\n  before {}",
                    text("kind"),
                    step["op"],
                    show(&outcome),
                    show(&expected),
                    step["object"]
                ));
                break;
            }
        }
    }
    eprintln!("{steps} steps");
    let shown: Vec<&str> = failures.iter().take(5).map(String::as_str).collect();
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        shown.join("\n")
    );
}

fn show(outcome: &Result<Value, String>) -> String {
    match outcome {
        Ok(value) => value.to_string(),
        Err(error) => format!("error: {error}"),
    }
}

fn play(
    step: &Value,
    live: &mut Option<Value>,
    ty: &Type,
    api_version: &str,
) -> Result<Value, String> {
    if step["op"] == "strategic" {
        return patch::strategic(&step["object"], &step["patch"], ty)
            .map_err(|error| error.to_string());
    }
    let reset = Set::default();
    let write = Write {
        manager: step["manager"].as_str().unwrap(),
        api_version,
        subresource: "",
        now: Timestamp::from_second(1_800_000_000).unwrap(),
        ty,
        reset: &reset,
        convert: &|_, _| None,
    };
    let mut object = if step["op"] == "apply" {
        let applied = managed_fields::apply(
            &write,
            live.as_ref(),
            &step["object"],
            step["force"] == true,
        );
        let mut object = decode_value(
            applied.map_err(|error| error.to_string())?,
            ty,
            FieldValidation::Strict,
        )
        .map_err(|error| error.to_string())?
        .object;
        normalise(&mut object, ty);
        object
    } else {
        let body = step["object"].to_string();
        let mut object = decode(
            body.as_bytes(),
            MediaType::Json,
            ty,
            FieldValidation::Strict,
        )
        .map_err(|error| error.to_string())?
        .object;
        if live.is_some() {
            object["metadata"]["uid"] = json!("u");
        }
        managed_fields::update(&write, live.as_ref(), &mut object);
        object
    };
    object["metadata"]["uid"] = json!("u");
    *live = Some(object.clone());
    Ok(timeless(object))
}

/// The object without times and the order of managers, which depends on them.
fn timeless(mut object: Value) -> Value {
    if let Some(entries) = object
        .pointer_mut("/metadata/managedFields")
        .and_then(Value::as_array_mut)
    {
        for entry in entries.iter_mut() {
            // whether there is one matters
            if let Some(time) = entry.get_mut("time") {
                *time = json!("some");
            }
        }
        entries.sort_by_key(Value::to_string);
    }
    object
}
