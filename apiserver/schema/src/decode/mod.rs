//! Decoding request bodies in one pass, with upstream's refusals.
//!
//! The result has no nulls but inside raw JSON, and only declared fields; it isn't in canonical form
//! yet (see `normalise`). Whether the object may be stored is the registry's business.

mod seed;
mod syntax;

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::types::Type;
use seed::{Context, Seed};

/// The encodings of a body that this module reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

/// What unknown and duplicate fields lead to: the query parameter `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// An error.
    Strict,
    /// Warnings beside the answer: the default.
    #[default]
    Warn,
    /// Nothing.
    Ignore,
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object.
    pub object: Value,
    /// What [`FieldValidation::Warn`] found, as `unknown field "spec.x"`.
    pub warnings: Vec<String>,
}

/// The kind a body says it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeMeta {
    /// `apiVersion`, empty where absent.
    pub api_version: String,
    /// `kind`, empty where absent.
    pub kind: String,
}

/// Why a body can't be decoded. The texts are the parts that upstream puts after
/// `Pod in version "v1" cannot be handled as a Pod: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not JSON.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Json(String),
    /// The bytes are not YAML.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Yaml(String),
    /// A value doesn't fit its field.
    #[error("{0}")]
    Value(String),
    /// Unknown or duplicate fields, in [`FieldValidation::Strict`].
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

/// Decodes a body as `ty`.
pub fn decode(
    bytes: &[u8],
    media: MediaType,
    ty: &Type,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(
        validation != FieldValidation::Ignore,
        match media {
            MediaType::Json => usize::MAX,
            // every node takes a byte or more, so that only aliases can come near this
            MediaType::Yaml => bytes.len().saturating_mul(4).saturating_add(1000),
        },
    );
    let seed = Seed::new(ty, &mut context);
    let outcome = match media {
        MediaType::Json => json(bytes, seed),
        MediaType::Yaml => yaml(bytes, seed),
    };
    finish(context, outcome, validation)
}

/// Weighs what a run over a body gathered.
fn finish(
    context: Context,
    outcome: Result<Option<Value>, DecodeError>,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    if let Some(fatal) = context.fatal {
        return Err(DecodeError::Value(fatal));
    }
    let object = outcome?;
    if let Some(first) = context.saved {
        return Err(DecodeError::Value(first));
    }
    if validation == FieldValidation::Strict && !context.strict.is_empty() {
        return Err(DecodeError::Strict(context.strict));
    }
    Ok(Decoded {
        object: object.unwrap_or_else(|| Value::Object(serde_json::Map::new())),
        warnings: context.strict,
    })
}

/// Decodes a value that was read or patched before, as `ty`.
pub fn decode_value(
    value: Value,
    ty: &Type,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let mut context = Context::new(validation != FieldValidation::Ignore, usize::MAX);
    let outcome = Seed::new(ty, &mut context).deserialize(value);
    finish(
        context,
        outcome.map_err(|error| DecodeError::Value(error.to_string())),
        validation,
    )
}

/// Decodes a body of which nothing is known: custom resources, apply configurations, patches. Nulls are kept.
pub fn decode_untyped(
    bytes: &[u8],
    media: MediaType,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    decode(bytes, media, &Type::untyped(), validation)
}

/// Reads `apiVersion` and `kind` only.
pub fn type_meta(bytes: &[u8], media: MediaType) -> Result<TypeMeta, DecodeError> {
    let visitor = seed::TypeMetaVisitor;
    match media {
        MediaType::Json => {
            let mut deserializer = serde_json::Deserializer::from_slice(bytes);
            // What is skipped isn't counted while reading; only a long body can be too deep.
            if bytes.len() > 2 * syntax::MAX_DEPTH
                && let Some(why) = syntax::explain(bytes)
            {
                return Err(DecodeError::Json(why));
            }
            let read = serde::Deserializer::deserialize_any(&mut deserializer, visitor);
            match read.and_then(|meta| deserializer.end().map(|()| meta)) {
                Ok(Ok(meta)) => Ok(meta),
                Ok(Err(message)) => Err(DecodeError::Json(message)),
                Err(error) => Err(json_error(bytes, &error)),
            }
        }
        MediaType::Yaml => {
            let deserializer = serde_norway::Deserializer::from_slice(bytes);
            match serde::Deserializer::deserialize_any(deserializer, visitor) {
                Ok(Ok(meta)) => Ok(meta),
                Ok(Err(message)) => Err(DecodeError::Json(message)),
                Err(error) => Err(DecodeError::Yaml(go_yaml(&error))),
            }
        }
    }
}

