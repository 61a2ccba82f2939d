//! AdmissionReview v1: the question and the answer.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_auth::Status;
use keelson_registry::access::Access;
use serde_json::{Value, json};

use crate::request::{Operation, Request};

const API_VERSION: &str = "admission.k8s.io/v1";

/// What a webhook answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    /// Whether the request may pass.
    pub allowed: bool,
    /// The status that goes with a refusal.
    pub status: Value,
    /// The JSON patch, decoded.
    pub patch: Option<Vec<u8>>,
    /// Warnings for the caller.
    pub warnings: Vec<String>,
    /// Notes for the audit log.
    pub audit_annotations: BTreeMap<String, String>,
}

/// The question.
pub(super) fn request(request: &Request, uid: &str) -> Value {
    let mut body = description(request);
    body["uid"] = json!(uid);
    body["object"] = json!(request.object);
    body["oldObject"] = json!(request.old_object.as_deref());
    json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "request": body})
}

/// What a review says of the request beside its objects.
pub(crate) fn description(request: &Request) -> Value {
    let kind = json!({"group": request.kind.group, "version": request.kind.version, "kind": request.kind.kind});
    let resource = json!({"group": request.resource.group, "version": request.resource.version,
        "resource": request.resource.resource});
    let mut body = json!({
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "operation": request.operation.as_str(),
        "userInfo": request.user.to_value(),
        "dryRun": request.dry_run,
        "options": options(request),
    });
    let own = request.text("/metadata/name");
    let name = if request.name.is_empty() {
        own
    } else {
        &request.name
    };
    for (key, value) in [
        ("subResource", request.subresource.as_str()),
        ("requestSubResource", request.subresource.as_str()),
        ("name", name),
        ("namespace", request.namespace.as_str()),
    ] {
        if !value.is_empty() {
            body[key] = json!(value);
        }
    }
    body
}

/// The options as a webhook knows them: a patch is a create or an update to it, and what is not set is not there.
fn options(request: &Request) -> Value {
    let mut options = request.options.clone();
    if let Some(fields) = options.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        if fields.get("kind").and_then(Value::as_str) == Some("PatchOptions") {
            let kind = match request.operation {
                Operation::Create => "CreateOptions",
                _ => "UpdateOptions",
            };
            fields.insert("kind".into(), json!(kind));
            fields.remove("force");
        }
    }
    options
}

/// Reads and checks the answer.
pub(super) fn response(body: &[u8], uid: &str, mutating: bool) -> Result<Answer, String> {
    let review: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let (version, kind) = (review.text("apiVersion"), review.text("kind"));
    if (version, kind) != (API_VERSION, "AdmissionReview") {
        return Err(format!(
            "expected webhook response of {API_VERSION}, Kind=AdmissionReview, got {version}, Kind={kind}"
        ));
    }
    let response = review.part("response");
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    let got = response.text("uid");
    if got != uid {
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let (patch, patch_type) = (response.text("patch"), response.text("patchType"));
    let patch = match (mutating, patch.is_empty(), patch_type) {
        (false, false, _) => return Err("validating webhook may not return response.patch".into()),
        (false, true, "") | (true, true, "") => None,
        (false, true, _) => {
            return Err("validating webhook may not return response.patchType".into());
        }
        (true, true, _) => {
            return Err("webhook returned response.patchType but not response.patch".into());
        }
        (true, false, "") => {
            return Err("webhook returned response.patch but not response.patchType".into());
        }
        (true, false, "JSONPatch") => Some(
            STANDARD
                .decode(patch)
                .map_err(|e| format!("response.patch is no base64: {e}"))?,
        ),
        (true, false, other) => {
            return Err(format!(
                "webhook returned invalid response.patchType of {other:?}"
            ));
        }
    };
    let texts = |list: &[Value]| {
        list.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    Ok(Answer {
        allowed: response.flag("allowed"),
        status: response.part("status").clone(),
        patch,
        warnings: texts(response.items("warnings")),
        audit_annotations: response
            .entries("auditAnnotations")
            .filter_map(|(k, v)| Some((k.to_owned(), v.as_str()?.to_owned())))
            .collect(),
    })
}

/// The Status of a refusal: the webhook's own, with who refused put before its message.
pub(crate) fn denial(name: &str, status: &Value) -> Status {
    let code = status
        .int("code")
        .and_then(|c| u16::try_from(c).ok())
        .filter(|c| *c >= 400)
        .unwrap_or(400);
    let by = format!("admission webhook {name:?} denied the request");
    let (message, reason) = (status.text("message"), status.text("reason"));
    let message = match (message, reason) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let mut denial = Status::failure(code, reason, message);
    denial.details = serde_json::from_value(status.part("details").clone()).ok();
    denial
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::create;

    fn answer(response: Value) -> Vec<u8> {
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn the_question_has_everything() {
        let asked = create(
            "apps",
            "deployments",
            json!({"kind": "Deployment", "metadata": {"name": "d"}}),
        );
        let review = request(&asked, "u1");
        let body = &review["request"];
        assert_eq!(
            body["requestResource"],
            json!({"group": "apps", "version": "v1", "resource": "deployments"})
        );
        assert_eq!(
            (&body["name"], &body["namespace"], &body["operation"]),
            (&json!("d"), &json!("ns"), &json!("CREATE"))
        );
        assert_eq!(
            (
                &body["oldObject"],
                &body["dryRun"],
                &body["userInfo"]["username"]
            ),
            (&Value::Null, &json!(false), &json!("jane"))
        );
        assert!(body.get("subResource").is_none());
        let mut patched = asked;
        patched.operation = Operation::Update;
        patched.options = json!({"kind": "PatchOptions", "force": true, "dryRun": null});
        let review = request(&patched, "u1");
        assert_eq!(
            review["request"]["options"],
            json!({"kind": "UpdateOptions"})
        );
    }

    #[test]
    fn answers_are_checked() {
        let fine = response(
            &answer(json!({"uid": "u", "allowed": true, "warnings": ["w"]})),
            "u",
            false,
        )
        .unwrap();
        assert!(fine.allowed && fine.warnings == ["w"]);
        for (bad, mutating, sentence) in [
            (
                json!({"uid": "x", "allowed": true}),
                false,
                "expected response.uid=\"u\", got \"x\"",
            ),
            (
                json!({"uid": "u", "patch": "W10=", "patchType": "JSONPatch"}),
                false,
                "validating webhook may not return response.patch",
            ),
            (
                json!({"uid": "u", "patch": "W10="}),
                true,
                "webhook returned response.patch but not response.patchType",
            ),
            (json!(null), true, "webhook response was absent"),
        ] {
            assert_eq!(response(&answer(bad), "u", mutating).unwrap_err(), sentence);
        }
        let patched = response(
            &answer(
                json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"}),
            ),
            "u",
            true,
        );
        assert_eq!(patched.unwrap().patch.as_deref(), Some(b"[]".as_slice()));
    }

    #[test]
    fn refusals_say_who_refused() {
        let status = denial(
            "a.b.c",
            &json!({"message": "no", "code": 403, "reason": "Forbidden"}),
        );
        assert_eq!(
            (status.code, status.message.as_str()),
            (403, "admission webhook \"a.b.c\" denied the request: no")
        );
        let status = denial("a.b.c", &json!({"code": 200}));
        assert_eq!(
            (status.code, status.message.as_str()),
            (
                400,
                "admission webhook \"a.b.c\" denied the request without explanation"
            )
        );
    }
}
