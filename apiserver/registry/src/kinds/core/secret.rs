//! Secret: what only those who need it may read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::{Value, json};

use super::config_map::{SIZE_MAX, decoded_length, frozen};
use crate::access::{Access, remove, set_default_text, slot};
use crate::columns::{AGE, Column, NAME, text};
use crate::meta::{faults, immutable};
use crate::print;
use crate::strategy::{Context, Strategy};

/// The rules of Secret.
pub struct Rules;

impl Strategy for Rules {
    fn default(&self, secret: &mut Value) {
        set_default_text(secret, "type", "Opaque");
        // What was written as text wins over what was written as base64.
        if let Some(Value::Object(texts)) = remove(secret, "stringData")
            && !texts.is_empty()
        {
            let data = slot(secret, "data");
            if !data.is_object() {
                *data = json!({});
            }
            for (key, value) in texts {
                data[key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
            }
        }
    }

    fn validate(&self, secret: &Value, _context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("data");
        let mut size = 0;
        for (key, value) in secret.entries("data") {
            faults(&mut errors, &path.key(key), key, names::config_map_key(key));
            size += decoded_length(value.as_str().unwrap_or_default());
        }
        if size > SIZE_MAX {
            errors.push(Error::too_long(&path, SIZE_MAX));
        }
        contents(&mut errors, secret, &path);
        errors
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        // A type that was left out is the one the Secret has.
        if new.text("type").is_empty() {
            crate::access::copy(new, old, "type");
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(
            &mut errors,
            new.part("type"),
            old.part("type"),
            &Path::new("type"),
        );
        if old.flag("immutable") {
            frozen(&mut errors, new, old, &["data"]);
        }
        errors.extend(self.validate(new, context));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            text("Type", "What the Secret is for."),
            text("Data", "How many values it holds."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, secret: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            print::name(secret),
            secret.text("type").into(),
            secret.entries("data").count().into(),
            print::age(secret, now),
        ]
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["type"]
    }
}

/// What a Secret of a known type must hold.
fn contents(errors: &mut ErrorList, secret: &Value, path: &Path<'_>) {
    let data = secret.part("data");
    let has = |key: &str| data.get(key).is_some();
    let mut need = |key: &str| {
        if !has(key) {
            errors.push(Error::required(&path.key(key), ""));
        }
    };
    match secret.text("type") {
        "kubernetes.io/service-account-token" => {
            const NAME_KEY: &str = "kubernetes.io/service-account.name";
            let annotations = secret.part("metadata.annotations");
            if annotations
                .get(NAME_KEY)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty()
            {
                let meta = Path::new("metadata");
                errors.push(Error::required(
                    &meta.child("annotations").key(NAME_KEY),
                    "",
                ));
            }
        }
        "kubernetes.io/dockercfg" => {
            need(".dockercfg");
            docker_config(errors, data, ".dockercfg", path);
        }
        "kubernetes.io/dockerconfigjson" => {
            need(".dockerconfigjson");
            docker_config(errors, data, ".dockerconfigjson", path);
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth"
            if data
                .get("ssh-privatekey")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty() =>
        {
            errors.push(Error::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

fn docker_config(errors: &mut ErrorList, data: &Value, key: &str, path: &Path<'_>) {
    let Some(encoded) = data.get(key).and_then(Value::as_str) else {
        return;
    };
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    let problem = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(_) => {
            "json: cannot unmarshal value into Go value of type map[string]interface {}".to_string()
        }
        Err(e) if e.is_eof() => "unexpected end of JSON input".to_string(),
        Err(e) => format!("invalid JSON at line {} column {}", e.line(), e.column()),
    };
    errors.push(Error::invalid(
        &path.key(key),
        "<secret contents redacted>",
        problem,
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_data() {
        let mut secret = json!({"data": {"a": "MQ=="}, "stringData": {"a": "2", "b": "x"}});
        Rules.default(&mut secret);
        assert_eq!(
            secret,
            json!({"type": "Opaque", "data": {"a": "Mg==", "b": "eA=="}})
        );
    }

    #[test]
    fn known_types_need_their_keys() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let of = |secret: Value| -> Vec<String> {
            Rules
                .validate(&secret, &context)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            of(json!({"type": "kubernetes.io/tls"})),
            [
                "data[tls.crt]: Required value",
                "data[tls.key]: Required value"
            ]
        );
        assert_eq!(
            of(json!({"type": "kubernetes.io/ssh-auth"})),
            ["data[ssh-privatekey]: Required value"]
        );
        assert_eq!(
            of(json!({"type": "kubernetes.io/dockercfg"})),
            ["data[.dockercfg]: Required value"]
        );
        assert_eq!(
            of(json!({"type": "kubernetes.io/service-account-token"})),
            ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]
        );
        assert!(of(json!({"type": "helm.sh/release.v1"})).is_empty());
    }

    #[test]
    fn a_secrets_type_stays() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        let errors = Rules.validate_update(&json!({"type": "b"}), &json!({"type": "a"}), &context);
        assert_eq!(
            errors[0].to_string(),
            "type: Invalid value: \"b\": field is immutable"
        );
    }
}