pub(crate) use seed::decode_base64;

/// Bytes as base64.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    seed::BASE64.encode(bytes)
}

/// Base64 in its canonical form; none where it is canonical or no base64 at all.
pub(crate) fn reencode_base64(text: &str) -> Option<String> {
    let canonical = encode_base64(&decode_base64(text).ok()?);
    (canonical != text).then_some(canonical)
}

fn json(bytes: &[u8], seed: Seed<'_, '_>) -> Result<Option<Value>, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    seed.deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| json_error(bytes, &error))
}

fn yaml(bytes: &[u8], seed: Seed<'_, '_>) -> Result<Option<Value>, DecodeError> {
    seed.deserialize(serde_norway::Deserializer::from_slice(bytes))
        .map_err(|error| DecodeError::Yaml(go_yaml(&error)))
}

/// Where Go's YAML reader names a line: before the fault, and not for the first one.
fn go_yaml(error: &serde_norway::Error) -> String {
    let text = error.to_string();
    let bare = text.split(" at line ").next().unwrap_or(&text);
    match error.location().map(|l| l.line()) {
        Some(line) if line > 1 => format!("line {line}: {bare}"),
        _ => bare.to_owned(),
    }
}

/// Upstream's words for a syntax error. They are looked for only when decoding has failed.
fn json_error(bytes: &[u8], error: &serde_json::Error) -> DecodeError {
    DecodeError::Json(syntax::explain(bytes).unwrap_or_else(|| error.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Schema;
    use serde_json::json;

    fn strict(group: &str, kind: &str, body: &str) -> Result<Value, String> {
        let ty = Schema::builtin().kind(group, "v1", kind).unwrap();
        decode(
            body.as_bytes(),
            MediaType::Json,
            ty,
            FieldValidation::Strict,
        )
        .map(|decoded| decoded.object)
        .map_err(|error| error.to_string())
    }

    #[test]
    fn unknown_and_duplicate_fields_have_their_paths() {
        let body = r#"{"spec":{"foo":1,"containers":[{"name":"a","nam":"b"},{"name":"c","name":"d"}]},"y":{},"metadata":{"labels":{"a":"1","a":"2"}}}"#;
        assert_eq!(
            strict("", "Pod", body).unwrap_err(),
            r#"strict decoding error: unknown field "spec.foo", unknown field "spec.containers[0].nam", duplicate field "spec.containers[1].name", unknown field "y", duplicate field "metadata.labels.a""#
        );
        let ty = Schema::builtin().kind("", "v1", "Pod").unwrap();
        let warned = decode(body.as_bytes(), MediaType::Json, ty, FieldValidation::Warn).unwrap();
        assert_eq!(warned.warnings.len(), 5);
        assert!(warned.object["spec"].get("foo").is_none());
        let ignored = decode(
            body.as_bytes(),
            MediaType::Json,
            ty,
            FieldValidation::Ignore,
        )
        .unwrap();
        assert!(ignored.warnings.is_empty());
    }

    #[test]
    fn wrong_types_have_gos_sentences() {
        for (group, kind, body, message) in [
            (
                "apps",
                "Deployment",
                r#"{"spec":{"replicas":"3"}}"#,
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "apps",
                "Deployment",
                r#"{"spec":{"replicas":3.5}}"#,
                "json: cannot unmarshal number 3.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "apps",
                "Deployment",
                r#"{"spec":{"replicas":99999999999}}"#,
                "json: cannot unmarshal number 99999999999 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "apps",
                "Deployment",
                r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                "",
                "Pod",
                r#"{"spec":{"containers":[{"ports":[{"containerPort":"x","protocol":1}]}]}}"#,
                "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                "",
                "Pod",
                r#"{"spec":{"restartPolicy":1}}"#,
                "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
            ),
            (
                "",
                "Pod",
                r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":[]}}]}}"#,
                "json: cannot unmarshal array into Go struct field Probe.spec.containers.livenessProbe.ProbeHandler.httpGet of type v1.HTTPGetAction",
            ),
            (
                "",
                "Pod",
                r#"{"metadata":{"creationTimestamp":5}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
            ),
            (
                "",
                "Pod",
                r#"{"metadata":{"creationTimestamp":"yesterday"}}"#,
                r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#,
            ),
            (
                "",
                "Pod",
                r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#,
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                "",
                "Secret",
                r#"{"data":{"a":"%%%%"}}"#,
                "illegal base64 data at input byte 0",
            ),
            (
                "",
                "Pod",
                r#"[]"#,
                "json: cannot unmarshal array into Go value of type v1.Pod",
            ),
        ] {
            assert_eq!(strict(group, kind, body).unwrap_err(), message, "{body}");
        }
    }

    #[test]
    fn nulls_are_dropped_and_zero_in_maps() {
        let object = strict(
            "",
            "Pod",
            r#"{"metadata":{"labels":{"a":null},"annotations":null},"spec":{"containers":[null],"nodeSelector":{}}}"#,
        )
        .unwrap();
        assert_eq!(
            object,
            json!({"metadata": {"labels": {"a": ""}}, "spec": {"containers": [{}], "nodeSelector": {}}})
        );
    }

    #[test]
    fn syntax_errors_have_gos_words() {
        for (body, message) in [
            ("{", "unexpected end of JSON input"),
            (
                "{a",
                "invalid character 'a' looking for beginning of object key string",
            ),
            ("{\"a\":1}}", "invalid character '}' after top-level value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "{\"a\":tru}",
                "invalid character '}' in literal true (expecting 'e')",
            ),
            (
                "hello",
                "invalid character 'h' looking for beginning of value",
            ),
        ] {
            assert_eq!(
                strict("", "Pod", body).unwrap_err(),
                format!("couldn't get version/kind; json parse error: {message}"),
                "{body}"
            );
        }
        let deep = "{\"a\":".repeat(10_001);
        assert!(strict("", "Pod", &deep).is_err());
    }

    #[test]
    fn the_deepest_body_fits_the_stack() {
        let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(120), close.repeat(120));
        let body = format!(r#"{{"data":{}}}"#, deep(r#"{"a":"#, "}"));
        let mut object = strict("apps", "ControllerRevision", &body).unwrap();
        let ty = Schema::builtin()
            .kind("apps", "v1", "ControllerRevision")
            .unwrap();
        crate::normalise(&mut object, ty);
        let bytes = crate::protobuf::encode(&object, ty);
        assert_eq!(
            crate::protobuf::decode(&bytes, ty).unwrap()["data"],
            object["data"]
        );
        let lists = decode_untyped(
            deep("[", "]").as_bytes(),
            MediaType::Yaml,
            FieldValidation::Strict,
        );
        assert!(lists.is_ok());
    }

    #[test]
    fn yaml_is_read_and_bounded() {
        let ty = Schema::builtin().kind("", "v1", "Pod").unwrap();
        let body = "kind: Pod\nmetadata:\n  labels: {1: 'x'}\nspec:\n  nodeName: n\n  oops: 1\n";
        let read = decode(body.as_bytes(), MediaType::Yaml, ty, FieldValidation::Warn).unwrap();
        assert_eq!(
            read.object,
            json!({"kind": "Pod", "metadata": {"labels": {"1": "x"}}, "spec": {"nodeName": "n"}})
        );
        assert_eq!(read.warnings, [r#"unknown field "spec.oops""#]);
        let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            let before = format!("*a{}", i - 1);
            laughs += &format!("a{i}: &a{i} [{}]\n", [before.as_str(); 10].join(","));
        }
        assert!(decode_untyped(laughs.as_bytes(), MediaType::Yaml, FieldValidation::Warn).is_err());
    }

    #[test]
    fn the_kind_alone_is_read() {
        let read = type_meta(
            br#"{"kind":"Pod","spec":{"a":[1,{}]},"apiVersion":"v1"}"#,
            MediaType::Json,
        );
        let expected = TypeMeta {
            api_version: "v1".into(),
            kind: "Pod".into(),
        };
        assert_eq!(read, Ok(expected.clone()));
        assert_eq!(
            type_meta(b"apiVersion: v1\nkind: Pod\n", MediaType::Yaml),
            Ok(expected)
        );
        assert_eq!(
            type_meta(br#"{"kind":1}"#, MediaType::Json)
                .unwrap_err()
                .to_string(),
            "couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string"
        );
    }
}
