//! Definitions as upstream validates and stores them: in the form of v1beta1, where what all versions have in common
//! stands once above them. Error paths are those of this form.

use serde_json::{Map, Value};

const SHARED: [(&str, &str); 4] = [
    ("subresources", "subresources"),
    ("schema", "validation"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// From v1, in place. `apiVersion` is left to the caller.
pub fn from_v1(crd: &mut Value) {
    let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    spec.entry("preserveUnknownFields")
        .or_insert(Value::Bool(false));
    if let Some(versions) = spec.get_mut("versions").and_then(Value::as_array_mut) {
        for column in versions
            .iter_mut()
            .filter_map(|v| v["additionalPrinterColumns"].as_array_mut())
            .flatten()
        {
            rename(column, "jsonPath", "JSONPath");
        }
        let name = versions.first().map(|v| v["name"].clone());
        let mut shared = Vec::new();
        for (inner, outer) in SHARED {
            let Some(first) = versions.first().map(|v| v[inner].clone()) else {
                break;
            };
            if versions.iter().any(|v| v[inner] != first) {
                continue;
            }
            for version in versions.iter_mut().filter_map(Value::as_object_mut) {
                version.remove(inner);
            }
            if !first.is_null() {
                shared.push((outer, first));
            }
        }
        for version in versions.iter_mut().filter_map(Value::as_object_mut) {
            version.retain(|_, v| !v.is_null());
        }
        for (outer, value) in shared {
            spec.insert(outer.to_owned(), value);
        }
        if let Some(name) = name {
            spec.insert("version".to_owned(), name);
        }
    }
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut)
        && let Some(Value::Object(webhook)) = conversion.remove("webhook")
    {
        if let Some(config) = webhook.get("clientConfig").filter(|c| !c.is_null()) {
            conversion.insert("webhookClientConfig".to_owned(), config.clone());
        }
        if let Some(reviews) = webhook
            .get("conversionReviewVersions")
            .filter(|r| !r.is_null())
        {
            conversion.insert("conversionReviewVersions".to_owned(), reviews.clone());
        }
    }
}

/// To v1, in place. `apiVersion` is left to the caller. What is v1 already stays as it is.
pub fn to_v1(crd: &mut Value) {
    let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let version = spec.remove("version");
    let versions = spec
        .entry("versions")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let (Some(Value::String(name)), Some([])) = (version, versions.as_array().map(Vec::as_slice))
    {
        *versions = serde_json::json!([{"name": name, "served": true, "storage": true}]);
    }
    for (inner, outer) in SHARED {
        let Some(value) = spec.remove(outer).filter(|v| !v.is_null()) else {
            continue;
        };
        let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
        for version in versions
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            version.insert(inner.to_owned(), value.clone());
        }
    }
    let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
    for column in versions
        .into_iter()
        .flatten()
        .filter_map(|v| v["additionalPrinterColumns"].as_array_mut())
        .flatten()
    {
        rename(column, "JSONPath", "jsonPath");
    }
    for version in spec
        .get_mut("versions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(map) = version.as_object_mut() {
            map.retain(|_, v| !v.is_null());
        }
    }
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        let config = conversion
            .remove("webhookClientConfig")
            .filter(|c| !c.is_null());
        let reviews = conversion
            .remove("conversionReviewVersions")
            .filter(|r| !r.is_null());
        if config.is_some() || reviews.is_some() {
            let mut webhook = Map::new();
            webhook.extend(config.map(|c| ("clientConfig".to_owned(), c)));
            webhook.insert(
                "conversionReviewVersions".to_owned(),
                reviews.unwrap_or_default(),
            );
            conversion.insert("webhook".to_owned(), Value::Object(webhook));
        }
    }
}

fn rename(value: &mut Value, from: &str, to: &str) {
    if let Some(map) = value.as_object_mut()
        && let Some(inner) = map.remove(from)
    {
        map.insert(to.to_owned(), inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn there_and_back() {
        let v1 = json!({"spec": {"group": "g", "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "u"}, "conversionReviewVersions": ["v1"]}},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
                "additionalPrinterColumns": [{"name": "a", "type": "string", "jsonPath": ".a"}]}]}});
        let mut crd = v1.clone();
        from_v1(&mut crd);
        assert_eq!(
            crd,
            json!({"spec": {"group": "g", "version": "v1", "preserveUnknownFields": false,
            "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "u"}, "conversionReviewVersions": ["v1"]},
            "validation": {"openAPIV3Schema": {"type": "object"}}, "additionalPrinterColumns": [{"name": "a", "type": "string", "JSONPath": ".a"}],
            "versions": [{"name": "v1", "served": true, "storage": true}]}})
        );
        to_v1(&mut crd);
        assert_eq!(crd, v1);
    }
}
