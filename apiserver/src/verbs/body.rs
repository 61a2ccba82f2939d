//! Decoding the object in a request's body, with upstream's refusals.

use keelson_api::status::Status;
use keelson_registry::kinds;
use keelson_schema::{
    DecodeError, Decoded, FieldValidation, MediaType, Type, TypeMeta, decode, decode_untyped,
    type_meta,
};
use serde_json::Value;

use crate::custom::Custom;
use crate::negotiate::{Encoding, OBJECT_TYPES, body_encoding};
use crate::request::Request;
use crate::resources::Resource;
use crate::response::ApiResult;

/// What a body must be.
pub struct Expected<'a> {
    /// Its API group.
    pub group: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its type.
    pub ty: &'a Type,
    /// What a custom resource says of it.
    pub custom: Option<&'a Custom>,
}

impl<'a> Expected<'a> {
    /// An object of a resource.
    pub fn of(resource: &'a Resource) -> Self {
        let kind = &resource.kind;
        Expected {
            group: &kind.group,
            version: &kind.version,
            kind: &kind.kind,
            ty: &resource.ty,
            custom: resource.custom.as_ref(),
        }
    }
}

impl Expected<'_> {
    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// The query's `fieldValidation`.
pub fn field_validation(request: &Request) -> ApiResult<FieldValidation> {
    match request.query.non_empty("fieldValidation") {
        None | Some("Warn") => Ok(FieldValidation::Warn),
        Some("Strict") => Ok(FieldValidation::Strict),
        Some("Ignore") => Ok(FieldValidation::Ignore),
        Some(other) => Err(super::options::invalid_option(
            request,
            "fieldValidation",
            other,
            &["", "Ignore", "Strict", "Warn"],
        )),
    }
}

/// Reads and decodes the body of a create or update.
pub async fn read(request: &mut Request, expected: &Expected<'_>) -> ApiResult<Value> {
    let encoding = body_encoding(&request.headers)?;
    let validation = field_validation(request)?;
    let bytes = request.read_body().await?;
    let decoded = decode_body(&bytes, encoding, expected, validation)?;
    request.warnings.extend(decoded.warnings);
    request.audit.request_object(&decoded.object);
    Ok(decoded.object)
}

/// Decodes a body as the expected type. The result carries kind and apiVersion.
pub fn decode_body(
    bytes: &[u8],
    encoding: Encoding,
    expected: &Expected<'_>,
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    let mut decoded = match encoding {
        Encoding::Json => decode_text(bytes, MediaType::Json, expected, validation)?,
        Encoding::Yaml => decode_text(bytes, MediaType::Yaml, expected, validation)?,
        Encoding::Protobuf if expected.custom.is_some() => {
            return Err(Status::unsupported_media_type(&OBJECT_TYPES[..2]));
        }
        Encoding::Protobuf => {
            let found = keelson_schema::protobuf::type_meta(bytes)
                .map_err(|e| unrecognized(expected, &e, bytes))?;
            check_type(&found, expected)?;
            let object = crate::protobuf::decode(bytes, expected)
                .map_err(|e| cannot_be_handled(expected.kind, expected, &e))?;
            Decoded {
                object,
                warnings: Vec::new(),
            }
        }
    };
    if let Some(object) = decoded.object.as_object_mut() {
        let kind = object.get("kind").and_then(Value::as_str);
        if expected.custom.is_none() || kind.is_none_or(str::is_empty) {
            object.insert("kind".into(), expected.kind.into());
        }
        object.insert("apiVersion".into(), expected.api_version().into());
        object
            .entry("metadata")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    Ok(decoded)
}

fn decode_text(
    bytes: &[u8],
    media: MediaType,
    expected: &Expected<'_>,
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    let found = type_meta(bytes, media).map_err(|e| unrecognized(expected, &e, bytes))?;
    if let Some(custom) = expected.custom {
        return decode_custom(bytes, media, &found, expected, custom, validation);
    }
    check_type(&found, expected)?;
    decode(bytes, media, expected.ty, validation)
        .map_err(|e| cannot_be_handled(expected.kind, expected, &e))
}

/// Decodes a custom object: any JSON, of which its schema keeps what it knows.
fn decode_custom(
    bytes: &[u8],
    media: MediaType,
    found: &TypeMeta,
    expected: &Expected<'_>,
    custom: &Custom,
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    let wanted = expected.api_version();
    if !found.api_version.is_empty() && found.api_version != wanted {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({wanted})",
            found.api_version
        )));
    }
    let lenient = match validation {
        FieldValidation::Ignore => FieldValidation::Ignore,
        _ => FieldValidation::Warn,
    };
    let fail = |e: &DecodeError| cannot_be_handled(expected.kind, expected, e);
    let decoded = decode_untyped(bytes, media, lenient).map_err(|e| fail(&e))?;
    let mut object = decoded.object;
    if !object.is_object() {
        let why = "json: cannot unmarshal into Go value of type map[string]interface {}";
        return Err(fail(&DecodeError::Value(why.to_owned())));
    }
    for (key, value) in [("kind", expected.kind), ("apiVersion", &wanted)] {
        let given = object.get(key).and_then(Value::as_str);
        if given.is_none_or(str::is_empty) {
            object[key] = value.into();
        }
    }
    let mut odd = decoded.warnings;
    odd.extend(accepted(&mut object, custom, validation).map_err(|e| fail(&e))?);
    match validation {
        FieldValidation::Strict if !odd.is_empty() => Err(fail(&DecodeError::Strict(odd))),
        _ => Ok(Decoded {
            object,
            warnings: odd,
        }),
    }
}

