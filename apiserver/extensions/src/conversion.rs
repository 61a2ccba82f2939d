//! Objects from one version to another: by changing `apiVersion` alone, or by what a webhook answers.
//!
//! Here are the review that is sent and the checks of what comes back; sending it is the server's.

use serde_json::{Value, json};

/// The same object in another version, where nothing else changes.
pub fn relabel(object: &mut Value, api_version: &str) {
    object["apiVersion"] = api_version.into();
}

/// The review to send, and its version; the error is upstream's.
pub fn review(
    reviews: &[String],
    objects: &[Value],
    desired: &str,
    uid: &str,
) -> Result<(Value, String), String> {
    let version = reviews
        .iter()
        .find(|v| matches!(v.as_str(), "v1" | "v1beta1"))
        .ok_or("no supported conversion review versions")?;
    let review = json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
    });
    Ok((review, version.clone()))
}

/// What `conversion webhook for …` is about.
pub fn subject(object: &Value) -> String {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

/// The converted objects in an answer; the error is the whole sentence.
pub fn converted(
    answer: &[u8],
    version: &str,
    uid: &str,
    originals: &[Value],
    desired: &str,
) -> Result<Vec<Value>, String> {
    let subject = originals.first().map(subject).unwrap_or_default();
    let failed = |why: String| format!("conversion webhook for {subject} failed: {why}");
    let answer: Value = serde_json::from_slice(answer).map_err(|e| failed(e.to_string()))?;
    let response = &answer["response"];
    if version == "v1" {
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("kind") != "ConversionReview" || text("apiVersion") != "apiextensions.k8s.io/v1" {
            return Err(failed(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {}, Kind={}",
                text("apiVersion"),
                text("kind")
            )));
        }
    }
    if !response.is_object() {
        return Err(failed("no response provided".to_owned()));
    }
    let got = response["uid"].as_str().unwrap_or_default();
    if version == "v1" && got != uid {
        return Err(failed(format!(
            "expected response.uid={uid:?}, got {got:?}"
        )));
    }
    let result = &response["result"];
    let status = result["status"].as_str().unwrap_or_default();
    if status != "Success" {
        return Err(failed(
            match result["message"].as_str().unwrap_or_default() {
                "" => format!("response.result.status was '{status}', not 'Success'"),
                message => message.to_owned(),
            },
        ));
    }
    let objects = response["convertedObjects"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if objects.len() != originals.len() {
        return Err(format!(
            "conversion webhook for {subject} returned {} objects, expected {}",
            objects.len(),
            originals.len()
        ));
    }
    let mut checked = Vec::with_capacity(objects.len());
    for (at, (mut object, original)) in objects.into_iter().zip(originals).enumerate() {
        check(&mut object, original, desired).map_err(|why| {
            let what = if originals.len() == 1 && !why.starts_with("invalid ") {
                "invalid object".to_owned()
            } else {
                format!(
                    "invalid {}object at index {at}",
                    if originals.len() == 1 {
                        ""
                    } else {
                        "converted "
                    }
                )
            };
            format!("conversion webhook for {subject} returned {what}: {why}")
        })?;
        checked.push(object);
    }
    Ok(checked)
}

/// A webhook may change an object's labels and annotations, but no other metadata.
fn check(object: &mut Value, original: &Value, desired: &str) -> Result<(), String> {
    let text = |value: &Value, pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let version = text(object, "/apiVersion");
    if version != desired {
        return Err(format!(
            "invalid groupVersion (expected {desired}, received {version})"
        ));
    }
    let (expected, got) = (text(original, "/kind"), text(object, "/kind"));
    if expected != got {
        return Err(format!(
            "invalid kind (expected {expected}, received {got})"
        ));
    }
    for (word, pointer) in [
        ("name", "/metadata/name"),
        ("namespace", "/metadata/namespace"),
        ("UID", "/metadata/uid"),
    ] {
        let (expected, got) = (text(original, pointer), text(object, pointer));
        if expected != got {
            return Err(format!("must have the same {word}: {expected} != {got}"));
        }
    }
    let Some(answered) = object.get("metadata").and_then(Value::as_object).cloned() else {
        return Err("missing metadata in converted object".to_owned());
    };
    let mut metadata = original
        .get("metadata")
        .cloned()
        .unwrap_or_else(|| json!({}));
    for field in ["labels", "annotations"] {
        match answered.get(field) {
            None | Some(Value::Null) => {
                if let Some(map) = metadata.as_object_mut() {
                    map.remove(field);
                }
            }
            Some(Value::Object(entries)) => {
                if let Some((key, _)) = entries.iter().find(|(_, v)| !v.is_string()) {
                    return Err(format!(
                        "metadata.{field}[{key}] must be a string in converted object"
                    ));
                }
                metadata[field] = Value::Object(entries.clone());
            }
            Some(_) => return Err(format!("invalid metadata.{field} in converted object")),
        }
    }
    object["metadata"] = metadata;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_held_against_what_was_asked() {
        let original = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "1"}, "hostPort": "h:1"});
        let (sent, version) = review(
            &["v9".into(), "v1".into()],
            std::slice::from_ref(&original),
            "g/v2",
            "u",
        )
        .unwrap();
        assert_eq!(
            (
                sent["request"]["desiredAPIVersion"].as_str(),
                version.as_str()
            ),
            (Some("g/v2"), "v1")
        );
        let answer = |response: Value| {
            let review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response}).to_string();
            converted(
                review.as_bytes(),
                "v1",
                "u",
                std::slice::from_ref(&original),
                "g/v2",
            )
        };
        let good = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "1", "labels": {"x": "y"}, "generation": 9}, "host": "h"});
        let got = answer(
            json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [good]}),
        )
        .unwrap();
        assert_eq!(
            got[0]["metadata"],
            json!({"name": "a", "uid": "1", "labels": {"x": "y"}})
        );
        for (response, why) in [
            (
                json!({"uid": "x"}),
                "conversion webhook for g/v1, Kind=K failed: expected response.uid=\"u\", got \"x\"",
            ),
            (
                json!({"uid": "u", "result": {"status": "Failed", "message": "no"}}),
                "conversion webhook for g/v1, Kind=K failed: no",
            ),
            (
                json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": []}),
                "conversion webhook for g/v1, Kind=K returned 0 objects, expected 1",
            ),
        ] {
            assert_eq!(answer(response).unwrap_err(), why);
        }
        assert!(review(&["v3".into()], &[], "g/v2", "u").is_err());
    }
}