/// Brings a custom object into form; answers what is unknown in it, where that is asked for.
pub fn accepted(
    object: &mut Value,
    custom: &Custom,
    validation: FieldValidation,
) -> Result<Vec<String>, DecodeError> {
    let unknown = custom.accept(object).map_err(DecodeError::Value)?;
    Ok(match validation {
        FieldValidation::Ignore => Vec::new(),
        _ => unknown,
    })
}

fn check_type(found: &TypeMeta, expected: &Expected<'_>) -> ApiResult<()> {
    let wanted = expected.api_version();
    let kind_differs = !found.kind.is_empty() && found.kind != expected.kind;
    let version_differs = !found.api_version.is_empty() && found.api_version != wanted;
    if !kind_differs && !version_differs {
        return Ok(());
    }
    let kind = if found.kind.is_empty() {
        expected.kind
    } else {
        &found.kind
    };
    let api_version = if found.api_version.is_empty() {
        wanted.as_str()
    } else {
        &found.api_version
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let cannot = |why: String| {
        Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {why}",
            expected.kind
        ))
    };
    if kinds::find_kind(group, version, kind).is_none() {
        return Err(cannot(not_registered(kind, api_version)));
    }
    if group == expected.group && kind == expected.kind {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        )));
    }
    let internal = if expected.group.is_empty() {
        "core"
    } else {
        expected.group.split('.').next().unwrap_or_default()
    };
    Err(cannot(format!(
        "converting ({version}.{kind}) to ({internal}.{}): unknown conversion",
        expected.kind
    )))
}

/// Upstream's words for a kind that nobody knows.
pub fn not_registered(kind: &str, api_version: &str) -> String {
    format!(
        "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:111\""
    )
}

fn cannot_be_handled(kind: &str, expected: &Expected<'_>, error: &DecodeError) -> Status {
    Status::bad_request(format!(
        "{kind} in version {:?} cannot be handled as a {}: {error}",
        expected.version, expected.kind
    ))
}

fn unrecognized(expected: &Expected<'_>, error: &DecodeError, body: &[u8]) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {error} ({})",
        expected.kind,
        summary(body)
    ))
}

/// The beginning of a body, as error messages show it.
fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let head = &body[..body.len().min(MAX)];
    let text = match body.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(head).into_owned(),
        Some(_) => head.iter().map(|b| format!("{b:02x}")).collect(),
    };
    if body.len() > MAX {
        format!("{text} ...")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_schema::Schema;

    fn decode_as_config_map(body: &str) -> Result<Value, String> {
        let ty = Schema::builtin().kind("", "v1", "ConfigMap").unwrap();
        let expected = Expected {
            group: "",
            version: "v1",
            kind: "ConfigMap",
            ty,
            custom: None,
        };
        decode_body(
            body.as_bytes(),
            Encoding::Json,
            &expected,
            FieldValidation::Strict,
        )
        .map(|d| d.object)
        .map_err(|e| e.message.clone())
    }

    #[test]
    fn a_missing_kind_is_filled_in() {
        let got = decode_as_config_map(r#"{"metadata":{"name":"a"}}"#).unwrap();
        assert_eq!(
            (got["kind"].as_str(), got["apiVersion"].as_str()),
            (Some("ConfigMap"), Some("v1"))
        );
    }

    #[test]
    fn refusals_are_upstreams() {
        assert_eq!(
            decode_as_config_map(r#"{"kind":"ConfigMap","apiVersion":"v1","x":1}"#).unwrap_err(),
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "x""#
        );
        assert_eq!(
            decode_as_config_map(r#"{"kind":"ConfigMap","apiVersion":"apps/v1"}"#).unwrap_err(),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"apps/v1\" in scheme \"pkg/runtime/scheme.go:111\""
        );
        assert!(
            decode_as_config_map("nonsense")
                .unwrap_err()
                .starts_with("the object provided is unrecognized (must be of type ConfigMap): ")
        );
        assert!(
            decode_as_config_map(r#"{"kind":"Pod","apiVersion":"v1"}"#)
                .unwrap_err()
                .contains("cannot be handled as a ConfigMap")
        );
    }
}
